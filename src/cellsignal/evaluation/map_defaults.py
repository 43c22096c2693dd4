"""Defaults of the protocols on maps of embeddings: numbers alone, so that `--help` starts at once.

As published by EFAAR's benchmark and RxRx3-core's, where they say so.
"""

THRESHOLDS = (0.05, 0.95)  # shares of all pairs: below the first or above the second is recalled
EXCHANGES = 200  # of the genes' names
SETS = 5000  # random sets of wells
ACTIVE, INACTIVE = 1000.0, 10_000.0  # nM
NEGATIVES = 20  # genes, at least
DRAWS = 100  # of other genes
