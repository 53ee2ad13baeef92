"""Commands as jobs of a cluster."""
