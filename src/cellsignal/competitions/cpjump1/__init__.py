"""CPJUMP1: the same genes hit by compounds, CRISPR and ORF; and the one-plate course project made
of it.
"""

from cellsignal.competitions.cpjump1.competition import Cpjump1
from cellsignal.competitions.cpjump1.course import Cpjump1Course

__all__ = ["Cpjump1", "Cpjump1Course"]
