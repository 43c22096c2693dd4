"""`python -m cellsignal` is the command `cellsignal`, for launchers that start modules (torchrun
-m).
"""

import sys

from cellsignal.cli import main

if __name__ == "__main__":
    sys.exit(main())
