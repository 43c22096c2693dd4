"""`python -m inference.predict ...` is `cellsignal predict ...`."""

import sys

import inference  # noqa: F401  (puts src on the path)
from cellsignal.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
