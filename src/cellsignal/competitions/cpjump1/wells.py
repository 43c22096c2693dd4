"""CPJUMP1's wells by its tables alone: what every well of a plate with a platemap got, images or
none.
"""

from pathlib import Path

import pandas as pd

from cellsignal.common.errors import InputError
from cellsignal.competitions.cpjump1.metadata import (
    HIDDEN,
    PLATEMAPS,
    read_layout,
    read_platemaps,
    read_plates,
)

_COLUMNS = ["well_id", "experiment", "plate", "well", "role", "compound", "treatment", "cell_type"]


def layout_wells(root: Path) -> pd.DataFrame:
    """Return the wells of all plates that have a platemap; those whose treatment is hidden are left
    out.

    Returns:
        One row a well: well_id, experiment, plate, well, role, compound, treatment, cell_type, as
        in the samples table.

    Raises:
        InputError: No plate of the experiment metadata has a platemap, or one of the tables is
        wrong.
    """
    plates, parts = read_plates(root), []
    for batch in sorted(
        {batch for batch, _ in plates.index if (root / PLATEMAPS / batch).is_dir()}
    ):
        for plate, platemap in read_platemaps(root, batch).items():
            if (batch, plate) not in plates.index:
                continue
            facts = plates.loc[(batch, plate)]
            layout = read_layout(root, batch, platemap, facts.modality)
            layout = layout[layout.treatment != HIDDEN]
            experiment = f"{batch}_{facts.cell_type}_{facts.time}h_{facts.modality}"
            parts.append(
                layout.assign(
                    well_id=plate + "_" + layout.well,
                    experiment=experiment,
                    plate=plate,
                    cell_type=facts.cell_type,
                )[_COLUMNS]
            )
    if not parts:
        raise InputError(f"{root}: no platemap of a plate in the experiment metadata")
    wells = pd.concat(parts, ignore_index=True)
    # a plate that was imaged again stands in a batch of its own, with the same layout
    return wells.drop_duplicates("well_id", ignore_index=True)
