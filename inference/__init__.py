"""Short-hands for prediction, submission and scoring that work from a fresh checkout: `python -m
inference.predict`, `.make_submission`, `.score`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
