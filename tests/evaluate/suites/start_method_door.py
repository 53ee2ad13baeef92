"""A front door that prints how processes of it start."""

from __future__ import annotations

import multiprocessing


def main() -> None:
    print(f"start method {multiprocessing.get_start_method()}")
