"""Read `plates.yaml`, which says what the images of a folder are and what its wells got.

It lies in the root of the data. `cellsignal init` writes it; docs/own_plates.md explains each key.
"""

import difflib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pydantic
import yaml
from pydantic import AfterValidator, Field, model_validator

from cellsignal.common.errors import InputError
from cellsignal.config.strict import Strict

FILE = "plates.yaml"
FOLD_GROUPS = ("plate", "experiment", "compound", "well_id")
SINGLE_LABEL, MULTI_LABEL = "single_label", "multi_label"
_GROUP_OF = {"plate": "plate", "batch": "experiment", "compound": "compound", "well": "well_id"}
GROUP_WORDS = {column: word for word, column in _GROUP_OF.items()}


@dataclass(frozen=True)
class Condition:
    """Rows of the platemap whose `column` holds one of `values`."""

    column: str
    values: tuple[str, ...]


def parse_condition(text: str) -> Condition:
    """Parse "COLUMN = VALUE" or "COLUMN = VALUE, VALUE".

    Raises:
        ValueError: it is written in another way.
    """
    column, equals, values = text.partition("=")
    parts = tuple(part.strip() for part in values.split(",") if part.strip())
    if not equals or not column.strip() or not parts:
        raise ValueError(f'{text!r} is not "COLUMN = VALUE" or "COLUMN = VALUE, VALUE"')
    return Condition(column.strip(), parts)


def _check_condition(text: str) -> str:
    parse_condition(text)
    return text


ConditionText = Annotated[str, AfterValidator(_check_condition)]


class Images(Strict):
    """Where the images are and what their names say."""

    root: Path = Path(".")
    """Folder of the images, relative to `plates.yaml` or absolute."""
    layout: str | None = None
    """How files are named: a layout that `cellsignal init` knows."""
    pattern: str | None = None
    """In place of a layout: a path with named parts, as
    `{plate}/{well}_s{site}_w{channel}.tif`."""
    channels: dict[str, str] = Field(min_length=1)
    """Name of each channel, in order, and how the file names write it; of files that hold all
    channels, the number of the plane, from 1."""
    z: Literal["max", "mean"] | int = "max"
    """How the planes of a stack become one: their maximum, their mean, or one plane's number."""
    bits: Literal[8, 16] = 16
    """Bits a pixel."""
    window: tuple[float, float] = (0.1, 99.9)
    """Percentiles of a plate and channel that become 0 and 255; of 16-bit images alone."""
    window_wells: Literal["all", "controls"] = "all"
    """Wells of the plate in which the percentiles are measured."""

    @model_validator(mode="after")
    def _one_naming(self) -> "Images":
        if (self.layout is None) == (self.pattern is None):
            raise ValueError("give either layout or pattern")
        if not 0 <= self.window[0] < self.window[1] <= 100:
            raise ValueError("window: two percentiles, the lower first")
        return self


class Description(Strict):
    """What `plates.yaml` holds. `label` and all after it name columns of the platemap."""

    images: Images
    platemap: Path | dict[str, Path] | None = None
    """CSV, TSV or XLSX with a row for each well: one file for all plates (with a column for the
    plate, if they differ), or plate: file."""
    well: str = "well"
    plate: str = "plate"
    label: str = "label"
    """What is to be predicted."""
    task: Literal["single_label", "multi_label"] = "single_label"
    """Whether a well has one label, or any number of them."""
    label_separator: str = Field("|", min_length=1)
    """What stands between the labels of a cell, with `task: multi_label`."""
    label_columns: tuple[str, ...] | None = Field(None, min_length=1)
    """In place of `label`, with `task: multi_label`: columns of 0 and 1, each called as its
    label."""
    compound: str | None = None
    """What must not cross folds, with `folds: compound`; without it the label."""
    concentration: str | None = None
    batch: str | None = None
    cell_type: str | None = None
    negative_controls: ConditionText | None = None
    """`COLUMN = VALUE` of the wells that normalise and are not a class."""
    positive_controls: ConditionText | None = None
    hidden: ConditionText | None = None
    """`COLUMN = VALUE` of the wells that are the test."""
    folds: Literal["plate", "batch", "compound", "well"] = "plate"
    """What a fold must not split."""

    @model_validator(mode="after")
    def _labels_fit_the_task(self) -> "Description":
        if self.label_columns and self.task != MULTI_LABEL:
            raise ValueError("label_columns: needs task: multi_label")
        if self.label_columns and "label" in self.model_fields_set:
            raise ValueError("give either label or label_columns")
        if self.label_columns and len(set(self.label_columns)) < len(self.label_columns):
            raise ValueError("label_columns: names a column twice")
        return self

    @property
    def fold_group(self) -> str:
        """The samples column of `folds`."""
        return _GROUP_OF[self.folds]

    @property
    def channel_names(self) -> tuple[str, ...]:
        return tuple(self.images.channels)


def read_description(root: Path) -> Description:
    """Read the description of a data root.

    Raises:
        InputError: there is none, or a key is wrong; names the file and the key.
    """
    path = Path(root) / FILE
    try:
        changed_at = path.stat().st_mtime_ns
    except OSError:
        raise InputError(
            f"{path}: no such file; `cellsignal init {root}` writes it from the images"
        ) from None
    return _read(path, changed_at)


@functools.lru_cache(maxsize=8)
def _read(path: Path, changed_at: int) -> Description:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"{path}: is not YAML ({why})") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: holds no keys")
    tree.pop("competition", None)
    images = tree.get("images")
    if isinstance(images, dict) and isinstance(images.get("channels"), dict):
        channels = {str(name): str(value) for name, value in images["channels"].items()}
        tree["images"] = images | {"channels": channels}
    try:
        return Description.model_validate(tree)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = [*Description.model_fields, *Images.model_fields]
        hint = nearest(str(first["loc"][-1]), known) if first["type"] == "extra_forbidden" else ""
        why = (
            "unknown key"
            if hint or first["type"] == "extra_forbidden"
            else first["msg"].removeprefix("Value error, ")
        )
        raise InputError(f"{path}: {key or 'images'}: {why}{hint}") from None


def nearest(name: str, known: Sequence[str]) -> str:
    """Return "; did you mean 'x'?" with the most similar known name, or "; there are ..."."""
    near = difflib.get_close_matches(name.lower(), [text.lower() for text in known], 1)
    if near:
        return f"; did you mean {next(text for text in known if text.lower() == near[0])!r}?"
    return f"; there are {', '.join(known)}" if known else ""
