"""`python -m cellsignal.studies.gpu_check`: the checks where only torch may be installed."""

import sys

from cellsignal.studies.gpu_check.entry import main

if __name__ == "__main__":
    sys.exit(main())
