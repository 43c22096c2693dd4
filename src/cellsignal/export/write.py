"""Export one model of a run: the file, its facts as JSON, and a model card.

All is written into a folder beside the final names, the file is run on images of the store and held
to what the run predicts for them, and only then renamed. What a killed export left goes when it is
started again.
"""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.common.files import digest, provenance, refuse_unwritable, sha256
from cellsignal.config import Config
from cellsignal.export.card import write_card
from cellsignal.export.chosen import Chosen, choose_job, model_name, open_chosen
from cellsignal.export.formats import (
    SUFFIXES,
    WRITERS,
    checked_inputs,
    other_size,
    require_packages,
    run_written,
    trace,
)
from cellsignal.export.graph import run_eager

log = logging.getLogger(__name__)
FORMAT = "cellsignal-export-1"
# of probabilities; of logits in units of the largest, if that is above 1
TOLERANCE = 1e-4
CARD = "MODEL_CARD.md"


def export_model(
    config: Config,
    out: Path,
    name: str,
    *,
    fold: str | None = None,
    stage: str | None = None,
    key: str | None = None,
) -> Path:
    """Write `model.pt2` or `model.onnx`, its JSON and MODEL_CARD.md into a folder.

    Args:
        name: of the format, `torch_export` or `onnx`.
        fold, stage, key: which model; see `chosen.choose_job`.

    Returns:
        The model's file.

    Raises:
        InputError: no such model, a package is missing, the folder holds another model, the
            network cannot be exported, or the file does not give what the run predicts: then it is
            deleted.
    """
    require_packages(name)
    chosen = open_chosen(choose_job(config, fold, stage, key))
    out = Path(out)
    path = out / f"model{SUFFIXES[name]}"
    facts = describe(chosen)
    _refuse_other_model(out, facts)
    staging = out / f".{path.name}.unfinished"
    with refuse_unwritable(out, "give another --out"):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            _write_into(staging, path, chosen, facts, name)
            _publish(staging, out, path.name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return path


def _write_into(
    staging: Path, path: Path, chosen: Chosen, facts: dict[str, Any], name: str
) -> None:
    size = other_size(chosen.model, chosen.inputs)
    program, other = trace(chosen.model, chosen.inputs, size)
    facts = facts | {"any_size": other is not None}
    if other is not None:
        facts["inputs"]["images"]["shape"][2:] = ["height", "width"]
    file = staging / path.name
    WRITERS[name](program, file, json.dumps(facts, sort_keys=True))
    checked = check_written(name, file, path, chosen, other)
    facts |= {"file": path.name, "sha256": sha256(file), "checked": checked}
    write = json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (staging / f"{path.name}.json").write_text(write, encoding="utf-8")
    write_card(staging / CARD, chosen, facts)


def check_written(
    name: str, file: Path, final: Path, chosen: Chosen, other: tuple[int, int] | None
) -> dict[str, Any]:
    """Run a written file on images of the store and compare it with the run, and with the module.

    Args:
        final: the name that it will have, for messages.
        other: another size that it must take.

    Returns:
        What was compared, and the largest differences.

    Raises:
        InputError: it differs by more than `TOLERANCE`, or cannot be run.
    """
    batches = [chosen.inputs, *checked_inputs(chosen.inputs, other)]
    try:
        results = run_written(name, file, sha256(file), batches)
    except InputError as error:
        raise InputError(str(error).replace(str(file), f"{final}: deleted")) from None
    wanted = [run_eager(chosen.model, batch) for batch in batches]
    wanted[0] = {
        "logits": chosen.expected,
        "probabilities": chosen.job.task.probabilities(chosen.expected),
    }
    unit = max(1.0, *(float(np.abs(values["logits"]).max()) for values in wanted))
    largest = {"logits": 0.0, "probabilities": 0.0}
    for got, expected in zip(results, wanted, strict=True):
        for output in largest:
            same_shape = got[output].shape == expected[output].shape
            far = np.inf if not same_shape else np.abs(got[output] - expected[output]).max()
            far = float(far) if np.isfinite(far) else np.inf
            largest[output] = max(largest[output], far / (unit if output == "logits" else 1.0))
    worst = max(largest.values())
    if worst > TOLERANCE:
        raise InputError(
            f"{final}: deleted: on images of {chosen.job.config.data.store} it differs from the "
            f"run by {worst:.3g}, more than {TOLERANCE:g}"
        )
    log.info("%s: within %.2g of the run on %d images", final, worst, len(chosen.positions))
    return {
        "images": chosen.job.store.samples.sample_id.iloc[chosen.positions].to_list(),
        "batches": [len(batch.images) for batch in batches],
        "sizes": sorted({tuple(batch.images.shape[2:]) for batch in batches}),
        "largest_difference": largest,
        "limit": TOLERANCE,
    }


def describe(chosen: Chosen) -> dict[str, Any]:
    """Return all that a user of the file has to know, as plain values."""
    job, inputs = chosen.job, chosen.inputs
    normalization = job.config.normalization
    channels = [job.store.channels[index] for index in job.channels]
    seen = job.config.predict.channels or range(1, len(channels) + 1)
    return {
        "format": FORMAT,
        "model": model_name(job),
        "competition": job.competition.id,
        "classes": list(chosen.classes),
        "several_classes_may_be_true": chosen.model.several,
        "inputs": {
            name: {"dtype": str(value.dtype), "shape": ["batch", *map(int, value.shape[1:])]}
            for name, value in inputs.arrays.items()
        },
        "outputs": {
            name: {"dtype": "float32", "shape": ["batch", len(chosen.classes)]}
            for name in ("logits", "probabilities")
        },
        "channels": channels,
        "channels_seen": [channels[number - 1] for number in seen],
        "frames": job.competition.frames,
        "image_size": list(map(int, job.store.shape[1:])),
        "center_crop": job.config.predict.center_crop,
        "normalization": normalization.model_dump(mode="json"),
        "cell_types": list(job.cell_types) if job.config.model.cell_type_vector else None,
        "config_sha256": digest(job.config.model_dump(mode="json")),
        "made_by": provenance({"checkpoint": chosen.checkpoint}),
    }


def _refuse_other_model(out: Path, facts: dict[str, Any]) -> None:
    """Refuse a folder that holds a file of another model: the card would be wrong about it."""
    for path in sorted(out.glob("model.*.json")):
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            checkpoint = before["made_by"]["inputs"]["checkpoint"]["sha256"]
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{path}: is not the JSON of an exported model; give another --out"
            ) from None
        if checkpoint != facts["made_by"]["inputs"]["checkpoint"]["sha256"]:
            raise InputError(
                f"{out}: holds another model ({before.get('model')}); give another --out"
            )


def _publish(staging: Path, out: Path, name: str) -> None:
    """Rename the finished files; the JSON is the last, so that with it all are there."""
    (out / f"{name}.json").unlink(missing_ok=True)
    for part in (name, CARD, f"{name}.json"):
        with open(staging / part, "rb") as written:
            os.fsync(written.fileno())
        os.replace(staging / part, out / part)
