"""`python -m inference.score ...` is `cellsignal score ...`."""

import sys

import inference  # noqa: F401  (puts src on the path)
from cellsignal.cli import main

if __name__ == "__main__":
    sys.exit(main(["score", *sys.argv[1:]]))
