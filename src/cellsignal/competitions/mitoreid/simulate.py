"""Simulated MitoReID in the release's layout: films of cells by `mitochondria`, drugs, libraries,
an annotation, the answers.

Libraries have optics of their own, drugs a strength, a delay and a side effect of their own.
"""

import io
import math
import re
import zipfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import atomic_path, write_csv
from cellsignal.competitions.mitoreid.mitochondria import MOAS, Drug, Optics, draw_track
from cellsignal.simulation.output import claim_folder, generator, run_jobs, simulator

_QUALITY = 95
_SECOND = 0.5  # the strongest second mechanism of a drug
_MOST = 10**6
_RANGES = {
    "moas": (2, len(MOAS)),
    "drugs_per_moa": (1, _MOST),
    "libraries": (1, 9),
    "train": (1, _MOST),
    "query": (1, _MOST),
    "gallery": (1, _MOST),
    "controls": (1, _MOST),
    "novel_drugs": (0, _MOST),
    "natural": (0, _MOST),
    "new_drugs": (0, _MOST),
    "unchosen": (0, _MOST),
    "strength": (1, 100),
    "size": (16, 512),
}


@dataclass(frozen=True)
class _Job:
    folder: Path
    key: str
    library: str
    drug: Drug


@simulator
def simulate_mitoreid(
    out: Path | str,
    seed: int = 0,
    *,
    moas: int = 6,
    drugs_per_moa: int = 3,
    libraries: int = 3,
    train: int = 4,
    query: int = 1,
    gallery: int = 1,
    controls: int = 4,
    novel_drugs: int = 3,
    natural: int = 2,
    new_drugs: int = 0,
    unchosen: int = 0,
    strength: int = 100,
    size: int = 48,
    workers: int = 1,
) -> None:
    """Write simulated tracks to `out` (new, empty, or this very simulation) in the release's
    layout, and the answers to `answers_path(out)`.

    Args:
        moas: the first so many of `MOAS`.
        drugs_per_moa: each in all libraries.
        train, query, gallery: tracks of each drug in each library.
        controls: DMSO tracks of each library that train; as many as of a drug are in query and
        gallery. novel_drugs, natural: compounds of `novel` and of `nc`, in turn of each MoA;
        `train` tracks each (in each library). new_drugs: further drugs of each MoA that stand in
        `query` alone, so that asking them asks about drugs that no track has trained. unchosen:
        further drugs of each MoA whose MoA is not told (`moa_choose` 0); they stand in `train`
        alone, for pretraining. strength: of all drugs, in percent; less makes the mechanisms harder
        to tell. size: height and width in pixels. workers: processes that draw.

    Raises:
        InputError: an argument out of its range, or `out` holds something else.
    """
    # imported late, for competitions import this module
    from cellsignal.competitions.base import answers_path
    from cellsignal.competitions.mitoreid.competition import published_answers

    out = Path(out)
    counts = {"train": train, "query": query, "gallery": gallery}
    numbers = {
        "moas": moas,
        "drugs_per_moa": drugs_per_moa,
        "libraries": libraries,
        **counts,
        "controls": controls,
        "novel_drugs": novel_drugs,
        "natural": natural,
        "new_drugs": new_drugs,
        "unchosen": unchosen,
        "strength": strength,
        "size": size,
    }
    for name, value in numbers.items():
        low, high = _RANGES[name]
        if not low <= value <= high:
            raise InputError(
                f"simulate mitoreid: {name} is {value}, "
                f"{f'at least {low}' if high == _MOST else f'{low} to {high}'} needed"
            )
    claim_folder(out, answers_path(out), {"competition": "mitoreid", "seed": seed, **numbers})
    number = iter(range(1, _MOST))
    groups = drugs_per_moa, new_drugs, unchosen
    known, asked, untold = (
        [_drug(seed, str(next(number)), moa, strength) for moa in range(moas) for _ in range(n)]
        for n in groups
    )
    unseen = [_drug(seed, str(next(number)), i % moas, strength) for i in range(novel_drugs)]
    plants = [_drug(seed, f"N{i + 1}", i % moas, strength) for i in range(natural)]
    jobs = []
    for library in [f"l{i + 1}" for i in range(libraries)]:
        for drugs, parts in (
            (known, counts),
            (asked, {"query": query}),
            (untold, {"train": train}),
        ):
            jobs += [
                job
                for drug in drugs
                for part, n in parts.items()
                for job in _jobs(out, library, f"{library}/{part}", drug, n)
            ]
        solvent = replace(_drug(seed, "dmso", None), strength=0.0)
        for part, n in (counts | {"train": controls}).items():
            jobs += _jobs(out, library, f"{library}/{part}", solvent, n)
        jobs += [
            job for drug in plants for job in _jobs(out, library, f"{library}/nc", drug, train)
        ]
    jobs += [job for drug in unseen for job in _jobs(out, "l1", "novel", drug, train)]
    run_jobs(partial(_draw, seed=seed, size=size), jobs, len(jobs), workers)
    _write_annotation(out / "annotation.xlsx", known + asked, untold + unseen, plants)
    hidden = [
        (f"{'novel' if drug in unseen else 'l1_nc'}_{drug.name}", drug)
        for drug in (*unseen, *plants)
    ]
    more = [
        {
            "id": name,
            "part": "compound",
            "library": "all",
            "drug": drug.name,
            "moa": list(MOAS)[drug.moa],
        }
        for name, drug in hidden
    ]
    write_csv(
        answers_path(out),
        pd.concat([published_answers(out), pd.DataFrame(more)], ignore_index=True),
    )


def _drug(seed: int, name: str, moa: int | None, strength: int = 100) -> Drug:
    rng = generator(seed, "drug", name)
    second = None if moa is None else int((moa + rng.integers(1, len(MOAS))) % len(MOAS))
    return Drug(
        name,
        moa,
        strength / 100 * rng.uniform(0.75, 1.0),
        rng.uniform(-0.7, 0.7),
        math.exp(rng.normal(0, 0.12)),
        math.exp(rng.normal(0, 0.05)),
        second,
        strength / 100 * rng.uniform(0, _SECOND),
    )


def _optics(seed: int, library: str) -> Optics:
    rng = generator(seed, "optics", library)
    return Optics(
        rng.uniform(0.45, 0.8), tuple(np.exp(rng.normal(0, 0.15, 3)).tolist()), rng.uniform(2, 5)
    )


def _jobs(out: Path, library: str, part: str, drug: Drug, n: int) -> list[_Job]:
    """The tracks of one drug in one folder, named as the release does: drug, number of the cell."""
    return [
        _Job(out / part / drug.name / f"{drug.name}_{i}", f"{part}/{drug.name}/{i}", library, drug)
        for i in range(n)
    ]


def _draw(job: _Job, seed: int, size: int) -> int:
    clip = draw_track(generator(seed, "track", job.key), job.drug, _optics(seed, job.library), size)
    job.folder.mkdir(parents=True, exist_ok=True)
    settings = [
        cv2.IMWRITE_JPEG_QUALITY,
        _QUALITY,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    for t, frame in enumerate(clip):
        done, data = cv2.imencode(".jpg", frame, settings)  # blue, green, red: w1, w2, w3
        assert done, job
        path = job.folder / f"{t + 1}.jpg"
        try:
            path.write_bytes(data)
        except OSError as error:
            raise InputError(f"{path}: could not be written ({error.strerror or error})") from error
    return 1


def _write_annotation(
    path: Path, listed: list[Drug], unseen: list[Drug], plants: list[Drug]
) -> None:
    """Both sheets. The solvent is a row with a MoA of its own, as in the release; `unseen` drugs
    are listed but not chosen.
    """
    names = list(MOAS)
    rows = [(int(drug.name), drug.moa + 1, 1, names[drug.moa]) for drug in listed]
    rows += [(int(drug.name), None, 0, None) for drug in unseen]
    rows.append(("dmso", 0, 1, "control"))
    fda = pd.DataFrame(rows, columns=["index", "moa_id", "moa_choose", "common_moa"])
    natural = pd.DataFrame(
        [(drug.name, f"natural compound {drug.name}") for drug in plants], columns=["index", "name"]
    )
    packed = io.BytesIO()
    with pd.ExcelWriter(packed, engine="openpyxl") as book:
        fda.to_excel(book, sheet_name="FDA-list", index=False)
        natural.to_excel(book, sheet_name="Novel-list", index=False)
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(packed) as made,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as kept,
    ):
        # without the time of writing, so that the same seed gives the same bytes
        for name in made.namelist():
            kept.writestr(
                zipfile.ZipInfo(name),
                re.sub(rb"\d{4}-\d\d-\d\dT[\d:]+Z", b"2024-01-01T00:00:00Z", made.read(name)),
            )
