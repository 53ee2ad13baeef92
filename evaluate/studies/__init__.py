"""Studies: arms of pre-training × seeds × evaluations, and what their differences amount to."""
