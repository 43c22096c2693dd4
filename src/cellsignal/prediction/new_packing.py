"""Read and pack new images as a run's own were: channels, control wells, size."""

import functools
import logging
from pathlib import Path

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import digest
from cellsignal.competitions.base import Competition
from cellsignal.competitions.plates.new_images import NewImages, describe_images, match_channels
from cellsignal.data.normalization import CONTROL_ROLES
from cellsignal.data.pack import pack
from cellsignal.data.pack_report import PackReport
from cellsignal.data.renewal import stamp_source
from cellsignal.data.store_files import CALIBRATION
from cellsignal.prediction.new_jobs import OWN, Request
from cellsignal.training.job import Job

log = logging.getLogger(__name__)


def open_images(job: Job, request: Request) -> tuple[Competition, dict[str, str]]:
    """Return what reads the images, and the channels: the run's name -> as the files write it."""
    wanted = [job.store.channels[index] for index in job.channels]
    if request.layout == OWN:
        if request.channels or request.pattern or request.controls:
            raise InputError(f"--layout {OWN}: takes no --channels, --pattern or --controls")
        competition = job.competition
        channels = competition.channels_of(request.images)
        missing = [name for name in wanted if name not in channels]
        if missing:
            raise InputError(f"{request.images}: has no channel {missing[0]!r} of the run")
        return competition, {name: name for name in wanted}
    if job.competition.frames > 1:
        raise InputError(f"--images: {job.competition.id} has clips; give --layout {OWN}")
    plates = job.competition.id.startswith("plates")
    images, source = describe_images(
        request.images, request.pattern, job.config.data.root if plates else None
    )
    folder = request.images
    matched, how = match_channels(folder, images.channels, wanted, request.channels)
    log.info(
        "%s: %s; channels %s: %s",
        folder,
        source,
        how,
        ", ".join(f"{name} = {value}" for name, value in matched.items()),
    )
    images = images.model_copy(update={"channels": matched})
    if images.bits == 16 and not plates:
        log.warning(
            "%s: 16-bit images become 8-bit by percentiles of each plate, which is not how the "
            "images of %s were made",
            folder,
            job.competition.id,
        )
    cell_type = request.cell_type or job.cell_types[0]
    return NewImages(images, request.controls, cell_type), matched


def new_samples(competition: Competition, request: Request) -> pd.DataFrame:
    """Return the samples table of the images, without any label."""
    samples = competition.samples(request.images)
    if request.layout == OWN:
        samples["role"] = samples.role.replace("reference", "treatment")
        if request.cell_type is not None:
            samples = samples[samples.cell_type == request.cell_type].reset_index(drop=True)
    if not (samples.role == "treatment").any():
        raise InputError(f"{request.images}: no image to name: all wells are controls")
    return samples


def require_controls(job: Job, samples: pd.DataFrame) -> None:
    """Refuse images without the control wells that standardise the run's.

    Args:
        job: one of the run's models.
        samples: of the new images.
    """
    config = job.config
    normalization, predict = config.normalization, config.predict
    named = "name the control wells of these images, such as --controls A01,B12"
    for key, wells, unit in (
        ("normalization.wells", normalization.wells, normalization.by),
        ("predict.adapt_wells", predict.adapt_wells, predict.adapt),
    ):
        if wells != "all" and not samples.role.isin(CONTROL_ROLES[wells]).any():
            raise InputError(
                f"--controls: {config.name} is standardised by {wells.replace('_', ' ')} of each "
                f"{unit} ({key}); {named}"
            )
    # statistics of one kind of control foretell others than those of both
    roles = {"positive_control", "negative_control"}
    missing = sorted(roles & set(job.store.samples.role) - set(samples.role))
    if predict.adapt_wells == "controls" and missing:
        raise InputError(
            f"--controls: {config.name} takes statistics of all controls (predict.adapt_wells: "
            f"controls), and these images have no {missing[0].replace('_', ' ')}; write "
            "predict.adapt_wells: negative_controls, or adapt: none"
        )


def packing_name(job: Job, request: Request, matched: dict[str, str]) -> str:
    """Return the name of the folder of a request's packed images; others have others."""
    options = {key: str(value) for key, value in vars(request).items() if key not in ("fold", "by")}
    size = job.config.data.size
    packed = [options, str(request.images.absolute()), matched, size, job.competition.id]
    return f".{request.out.name}.images-{digest(packed)[:12]}"


def pack_images(
    competition: Competition, request: Request, samples: pd.DataFrame, folder: Path, job: Job
) -> PackReport:
    """Pack the images into a folder, with the run's `data` section; a stopped one goes on.

    Raises:
        InputError: no image can be read, or what `pack` refuses.
        Interrupted: stopped by a signal or the time budget.
    """
    data, root, out = job.config.data, request.images.absolute(), folder.absolute()
    out.mkdir(parents=True, exist_ok=True)
    competition = competition.calibrate(root, out / CALIBRATION, data.workers)
    shape = competition.root_shape(root)
    report = pack(
        samples,
        functools.partial(competition.read, root, shape=shape),
        out,
        channels=competition.channels_of(root),
        size=data.size,
        bad_site=data.bad_site,
        workers=data.workers,
        source={"competition": competition.id, "root": str(root), "classes": list(job.classes)},
        shape=shape,
        codec=data.codec,
        stamp=functools.partial(stamp_source, competition, root),
    )
    if report.skipped:
        name, why = report.skipped[0]
        log.warning("%s: left out %d sites, first %s: %s", root, len(report.skipped), name, why)
    store_shape = job.store.shape[1:]
    if data.size is None and tuple(shape) != tuple(store_shape):
        log.warning(
            "%s: images of %dx%d pixels; the run was trained on %dx%d",
            root,
            *reversed(shape),
            *reversed(store_shape),
        )
    return report
