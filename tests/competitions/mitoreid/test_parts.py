"""What may train, what steers and what is kept for the test: no drug is in two of them, and the
gallery is in none.
"""

import pandas as pd
import pytest
from tiny import stage

from cellsignal.common.errors import InputError
from cellsignal.common.files import write_csv
from cellsignal.competitions import get_competition
from cellsignal.competitions.folds import TEST
from cellsignal.competitions.mitoreid.metadata import part_of
from cellsignal.competitions.mitoreid.simulate import simulate_mitoreid
from cellsignal.config import Config
from cellsignal.data.folds import read_folds
from cellsignal.data.pack import prepare
from cellsignal.data.store import Store
from cellsignal.training.job import Job, without_labels
from cellsignal.training.plan import jobs_of
from cellsignal.training.self_supervised import images_without_labels

COMPETITION = get_competition("mitoreid")
MOAS, DRUGS, UNCHOSEN = 2, 6, 2


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("parts") / "mitoreid"
    simulate_mitoreid(
        root,
        2,
        moas=MOAS,
        drugs_per_moa=DRUGS,
        libraries=1,
        train=2,
        controls=2,
        novel_drugs=1,
        natural=1,
        unchosen=UNCHOSEN,
        size=16,
    )
    prepare(COMPETITION, root, root.parent / "store.zarr", size=16)
    write_csv(
        root.parent / "folds.csv", COMPETITION.named_folds("new_drugs", COMPETITION.samples(root))
    )
    return root


def planned(root, *stages: dict, **sections) -> list[Job]:
    place = root.parent
    tree = {
        "name": "a",
        "competition": "mitoreid",
        "runs": place / "runs",
        "data": {"root": root, "store": place / "store.zarr", "controls": "train"},
        "folds": {"file": place / "folds.csv", "use": [1], "full": True},
        "stages": list(stages),
        **sections,
    }
    return jobs_of(Config.model_validate(tree))


def told(job: Job) -> pd.DataFrame:
    """The samples a job trains on, with their part."""
    samples = job.store.samples.iloc[job.train]
    return samples.assign(part=part_of(samples))


def test_one_drug_in_four_is_kept_and_the_others_are_dealt(root):
    samples = COMPETITION.samples(root)
    table = COMPETITION.named_folds("new_drugs", samples)
    assert table[table.fold == TEST].label.value_counts().to_dict() == {"0": 2, "1": 2} and set(
        table.fold
    ) == {TEST, 0, 1, 2, 3}
    assert sorted(table["compound"].astype(int)) == list(range(1, MOAS * DRUGS + 1))
    again = COMPETITION.named_folds(
        "new_drugs", samples.sample(frac=1, random_state=0).iloc[: len(samples) * 9 // 10]
    )
    kept, once_more = (set(found["compound"][found.fold == TEST]) for found in (table, again))
    assert kept == once_more  # a hash of the names: neither order nor number of the tracks matters


def test_no_drug_trains_and_steers_or_is_tested(root):
    pretrained, classified, full, _ = planned(
        root,
        stage(name="drugs", target="any_compound"),
        stage(name="classes", init="previous"),
    )
    kept = read_folds(root.parent / "folds.csv", classified.store.samples).test
    dev = set(classified.store.samples["compound"].iloc[classified.valid])
    assert len(kept) == 4 and dev and not dev & kept
    for job in (pretrained, classified, full):
        assert set(told(job).part) == {"train"} and not set(told(job)["compound"]) & kept
    assert not set(told(pretrained)["compound"]) & dev and dev <= set(told(full)["compound"])
    more = set(told(pretrained)["compound"]) - set(told(classified)["compound"])
    first = MOAS * DRUGS + 1
    assert more == {str(first + i) for i in range(MOAS * UNCHOSEN)} and pretrained.outputs == len(
        pretrained.compounds
    )
    assert kept <= set(classified.held_out) and set(full.held_out) == kept


def test_images_without_labels_are_the_training_tracks(root):
    job, _ = planned(
        root,
        stage(
            name="views", self_supervised={"images": "train"}, augment=[{"name": "horizontal_flip"}]
        ),
    )
    samples = job.store.samples.iloc[images_without_labels(job)]
    assert (
        set(part_of(samples)) == {"train"}
        and not set(samples["compound"]) & set(job.held_out)
        and "dmso" in set(samples["compound"])
    )
    assert set(samples["compound"]) == set(job.store.samples["compound"][without_labels(job)])


def test_there_is_no_other_named_table(root):
    with pytest.raises(InputError, match="no fold table called 'old_drugs'"):
        COMPETITION.named_folds("old_drugs", Store.open(root.parent / "store.zarr").samples)
