"""BBBC021: mechanisms of action in MCF7 breast-cancer cells."""

from cellsignal.competitions.bbbc021.competition import Bbbc021

__all__ = ["Bbbc021"]
