"""Images that no platemap describes: what a trained run is to name."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.tables import normalise_well
from cellsignal.competitions.plates.competition import Plates
from cellsignal.competitions.plates.description import (
    FILE,
    Description,
    Images,
    read_description,
)
from cellsignal.competitions.plates.init import look_into
from cellsignal.competitions.plates.layouts import parse_pattern
from cellsignal.competitions.plates.planes import join_sites, list_images, parse_path
from cellsignal.competitions.samples import check_samples


class NewImages(Plates):
    """A folder of images and nothing else; every well may be named, or is a control.

    It is not registered: it has no labels, so there is nothing to train on or to score.
    """

    def __init__(self, images: Images, controls: Sequence[str] = (), cell_type: str = "cells"):
        """Take the images as they are described.

        Args:
            controls: addresses (A01: of every plate) or ids (PLATE_A01) of control wells.
            cell_type: of all images.
        """
        self.images, self.controls, self.cell_type = images, tuple(controls), cell_type

    def description(self, root: Path) -> Description:
        return Description(images=self.images)

    def samples(self, root: Path) -> pd.DataFrame:
        """Return one row a site; control wells are negative controls, all others the test.

        Raises:
            InputError: see `planes.join_sites`; a control that no image is of.
        """
        root = Path(root)
        rows, left_out = self._sites(root)
        if rows.empty:
            raise InputError(
                f"{root}: no site has all channels; {left_out[0][1]}: {left_out[0][0]}"
            )
        plate = (rows.batch + "_").where(rows.batch != "", "") + rows.plate
        well_id = plate + "_" + rows.well
        control = self._is_control(root, rows.well, well_id)
        empty = dict.fromkeys(("label", "labels", "compound", "treatment"))
        frame = rows[["plate", "well", "site", "files"]].assign(
            sample_id=well_id + "_s" + rows.site.astype(str),
            target_id=well_id,
            well_id=well_id,
            experiment=rows.batch.where(rows.batch != "", "batch1"),
            cell_type=self.cell_type,
            role=control.map({True: "negative_control", False: "treatment"}),
            split="test",
            **empty,
        )
        return check_samples(frame.sort_values(["well_id", "site"], ignore_index=True), root)

    def left_out(self, root: Path) -> tuple[tuple[str, str], ...]:
        return self._sites(Path(root))[1]

    def _sites(self, root: Path) -> tuple[pd.DataFrame, tuple[tuple[str, str], ...]]:
        sites = join_sites(root, self.description(root))
        return sites.rows, sites.left_out

    def _is_control(self, root: Path, well: pd.Series, well_id: pd.Series) -> pd.Series:
        control = pd.Series(False, index=well.index)
        for name in self.controls:
            same = (well == normalise_well(name)) | (well_id == name)
            if not same.any():
                raise InputError(
                    f"--controls {name}: {root} has no such well; its first is {well_id.iloc[0]!r}"
                )
            control |= same
        return control


def describe_images(folder: Path, pattern: str | None, run_root: Path | None) -> tuple[Images, str]:
    """Return what the images of a folder are, and in words where that is from.

    Args:
        pattern: of the paths, as for `cellsignal init`; it goes before all else.
        run_root: the data of a run of your own plates: its `plates.yaml` is taken where the folder
            has none and its file names are as that says.

    Raises:
        InputError: no folder, no image, or names that no layout understands.
    """
    folder = Path(folder)
    if pattern is None and (folder / FILE).is_file():
        return read_description(folder).images, str(folder / FILE)
    if pattern is None and run_root is not None and (Path(run_root) / FILE).is_file():
        images = read_description(run_root).images.model_copy(update={"root": Path(".")})
        if images.pattern is not None and _fits(folder, images.pattern):
            return images, str(Path(run_root) / FILE)
    found = look_into(folder, pattern, None)
    naming = {"pattern": pattern} if pattern else {"layout": found.layout.name}
    bits = re.search(r"^  bits: (\d+)$", found.text, re.MULTILINE)
    images = Images(channels=found.channels, bits=int(bits.group(1)), **naming)
    if run_root is not None and (Path(run_root) / FILE).is_file():
        like = read_description(run_root).images
        same = {"z": like.z, "window": like.window, "window_wells": like.window_wells}
        if images.layout == like.layout and set(like.channels.values()) <= set(
            images.channels.values()
        ):
            same["channels"] = like.channels
        images = images.model_copy(update=same)
    return images, f"names as of {found.layout.name}"


def _fits(folder: Path, pattern: str) -> bool:
    layout, names = parse_pattern(pattern), list_images(folder)
    return any(parse_path(layout, name, folder.resolve().name) for name in names)


def match_channels(
    folder: Path, channels: dict[str, str], wanted: Sequence[str], given: Sequence[str] | None
) -> tuple[dict[str, str], str]:
    """Return the channels that a run needs, in its order, and in words how they were matched.

    Args:
        channels: name -> as the files write it, of the folder.
        wanted: names of the run's.
        given: as the files write them, in the run's order; None matches by name, else by order.

    Raises:
        InputError: another number of channels, an unknown one, or names that contradict the order.
    """
    shown = f"{len(wanted)} ({', '.join(wanted)})"
    if given is not None:
        unknown = [value for value in given if value not in channels.values()]
        if unknown:
            listed = ", ".join(channels.values())
            raise InputError(f"--channels: {folder} has no channel {unknown[0]!r}; it has {listed}")
        if len(given) != len(wanted) or len(set(given)) != len(given):
            raise InputError(f"--channels: names {len(given)} channels; the run sees {shown}")
        return dict(zip(wanted, given, strict=True)), "as given"
    by_name = {_plain(name): value for name, value in channels.items()}
    names = [_plain(name) for name in wanted]
    if all(name in by_name for name in names) and len(set(names)) == len(names):
        return {name: by_name[_plain(name)] for name in wanted}, "by name"
    if len(channels) != len(wanted):
        raise InputError(
            f"{folder}: has {len(channels)} channels ({', '.join(channels)}), the run sees "
            f"{shown}; --channels names those that it sees, in its order"
        )
    known = [name for name in names if name in by_name]
    if known:
        raise InputError(
            f"{folder}: its channels are {', '.join(channels)}, the run sees {shown}: only some "
            "are called the same; --channels names them in the run's order"
        )
    return dict(zip(wanted, channels.values(), strict=True)), "by order"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
