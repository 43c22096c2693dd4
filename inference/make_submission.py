"""`python -m inference.make_submission ...` is `cellsignal submit ...`."""

import sys

import inference  # noqa: F401  (puts src on the path)
from cellsignal.cli import main

if __name__ == "__main__":
    sys.exit(main(["submit", *sys.argv[1:]]))
