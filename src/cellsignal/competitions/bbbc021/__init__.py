"""BBBC021: mechanisms of action in MCF7 breast-cancer cells; the six-class subset and the whole
data set.
"""

from cellsignal.competitions.bbbc021.competition import Bbbc021
from cellsignal.competitions.bbbc021.full import Bbbc021Full

__all__ = ["Bbbc021", "Bbbc021Full"]
