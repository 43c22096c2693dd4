"""RxRx1 / CellSignal: which of 1,108 siRNAs was this well of cells given?

Kaggle 2019, "Recursion Cellular Image Classification".
"""

from cellsignal.competitions.rxrx1.competition import RxRx1

__all__ = ["RxRx1"]
