"""All trainings of a config: every fold, every stage, every cell type; finished ones are skipped,
an interrupted one goes on.
"""

import logging

import torch

from cellsignal.common.errors import InputError
from cellsignal.common.files import provenance, write_json, write_text
from cellsignal.common.stopping import Stop
from cellsignal.competitions import get_competition
from cellsignal.config import Config, dump_config
from cellsignal.data.folds import read_folds
from cellsignal.data.store import Store
from cellsignal.training.check import check_jobs, check_model_section
from cellsignal.training.checkpoints import check_config, has_checkpoint, load_last
from cellsignal.training.job import Job, check_belongs, plan_jobs
from cellsignal.training.loop import Trainer
from cellsignal.training.ranks import this_process
from cellsignal.training.run_config import refuse_other_run

log = logging.getLogger(__name__)


def train(config: Config) -> list[Job]:
    """Train everything the config asks for and return its jobs.

    Raises:
        InputError: bad input, or a run folder that belongs to another config (the differing keys
        are named). Interrupted: stopped by a signal or, as `OutOfTime`, by the time budget, with
        everything saved.
    """
    jobs, ranks = jobs_of(config), this_process()
    check_jobs(jobs, ranks)
    ranks.same_everywhere(dump_config(config))
    if ranks.first:
        folder = config.run_folder
        write_text(folder / "config.yaml", dump_config(config))
        inputs = {"folds": config.folds.file, "store": config.data.store / "store.json"}
        made = provenance(
            inputs,
            seed=config.seed,
            torch=torch.__version__,
            processes=ranks.world,
            device=device_name(ranks.device),
        )
        write_json(folder / "provenance.json", made)
    ranks.barrier()
    torch.backends.cudnn.benchmark = True  # batches are of one or two sizes
    with Stop() as stop:
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
                status = max(ranks.gather(stop.wish()))
                if status:
                    raise stop.end(status, job.title, saved="all before it")
                Trainer(job, ranks, stop).run()
        stop.finish(config.name)
    return jobs


def check_before_packing(config: Config) -> None:
    """Check what needs no store, so that a mistake shows before the images are packed.

    Raises:
        InputError: a run folder of another config, or what `check_model_section` refuses.
    """
    refuse_other_run(config.run_folder, config)
    check_model_section(config)


def is_finished(job: Job) -> bool:
    """Whether the job's checkpoint is there, its own, and at the end of the stage. Where it is
    damaged the previous one counts.

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


def jobs_of(config: Config) -> list[Job]:
    """The jobs of a config, after checking that run folder, store, folds and competition belong
    together.

    Training and prediction both begin here, so neither goes on with what was trained under another
    config.
    """
    competition = get_competition(config.competition)
    refuse_other_run(config.run_folder, config)
    if not config.data.store.exists():
        raise InputError(
            f"{config.data.store}: there is no store; run `cellsignal prepare CONFIG` with this "
            "config first"
        )
    store = Store.open(config.data.store)
    if store.source.get("competition") != competition.id:
        raise InputError(
            f"{config.data.store}: is a store of {store.source.get('competition')!r}, the config "
            f"is for {competition.id!r}"
        )
    crop, (height, width) = config.predict.center_crop, store.shape[1:]
    if crop is not None and crop > min(height, width):
        raise InputError(
            f"predict.center_crop: {crop} is more than the {width}x{height} pixels of "
            f"{config.data.store}"
        )
    if not config.folds.file.exists():
        raise InputError(
            f"{config.folds.file}: there is no fold table; make it with "
            f"`cellsignal folds {competition.id} --root {config.data.root} --out "
            f"{config.folds.file}`"
        )
    folds = read_folds(config.folds.file, store.samples)
    return plan_jobs(config, competition, store, tuple(store.source["classes"]), folds)


def device_name(device: torch.device) -> str:
    """What a figure was measured on, in words."""
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
