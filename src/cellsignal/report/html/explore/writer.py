"""Write the look at a data set as one HTML file."""

from collections.abc import Callable, Sequence
from pathlib import Path

from cellsignal.common.errors import ImageError, InputError
from cellsignal.config import Config
from cellsignal.report.html.explore.intensity import intensity
from cellsignal.report.html.explore.layouts import layouts
from cellsignal.report.html.explore.look import Look
from cellsignal.report.html.explore.overview import labels, overview
from cellsignal.report.html.explore.pictures import augmentation, montages
from cellsignal.report.html.page import Section, write_page

MakeHtml = Callable[[Look], str | None]
SECTIONS: tuple[tuple[str, str, MakeHtml], ...] = (  # title, anchor, what makes its HTML
    ("What there is", "overview", overview),
    ("Labels", "labels", labels),
    ("Plate layouts", "layouts", layouts),
    ("Images", "images", montages),
    ("Brightness by plate: the batch effect", "intensity", intensity),
    ("What augmentation does", "augmentation", augmentation),
)


def write_exploration(
    competition_id: str,
    root: Path,
    *,
    config: Config | None = None,
    most: int = 400,
    out: Path | None = None,
    sections: Sequence[tuple[str, str, MakeHtml]] = SECTIONS,
) -> Path:
    """Write a page on a data set before any training; return its path.

    Args:
        root: folder of the raw data.
        config: whose augmentations are drawn, and whose store serves in place of the files.
        most: images that are read to measure brightness.
        out: the file; by default it lies beside the root.

    Raises:
        InputError: no such competition or data.
    """
    look = Look.open(competition_id, root, config, most)
    look.samples  # noqa: B018 - refused now if there is none
    made = []
    for title, anchor, make in sections:
        try:
            content = make(look)
        except (InputError, ImageError) as error:
            made.append(Section(title, "", anchor, note=str(error)))
            continue
        if content is not None:
            made.append(Section(title, content, anchor))
    path = out or root.with_name(f"{root.name}.explore.html")
    title = f"{competition_id}: a look at the data"
    lead = f"{look.competition.title}, before any training."
    return write_page(
        path, title, lead, made, f"Made by `cellsignal explore {competition_id} --root {root}`."
    )
