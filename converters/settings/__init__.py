"""Facts about a network that its weights do not show: JSON files beside them, and the command line."""
