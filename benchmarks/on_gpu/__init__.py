"""Parts of `benchmarks/gpu.py`: what is tested and measured on a GPU."""
