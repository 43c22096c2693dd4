"""MitoReID: name a drug's mechanism of action from films of mitochondria.

A sample is one cell over 16 frames; the answer is a ranking of a gallery.
"""

from cellsignal.competitions.mitoreid.competition import MitoReID

__all__ = ["MitoReID"]
