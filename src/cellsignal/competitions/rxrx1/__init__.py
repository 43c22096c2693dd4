"""RxRx1 / CellSignal: which of 1,108 siRNAs was this well of cells given?

Kaggle 2019, "Recursion Cellular Image Classification".
"""

from cellsignal.competitions.rxrx1.competition import RxRx1
from cellsignal.competitions.rxrx1.io import (
    RGB_MAP,
    combine_metadata,
    image_path,
    load_site,
    load_site_as_rgb,
)

__all__ = ["RGB_MAP", "RxRx1", "combine_metadata", "image_path", "load_site", "load_site_as_rgb"]
