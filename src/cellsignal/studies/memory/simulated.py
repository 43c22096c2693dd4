"""Simulate the inputs: RxRx1's tables and layout with tiny images, predictions, profiles.

What is measured are tables, indices, orders and copies for workers, so images may be tiny: noise of
16 px, every file another. Predictions and profiles have the full size.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.competitions import get_competition
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.rxrx1.competition import N_CLASSES, N_POSITIVE_CONTROLS
from cellsignal.competitions.rxrx1.simulate import (
    REAL_TEST_EXPERIMENTS,
    REAL_TRAIN_EXPERIMENTS,
    plate_maps,
    write_tables,
)
from cellsignal.config.schema import Submit
from cellsignal.data.views import tta_views
from cellsignal.prediction.container import save_predictions

SIDE = 16  # pixels
SITES, CHANNELS = 2, 6
SIGNAL = 3.0  # how far the true class's logit stands above the N(0, 1) noise of a site and view
FEATURES, REPLICATES, PROFILES = 1000, 3, 9216  # 24 plates of 384 wells
CONTROLS = 16  # negative control wells on each plate of profiles


def write_layout(root: Path, scale: float = 1.0, seed: int = 0) -> pd.DataFrame:
    """Write RxRx1's tables in the real layout, and the answers beside them; return the wells.

    Args:
        scale: share of the experiments of each cell type, at least one of each and split.
    """
    train, test = (
        {cell_type: max(1, round(count * scale)) for cell_type, count in counts.items()}
        for counts in (REAL_TRAIN_EXPERIMENTS, REAL_TEST_EXPERIMENTS)
    )
    wells = plate_maps(seed, N_CLASSES, N_POSITIVE_CONTROLS, 1, train, test)
    root.mkdir(parents=True, exist_ok=True)
    write_tables(wells, root, answers_path(root))
    return wells


def write_images(root: Path, wells: pd.DataFrame, seed: int = 0) -> int:
    """Write a tiny PNG of noise for every site and channel; return the number of files."""
    rng = np.random.default_rng(seed)
    for (split, experiment, plate), of_plate in wells.groupby(["split", "experiment", "plate"]):
        folder = root / split / experiment / f"Plate{plate}"
        folder.mkdir(parents=True, exist_ok=True)
        shape = (len(of_plate), SITES, CHANNELS, SIDE, SIDE)
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        for well, of_well in zip(of_plate.well, pixels, strict=True):
            for site, of_site in enumerate(of_well, 1):
                for channel, image in enumerate(of_site, 1):
                    path = folder / f"{well}_s{site}_w{channel}.png"
                    path.write_bytes(noise_png(image))
    return len(wells) * SITES * CHANNELS


def noise_png(image: np.ndarray) -> bytes:
    """Return (H, W) uint8 as a PNG without compression: quicker to write than by a library."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    height, width = image.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image], axis=1).tobytes()
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def write_predictions(
    path: Path, root: Path, wells: pd.DataFrame, part: str, views: int, seed: int = 0
) -> None:
    """Write predictions of all treated sites of a part as `cellsignal predict` does.

    Args:
        wells: of `write_layout`.
        part: "oof", of the training experiments, or "test".
    """
    competition = get_competition("rxrx1")
    samples = competition.samples(root)
    split = "train" if part == "oof" else "test"
    samples = samples[(samples.split == split) & (samples.role == "treatment")]
    samples = samples.reset_index(drop=True)
    truth = wells.set_index("id_code").sirna.loc[samples.target_id].to_numpy()
    rng, logits, rows = np.random.default_rng(seed), {}, np.arange(len(samples))
    for view in tta_views(views):
        values = rng.standard_normal((len(samples), N_CLASSES), dtype=np.float32)
        values[rows, truth] += SIGNAL
        logits[view] = values.astype(np.float16)
    about = {
        "classes": list(competition.classes(root)),
        "competition": competition.id,
        "run": "simulated/seed0",
        "seed": 0,
        "stage": "all",
        "stage_index": 0,
        "fold": part,
        "fold_group": "experiment",
        "data_root": str(root),
        "submit": Submit(assignment="hungarian").model_dump(mode="json"),
    }
    save_predictions(path, samples, np.full(len(samples), part), logits, about)


def write_profiles(path: Path, scale: float = 1.0, seed: int = 0) -> int:
    """Write a CSV of well profiles; return the number of its wells.

    At scale 1 these are 9,216 wells on 24 plates of 384, with 1,000 features: 16 negative controls
    a plate, and treatments on three plates each, three of a mechanism.
    """
    rng, size = np.random.default_rng(seed), 384
    plates = max(REPLICATES, round(PROFILES * scale / size))
    treated = size - CONTROLS
    frames = []
    for plate in range(plates):
        first = plate // REPLICATES * treated
        names = [f"t{number:05}" for number in range(first, first + treated)]
        frame = pd.DataFrame({"treatment": [*["DMSO"] * CONTROLS, *rng.permutation(names)]})
        frame.insert(0, "Metadata_Plate", f"P{plate:03}")
        wells = [f"{row}{column:02}" for row in "ABCDEFGHIJKLMNOP" for column in range(1, 25)]
        frame.insert(1, "Metadata_Well", wells)
        frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    name = table.pop("treatment")
    control = name == "DMSO"
    number = pd.to_numeric(name.str[1:], errors="coerce").fillna(-1).astype(int).to_numpy()
    table["Metadata_broad_sample"] = name
    table["Metadata_control_type"] = np.where(control, "negcon", "")
    table["Metadata_pert_type"] = np.where(control, "control", "trt")
    table["Metadata_moa"] = np.where(control, "", [f"m{value // 3:04}" for value in number])
    centres = rng.standard_normal((number.max() + 2, FEATURES), dtype=np.float32)
    values = rng.standard_normal((len(table), FEATURES), dtype=np.float32)
    values += np.where(control.to_numpy()[:, None], 0, centres[number])
    columns = [f"Cells_Feature_{column:04}" for column in range(FEATURES)]
    features = pd.DataFrame(values, columns=columns)
    pd.concat([table, features], axis=1).to_csv(path, index=False, float_format="%.5g")
    return len(table)
