"""Simulated plates in each competition's own file layout: for tests, demonstrations and learning without a download.

Cells are drawn, not copied; how much stains differ between experiments and plates is what was measured on the real
plates
(`calibration`), so that a split which ignores batches flatters here as it does there.
"""

from cellsignal.simulate.bbbc021 import simulate_bbbc021
from cellsignal.simulate.rxrx1 import simulate_rxrx1

__all__ = ["simulate_bbbc021", "simulate_rxrx1"]
