"""Simulated MitoReID in the release's layout: tracks, annotation and answers.

The films are drawn by `simulate_films`. Libraries have optics of their own; drugs a strength, a
delay and a side effect of their own.
"""

import io
import math
import re
import zipfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd

from cellsignal.common.files import atomic_path, write_csv
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.mitoreid.images import FILES
from cellsignal.competitions.mitoreid.metadata import CONTROL, FILE, published_answers
from cellsignal.competitions.mitoreid.simulate_films import MOAS, Drug, Optics, draw_track
from cellsignal.simulation import output

_QUALITY = 95
_SECOND = 0.5  # the strongest second mechanism of a drug
_RANGES = {
    "moas": (2, len(MOAS)),
    "drugs_per_moa": (1, None),
    "libraries": (1, 9),
    "train": (1, None),
    "query": (1, None),
    "gallery": (1, None),
    "controls": (1, None),
    "novel_drugs": (0, None),
    "natural": (0, None),
    "new_drugs": (0, None),
    "unchosen": (0, None),
    "strength": (1, 100),
    "size": (16, 512),
}


@dataclass(frozen=True)
class TrackJob:
    """One track to draw; `key` names its random numbers."""

    folder: Path
    key: str
    library: str
    drug: Drug


@output.simulator
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
    """Write simulated tracks to `out` in the release's layout, and their answers beside it.

    Args:
        out: new, empty, or this very simulation; the answers go to `answers_path(out)`.
        moas: the first so many of `MOAS`.
        drugs_per_moa: each in all libraries.
        train, query, gallery: tracks of each drug in each library.
        controls: DMSO tracks of each library that train; query and gallery have as many as of a
            drug.
        novel_drugs, natural: compounds of `novel` and of `nc`, in turn of each MoA; `train` tracks
            each (in each library).
        new_drugs: further drugs of each MoA that are in `query` alone, so that no track of them
            has trained.
        unchosen: further drugs of each MoA whose MoA is not told (`moa_choose` 0); they are in
            `train` alone, for pretraining.
        strength: of all drugs, in percent; less makes the mechanisms harder to tell.
        size, workers: height and width in pixels; processes that draw.

    Raises:
        InputError: an argument out of its range, or `out` holds something else.
    """
    sizes = {name: value for name, value in locals().items() if name in _RANGES}
    output.check_sizes("mitoreid", sizes, _RANGES)
    _simulate_tracks(Path(out), seed, SimpleNamespace(**sizes), workers)


def _simulate_tracks(out: Path, seed: int, sizes: SimpleNamespace, workers: int) -> None:
    settings = {"competition": "mitoreid", "seed": seed, **vars(sizes)}
    output.claim_folder(out, answers_path(out), settings)
    kinds = (sizes.drugs_per_moa, sizes.new_drugs, sizes.unchosen)
    moas = [[moa for moa in range(sizes.moas) for _ in range(count)] for count in kinds]
    moas.append([number % sizes.moas for number in range(sizes.novel_drugs)])
    known, query_only, unchosen, novel = _number_drugs(seed, moas, sizes.strength)
    natural = [
        _drug(seed, f"N{number + 1}", number % sizes.moas, sizes.strength)
        for number in range(sizes.natural)
    ]
    solvent = replace(_drug(seed, CONTROL, None), strength=0.0)
    counts = {"train": sizes.train, "query": sizes.query, "gallery": sizes.gallery}
    jobs: list[TrackJob] = []
    for library in [f"l{number + 1}" for number in range(sizes.libraries)]:
        add = partial(_add_jobs, jobs, out, library)
        for part, count in counts.items():
            add(f"{library}/{part}", known, count)
        add(f"{library}/query", query_only, sizes.query)
        add(f"{library}/train", unchosen, sizes.train)
        for part, count in (counts | {"train": sizes.controls}).items():
            add(f"{library}/{part}", [solvent], count)
        add(f"{library}/nc", natural, sizes.train)
    _add_jobs(jobs, out, "l1", "novel", novel, sizes.train)
    output.run_jobs(partial(_draw, seed=seed, size=sizes.size), jobs, len(jobs), workers)
    _write_annotation(out / FILE, known + query_only, unchosen + novel, natural)
    hidden = {f"novel_{drug.name}": drug for drug in novel}
    hidden |= {f"l1_nc_{drug.name}": drug for drug in natural}
    names = list(MOAS)
    rows = [(key, "compound", "all", drug.name, names[drug.moa]) for key, drug in hidden.items()]
    answers = published_answers(out)
    compounds = pd.DataFrame(rows, columns=answers.columns)
    write_csv(answers_path(out), pd.concat([answers, compounds], ignore_index=True))


def _number_drugs(seed: int, moas: list[list[int]], strength: int) -> list[list[Drug]]:
    """Return drugs of each list of mechanisms, numbered from 1 over all lists."""
    n_drugs = 0
    drugs = []
    for group in moas:
        names = [str(n_drugs + number) for number in range(1, len(group) + 1)]
        pairs = zip(names, group, strict=True)
        drugs.append([_drug(seed, name, moa, strength) for name, moa in pairs])
        n_drugs += len(group)
    return drugs


def _drug(seed: int, name: str, moa: int | None, strength: int = 100) -> Drug:
    rng = output.generator(seed, "drug", name)
    second = None if moa is None else int((moa + rng.integers(1, len(MOAS))) % len(MOAS))
    return Drug(
        name,
        moa,
        strength=strength / 100 * rng.uniform(0.75, 1.0),
        delay=rng.uniform(-0.7, 0.7),
        stain=math.exp(rng.normal(0, 0.12)),
        girth=math.exp(rng.normal(0, 0.05)),
        second=second,
        second_strength=strength / 100 * rng.uniform(0, _SECOND),
    )


def _optics(seed: int, library: str) -> Optics:
    rng = output.generator(seed, "optics", library)
    blur = rng.uniform(0.45, 0.8)
    gain = tuple(np.exp(rng.normal(0, 0.15, 3)).tolist())
    return Optics(blur, gain, noise=rng.uniform(2, 5))


def _add_jobs(
    jobs: list[TrackJob], out: Path, library: str, part: str, drugs: list[Drug], count: int
) -> None:
    """Add the tracks of drugs in one folder, named as in the release: drug, number of the cell."""
    for drug in drugs:
        for number in range(count):
            folder = out / part / drug.name / f"{drug.name}_{number}"
            jobs.append(TrackJob(folder, f"{part}/{drug.name}/{number}", library, drug))


def _draw(job: TrackJob, seed: int, size: int) -> int:
    rng = output.generator(seed, "track", job.key)
    clip = draw_track(rng, job.drug, _optics(seed, job.library), size)
    job.folder.mkdir(parents=True, exist_ok=True)
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    settings = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY, *sampling]
    for file, frame in zip(FILES, clip, strict=True):
        done, data = cv2.imencode(".jpg", frame, settings)  # blue, green, red: w1, w2, w3
        assert done, job
        output.write_file(job.folder / file, data)
    return 1


def _write_annotation(
    path: Path, listed: list[Drug], unchosen: list[Drug], natural: list[Drug]
) -> None:
    """Write both sheets. The solvent is a row with a MoA of its own, as in the release."""
    names = list(MOAS)
    rows = [(int(drug.name), drug.moa + 1, 1, names[drug.moa]) for drug in listed]
    rows += [(int(drug.name), None, 0, None) for drug in unchosen]
    rows.append((CONTROL, 0, 1, "control"))
    fda = pd.DataFrame(rows, columns=["index", "moa_id", "moa_choose", "common_moa"])
    rows = [(drug.name, f"natural compound {drug.name}") for drug in natural]
    novel = pd.DataFrame(rows, columns=["index", "name"])
    workbook = io.BytesIO()
    with pd.ExcelWriter(workbook, engine="openpyxl") as book:
        fda.to_excel(book, sheet_name="FDA-list", index=False)
        novel.to_excel(book, sheet_name="Novel-list", index=False)
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(workbook) as source,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        # without the time of writing, so that the same seed gives the same bytes
        for name in source.namelist():
            content = source.read(name)
            content = re.sub(rb"\d{4}-\d\d-\d\dT[\d:]+Z", b"2024-01-01T00:00:00Z", content)
            target.writestr(zipfile.ZipInfo(name), content)
