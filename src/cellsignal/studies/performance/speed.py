"""Measure all speed figures of the project in one run: docs/results/performance.md.

Each promise is a ratio of two things measured turn by turn, since seconds say more about the
machine than about the program.
"""

from pathlib import Path

import cv2
import pandas as pd
import torch

from cellsignal.studies.pages import machine, table
from cellsignal.studies.performance.augmentation import augment_text, bench_augment
from cellsignal.studies.performance.epoch import bench_fed
from cellsignal.studies.performance.feeding import bench_batches, bench_epoch
from cellsignal.studies.performance.packed import packed_plates
from cellsignal.studies.performance.postprocess import bench_plate_assignment
from cellsignal.studies.performance.reading import (
    bench_reading,
    bench_reading_processes,
    reading_text,
)
from cellsignal.studies.performance.starting import bench_starting

# as `reading` names them
STORE, RAW = "cellsignal store, zstd, 512 px", "cellsignal store, raw, 256 px"


def bench_speed(root: Path | None, workers: int = 2) -> str:
    """Measure everything but the variants of the training step (`cellsignal study step`).

    On one thread where the tables say so.

    Args:
        root: RxRx1's folder, of which the first sites that are there are used; None simulates some.

    Returns:
        Markdown: the machine, the promises, and the tables behind them.
    """
    with packed_plates(root) as sample:
        sites = [
            tuple(str(sample.root / name) for name in names) for names in sample.store.samples.files
        ]
        cv2.setNumThreads(1)
        reading = bench_reading(sites[:24])
        processes = bench_reading_processes(sites[:24])
        augmenting = bench_augment()
        batches = bench_batches(sample, workers)
        epochs = bench_epoch(sample, workers=workers)
        gpu = torch.cuda.is_available()
        backbones, sizes = (
            (("resnet50", "densenet161"), (256, 512)) if gpu else (("resnet10t",), (64, 128))
        )
        fed = bench_fed(
            sample, backbones, sizes, 64 if gpu else 32, workers, steps=30 if gpu else 6
        )
    assigned = bench_plate_assignment()
    starting = bench_starting()
    tables = {
        "Promises": promises(reading, processes, augmenting, batches, epochs, assigned),
        "One site, one core": reading_text(reading),
        "Processes and threads": table(processes),
        "Augmentation, one site, one thread": f"```\n{augment_text(augmenting)}\n```",
        f"Batches, {workers} workers": table(batches),
        f"A training epoch on 128 px crops, {workers} workers": table(epochs),
        "Training fed from the store, and from one batch in memory": table(fed),
        "Group inference and assignment": table(assigned),
        "Starting a command": table(starting),
    }
    source = "simulated sites" if root is None else "real sites"
    head = f"{machine()}. {len(sites)} {source} of {sample.store.shape[1]} px."
    return "\n\n".join([head, *(f"## {title}\n\n{text}" for title, text in tables.items())]) + "\n"


# what is measured, and against what
_STORE_AGAINST_SKIMAGE = ("read a 512 px site, one core", "six PNGs by skimage to float32")
_STORE_AGAINST_CV2 = ("read a 512 px site, one core", "six `cv2.imread`")
_RAW_TIER = ("raw tier, 256 px", "six 512 px PNGs by skimage to float32")
_BATCHES = (
    "batches ready for the device, uint8",
    "six `cv2.imread`, 1st place's transforms, float32",
)
_AUGMENTATION = ("the whole recipe's augmentation, CPU", "the same as numpy steps")
_EPOCH = ("a training epoch, 128 px crops of 512 px sites", "the same from PNGs")
_LAYOUT = ("group inference and assignment, 72 plates", "their bare linear_sum_assignment")


def promises(reading, processes, augmenting, batches, epochs, assigned) -> str:
    """Set each promise beside its measured ratio, from the tables of the single benchmarks."""
    read = reading.set_index("reader")
    is_warp = (augmenting.recipe == "1st place") & (augmenting.path == "warp, CPU")
    warp_ratio = augmenting.times_numpy[is_warp].iloc[0]
    store_ratio = f"{read.x_skimage[STORE]:.1f} x at {read.disk[STORE]:.2f} of their disk"
    layout_seconds = assigned.infer[1] + assigned["assign"][1]
    columns = ["measured", "wanted", "what", "against"]
    rows = [
        (store_ratio, ">= 8 at <= 1.30", *_STORE_AGAINST_SKIMAGE),
        (f"{read.x_cv2[STORE]:.1f} x", ">= 7", *_STORE_AGAINST_CV2),
        (f"{read.x_skimage[RAW]:.0f} x", ">= 100", *_RAW_TIER),
        (f"{batches.ratio[1]:.1f} x", ">= 8", *_BATCHES),
        (f"{warp_ratio:.1f} x", ">= 3", *_AUGMENTATION),
        (f"{epochs.ratio[1]:.1f} x", ">= 2", *_EPOCH),
        (f"{assigned.ratio[0]:.1f} x its time", "<= 3", *_LAYOUT),
        (f"{layout_seconds:.2f} s", "< 3 s", "group inference and assignment, 51 experiments", ""),
        (f"{processes.ratio[0]:.2f} x", ">= 1.7", "two processes reading", "one process"),
    ]
    return table(pd.DataFrame(rows, columns=columns)[["what", "against", "measured", "wanted"]])
