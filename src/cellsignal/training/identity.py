"""Whether a checkpoint or a run folder belongs to a job and its config."""

import contextlib
import logging
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cellsignal.common.errors import InputError
from cellsignal.common.files import digest
from cellsignal.config import Config, config_differences
from cellsignal.config.upgrade import upgrade_recorded
from cellsignal.training.job import Job, fold_name

log = logging.getLogger(__name__)
# config keys that may change between two calls of one run without changing any weight
_FREE = (
    "runs",
    "seed",
    "tracking",
    "data.root",
    "data.store",
    "data.workers",
    "data.cache_gib",
    "data.device_gib",
    "data.cache_disk_gib",
    "data.requests",
    "data.bad_site",
    "folds.use",
    "folds.full",
    "predict",
    "submit",
)
# what is made in a run folder
MADE = ("fold*/*/*/*.pt", "full/*/*/*.pt", "predictions/*.npz", "embeddings/*.npz")


def identity(job: Job) -> dict[str, Any]:
    """Return the facts in which a checkpoint and the job that resumes from it must agree."""
    samples = job.store.samples.iloc[job.train]
    columns = ["sample_id"]
    if not job.stage.self_supervised:
        columns += [name for name in ("label", "labels", "compound") if name in samples.columns]
    labels = sorted(samples[columns].astype(str).itertuples(index=False, name=None))
    return {
        "competition": job.competition.id,
        "classes": list(job.classes),
        "outputs": job.outputs,
        "class_space": job.class_space,
        "stage": job.stage.name,
        "key": job.key,
        "fold": job.fold,
        "held_out": job.held_out,
        "training_samples": digest(sorted(samples.sample_id)),
        "training_labels": digest(labels),
    }


def class_space(state: dict[str, Any]) -> str:
    """Return the `Job.class_space` of a checkpoint; the first ones do not name it: labels."""
    return state.get("class_space", state.get("told_apart", "label"))


def check_belongs(
    job: Job, state: dict[str, Any], path: Path, *, same_samples: bool = True
) -> None:
    """Refuse a checkpoint of another training.

    Args:
        same_samples: it was trained on just the job's samples and labels. Else it may have been on
            others of the same groups (an image that was mended since), which is warned of.

    Raises:
        InputError: it differs in competition, classes or compounds, stage, cell type, fold or
            training samples.
    """
    expected = identity(job)
    # the first versions noted neither
    state = {"training_labels": expected["training_labels"], **state}
    state["class_space"] = class_space(state)
    different = [name for name, value in expected.items() if state.get(name) != value]
    samples = {"training_samples", "training_labels"}
    if not same_samples and not len(job.train) and not len(job.valid):
        # a store of test samples alone, as a kernel packs it: nothing is scored out of fold
        different = [name for name in different if name not in {"held_out", *samples}]
    elif not same_samples and samples & set(different):
        log.warning(
            "%s: was trained on other samples or labels than its fold has now; train anew to use "
            "them",
            path,
        )
        different = [name for name in different if name not in samples]
    if not different:
        return
    name = different[0]
    reason = f"{name} differs"
    if name == "held_out":
        reason += f": it held out {_some(state.get(name))}, {fold_name(job.fold)} of "
        reason += f"{job.config.folds.file} is {_some(expected[name])}"
    raise InputError(f"{path}: belongs to another training ({reason}); move it away to start anew")


def _some(names: Any, most: int = 6) -> str:
    """List the first names, for a message."""
    names = list(names or [])
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more or "nothing"


def check_config(state: dict[str, Any], config: Config, path: Path) -> None:
    """Refuse a checkpoint of another config.

    Raises:
        InputError: it names the keys that differ, of those that matter to the weights.
    """
    different = what_differs(state["config"], config)
    if different:
        raise InputError(
            f"{path}: is of another config; rename this one or move that away "
            f"({'; '.join(different[:5])})"
        )


def refuse_other_run(folder: Path, config: Config) -> None:
    """Raise if a run folder belongs to another config; an empty one is taken over.

    Raises:
        InputError: names the keys that differ.
    """
    path = folder / "config.yaml"
    if not path.is_file() or not any(next(folder.glob(pattern), None) for pattern in MADE):
        return
    different = what_differs(yaml.safe_load(path.read_text(encoding="utf-8")), config)
    if different:
        raise InputError(
            f"{folder}: holds a run of another config; rename this one or move that away "
            f"({'; '.join(different[:5])})"
        )


def what_differs(tree: dict[str, Any], config: Config) -> list[str]:
    """List the keys that matter to the weights and differ, as "path: old -> new".

    Args:
        tree: a dumped config, perhaps from before the schema had a key.
    """
    with contextlib.suppress(ValidationError):  # else compared as it is
        tree = Config.model_validate(upgrade_recorded(tree)).model_dump(mode="json")
    return config_differences(_without_free(tree), _without_free(config.model_dump(mode="json")))


def _without_free(tree: dict[str, Any]) -> dict[str, Any]:
    kept = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    for path in _FREE:
        *parents, last = path.split(".")
        node = kept
        for part in parents:
            node = node.get(part, {})
        node.pop(last, None)
    return kept
