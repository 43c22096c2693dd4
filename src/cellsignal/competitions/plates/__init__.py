"""The user's own plates as a competition: a `plates.yaml` says what the images and wells are."""

from cellsignal.competitions.plates.competition import Plates

__all__ = ["Plates"]
