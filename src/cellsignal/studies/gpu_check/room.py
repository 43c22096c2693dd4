"""What a check is given, and how it says that it has failed or cannot run."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Figures = dict[str, Any]


class CheckFailed(Exception):
    """Something is not as it has to be; the message is one line."""


class Skipped(Exception):
    """The check cannot be made here; the message says why."""


@dataclass(frozen=True)
class Room:
    """Where a check works.

    Attributes:
        folder: shared by all checks of a call; a check's own files go into a folder of its name.
        kind: "cuda", or "cpu" in a dry run, which uses small networks and images.
        seconds: that the check may take.
    """

    folder: Path
    kind: str
    seconds: float = 60.0

    @property
    def dry(self) -> bool:
        return self.kind == "cpu"

    @property
    def device(self) -> "torch.device":
        import torch

        return torch.device("cuda", 0) if self.kind == "cuda" else torch.device("cpu")

    def own(self, name: str) -> Path:
        """Return the folder of a check, made anew if it is not there."""
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path


def require(holds: bool, message: str) -> None:
    """Raise `CheckFailed` with the message unless something holds."""
    if not holds:
        raise CheckFailed(message)
