"""Simulated idr0088: reporter lines, doses, replicates and batches of compounds with one or two
mechanisms of action (MoA).

The annotation has the published table's 21 columns and spellings, in a zip; the images lie as the
download writes them. The MoA of the test compounds is blank in it, as that of the natural products
is in the published one.
"""

import io
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.common.files import atomic_path, write_csv
from cellsignal.simulation.cells import STAINS
from cellsignal.simulation.output import claim_folder, generator, run_jobs, simulator, write_png
from cellsignal.simulation.phenotypes import (
    N_EFFECTS,
    experiment_response,
    look_of,
    units,
    well_effect,
)
from cellsignal.simulation.plates import Plate, Site, draw_optics, draw_plate

# What mechanisms do, in the units of `phenotypes.SCALES`, and the annotation's strings for them
# (some for the same mechanism).
MECHANISMS: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {
    "beta": (
        units(
            reach=1.8, elongation=2.8, nucleus=1.2, stain_er=-1.2, stain_mito=-1.2, stain_actin=-1.0
        ),
        ("Beta-adrenergic receptor agonist",),
    ),
    "cannabinoid": (
        units(reach=-2.0, clumping=2.0, chromatin=2.0, stain_mito=-1.2, stain_er=1.2),
        ("Cannabinoid receptor agonist", "Cannabinoid receptor partial agonist"),
    ),
    "ppar": (
        units(er_extent=2.2, stain_er=1.8, er_texture=1.8, density=-1.0),
        ("Peroxisome proliferator-activated receptor activator", "PPAR agonist"),
    ),
    "microtubule": (
        units(rounded=3.0, binucleate=2.4, density=-2.2, chromatin=1.4, reach=-1.2),
        ("Microtubule inhibitor",),
    ),
    "p38": (
        units(nucleus=2.2, density=-1.2, cortex=1.8, nucleoli=-1.8, golgi_size=1.4),
        ("p38 MAPK inhibitor",),
    ),
    "sodium": (
        units(nucleus=-1.8, density=1.8, stain_nuclei=1.6, er_texture=-1.8, mito_texture=2.0),
        ("Voltage-gated sodium channel blocker",),
    ),
}
# compounds with two mechanisms; the first string is in the published table
TWO = (("p38 MAPK inhibitor|Microtubule inhibitor", ("p38", "microtubule")),)
LINES = tuple(
    f"{cells}-{pair}"
    for pair in ("TUBA1B-RELA", "CANX-COX4I1", "GM130-SQSTM1", "ACTB-RAB5A", "TP53BP1-CLTA")
    for cells in ("A549", "HepG2", "WPMY1")
)
DOSES = (9.0, 3.0, 1.0, 0.3)  # uM; the first `doses` of them
_CELLS = {  # of the reporter line -> cell line, its ontology and accession, the look
    "A549": ("A549", "EFO", "EFO_0001086", "MCF7"),
    "HepG2": ("HepG2", "EFO", "EFO_0001187", "HEPG2"),
    "WPMY1": ("WPMY-1", "CLO", "CLO_0009628", "RPE"),
}
_STAIN = {
    "ACTB": "actin",
    "RAB5A": "golgi",
    "TUBA1B": "er",
    "RELA": "rna",
    "CANX": "er",
    "COX4I1": "mito",
    "GM130": "golgi",
    "SQSTM1": "rna",
    "TP53BP1": "nuclei",
    "CLTA": "mito",
}
_COLUMNS, _ROWS, _CONTROL_COLUMNS = range(3, 23), "BCDEFGHIJKLMNO", (2, 23)
_TREATED = tuple(f"{row}{column}" for row in _ROWS for column in _COLUMNS)
_CONTROLS = tuple(f"{row}{column}" for row in _ROWS for column in _CONTROL_COLUMNS)
# gray levels; of the plates' logs
_MEAN, _SD, _SPREAD = (42.0, 34.0, 30.0), (30.0, 24.0, 20.0), 0.2
# of a compound beside its mechanism's, units; uM, between which half-effective doses lie
_OWN_EFFECT, _HALF_DOSE = 0.4, (0.1, 1.0)
_LETTERS = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))


@dataclass(frozen=True)
class _Compound:
    key: str  # InChIKey
    name: str
    raw: str  # the MoA as the table writes it, "" for none
    mechanisms: tuple[str, ...]
    hidden: bool  # a test compound: its MoA is known to the answers alone


@dataclass(frozen=True)
class _Plate:
    number: int
    line: str
    experiment: str
    batch: int
    layout: tuple[tuple[str, _Compound | None, float], ...]  # well, compound (None: DMSO), uM


@simulator
def simulate_idr0088(
    out: Path | str,
    seed: int = 0,
    *,
    competition: str = "idr0088_moa",
    lines: int = 2,
    compounds_per_moa: int = 4,
    test_compounds_per_moa: int = 1,
    doses: int = 4,
    replicates: int = 2,
    batches: int = 2,
    controls: int = 8,
    fields: int = 1,
    size: int = 64,
    workers: int = 1,
) -> None:
    """Write simulated plates to `out`: the annotation's zip, images.csv and
    images/<plate>/<well>_f<field>_ch<c>.png.

    Six mechanisms, two of them GPCR agonists; besides, a training and a test compound with two
    mechanisms, inert test compounds, and a salt of a training compound (same InChIKey) whose MoA is
    blank. A plate holds every compound at every dose in one line; replicates share their layout;
    effects grow with the dose (half of them at .1 to 1 uM). The answers (well_id, a column a class,
    compound, plate, cell_type) go to `answers_path(out)`. The files depend on the arguments other
    than `workers` alone.

    Args:
        out: a new or empty folder, or one that holds this very simulation.
        seed: of everything random.
        competition: idr0088_gpcr or idr0088_moa: whose answers.
        lines: reporter lines, of 15.
        compounds_per_moa, test_compounds_per_moa: compounds of each mechanism with and without
        their MoA in the annotation. doses: of each compound, of 4. replicates: plates of a line in
        each of its `batches`. controls: DMSO wells of a plate. fields: pictures of a well. size:
        image height and width in pixels. workers: processes that draw.

    Raises:
        InputError: an argument out of its range, more wells than a plate has, or `out` holds
        something else.
    """
    # imported late, for competitions import this module
    from cellsignal.competitions.base import answers_path

    out = Path(out)
    numbers = {
        "lines": lines,
        "compounds_per_moa": compounds_per_moa,
        "test_compounds_per_moa": test_compounds_per_moa,
        "doses": doses,
        "replicates": replicates,
        "batches": batches,
        "controls": controls,
        "fields": fields,
        "size": size,
    }
    compounds = _compounds(seed, compounds_per_moa, test_compounds_per_moa)
    _check(competition, numbers, len(compounds))
    claim_folder(out, answers_path(out), {"competition": competition, "seed": seed, **numbers})
    plates = _plates(seed, compounds, LINES[:lines], doses, replicates, batches, controls)
    _write_annotation(out, plates)
    images = _images(plates, fields)
    for plate in plates:
        (out / "images" / str(plate.number)).mkdir(parents=True, exist_ok=True)
    run_jobs(
        partial(_draw, folder=out, seed=seed, size=size, fields=fields),
        plates,
        len(images),
        workers,
    )
    write_csv(out / "images.csv", images)
    write_csv(answers_path(out), _answers(out, plates, competition))


def _check(competition: str, numbers: dict[str, int], compounds: int) -> None:
    from cellsignal.competitions.idr0088.moa import MIN_COMPOUNDS

    limits = {
        "lines": (1, len(LINES)),
        "compounds_per_moa": (MIN_COMPOUNDS, 99),
        "doses": (1, len(DOSES)),
        "controls": (1, len(_CONTROLS)),
        "size": (16, 4096),
    }
    for name, value in numbers.items():
        least, most = limits.get(name, (1, 99))
        if not least <= value <= most:
            raise InputError(
                f"simulate {competition}: {name} is {value}, it must be from {least} to {most}"
            )
    if compounds * numbers["doses"] > len(_TREATED):
        raise InputError(
            f"simulate {competition}: {compounds} compounds x {numbers['doses']} doses do not fit "
            f"into {len(_TREATED)} wells of a plate"
        )


def _compounds(seed: int, labelled: int, hidden: int) -> list[_Compound]:
    """All compounds of the library; a salt comes after the compound that it is."""
    rng = generator(seed, "compounds")
    wanted = [
        (raws[i % len(raws)], (name,), i >= labelled)
        for name, (_, raws) in MECHANISMS.items()
        for i in range(labelled + hidden)
    ]
    wanted += [(raw, names, i > 0) for raw, names in TWO for i in range(2)]
    wanted += [("", (), True)] * hidden
    found = []
    for number, (raw, mechanisms, is_hidden) in enumerate(wanted, 1):
        letters = "".join(rng.choice(_LETTERS, 22))
        found.append(
            _Compound(
                f"{letters[:14]}-{letters[14:]}SA-N",
                f"substance {number}",
                raw,
                mechanisms,
                is_hidden,
            )
        )
    base = found[0]
    return [*found, _Compound(base.key, f"{base.name} hydrochloride", "", base.mechanisms, False)]


def _plates(
    seed: int,
    compounds: list[_Compound],
    lines: tuple[str, ...],
    doses: int,
    replicates: int,
    batches: int,
    controls: int,
) -> list[_Plate]:
    plates = []
    for line in lines:
        for batch in range(batches):
            run = 101 + len(plates) // replicates
            for _ in range(replicates):
                rng = generator(seed, "layout", line, batch)  # replicates share it
                treated = rng.permutation(_TREATED).tolist()
                free = rng.permutation(_CONTROLS).tolist()
                wells = [(str(free[i]), None, 0.0) for i in range(controls)]
                wells += [
                    (str(treated.pop()), compound, dose)
                    for compound in compounds
                    for dose in DOSES[:doses]
                ]
                number = 1013608001 + len(plates)
                plates.append(_Plate(number, line, f"p{180000 + run}PPS{run}", batch, tuple(wells)))
    return plates


def _write_annotation(out: Path, plates: list[_Plate]) -> None:
    """The zip, with the same bytes every time."""
    from cellsignal.competitions.idr0088.annotation import COLUMNS, FILE, NEGATIVE_CONTROL

    numbers: dict[str, int] = {}
    rows = []
    for plate in plates:
        cells, green, red = plate.line.split("-")
        name, ontology, accession, _ = _CELLS[cells]
        fixed = (
            "Homo sapiens",
            "NCBITaxon",
            "NCBITaxon_9606",
            name,
            ontology,
            accession,
            plate.line,
        )
        channels = f"Ch1 (blue): Nuclei/Cytoplasm, Ch2 (green): {green}, Ch3 (red): {red}"
        location = f"{plate.experiment}/PpsL05{''.join(plate.line.split('-'))}_{plate.experiment[7:]}_{plate.number}"
        for well, compound, dose in plate.layout:
            if compound is None:
                given = ("", "", "", "DMSO", *[""] * 5, NEGATIVE_CONTROL)
            else:
                number = numbers.setdefault(compound.name, 1 + len(numbers))
                known = "" if compound.hidden else compound.raw
                kind = "MoA Reference" if known else "Prestwick Natural Product"
                link = f"https://pubchem.ncbi.nlm.nih.gov/compound/{number}"
                given = (
                    f"{dose:g}",
                    kind,
                    known,
                    compound.name,
                    f"CPD{number:04d}",
                    "C",
                    compound.key,
                    str(number),
                    link,
                    "",
                )
            rows.append((str(plate.number), well, *fixed, *given, channels, location))
    text = io.StringIO()
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(text, index=False, lineterminator="\n")
    with (
        atomic_path(out / FILE) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        archive.writestr(
            zipfile.ZipInfo(FILE.removesuffix(".zip")), text.getvalue(), zipfile.ZIP_DEFLATED
        )


def _images(plates: list[_Plate], fields: int) -> pd.DataFrame:
    rows = []
    for plate in plates:
        for well, _, _ in plate.layout:
            for field in range(1, fields + 1):
                name = f"images/{plate.number}/{well}_f{field}"
                rows.append(
                    (
                        str(plate.number),
                        well,
                        field,
                        5_000_001 + len(rows),
                        *(f"{name}_ch{c}.png" for c in (1, 2, 3)),
                    )
                )
    return pd.DataFrame(
        rows, columns=["plate", "well", "field", "image_id", "file_ch1", "file_ch2", "file_ch3"]
    )


def _draw(plate: _Plate, folder: Path, seed: int, size: int, fields: int) -> int:
    """Draw one plate's pictures; says how many fields."""
    cells, green, red = plate.line.split("-")
    name = str(plate.number)
    mix, shift = experiment_response(seed, f"{plate.line} {plate.batch}")
    drawn = np.exp(
        _SPREAD * generator(seed, "brightness", name).normal(size=(2, 3)) * [[1.0], [0.5]]
    )
    optics = draw_optics(drawn[0] * _MEAN, drawn.prod(0) * _SD, seed, plate.experiment, name)
    sites = []
    for well, compound, dose in plate.layout:
        effect = np.zeros(N_EFFECTS) if compound is None else _effect(seed, compound, dose)
        look = look_of(
            _CELLS[cells][3], well_effect(seed, effect, (mix, 0.5 * shift), (name,), well)
        )
        sites += [Site(f"{name}/{well}_f{field}", well, look) for field in range(1, fields + 1)]
    stains = tuple(STAINS.index(stain) for stain in ("nuclei", _STAIN[green], _STAIN[red]))
    for site, image in draw_plate(Plate(name, optics, tuple(sites)), size, seed, stains):
        for number, plane in enumerate(image, 1):
            write_png(folder / "images" / f"{site.name}_ch{number}.png", plane)
    return len(sites)


def _effect(seed: int, compound: _Compound, dose: float) -> np.ndarray:
    """The effect of a dose: of all its mechanisms and the compound's own, (N_EFFECTS,) units."""
    rng = generator(seed, "compound", compound.key)
    full = sum(
        (MECHANISMS[name][0] for name in compound.mechanisms),
        _OWN_EFFECT * rng.normal(size=N_EFFECTS),
    )
    half = np.exp(rng.uniform(*np.log(_HALF_DOSE)))
    return full * dose / (dose + half)


def _answers(out: Path, plates: list[_Plate], competition: str) -> pd.DataFrame:
    """The classes of the hidden compounds' wells: those that the annotation's compounds make, one
    column each.
    """
    from cellsignal.competitions.base import registered
    from cellsignal.competitions.idr0088.moa import labels_of, read_moa_table

    classes = registered()[competition]().class_members(out)
    moas_of = read_moa_table().moas
    rows = []
    for plate in plates:
        for well, compound, _ in plate.layout:
            if compound is None or not compound.hidden:
                continue
            # an inert compound is known to do nothing
            moas = moas_of([compound.raw], out) if compound.raw else ()
            has = set(labels_of(moas, classes))
            rows.append(
                (
                    f"{plate.number}_{well}",
                    *(int(i in has) for i in range(len(classes))),
                    compound.key,
                    str(plate.number),
                    plate.line,
                )
            )
    return pd.DataFrame(rows, columns=["well_id", *classes, "compound", "plate", "cell_type"])
