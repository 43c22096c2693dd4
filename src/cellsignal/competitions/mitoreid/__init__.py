"""MitoReID: which mechanism of action do the mitochondria of a cell, filmed over 16 frames, tell
of? The answer is a ranking.
"""

from cellsignal.competitions.mitoreid.competition import MitoReID

__all__ = ["MitoReID"]
