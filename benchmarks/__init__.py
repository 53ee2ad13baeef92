"""Speed and memory, side by side with other ways to compute the same."""
