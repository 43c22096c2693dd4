"""The predictions file: logits of every sample and view of one model, with ids and provenance.

An uncompressed .npz: one (N, K) float16 array a view (`view.<name>`), so that merging reads one view at a time and the whole of RxRx1's test set
(39,794 sites x 1,108 classes x 8 views) never needs to be in memory at once; text arrays for the ids; JSON for the rest. float16 keeps 11 bits
of a logit. Nothing in it is pickled.
"""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellsignal.competitions.samples import label_matrix
from cellsignal.errors import InputError
from cellsignal.files import atomic_path

IDS = ("sample_id", "target_id", "well_id", "experiment", "plate", "cell_type", "part")


@dataclass(frozen=True)
class Predictions:
    """One model's predictions.

    Attributes:
        path: the file.
        ids: one (N,) text array for each of `IDS`; `part` is "oof" (validation wells of the model's fold) or "test".
        site: (N,) int.
        label: (N,) int, -1 where unknown.
        labels: (N, K) float32 of a multi-label competition, NaN where unknown; else None.
        views: names of the views.
        about: classes, competition, run, stage, fold, checkpoint and provenance.
    """

    path: Path
    ids: dict[str, np.ndarray]
    site: np.ndarray
    label: np.ndarray
    views: tuple[str, ...]
    about: dict[str, Any]
    labels: np.ndarray | None = None

    def logits(self, view: str) -> np.ndarray:
        """(N, K) float16 logits of one view, read from the file."""
        with np.load(self.path, allow_pickle=False) as archive:
            return archive[f"view.{view}"]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.about["classes"])


def save_predictions(
    path: Path, samples, part: np.ndarray, logits: dict[str, np.ndarray], about: dict[str, Any]
) -> None:
    """Write predictions atomically.

    Args:
        samples: N rows of a samples table.
        part: (N,) "oof" or "test".
        logits: view -> (N, K).
        about: JSON-able facts.
    """
    arrays: dict[str, np.ndarray] = {f"view.{view}": values.astype(np.float16) for view, values in logits.items()}
    for name in IDS:
        values = part if name == "part" else samples[name].to_numpy()
        arrays[name] = np.asarray(values, dtype=np.str_)
    arrays["site"] = samples.site.to_numpy(dtype=np.int32)
    arrays["label"] = samples.label.fillna(-1).to_numpy(dtype=np.int32)
    if about.get("multilabel"):
        arrays["labels"] = label_matrix(samples, len(about["classes"]))
    arrays["about"] = np.asarray(json.dumps(about, default=str))
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def load_predictions(path: Path | str) -> Predictions:
    """Open a predictions file; logits are read view by view when asked for.

    Raises:
        InputError: no such file, damaged, or not a predictions file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such predictions file")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise InputError(f"{path}: corrupt predictions file (checksum of {damaged!r} does not match)")
        with np.load(path, allow_pickle=False) as archive:
            views = tuple(name.removeprefix("view.") for name in archive.files if name.startswith("view."))
            ids = {name: archive[name] for name in IDS}
            labels = archive["labels"] if "labels" in archive.files else None
            about = json.loads(str(archive["about"]))
            return Predictions(path, ids, archive["site"], archive["label"], views, about, labels)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a predictions file of cellsignal ({str(error)[:100]})") from None
