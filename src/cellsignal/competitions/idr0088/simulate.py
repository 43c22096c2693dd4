"""Simulated idr0088: reporter lines, doses, replicates and batches of compounds.

The annotation has the published table's 21 columns and spellings, in a zip; the images lie as the
download writes them. The mechanism of action (MoA) of test compounds is blank in the annotation, as
that of the natural products is in the published one.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_csv
from cellsignal.competitions.base import answers_path
from cellsignal.competitions.idr0088 import simulate_tables as tables
from cellsignal.competitions.idr0088.images import IMAGES
from cellsignal.competitions.idr0088.moa import MIN_COMPOUNDS
from cellsignal.simulation import output, phenotypes
from cellsignal.simulation.cells import STAINS
from cellsignal.simulation.plates import Plate, Site, draw_optics, draw_plate

# what mechanisms do, and the annotation's strings for them (some for the same mechanism)
MECHANISMS: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {
    "beta": (
        phenotypes.units(
            reach=1.8, elongation=2.8, nucleus=1.2, stain_er=-1.2, stain_mito=-1.2, stain_actin=-1.0
        ),
        ("Beta-adrenergic receptor agonist",),
    ),
    "cannabinoid": (
        phenotypes.units(reach=-2.0, clumping=2.0, chromatin=2.0, stain_mito=-1.2, stain_er=1.2),
        ("Cannabinoid receptor agonist", "Cannabinoid receptor partial agonist"),
    ),
    "ppar": (
        phenotypes.units(er_extent=2.2, stain_er=1.8, er_texture=1.8, density=-1.0),
        ("Peroxisome proliferator-activated receptor activator", "PPAR agonist"),
    ),
    "microtubule": (
        phenotypes.units(rounded=3.0, binucleate=2.4, density=-2.2, chromatin=1.4, reach=-1.2),
        ("Microtubule inhibitor",),
    ),
    "p38": (
        phenotypes.units(nucleus=2.2, density=-1.2, cortex=1.8, nucleoli=-1.8, golgi_size=1.4),
        ("p38 MAPK inhibitor",),
    ),
    "sodium": (
        phenotypes.units(
            nucleus=-1.8, density=1.8, stain_nuclei=1.6, er_texture=-1.8, mito_texture=2.0
        ),
        ("Voltage-gated sodium channel blocker",),
    ),
}
# compounds with two mechanisms; the string is in the published table
TWO = (("p38 MAPK inhibitor|Microtubule inhibitor", ("p38", "microtubule")),)
PAIRS = ("TUBA1B-RELA", "CANX-COX4I1", "GM130-SQSTM1", "ACTB-RAB5A", "TP53BP1-CLTA")
LINES = tuple(f"{cells}-{pair}" for pair in PAIRS for cells in ("A549", "HepG2", "WPMY1"))
DOSES = (9.0, 3.0, 1.0, 0.3)  # uM; the first `doses` of them
_STAIN = {"ACTB": "actin", "RAB5A": "golgi", "TUBA1B": "er", "RELA": "rna", "CANX": "er"}
_STAIN |= {"COX4I1": "mito", "GM130": "golgi", "SQSTM1": "rna", "TP53BP1": "nuclei", "CLTA": "mito"}
_ROWS = "BCDEFGHIJKLMNO"
_TREATED = tuple(f"{row}{column}" for row in _ROWS for column in range(3, 23))
_CONTROLS = tuple(f"{row}{column}" for row in _ROWS for column in (2, 23))
# gray levels of the channels; spread of their logarithms over plates
_MEAN, _SD, _SPREAD = (42.0, 34.0, 30.0), (30.0, 24.0, 20.0), 0.2
_OWN_EFFECT = 0.4  # units of a compound beside its mechanism's
_HALF_DOSE = (0.1, 1.0)  # uM, between which half-effective doses lie
_RANGES = {
    "lines": (1, len(LINES)),
    "compounds_per_moa": (MIN_COMPOUNDS, 99),
    "test_compounds_per_moa": (1, 99),
    "doses": (1, len(DOSES)),
    "replicates": (1, 99),
    "batches": (1, 99),
    "controls": (1, len(_CONTROLS)),
    "fields": (1, 99),
    "size": (16, 4096),
}


@output.simulator
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
    """Write simulated plates to `out`: the annotation's zip, images.csv and the PNGs.

    There are six mechanisms, two of them GPCR agonists; a training and a test compound with two
    mechanisms; inert test compounds; and a salt of a training compound (same InChIKey) whose MoA is
    blank. A plate holds every compound at every dose in one line. Replicates share their layout.
    Effects grow with the dose (half of them at .1 to 1 uM). The answers (well_id, a column a class,
    compound, plate, cell_type) go to `answers_path(out)`.

    Args:
        out: new, empty, or this very simulation.
        competition: idr0088_gpcr or idr0088_moa: whose answers.
        lines: reporter lines, of 15.
        compounds_per_moa, test_compounds_per_moa: compounds of each mechanism with and without
            their MoA in the annotation.
        doses: of each compound, of 4.
        replicates: plates of a line in each of its `batches`.
        controls, fields: DMSO wells of a plate; pictures of a well.
        size, workers: image height and width in pixels; processes that draw.

    Raises:
        InputError: an argument out of its range, more wells than a plate has, or `out` holds
            something else.
    """
    sizes = {name: value for name, value in locals().items() if name in _RANGES}
    output.check_sizes(competition, sizes, _RANGES)
    _simulate_plates(Path(out), seed, competition, SimpleNamespace(**sizes), workers)


def _simulate_plates(
    out: Path, seed: int, competition: str, sizes: SimpleNamespace, workers: int
) -> None:
    compounds = _compounds(seed, sizes.compounds_per_moa, sizes.test_compounds_per_moa)
    if len(compounds) * sizes.doses > len(_TREATED):
        raise InputError(
            f"simulate {competition}: {len(compounds)} compounds x {sizes.doses} doses do not fit "
            f"into {len(_TREATED)} wells of a plate"
        )
    settings = {"competition": competition, "seed": seed, **vars(sizes)}
    output.claim_folder(out, answers_path(out), settings)
    jobs = list(_plate_jobs(seed, compounds, sizes))
    tables.write_annotation(out, jobs)
    images = tables.list_images(jobs, sizes.fields)
    for job in jobs:
        (out / "images" / str(job.number)).mkdir(parents=True, exist_ok=True)
    draw = partial(_draw, folder=out, seed=seed, size=sizes.size, fields=sizes.fields)
    output.run_jobs(draw, jobs, len(images), workers)
    write_csv(out / IMAGES, images)
    write_csv(answers_path(out), tables.make_answers(out, jobs, competition))


def _compounds(seed: int, labelled: int, hidden: int) -> list[tables.Compound]:
    """Return all compounds of the library; a salt comes after the compound that it is."""
    facts = []
    for mechanism, (_, strings) in MECHANISMS.items():
        for i in range(labelled + hidden):
            facts.append((strings[i % len(strings)], (mechanism,), i >= labelled))
    for raw, mechanisms in TWO:
        facts += [(raw, mechanisms, False), (raw, mechanisms, True)]
    facts += [("", (), True)] * hidden
    rng = output.generator(seed, "compounds")
    compounds = []
    for number, (raw, mechanisms, is_hidden) in enumerate(facts, 1):
        letters = "".join(rng.choice(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), 22))
        inchikey, name = f"{letters[:14]}-{letters[14:]}SA-N", f"substance {number}"
        compounds.append(tables.Compound(inchikey, name, raw, mechanisms, is_hidden))
    base = compounds[0]
    salt = tables.Compound(base.inchikey, f"{base.name} hydrochloride", "", base.mechanisms, False)
    return [*compounds, salt]


def _plate_jobs(
    seed: int, compounds: list[tables.Compound], sizes: SimpleNamespace
) -> Iterator[tables.PlateJob]:
    treatments = [(compound, dose) for compound in compounds for dose in DOSES[: sizes.doses]]
    n_plates = 0
    for line in LINES[: sizes.lines]:
        for batch in range(sizes.batches):
            run = 101 + n_plates // sizes.replicates
            rng = output.generator(seed, "layout", line, batch)
            treated = rng.permutation(_TREATED).tolist()[::-1][: len(treatments)]
            controls = rng.permutation(_CONTROLS).tolist()[: sizes.controls]
            wells = [(well, None, 0.0) for well in controls]
            wells += [(well, *pair) for well, pair in zip(treated, treatments, strict=True)]
            for _ in range(sizes.replicates):
                experiment = f"p{180000 + run}PPS{run}"
                yield tables.PlateJob(1013608001 + n_plates, line, experiment, batch, tuple(wells))
                n_plates += 1


def _draw(job: tables.PlateJob, folder: Path, seed: int, size: int, fields: int) -> int:
    """Draw one plate's pictures; return the number of fields."""
    cells, green, red = job.line.split("-")
    name = str(job.number)
    mix, shift = phenotypes.experiment_response(seed, f"{job.line} {job.batch}")
    normals = output.generator(seed, "brightness", name).normal(size=(2, 3))
    factors = np.exp(_SPREAD * normals * [[1.0], [0.5]])
    mean, sd = factors[0] * _MEAN, factors.prod(0) * _SD
    optics = draw_optics(mean, sd, seed, job.experiment, name)
    sites = []
    for well, compound, dose in job.layout:
        effect = np.zeros(phenotypes.N_EFFECTS)
        if compound is not None:
            effect = _effect(seed, compound, dose)
        seen_effect = phenotypes.well_effect(seed, effect, (mix, 0.5 * shift), (name,), well)
        look = phenotypes.look_of(tables.CELLS[cells][3], seen_effect)
        sites += [Site(f"{name}/{well}_f{field}", well, look) for field in range(1, fields + 1)]
    stains = tuple(STAINS.index(stain) for stain in ("nuclei", _STAIN[green], _STAIN[red]))
    for site, image in draw_plate(Plate(name, optics, tuple(sites)), size, seed, stains):
        for number, plane in enumerate(image, 1):
            output.write_png(folder / "images" / f"{site.name}_ch{number}.png", plane)
    return len(sites)


def _effect(seed: int, compound: tables.Compound, dose: float) -> np.ndarray:
    """Return the effect of a dose, (N_EFFECTS,) units: its mechanisms' and the compound's own."""
    rng = output.generator(seed, "compound", compound.inchikey)
    own_effect = _OWN_EFFECT * rng.normal(size=phenotypes.N_EFFECTS)
    full = sum((MECHANISMS[name][0] for name in compound.mechanisms), own_effect)
    half_dose = np.exp(rng.uniform(*np.log(_HALF_DOSE)))
    return full * dose / (dose + half_dose)
