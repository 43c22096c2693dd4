"""Measure what the device gives: matrix products, and training fed from a store.

These are figures, not promises: a check fails where something raises, not where it is slow.
"""

import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from cellsignal.competitions import get_competition
from cellsignal.config.schema import Model
from cellsignal.data.pack import prepare
from cellsignal.data.store import Store
from cellsignal.studies.gpu_check.room import CheckFailed, Figures, Room, require
from cellsignal.studies.gpu_check.tiny import tiny_config, tiny_stage
from cellsignal.studies.performance.batch_size import bench_batch_size
from cellsignal.studies.performance.epoch import bench_fed
from cellsignal.studies.performance.feeding import Plates
from cellsignal.studies.performance.step import bench_step
from cellsignal.training.throughput import device_peak

_BATCHES = {256: 256, 512: 96}  # images, at first; halved until they fit
_STEPS, _ROUNDS = 16, 3
_FINDER_GIB = 2.0  # that the batch-size finder may fill
_PLATES = {"classes": 4, "controls": 1, "train_experiments": 1, "test_experiments": 1}


def sites(room: Room) -> Figures:
    """Simulate and pack sites of 512 px (32 in a dry run), for the throughput."""
    store = _sites(room).store
    used = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    size = store.shape[1]
    return {"sites": len(store.samples), "px": size, "bytes_a_site": used // len(store.samples)}


def _sites(room: Room) -> Plates:
    folder = room.folder / "sites"
    if not folder.is_dir():
        unfinished = room.folder / f"sites.unfinished.{os.getpid()}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        competition, cores = get_competition("rxrx1"), os.cpu_count() or 1
        size = 32 if room.dry else 512
        competition.simulate(unfinished / "raw", 0, size=size, workers=min(8, cores), **_PLATES)
        raw, store = unfinished / "raw", unfinished / "store"
        prepare(competition, raw, store, codec="zstd", workers=min(8, cores))
        unfinished.rename(folder)
    return Plates(Store.open(folder / "store"), Path(folder / "raw"))


def matmul_peak(room: Room) -> Figures:
    """Measure dense matrix products: the yardstick of all shares."""
    dtypes = (torch.float32,) if room.dry else (torch.float32, torch.bfloat16, torch.float16)
    return {
        f"tflops_{str(dtype).removeprefix('torch.')}": device_peak(room.device, dtype) / 1e12
        for dtype in dtypes
    }


def batch_size(room: Room) -> Figures:
    """Find the largest batch within a part of the memory: the search ends, and what it says fits.

    On a CPU, where nothing ends it but `most`, only that it runs.
    """
    config = tiny_config(room, "batch_size", [tiny_stage(epochs=1)])
    if room.dry:
        tried = bench_batch_size(config, most=16, steps=1)
        require(bool(tried.fits.all()), "a batch of 16 tiny images does not fit")
        return {"tried": tried.batch.tolist()}
    backbone = config.model.model_copy(update={"backbone": "resnet50"})
    total = torch.cuda.get_device_properties(room.device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(_FINDER_GIB * 2**30 / total, room.device)
    try:
        tried = bench_batch_size(config.model_copy(update={"model": backbone}), most=2**14, steps=2)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, room.device)
    fitting, others = tried[tried.fits], tried[~tried.fits]
    require(len(fitting) > 0, "not one batch fits")
    require(len(others) > 0, f"the search did not reach {_FINDER_GIB} GiB")
    largest = fitting.loc[fitting.batch.idxmax()]
    require(largest.batch < others.batch.min(), "a smaller batch did not fit than one that did")
    require(largest.memory_gib <= _FINDER_GIB, f"{largest.memory_gib:.2f} GiB of {_FINDER_GIB}")
    return {
        "tried": tried.batch.tolist(),
        "largest": int(largest.batch),
        "gib": round(float(largest.memory_gib), 3),
        "limit_gib": _FINDER_GIB,
    }


def resnet50_256(room: Room) -> Figures:
    """Train fed from the store, and on one batch in memory."""
    return _fed(room, "resnet50", 256)


def resnet50_512(room: Room) -> Figures:
    """Train fed from the store, and on one batch in memory."""
    return _fed(room, "resnet50", 512)


def densenet161_256(room: Room) -> Figures:
    """Train fed from the store, and on one batch in memory."""
    return _fed(room, "densenet161", 256)


def densenet161_512(room: Room) -> Figures:
    """Train fed from the store, and on one batch in memory."""
    return _fed(room, "densenet161", 512)


def _fed(room: Room, backbone: str, size: int) -> Figures:
    plates, workers = _sites(room), min(16, os.cpu_count() or 1)
    if room.dry:
        size = 16 if size == 256 else 32
        table = bench_fed(plates, ("test_resnet",), (size,), 8, 1, steps=2, rounds=1)
        return _rounded(table.iloc[0].to_dict()) | {"stands_for": backbone}
    torch.backends.cudnn.benchmark = True
    batch = _BATCHES[size]
    while batch >= 8:
        try:
            table = bench_fed(
                plates, (backbone,), (size,), batch, workers, steps=_STEPS, rounds=_ROUNDS
            )
            return _rounded(table.iloc[0].to_dict()) | {"workers": workers}
        except torch.OutOfMemoryError:
            batch //= 2
        torch.cuda.empty_cache()  # after the handler: its traceback held tensors
    raise CheckFailed("out of memory with 8 images")


def step_variants(room: Room) -> Figures:
    """Compare memory format, precision, fused optimiser and checkpointing of one step."""
    if room.dry:
        table = bench_step(Model(backbone="test_resnet"), (32,), 4, rounds=1, steps=1)
    else:
        torch.backends.cudnn.benchmark = True
        table = bench_step(Model(backbone="resnet50"), (256,), 64, rounds=2, steps=4)
    done = table[table.note == ""]
    require(len(done) > 0, f"no variant ran: {table.note.iloc[0]}")
    columns = ["variant", "images_per_s", "ratio", "of_peak", "peak_gib"]
    return {"variants": [_rounded(row) for row in done[columns].to_dict("records")]}


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Return the values as JSON takes them, floats to four digits, without those not measured."""
    plain = {}
    for name, value in row.items():
        value = value.item() if hasattr(value, "item") else value
        if isinstance(value, float):
            if not math.isfinite(value):
                continue
            value = float(f"{value:.4g}")
        plain[name] = value
    return plain
