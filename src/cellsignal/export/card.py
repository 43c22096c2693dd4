"""Write the model card: what a model was trained on, how good it is, and what nobody tested."""

from pathlib import Path
from typing import Any

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.competitions.folds import labelled
from cellsignal.competitions.targets import Targets, subset
from cellsignal.export.chosen import Chosen
from cellsignal.prediction.container import load_predictions
from cellsignal.prediction.freshness import config_predictions
from cellsignal.prediction.merge import merge
from cellsignal.simulation.output import MARKER
from cellsignal.training.job import Job, fold_name

_STATISTICS = {
    "none": "Grey levels are divided by 255, inside the file.",
    "global": "Pixels are standardised by the training images' mean and SD, inside the file.",
    "image": "Each image is standardised by its own channels' mean and SD, inside the file.",
}


def write_card(path: Path, chosen: Chosen, facts: dict[str, Any]) -> None:
    """Write MODEL_CARD.md of an exported model.

    Args:
        facts: of `write.describe`.
    """
    job = chosen.job
    sections = [
        f"# {facts['model']}",
        _about(chosen),
        "## Data\n\n" + _data(job),
        "## Score\n\n" + _score(chosen),
        "## Training\n\n" + _training(job, facts),
        "## Input and output\n\n" + _use(chosen, facts),
        "## Intended use\n\n" + _intended(job),
        "## Not tested\n\n" + _not_tested(job),
    ]
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def _about(chosen: Chosen) -> str:
    job = chosen.job
    kind = "any number of classes" if chosen.model.several else "one class"
    return (
        f"A {job.config.model.backbone} that names {kind} of {len(chosen.classes)} for a "
        f"microscope image of {len(job.channels)} channels, by `cellsignal export`."
    )


def _data(job: Job) -> str:
    competition, samples = job.competition, job.store.samples
    train = samples.iloc[job.train]
    lines = [
        f"- Data set: {competition.title} ({competition.homepage})",
        f"- Licence of the data: {competition.licence}",
        f"- Cite: {competition.citation}",
        f"- Trained on {len(train)} images of {train.well_id.nunique()} wells, "
        f"{train.experiment.nunique()} experiments, cell types "
        f"{', '.join(sorted(train.cell_type.unique()))}",
        f"- Fold: {fold_name(job.fold)}; held out by {job.folds.group}",
    ]
    if (Path(job.config.data.root) / MARKER).is_file():
        lines.insert(1, "- These are **simulated** images: the model knows no real ones")
    return "\n".join(lines)


def _score(chosen: Chosen) -> str:
    """Return the out-of-fold score of this model, or of its recipe where it held out nothing."""
    job = chosen.job
    if job.stage.target != "label":
        return "None: the classes are compounds, which no fold validates."
    try:
        targets = _out_of_fold(job)
    except InputError as error:
        return f"None: {error}."
    task, samples = job.task, job.store.samples
    first = samples.drop_duplicates("target_id").set_index("target_id")
    cluster = first[job.folds.group].loc[targets.target_id].to_numpy()
    truth = task.truth_of_targets(targets, first)
    score, chance = task.evaluate(targets.scores, truth, chosen.classes)
    _, low, high = task.clustered_score(targets, cluster)
    groups = f"{len(np.unique(cluster))} {job.folds.group} groups"
    over = f"[{low:.2f}, {high:.2f}] over {groups}"
    if not np.isfinite(low):
        over = f"no interval over groups: the fold holds out {groups}"
    whose = "this model on what its fold held out"
    if job.fold is None:
        whose = "models of the same recipe, one a fold: this one has trained on all folds"
    lines = [
        f"- {score.metric}: {score.format()}, 95 % interval over single targets; {over}",
        f"- chance: {chance:.4f}; always the training samples' class shares: "
        f"{_prior_score(chosen, targets, first):.4f}",
        f"- of {whose}; out of fold, one view of each image, images of a target averaged, before "
        "any use of the plate layout",
    ]
    if job.config.predict.checkpoint == "best" and len(job.scored):
        lines.append("- the epoch was chosen on these wells: the score is a little optimistic")
    return "\n".join(lines)


def _out_of_fold(job: Job) -> Targets:
    files = config_predictions(job.config, all_seeds=False, stage_index=job.stage_index)
    members = [load_predictions(file) for file in files]
    members = [member for member in members if job.fold in (None, member.about["fold"])]
    members = [member for member in members if (member.ids["part"] == "oof").any()]
    without = [member.path for member in members if "identity" not in member.views]
    if not members or without:
        missing = f"{without[0]} lacks the view `identity`" if without else "nothing was held out"
        raise InputError(f"no out-of-fold predictions of this model ({missing})")
    how = job.config.submit.merge
    targets = merge(members, "oof", job.task, how, views=["identity"])
    if job.key == "all":
        return targets
    rows = targets.cell_type == job.key
    if not rows.any():
        raise InputError(f"no out-of-fold predictions of cell type {job.key}")
    return subset(targets, rows)


def _prior_score(chosen: Chosen, targets: Targets, samples) -> float:
    """Return the score of one answer for all: how frequent each class is in training."""
    job = chosen.job
    train = job.train[labelled(job.store.samples)[job.train]]
    encoded = job.encode_targets(train)
    if encoded.ndim == 1:
        encoded = encoded[:, None] == np.arange(len(chosen.classes))
    shares = np.nan_to_num(encoded.astype(np.float64)).mean(0)[: len(chosen.classes)]
    scores = np.repeat(shares[None].astype(np.float32), len(targets.target_id), 0)
    truth = job.task.truth_of_targets(targets, samples)
    return float(job.task.evaluate(scores, truth, chosen.classes)[0].value)


def _training(job: Job, facts: dict[str, Any]) -> str:
    made, stage = facts["made_by"], job.stage
    checkpoint = made["inputs"]["checkpoint"]
    before = [each.name for each in job.config.stages[: job.stage_index]]
    start = f", after {', '.join(before)}" if before and stage.init == "previous" else ""
    return "\n".join(
        [
            f"- Stage {stage.name}{start}: {stage.epochs} epochs, batches of {stage.batch_size}, "
            f"seed {job.config.seed}",
            f"- Config: SHA-256 {facts['config_sha256']}",
            f"- Checkpoint: {Path(checkpoint['path']).name}, SHA-256 {checkpoint['sha256']}",
            f"- Exported by cellsignal {made['cellsignal']}, git commit {made['git_commit']}, "
            f"{made['written_at']}",
        ]
    )


def _unseen(facts: dict[str, Any]) -> list[str]:
    """Say which channels the model does not look at (`predict.channels`), if any."""
    seen, every = facts["channels_seen"], facts["channels"]
    if len(seen) == len(every):
        return []
    return [f"- It looks at {', '.join(seen)} alone; the other channels change nothing"]


def _use(chosen: Chosen, facts: dict[str, Any]) -> str:
    height, width = facts["image_size"]
    size = "other sizes are taken, and were not scored" if facts["any_size"] else "no other size"
    by, wells = facts["normalization"]["by"], facts["normalization"]["wells"]
    how = _STATISTICS.get(
        by,
        f"The inputs `shift` and `scale` are the mean and SD of the channels of the {by} "
        f"(wells: {wells.replace('_', ' ')}); docs/export.md says how to compute them.",
    )
    lines = [
        f"- `images`: (batch, {len(facts['channels'])}, height, width) uint8, channels "
        f"{', '.join(facts['channels'])}; trained on {width}x{height} pixels, {size}",
        *_unseen(facts),
        f"- {how}",
        "- `logits`, `probabilities`: (batch, "
        f"{len(chosen.classes)}) float32; the classes are in the file's metadata and JSON",
        f"- Checked on {len(facts['checked']['images'])} images of the store: within "
        f"{max(facts['checked']['largest_difference'].values()):.1e} of the run",
    ]
    if facts["cell_types"]:
        lines.insert(2, f"- `cell_type`: one-hot of {', '.join(facts['cell_types'])}")
    return "\n".join(lines)


def _intended(job: Job) -> str:
    return (
        f"Research on images like those of {job.competition.title}: the same stains in the same "
        "order, the same magnification, wells of the same cell types. It is no medical device, and "
        "its probabilities are not calibrated unless you calibrate them on wells of your own."
    )


def _not_tested(job: Job) -> str:
    cell_types = ", ".join(sorted(job.store.samples.iloc[job.train].cell_type.unique()))
    return "\n".join(
        [
            f"- Other laboratories, microscopes, stains, or cell types than {cell_types}",
            "- Treatments that are none of the classes: one of the classes is named all the same",
            "- Lower precision than float32, and other run times than the one it was checked with",
        ]
    )
