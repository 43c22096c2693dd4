"""The fold table of the strict protocol: drugs that no stage sees, drugs that steer the training,
and the drugs that train.
"""

import hashlib

import numpy as np
import pandas as pd

from cellsignal.competitions.folds import TEST, labelled, make_folds

FOLDS = 4
_SHARE = 4  # one drug in so many is kept for the test


def new_drugs(samples: pd.DataFrame) -> pd.DataFrame:
    """Of each mechanism one drug in four, at least one where there are two, is kept for the test
    (fold -2); the others are dealt to four folds.

    Which ones is told by a hash of their names alone. A query of a kept drug asks about a drug that
    is new to the networks.
    """
    train = samples[labelled(samples)]
    drugs = train.drop_duplicates("compound")[["compound", "label"]]
    order = drugs["compound"].map(lambda drug: hashlib.sha256(str(drug).encode()).hexdigest())
    sizes = drugs.groupby("label")["compound"].transform("size")
    place = order.groupby(drugs.label).rank(method="first")
    kept = drugs["compound"][(sizes > 1) & (place <= np.maximum(1, (sizes / _SHARE).round()))]
    tested = train["compound"].isin(set(kept))
    dealt = make_folds(train[~tested], "compound", FOLDS)
    rows = train[tested].groupby("compound", sort=True)
    facts = {
        "cell_type": rows.cell_type.first(),
        "label": rows.label.first().astype(str),
        "n": rows.size(),
    }
    rest = pd.DataFrame(
        {"fold": TEST, "compound": list(rows.groups)}
        | {name: column.to_numpy() for name, column in facts.items()}
    )
    return pd.concat([rest, dealt], ignore_index=True)
