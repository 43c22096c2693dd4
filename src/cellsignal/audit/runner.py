"""Run all checks of the audit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellsignal.audit.adversarial import check_adversarial
from cellsignal.audit.compounds import check_compounds
from cellsignal.audit.findings import Finding
from cellsignal.audit.images import check_images
from cellsignal.audit.ladder import check_ladder, ladder_rows
from cellsignal.audit.layouts import check_layouts
from cellsignal.audit.parts import Audited, read_audited
from cellsignal.audit.pictures import Pictures, read_pictures
from cellsignal.audit.run_record import check_run
from cellsignal.audit.settings import check_settings
from cellsignal.audit.units import check_copies, check_units
from cellsignal.config.schema import Config

MOST_IMAGES = 50_000  # that are compared for near-duplicates
LADDER_IMAGES = 2_000


@dataclass(frozen=True)
class Options:
    """What the command line chooses.

    Attributes:
        split: a split table in place of the fold table.
        answers: true test labels, for the layouts alone.
        compounds: a table of InChIKeys.
        images: most images that are compared for near-duplicates.
        ladder: most images of the ladder.
    """

    split: Path | None = None
    answers: Path | None = None
    compounds: Path | None = None
    images: int = MOST_IMAGES
    ladder: int = LADDER_IMAGES


def audit(config: Config, options: Options) -> list[Finding]:
    """Audit what a config trains on and holds out; return all findings.

    Raises:
        InputError: a table or store that cannot be read, or does not fit.
    """
    return audit_parts(read_audited(config, options.split, options.answers), options)


def audit_parts(audited: Audited, options: Options) -> list[Finding]:
    """Run every check."""
    rows = ladder_rows(audited, options.ladder, audited.config.seed)
    pictures, left_out = _read_pictures(audited, rows, options.images)
    return [
        *check_images(audited, pictures, left_out),
        *check_copies(audited),
        *check_units(audited),
        *check_compounds(audited, options.compounds),
        *check_run(audited),
        *check_settings(audited),
        *check_layouts(audited),
        *check_adversarial(audited, audited.config.seed),
        *check_ladder(audited, pictures, rows),
    ]


def _read_pictures(
    audited: Audited, featured: np.ndarray, most: int
) -> tuple[Pictures | None, int]:
    """Read the images that some part uses, or `most` of them, drawn at random."""
    if audited.store is None:
        return None, 0
    used = np.unique(np.concatenate([np.r_[part.train, part.held] for part in audited.parts]))
    chosen = used
    if len(used) > most:
        chosen = np.random.default_rng(audited.config.seed).choice(used, most, replace=False)
    pictures = read_pictures(audited.samples, audited.store.read, np.sort(chosen), featured)
    return pictures, len(used) - len(chosen)


def about(config: Config, options: Options) -> dict[str, Any]:
    """Return what an audit was made from, for its JSON file."""
    chosen = {name: str(value) for name, value in vars(options).items() if value is not None}
    return {"competition": config.competition, "run": config.name, "options": chosen}
