"""Write the page docs/results/profiles.md."""

from collections.abc import Sequence
from pathlib import Path

from cellsignal.evaluation.retrieval_null import NULL_SIZE
from cellsignal.profiles.sources import load_tables
from cellsignal.studies.pages import machine
from cellsignal.studies.profiles.mechanisms import SHUFFLES, mechanism_tables
from cellsignal.studies.profiles.replicates import (
    oracle_line,
    position_table,
    replicate_table,
    target_table,
)
from cellsignal.studies.profiles.scale import scale_line

WEEK = "Week[0-9]+"  # the batch in the names of BBBC021's plates
PAGE = """# What tables of real profiles give, and what position gives without them

The code is `cellsignal.studies.profiles`; the command writes this page.

    cellsignal study profiles --bbbc021 BBBC021_feature_selected_mad_robustize.csv \\
        --annotations JUMP-Target-1_compound_metadata.tsv \\
        --cpjump1 BR0011701*_normalized_feature_select_negcon_batch.csv.gz --out profiles.md

{machine}.

The tables are the publications' own. They have no column of cell counts, so that baseline is not
here.

## CPJUMP1: replicates

Four plates of one layout (U2OS, 48 h), DMSO of the same plate as negatives. Published for these
plates (Chandrasekaran et al. 2024): mean mAP .578, fraction retrieved 203/306 = .663. The two nulls
count differently and must not be set side by side.

{replicates}

{oracle}

## CPJUMP1: position

{position}

## CPJUMP1: targets

Among the compounds whose replicates were retrieved, by the published null, with JUMP-Target's
annotation. Published for these plates: fraction retrieved .251.

{targets}

## BBBC021: mechanisms

The nearest treatment of another compound (NSC), and of another batch too (NSCB); a batch is a week.
Every choice nested: each compound is matched by the way that is best for the treatments of the
other compounds, with its own profiles no neighbour of any. A way is a step (none; row and column
effects; TVN of three strengths by plate or batch, also with the last 2 % of variance dropped;
sphering of three strengths; all learnt from DMSO, position from all wells), a centring (none, by
plate, by batch) and what the cosine is taken of (the values, their signed logarithm, their
deviation from the profile's mean). Shuffled: mechanisms exchanged among the compounds, and the same
nested choice; the mean of the draws, and the range of 95 % of them, which is wide.

{mechanisms}

## Scale

{scale}
"""


def profiles_page(
    plates: Sequence[Path],
    annotations: Path,
    bbbc021: Path,
    null_size: int = NULL_SIZE,
    shuffles: int = SHUFFLES,
) -> str:
    """Return the page.

    Args:
        plates: the profiles of CPJUMP1's four plates.
        annotations: JUMP-Target-1's compound metadata.
        bbbc021: the profiles of BBBC021.
        null_size: random orders behind a p value.
        shuffles: draws of shuffled mechanisms.
    """
    jump = load_tables(plates, annotations=annotations)
    screen = load_tables([bbbc021], batch_pattern=WEEK)
    return PAGE.format(
        machine=machine(),
        replicates=replicate_table(jump, null_size),
        oracle=oracle_line(jump),
        position=position_table(jump, null_size),
        targets=target_table(jump, null_size),
        mechanisms=mechanism_tables(screen, shuffles),
        scale=scale_line(),
    )
