"""An epoch's pseudo-labels: drawn from the model as it stands, or read again where an interrupted
epoch goes on.
"""

import logging

import pandas as pd
from scipy.special import log_softmax
from torch import nn

from cellsignal.common.errors import InputError
from cellsignal.common.files import sha256
from cellsignal.training import pseudo_labels
from cellsignal.training.forward import by_target, plan_reading, predict_with
from cellsignal.training.inputs import Pixels
from cellsignal.training.job import Job, fold_name
from cellsignal.training.ranks import ALONE, Ranks

log = logging.getLogger(__name__)


def draw_pseudo_labels(
    job: Job, model: nn.Module, pixels: Pixels, epoch: int, ranks: Ranks = ALONE
) -> str:
    """Choose and write the pseudo-labels that epoch `epoch` (0-based) of a job trains with. Only
    test treatments are predicted.

    Returns:
        The SHA-256 of the CSV under the job's folder, which the first process writes; what it was
        made from is beside it.
    """
    samples, config = job.store.samples, job.stage.pseudo_labels
    reading = plan_reading(job, pixels, job.test, ranks)
    logits = predict_with(job, model, reading, ranks=ranks)["identity"][:, : len(job.classes)]
    targets, scores, first = by_target(
        log_softmax(logits, axis=1), samples.target_id.to_numpy()[job.test].astype(str)
    )
    wells = samples.iloc[job.test[first]]
    share = pseudo_labels.share_at(config, epoch, job.stage.epochs)
    groups = job.competition.plate_groups(samples)
    frame = pseudo_labels.select(
        scores, targets, wells.experiment, wells.plate, groups, share, config.least_confidence
    )
    written = None
    if ranks.first:
        log.info("%s: %d of %d test wells have pseudo-labels", job.title, len(frame), len(targets))
        about = {"competition": job.competition.id, "run": job.config.name, "seed": job.config.seed}
        about |= {"fold": fold_name(job.fold), "stage": job.stage.name}
        written = sha256(pseudo_labels.write(job.folder, epoch, frame, about))
    return ranks.share(written)


def read_pseudo_labels(job: Job, epoch: int, digest: str) -> pd.DataFrame:
    """The pseudo-labels that an epoch began with.

    Raises:
        InputError: the file is damaged, names another well than a test treatment, or is not the one
        of this `digest` (SHA-256).
    """
    frame = pseudo_labels.read(job.folder, epoch)
    if frame.attrs["csv_sha256"] != digest:
        path = pseudo_labels.csv_path(job.folder, epoch)
        raise InputError(
            f"{path}: is not what the interrupted epoch began with; remove {job.folder} to train "
            "anew"
        )
    pseudo_labels.check_clean(
        frame, set(job.store.samples.target_id.to_numpy()[job.test].astype(str))
    )
    return frame
