"""Main module of a process of pytest-xdist that the server forks: runs what execnet sends, as its `python -c` does.

python -m tests.warm.xdist_process INTERPRETER
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.executable = sys.argv[1]  # tests that start an interpreter themselves mean the real one
    exec(eval(sys.stdin.readline()))
