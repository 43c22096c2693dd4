"""idr0088 (Cox et al. 2020): mechanisms of action from images of fifteen reporter cell lines."""

from cellsignal.competitions.idr0088.competition import Idr0088Gpcr, Idr0088Moa

__all__ = ["Idr0088Gpcr", "Idr0088Moa"]
