"""Channel montages in the standard colours, and what augmentation does to an image."""

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.config.augment import Augmentation
from cellsignal.report.figure_style import MUTED
from cellsignal.report.html.drawing import drawn
from cellsignal.report.html.explore.look import Look
from cellsignal.report.html.page import choices, figure, listed, paragraph
from cellsignal.report.plate_plots import (
    channel_colours,
    channel_montage,
    composite,
    composite_limits,
)
from cellsignal.report.run_report import shown_planes

ROWS = 8  # wells of the montage
LETTERS = 18  # of a line beside a row of the montage
DRAWS = 7  # augmented copies of an image


def montages(look: Look) -> str:
    """Return a control and a treated well of each cell type, or few wells, channel by channel."""
    rows = _chosen(look.present)
    images = look.images(rows)
    planes = shown_planes(len(look.channels), look.competition.frames)
    named = {}
    for row in rows.itertuples():
        if row.sample_id in images:
            lines = (row.cell_type, _kind(look, row), f"{row.experiment} {row.well}")
            name = "\n".join(_short(line) for line in lines)
            named[name] = images[row.sample_id][planes]
    channels = [look.channels[plane] for plane in planes]
    picture = drawn(lambda path: channel_montage(path, named, channels), photo=True)
    names = "; ".join(name.replace("\n", ", ") for name in named)
    alt = f"Channel montage, a row a well, a column a channel and a colour composite: {names}."
    note = "A channel has one contrast for all rows: brightness may be compared down a column."
    return figure(picture, alt, note)


def _kind(look: Look, row) -> str:
    """Return the class of a treated well that has one label, else its role."""
    if row.role == "treatment" and pd.notna(row.label) and 0 <= row.label < len(look.classes):
        return look.classes[int(row.label)]
    return "control" if row.role == "negative_control" else row.role.replace("_", " ")


def _short(text: str) -> str:
    return text if len(text) <= LETTERS else f"…{text[1 - LETTERS :]}"


def _chosen(samples: pd.DataFrame) -> pd.DataFrame:
    """Return an image of a control and of a treated well of each cell type, and of some classes.

    Of few wells all are returned.
    """
    rows = samples[samples.role.isin(["negative_control", "treatment"])]
    rows = samples if rows.empty else rows
    rows = rows.sort_values(["cell_type", "role", "experiment", "plate", "well"])
    if rows.well_id.nunique() <= ROWS // 2:
        return rows.drop_duplicates("well_id")
    chosen = rows.drop_duplicates(["cell_type", "role"])
    if len(chosen) < ROWS // 2:  # further classes
        others = rows[rows.label.notna()].drop_duplicates("label")
        chosen = pd.concat([chosen, others]).drop_duplicates("well_id")
        chosen = chosen.head(ROWS // 2)
    return chosen.head(ROWS)


def augmentation(look: Look) -> str | None:
    """Return an image and augmented copies of it, for each stage of the config."""
    if look.config is None:
        raise InputError("not drawn: `--config CONFIG` shows what its augmentations do")
    image = _one_image(look)
    parts = []
    for stage in look.config.stages:
        picture = _draw_stage(look, image, stage.augment, look.config.seed)
        words = ", ".join(step.title for step in stage.augment) or "none"
        alt = f"An image and {DRAWS} augmented copies of it, stage {stage.name}: {words}."
        steps = listed(f"{step.title}: {_settings(step)}" for step in stage.augment)
        parts.append((f"stage {stage.name}", figure(picture, alt) + steps))
    note = (
        "The first picture is the image as it is stored. All have its contrast, so that changes of "
        "brightness show. Drawn by the path through worker processes; the batch warp draws alike."
    )
    return choices(parts) + paragraph(note)


def _settings(step: Augmentation) -> str:
    values = step.model_dump(mode="json", exclude_none=True)
    return ", ".join(f"{name} {value}" for name, value in values.items() if name != "name")


def _one_image(look: Look) -> np.ndarray:
    """Return an image of the config's size, from the store or from the files."""
    if look.store is not None:
        samples = look.store.samples
        rows = samples[samples.role == "treatment"]
        return look.store.read(int((rows if len(rows) else samples).row.iloc[0]))
    import cv2

    treated = look.present[look.present.role == "treatment"]
    rows = (treated if len(treated) else look.present).head(1)
    image = next(iter(look.images(rows).values()))
    size = look.config.data.size if look.config is not None else None
    if size is None:
        return image
    return np.stack([cv2.resize(p, (size, size), interpolation=cv2.INTER_AREA) for p in image])


def _draw_stage(look: Look, image: np.ndarray, steps: tuple[Augmentation, ...], seed: int) -> bytes:
    """Draw the composites of the image and of its copies side by side."""
    from cellsignal.data.transforms import Transform
    from cellsignal.report.figure_style import save, styled_figure

    frames = look.competition.frames
    stain, frame = np.divmod(np.arange(len(image)), frames)
    transform = Transform(steps, len(image), stain, frame)
    shown = np.arange(0, len(image), frames)  # of a clip the first frame
    mean, sd = image.mean((1, 2), keepdims=True), image.std((1, 2), keepdims=True) + 1e-6
    copies = [image]
    for number in range(DRAWS):
        rng = np.random.default_rng([seed, number])
        moved = transform.image(image.transpose(1, 2, 0), rng).transpose(2, 0, 1)
        signal = transform.signal(((moved - mean) / sd).astype(np.float32), rng)
        copies.append(np.clip(signal * sd + mean, 0, 255))
    tints = np.asarray(channel_colours(len(shown)), float)
    limits = composite_limits(image[shown])

    def draw(path) -> None:
        with styled_figure(7.4, 4.1) as figure_:
            axes = figure_.subplots(2, 4)
            for number, (axis, copy) in enumerate(zip(axes.flat, copies, strict=True)):
                axis.imshow(composite(copy[shown], tints, limits))
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
                title = "as stored" if not number else f"copy {number}"
                axis.set_title(title, size=8, weight="normal", color=MUTED)
            save(figure_, path, dpi=150)

    return drawn(draw, photo=True)
