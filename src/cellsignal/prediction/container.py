"""Write and read predictions files: logits of every sample and view of one model.

A predictions file is an uncompressed .npz: one (N, K) array a view (`view.<name>`), so that merging
reads one view at a time and the whole of RxRx1's test set (39,794 sites x 1,108 classes x 8 views)
never needs to be in memory at once; text arrays for the ids; JSON for the rest. float16 keeps 11
bits of a logit; where logits reach `HALF_LIMIT`, at which that is a step of 1/4, float32 is written
instead. Every logit is a finite number: others are refused when written and when read. Nothing in
it is pickled.
"""

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.common.files import atomic_path, open_arrays
from cellsignal.prediction.halves import narrow

_ROWS = 4096  # looked at at a time
_SKIPPED = 2**20  # bytes
_HALF_EXPONENT = np.uint16(0x7C00)
IDS = ("sample_id", "target_id", "well_id", "experiment", "plate", "cell_type", "part")


@dataclass(frozen=True)
class Predictions:
    """One model's predictions.

    Attributes:
        path: the file.
        ids: one (N,) text array for each of `IDS`; `part` is "oof" (validation wells of the model's
            fold) or "test".
        site: (N,) int.
        label: (N,) int, -1 where unknown.
        views: names of the views.
        about: classes, competition, run, stage, fold, checkpoint and provenance.
        labels: (N, K) float32 of a multi-label competition, NaN where unknown; else None.
    """

    path: Path
    ids: dict[str, np.ndarray]
    site: np.ndarray
    label: np.ndarray
    views: tuple[str, ...]
    about: dict[str, Any]
    labels: np.ndarray | None = None

    def logits(self, view: str) -> np.ndarray:
        """Read (N, K) float16 or float32 logits of one view from the file.

        Raises:
            InputError: a logit is not a finite number, or the logits do not fit the samples and
                classes in shape.
        """
        with open_arrays(self.path) as archive:
            values = archive[f"view.{view}"]
        expected = (len(self.ids["sample_id"]), len(self.classes))
        if values.shape != expected:
            raise InputError(
                f"{self.path}: view {view!r} holds {values.shape} logits, not one for each of "
                f"{expected} samples and classes"
            )
        refuse_non_finite(values, self.ids["sample_id"], f"{self.path}: view {view!r}")
        return values

    def logits_of(self, view: str, rows: np.ndarray, ends: Sequence[int]) -> Iterator[np.ndarray]:
        """Read one view from the file, a piece of the rows at a time, and no more at once.

        Args:
            rows: (n,) int, ascending.
            ends: where the pieces of `rows` end, ascending; the last is n.

        Yields:
            (m, K) float16 or float32 for each piece.

        Raises:
            InputError: as `logits`.
        """
        expected = (len(self.ids["sample_id"]), len(self.classes))
        with open_checked(self.path) as archive, archive.zip.open(f"view.{view}.npy") as file:
            shape, fortran, dtype = _read_header(file)
            if shape != expected or fortran:  # the first is refused, the second read whole
                values = self.logits(view)
                yield from (values[rows[start:end]] for start, end in pairwise([0, *ends]))
                return
            width, place = dtype.itemsize * expected[1], 0
            for start, end in pairwise([0, *ends]):
                wanted = rows[start:end]
                _skip(file, (wanted[0] - place) * width)
                place = wanted[-1] + 1
                data = file.read((place - wanted[0]) * width)
                values = np.frombuffer(data, dtype).reshape(-1, expected[1])
                if len(values) > len(wanted):
                    values = values[wanted - wanted[0]]
                if not _finite_rows(values).all():
                    self.logits(view)  # names the first, and how many there are
                yield values
            _skip(file, (expected[0] - place) * width)  # to the end, where the checksum is

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.about["classes"])


def save_predictions(
    path: Path,
    samples,
    part: np.ndarray,
    logits: Mapping[str, np.ndarray],
    about: dict[str, Any],
    labels: np.ndarray | None = None,
) -> None:
    """Write predictions atomically.

    Args:
        samples: N rows of a samples table.
        part: (N,) "oof" or "test".
        logits: view -> (N, K); looked up one after the other, as they are written.
        about: JSON-able facts.
        labels: (N, K) of 1, 0 and NaN, where a sample may have several.

    Raises:
        InputError: a logit is not a finite number; nothing is written.
    """
    save_arrays(path, _arrays_of(path, samples, part, logits, labels), about)


def _arrays_of(
    path: Path, samples, part: np.ndarray, logits: Mapping, labels: np.ndarray | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of a predictions file; of the views one at a time is in memory."""
    for view, values in logits.items():
        refuse_non_finite(values, samples.sample_id.to_numpy(), f"{path}: view {view!r}")
        yield f"view.{view}", narrow(values)
    for name in IDS:
        values = part if name == "part" else samples[name].to_numpy()
        yield name, np.asarray(values, dtype=np.str_)
    yield "site", samples.site.to_numpy(dtype=np.int32)
    yield "label", samples.label.fillna(-1).to_numpy(dtype=np.int32)
    if labels is not None:
        yield "labels", labels


def save_arrays(
    path: Path, arrays: Iterable[tuple[str, np.ndarray]], about: dict[str, Any]
) -> None:
    """Write named arrays, one after the other, and JSON-able facts atomically as an .npz.

    It is not compressed and holds no pickle; its bytes are those of `np.savez`, which needs all
    arrays at once.
    """
    text = np.asarray(json.dumps(about, default=str))
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, values in chain(arrays, [("about", text)]):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(values), allow_pickle=False)


def refuse_non_finite(values: np.ndarray, sample_ids: np.ndarray, what: str) -> None:
    """Refuse numbers that are infinite or not numbers.

    Args:
        values: (N, D).
        sample_ids: (N,) for the message.
        what: the file or network, and the view, that they are from: the message begins with it.

    Raises:
        InputError: names the first sample, and how many there are.
    """
    wrong = ~_finite_rows(np.asarray(values))
    if wrong.any():
        first = sample_ids[int(wrong.argmax())]
        raise InputError(
            f"{what}: sample {str(first)!r} has a value that is not a finite number "
            f"({int(wrong.sum())} such samples)"
        )


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the header of a .npy file: shape, whether columns come first, type."""
    formats = np.lib.format
    readers = {(1, 0): formats.read_array_header_1_0, (2, 0): formats.read_array_header_2_0}
    return readers[formats.read_magic(file)](file)


def _skip(file: Any, size: int) -> None:
    """Read on in a file, a little at a time."""
    while size > 0:
        size -= len(file.read(min(size, _SKIPPED))) or size


def _finite_rows(values: np.ndarray) -> np.ndarray:
    """Return for each row of (N, D) whether all of it is finite, as float32; without a copy."""
    finite = np.empty(len(values), bool)
    for start in range(0, len(values), _ROWS):
        rows = values[start : start + _ROWS]
        if rows.dtype == np.float16:  # all bits of the exponent: infinite or not a number
            good = np.bitwise_and(rows.view(np.uint16), _HALF_EXPONENT) != _HALF_EXPONENT
        else:
            with np.errstate(over="ignore"):
                good = np.isfinite(rows.astype(np.float32, copy=False))
        finite[start : start + _ROWS] = good.all(axis=1)
    return finite


@contextmanager
def open_checked(path: Path | str, kind: str = "a predictions file") -> Iterator[Any]:
    """Open the arrays of a file; raise InputError if it is damaged or of another kind."""
    try:
        with open_arrays(path) as archive:
            yield archive
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not {kind} of cellsignal ({str(error)[:100]})") from None


def read_about(path: Path | str) -> dict[str, Any]:
    """Read the facts of a predictions file without its arrays.

    Raises:
        InputError: no such file, damaged, or not a predictions file.
    """
    _refuse_missing(path)
    with open_checked(path) as archive:
        return json.loads(str(archive["about"]))


def _refuse_missing(path: Path | str) -> None:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such predictions file")


def read_parts(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Read sample ids and the part each is of, (N,) text both, without the logits.

    Raises:
        InputError: damaged, or not a predictions file.
    """
    with open_checked(path) as archive:
        return archive["sample_id"], archive["part"]


def write_about(path: Path, about: dict[str, Any]) -> None:
    """Put other facts into a predictions file; its arrays stay as they are."""
    with open_arrays(path) as archive:
        names = [name for name in archive.files if name != "about"]
        save_arrays(path, ((name, archive[name]) for name in names), about)


def load_predictions(path: Path | str) -> Predictions:
    """Open a predictions file; logits are read view by view when asked for.

    Raises:
        InputError: no such file, damaged, or not a predictions file.
    """
    path = Path(path)
    _refuse_missing(path)
    with open_checked(path) as archive:
        damaged = archive.zip.testzip()
        if damaged:
            raise InputError(
                f"{path}: corrupt predictions file (checksum of {damaged!r} does not match)"
            )
        names = [name for name in archive.files if name.startswith("view.")]
        return Predictions(
            path=path,
            ids={name: archive[name] for name in IDS},
            site=archive["site"],
            label=archive["label"],
            views=tuple(name.removeprefix("view.") for name in names),
            about=json.loads(str(archive["about"])),
            labels=archive["labels"] if "labels" in archive.files else None,
        )
