"""How tensors are computed: memory, layout, precision, statistics across processes, and networks without values."""
