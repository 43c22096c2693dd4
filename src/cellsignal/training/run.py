"""All trainings of a config: finished ones are skipped, an interrupted one resumes."""

import logging
import math
import os

import torch

from cellsignal.common.files import provenance, work_in, write_json, write_text
from cellsignal.common.stopping import Stop
from cellsignal.config import Config, dump_config
from cellsignal.data.store import info_file
from cellsignal.training.check import check_jobs, check_model_section
from cellsignal.training.checkpoints import has_checkpoint, load_last
from cellsignal.training.identity import check_belongs, check_config, refuse_other_run
from cellsignal.training.inference import output_shapes
from cellsignal.training.job import Job
from cellsignal.training.plan import jobs_of
from cellsignal.training.ranks import Ranks, this_process
from cellsignal.training.trackers import check_trackers
from cellsignal.training.trainer import Trainer

log = logging.getLogger(__name__)


def train(config: Config) -> list[Job]:
    """Train everything the config asks for and return its jobs.

    Raises:
        InputError: bad input, or a run folder of another config (the differing keys are named).
        Interrupted: stopped by a signal or, as `OutOfTime`, by the time budget, with everything
            saved.
    """
    check_trackers(config.tracking)
    jobs, ranks = jobs_of(config), this_process()
    check_jobs(jobs, ranks)
    ranks.same_everywhere(dump_config(config))
    if ranks.first:
        _write_about(config, ranks)
    ranks.barrier()
    _choose_algorithms()
    with work_in(config.run_folder), Stop() as stop:
        for number, job in enumerate(jobs, 1):
            log.info(
                "training %d/%d: %s, %d training and %d validation samples",
                number,
                len(jobs),
                job.title,
                len(job.train),
                len(job.valid),
            )
            if not is_finished(job):
                status = max(ranks.gather(stop.stop_status()))
                if status:
                    raise stop.make_exception(status, job.title, saved="all before it")
                Trainer(job, ranks, stop, _epochs_to_come(jobs[number:], job)).run()
        stop.raise_if_signalled(config.name)
    return jobs


def _choose_algorithms() -> None:
    """Let cuDNN take its fastest kernels, or with CELLSIGNAL_DETERMINISTIC=1 the same each time.

    Then a training that was killed and resumed on a GPU ends in the same bits, as on a CPU.
    """
    deterministic = os.environ.get("CELLSIGNAL_DETERMINISTIC") == "1"
    torch.backends.cudnn.benchmark = not deterministic  # batches are of one or two sizes
    if deterministic:
        # cuBLAS reads it when it is first used, and is not deterministic without it
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.deterministic = True
        torch.use_deterministic_algorithms(True, warn_only=True)


def _epochs_to_come(later: list[Job], job: Job) -> float:
    """Return the work of later trainings that have not begun, in epochs of this one."""
    begun = [has_checkpoint(other.folder / "last.pt") for other in later]
    work = sum(_work(other) for other, has in zip(later, begun, strict=True) if not has)
    return work * job.stage.epochs / max(_work(job), 1)


def _work(job: Job) -> int:
    """Estimate a training's work, by the pixels that pass the network; a step is three passes."""
    stage = job.stage
    training, predicted = (math.prod(shape) for shape in output_shapes(job))
    views = 1 if stage.self_supervised is None else 2
    passes = 1 if job.config.predict.adapt == "none" else 2
    validations = sum(map(job.validates_after, range(stage.epochs)))
    steps = 3 * views * stage.epochs * len(job.train) * training
    return steps + validations * passes * len(job.scored) * predicted


def _write_about(config: Config, ranks: Ranks) -> None:
    """Write the run folder's config.yaml and provenance.json."""
    write_text(config.run_folder / "config.yaml", dump_config(config))
    about = provenance(
        {"folds": config.folds.file, "store": info_file(config.data.store)},
        seed=config.seed,
        torch=torch.__version__,
        processes=ranks.world,
        device=device_name(ranks.device),
    )
    write_json(config.run_folder / "provenance.json", about)


def check_before_packing(config: Config) -> None:
    """Check the config without a store, so that a mistake shows before the packing.

    Raises:
        InputError: a run folder of another config, or what `check_model_section` refuses.
    """
    refuse_other_run(config.run_folder, config)
    check_trackers(config.tracking)
    check_model_section(config)


def is_finished(job: Job) -> bool:
    """Return whether the job's checkpoint is at the end of its stage.

    Where it is damaged the previous one counts.

    Raises:
        InputError: the checkpoints are damaged, or of another config or training.
    """
    path = job.folder / "last.pt"
    if not has_checkpoint(path):
        return False
    state, path = load_last(path)
    check_config(state, job.config, path)
    check_belongs(job, state, path)
    return state["progress"]["finished"]


def device_name(device: torch.device) -> str:
    """Name the device that a figure was measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
