"""The retrieval tasks against loops with sklearn's average precision, exact enumeration, and the
real JUMP-Target platemaps.
"""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import false_discovery_control
from sklearn.metrics import average_precision_score

from cellsignal.common.errors import InputError
from cellsignal.evaluation.baselines import position_profiles
from cellsignal.evaluation.retrieval import (
    Retrieval,
    compound_gene_matching,
    controls_by_position,
    expected_ap,
    replicate_retrieval,
    target_matching,
)
from cellsignal.evaluation.retrieval_null import Null
from cellsignal.evaluation.retrieval_tasks import Measured, measure

pytestmark = pytest.mark.slow

QUICK = Null(size=1000)


def plates(n_plates=3, treatments=10, controls=6, shuffled=False, modality=None) -> pd.DataFrame:
    """Every treatment and six controls once a plate, in the same positions or in shuffled ones."""
    rng, rows = np.random.default_rng(0), []
    names = [f"t{i:02d}" for i in range(treatments)] + ["DMSO"] * controls
    for plate in range(n_plates):
        order = rng.permutation(len(names)) if shuffled else np.arange(len(names))
        for name, place in zip(names, order, strict=True):
            rows.append(
                {
                    "experiment": "e",
                    "plate": f"p{plate}",
                    "well": f"{'ABCD'[place % 4]}{place // 4 + 1:02d}",
                    "treatment": name,
                }
            )
    frame = pd.DataFrame(rows)
    frame["role"] = np.where(frame.treatment == "DMSO", "negative_control", "treatment")
    return frame.assign(
        well_id=frame.plate + frame.well,
        compound=frame.treatment,
        cell_type="U2OS",
        modality=modality,
        targets=None,
    )


def loops(x, positive, negative, group) -> dict[str, float]:
    """group -> mAP: for each row its average precision over the rows that `positive` and `negative`
    (functions of two rows) say.
    """
    similarity, found = 1 - cdist(x, x, "cosine"), {}
    for a in range(len(x)):
        other = [b for b in range(len(x)) if b != a]
        for name in group(a):
            chosen = [b for b in other if positive(a, b, name) or negative(a, b)]
            relevant = [positive(a, b, name) for b in chosen]
            if any(relevant) and not all(relevant):
                found.setdefault(name, []).append(
                    average_precision_score(relevant, similarity[a, chosen])
                )
    return {name: float(np.mean(values)) for name, values in found.items()}


def held_to(found: Retrieval, expected: dict[str, float]) -> None:
    assert list(found.table.group) == sorted(expected)
    np.testing.assert_allclose(
        found.table.mean_average_precision,
        [expected[name] for name in found.table.group],
        atol=1e-5,
    )
    assert found.mean_average_precision == pytest.approx(np.mean(list(expected.values())), abs=1e-5)
    np.testing.assert_allclose(
        found.table.q_value, false_discovery_control(found.table.p_value), atol=1e-9
    )
    assert found.retrieved.correct == (
        found.table.q_value < 0.05
    ).sum() and found.retrieved.total == len(expected)
    assert found.gain == pytest.approx(found.mean_average_precision - found.random)


def test_expected_ap_is_the_mean_over_all_orders():
    for total in range(1, 8):
        for positives in range(1, total + 1):
            aps = []
            for ranks in itertools.combinations(range(1, total + 1), positives):
                aps.append(np.mean([(i + 1) / rank for i, rank in enumerate(ranks)]))
            assert expected_ap(np.array([positives]), np.array([total]))[0] == pytest.approx(
                np.mean(aps)
            )


def test_replicates_as_loops_find():
    wells, rng = plates(), np.random.default_rng(1)
    wells = wells.drop(index=[0, 20]).reset_index(drop=True)  # t00 has two wells, t04 too
    x = (
        rng.normal(size=(len(wells), 8))
        + 0.5 * rng.normal(size=(20, 8))[wells.groupby("treatment").ngroup()]
    )
    treated = (wells.role == "treatment").to_numpy()
    t, p = wells.treatment.to_numpy(), wells.plate.to_numpy()
    expected = loops(
        x,
        lambda a, b, _: treated[a] and treated[b] and t[a] == t[b],
        lambda a, b: treated[a] and not treated[b] and p[a] == p[b],
        lambda a: [t[a]] if treated[a] else [],
    )
    found = replicate_retrieval(x, wells, QUICK)
    held_to(found, expected)
    first = found.table.set_index("group").loc["t00"]
    assert (first.queries, first.positives, first.negatives) == (
        2,
        1,
        6,
    ) and first.random == pytest.approx(expected_ap([1], [7])[0])
    order = rng.permutation(len(wells))
    again = replicate_retrieval(x[order], wells.iloc[order], QUICK)
    np.testing.assert_allclose(
        again.table.mean_average_precision, found.table.mean_average_precision, atol=1e-6
    )


def test_targets_and_genes_as_loops_find():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(26, 6))
    targets = [tuple(rng.choice(list("ABCDEFGH"), rng.integers(0, 4), replace=False)) for _ in x]
    modality = np.where(rng.random(26) < 0.6, "compound", "crispr")
    sets = [set(genes) for genes in targets]
    expected = loops(
        x,
        lambda a, b, gene: gene in sets[a] & sets[b],
        lambda a, b: not sets[a] & sets[b],
        lambda a: sets[a],
    )
    held_to(target_matching(x, targets, QUICK), expected)
    across = modality[:, None] != modality[None, :]
    expected = loops(
        x,
        lambda a, b, gene: across[a, b] and gene in sets[a] & sets[b],
        lambda a, b: across[a, b] and not sets[a] & sets[b],
        lambda a: sets[a],
    )
    held_to(compound_gene_matching(x, targets, modality, QUICK), expected)


def test_noise_gains_nothing_and_signal_everything():
    wells, rng = plates(4, 30, 16), np.random.default_rng(3)
    noise = [
        replicate_retrieval(rng.normal(size=(len(wells), 10)), wells, Null(200, seed))
        for seed in range(4)
    ]
    assert np.mean([one.gain for one in noise]) == pytest.approx(0, abs=0.03)
    assert sum(one.retrieved.correct for one in noise) <= 4
    code = wells.groupby("treatment").ngroup().to_numpy()
    x = rng.normal(size=(31, 40))[code] + 0.2 * rng.normal(size=(len(wells), 40))
    found = replicate_retrieval(x, wells, QUICK)
    assert (
        found.mean_average_precision > 0.99
        and found.retrieved.value == 1.0
        and found.table.group.nunique() == 30
    )


def test_position_alone_retrieves_replicates_in_fixed_positions_only():
    fixed, shuffled = plates(4, 30, 16), plates(4, 30, 16, shuffled=True)
    assert replicate_retrieval(position_profiles(fixed), fixed, QUICK).retrieved.value == 1.0
    found = replicate_retrieval(position_profiles(shuffled), shuffled, QUICK)
    assert found.retrieved.value < 0.2 and abs(found.gain) < 0.06, (
        "ties must not be ranked in favour of the positives"
    )


def task_of(name: str, x, wells, null):
    """A task by its name on one table of wells; targets and modality are dealt to the rows."""
    targets = [(f"G{row % 5}", f"H{row % 3}") for row in range(len(wells))]
    if name == "targets":
        return target_matching(x, targets, null)
    if name == "compound and gene":
        return compound_gene_matching(
            x, targets, np.where(np.arange(len(wells)) % 2, "compound", "crispr"), null
        )
    return {"replicates": replicate_retrieval, "controls by position": controls_by_position}[name](
        x, wells, null
    )


TASK_NAMES = ("replicates", "controls by position", "targets", "compound and gene")


@pytest.mark.parametrize("kind", ["copairs", "published"])
@pytest.mark.parametrize("task", TASK_NAMES)
def test_profiles_that_are_all_alike_score_a_random_order(task, kind):
    """One vector, its multiples and zeros: no task retrieves anything, though positives stand first
    in the tables.
    """
    wells, vector = plates(4, 20, 8), np.array([0.3, -1.7, 2.9])
    multiples = np.arange(1, len(wells) + 1)[:, None] * vector
    for x in (
        np.tile(vector, (len(wells), 1)),
        multiples.astype(np.float32),
        np.zeros((len(wells), 3)),
    ):
        found = task_of(task, x, wells, Null(500, kind=kind))
        np.testing.assert_allclose(
            found.table.mean_average_precision, found.table.random, atol=1e-9
        )
        assert found.retrieved.correct == 0 and found.tied == found.queries > 0


@pytest.mark.parametrize("task", TASK_NAMES)
def test_one_feature_and_two_vectors_score_a_random_order(task):
    """Dealt at random to the wells, they tell nothing: the gain is nought on average."""
    wells, gains = plates(4, 20, 8), []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        two = rng.normal(size=(2, 6))[rng.integers(0, 2, len(wells))]
        gains += [
            task_of(task, x, wells, Null(20)).gain for x in (two, rng.normal(size=(len(wells), 1)))
        ]
    assert np.mean(gains) == pytest.approx(0, abs=5 * np.std(gains) / np.sqrt(len(gains)) + 1e-9)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_the_order_of_rows_decides_nothing_among_ties(task):
    wells, rng = plates(3, 8, 5), np.random.default_rng(8)
    x = rng.integers(0, 2, size=(len(wells), 3)).astype(float)
    targets = [(f"G{row % 5}",) for row in range(len(wells))]
    order = rng.permutation(len(wells))
    if task in ("targets", "compound and gene"):
        first = target_matching(x, targets, Null(20))
        second = target_matching(x[order], [targets[row] for row in order], Null(20))
    else:
        first, second = (
            task_of(task, x[rows], wells.iloc[rows], Null(20))
            for rows in (np.arange(len(wells)), order)
        )
    np.testing.assert_allclose(
        first.table.mean_average_precision, second.table.mean_average_precision, atol=1e-9
    )


def test_the_published_null_is_the_mean_of_each_wells_evidence():
    """By hand: p of a well from all 84 places of 3 positives among 9, the mean of -log10 p,
    Benjamini-Hochberg.
    """
    wells, rng = plates(4, 12, 6, shuffled=True), np.random.default_rng(9)
    x = (
        rng.normal(size=(len(wells), 5))
        + 1.2 * rng.normal(size=(13, 5))[wells.groupby("treatment").ngroup()]
    )
    treated = (wells.role == "treatment").to_numpy()
    every = np.array(
        [
            np.mean([(i + 1) / rank for i, rank in enumerate(ranks)])
            for ranks in itertools.combinations(range(1, 10), 3)
        ]
    )
    evidence = {}
    similarity = 1 - cdist(x, x, "cosine")
    for row in np.flatnonzero(treated):
        same = (
            treated
            & (wells.treatment == wells.treatment[row]).to_numpy()
            & (np.arange(len(wells)) != row)
        )
        chosen = same | (~treated & (wells.plate == wells.plate[row]).to_numpy())
        precision = average_precision_score(same[chosen], similarity[row, chosen])
        evidence.setdefault(wells.treatment[row], []).append((every > precision + 1e-9).mean())
    found = replicate_retrieval(x, wells, Null(200_000, kind="published")).table.set_index("group")
    expected = {
        name: 10 ** np.mean(np.log10(np.array(shares) + 1 / 200_000))
        for name, shares in evidence.items()
    }
    np.testing.assert_allclose(
        np.log10(found.p_value), np.log10([expected[name] for name in found.index]), atol=0.15
    )
    np.testing.assert_allclose(found.q_value, false_discovery_control(found.p_value), atol=1e-12)
    by_copairs = replicate_retrieval(x, wells, Null(2000)).table.set_index("group")
    np.testing.assert_allclose(
        found.mean_average_precision, by_copairs.mean_average_precision, atol=1e-6
    )


def test_controls_that_carry_their_position_retrieve_each_other():
    wells, rng = plates(4, 10, 12), np.random.default_rng(4)
    noise = rng.normal(size=(len(wells), 12))
    effect = rng.normal(size=(22, 12))[wells.groupby("well").ngroup()]
    without = controls_by_position(noise, wells, QUICK)
    with_position = controls_by_position(noise * 0.3 + effect, wells, QUICK)
    assert without.retrieved.value < 0.2 and with_position.retrieved.value == 1.0
    assert with_position.retrieved.total == 12 and set(with_position.table.group) == set(
        wells.well[wells.role == "negative_control"]
    )
    assert with_position.table.positives.eq(3).all() and with_position.table.negatives.eq(11).all()


def test_measure_takes_each_cell_line_and_modality_apart_and_the_baseline_beside_each():
    rng = np.random.default_rng(5)
    parts = []
    for cell, modality in (("A549", "compound"), ("A549", "crispr"), ("U2OS", "compound")):
        wells = plates(3, 8, 6, modality=modality).assign(cell_type=cell)
        wells["targets"] = [
            (f"G{int(name[1:]) % 4}",) if name != "DMSO" else None for name in wells.treatment
        ]
        wells["treatment"] = wells.treatment.where(
            wells.role != "treatment", modality + wells.treatment
        )
        wells["plate"] = cell + modality + wells.plate
        parts.append(wells.assign(well_id=wells.plate + wells.well))
    wells = pd.concat(parts, ignore_index=True)
    gene = wells.targets.map(lambda genes: 4 if genes is None else int(genes[0][1:])).to_numpy()
    x = np.vstack([rng.normal(size=(4, 30)), np.zeros((1, 30))])[gene] + 0.3 * rng.normal(
        size=(len(wells), 30)
    )
    lines = [(one.where, one.task) for one in measure(x, wells, ("replicates",), Null(20))]
    assert lines == [
        (where, "replicates")
        for where in ("A549, compound", "A549, crispr", "U2OS, compound")
        for _ in range(4)
    ]
    one_line, few = ((wells.cell_type == cell).to_numpy() for cell in ("A549", "U2OS"))
    rows = list(measure(x[one_line], wells[one_line].reset_index(drop=True), null=Null(200)))
    assert {(one.where, one.task) for one in rows} == {
        *(
            (where, task)
            for where in ("A549, compound", "A549, crispr")
            for task in ("replicates", "targets")
        ),
        ("A549, compound and crispr", "compound_gene"),
    }
    for one in rows:
        assert isinstance(one, Measured) and isinstance(one.result, Retrieval)
        if one.profiles == "images":
            assert one.result.retrieved.value == 1.0, one
            if one.task != "replicates":
                assert (
                    list(one.result.table.group) == ["G0", "G1", "G2", "G3"]
                    and one.result.mean_average_precision > 0.99
                )
    kinds = {(one.task, one.profiles) for one in rows}
    assert kinds >= {
        (task, kind)
        for task in ("replicates", "targets", "compound_gene")
        for kind in ("images", "position only")
    }
    assert ("replicates", "controls by position") in kinds
    noise = list(
        measure(
            rng.normal(size=x.shape)[few], wells[few].reset_index(drop=True), ("targets",), Null(40)
        )
    )
    assert {str(one.result) for one in noise} == {"no treatment whose replicates were retrieved"}


def test_pairs_of_the_real_platemaps(real_data):
    """JUMP-Target-1: pairs of treatments that share a target, counted from the metadata by set
    arithmetic and by what copairs was given.
    """
    folder, found = real_data / "jump_target", {}
    for kind, column in (("compound", "target_list"), ("crispr", "gene"), ("orf", "gene")):
        layout = pd.read_csv(folder / f"JUMP-Target-1_{kind}_platemap.tsv", sep="\t")
        known = pd.read_csv(
            folder / f"JUMP-Target-1_{kind}_metadata.tsv", sep="\t", keep_default_na=False
        )
        known = known[
            known.broad_sample.isin(layout.broad_sample.dropna())
            & (known.control_type != "negcon")
            & (known[column] != "")
        ]
        known = known.drop_duplicates("broad_sample")
        found[kind] = [tuple(text.split("|")) for text in known[column]]
        assert len(layout) == 384
    x = {
        kind: np.random.default_rng(0).normal(size=(len(targets), 5))
        for kind, targets in found.items()
    }
    guides = pd.Series([gene for row in found["crispr"] for gene in row]).value_counts()
    table = target_matching(x["crispr"], found["crispr"], Null(20)).table.set_index("group")
    assert (
        table.queries.to_dict() == guides[guides > 1].to_dict()
        and (table.positives == table.queries - 1).all()
    )
    # one ORF a gene
    with pytest.raises(InputError, match="unable to find positive pairs among 160"):
        target_matching(x["orf"], found["orf"], Null(20))
    assert [len(found[kind]) for kind in ("compound", "crispr", "orf")] == [306, 305, 160]
    assert len(found["crispr"]) > 300 and max(map(len, found["crispr"])) == 1
    modality = ["compound"] * len(x["compound"]) + ["crispr"] * len(x["crispr"])
    both = compound_gene_matching(
        np.vstack([x["compound"], x["crispr"]]),
        found["compound"] + found["crispr"],
        modality,
        Null(20),
    )
    pairs = sum(bool(set(a) & set(b)) for a in found["compound"] for b in found["crispr"])
    compounds, genes = (
        pd.Series([g for row in found[kind] for g in set(row)]).value_counts()
        for kind in ("compound", "crispr")
    )
    shared = compounds.index.intersection(genes.index)
    assert (
        set(both.table.group) == set(shared) and (compounds[shared] * genes[shared]).sum() == pairs
    )
    expected = compounds[shared] + genes[shared]
    assert both.table.set_index("group").queries.to_dict() == expected.to_dict()


def test_nothing_is_written_outside(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    wells = plates()
    x = np.random.default_rng(0).normal(size=(len(wells), 4))
    replicate_retrieval(x, wells, Null(100))
    assert not list(tmp_path.iterdir())
    replicate_retrieval(x, wells, Null(100, cache=tmp_path / "cache"))
    assert list((tmp_path / "cache").rglob("*.npy"))


def test_what_cannot_be_measured_is_named():
    wells = plates()
    x = np.random.default_rng(0).normal(size=(len(wells), 4))
    with pytest.raises(InputError, match="plate p1 of experiment e has no negative control"):
        keep = ((wells.plate != "p1") | (wells.role == "treatment")).to_numpy()
        replicate_retrieval(x[keep], wells[keep], QUICK)
    with pytest.raises(InputError, match="positive pairs"):
        keep = (wells.plate == "p0").to_numpy()
        replicate_retrieval(x[keep], wells[keep], QUICK)
    with pytest.raises(InputError, match="profile 1 of 48 is not finite"):
        replicate_retrieval(np.where((np.arange(len(x)) == 0)[:, None], np.nan, x), wells, QUICK)
    with pytest.raises(InputError, match="shares a target with profile 1"):
        target_matching(x[:3], [("A",), ("A", "B"), ("A",)], QUICK)
    with pytest.raises(InputError, match="two modalities"):
        compound_gene_matching(x[:2], [("A",), ("A",)], ["compound", "compound"], QUICK)
    with pytest.raises(InputError, match="'7' is not an address"):
        position_profiles(pd.DataFrame({"well": ["A01", "7"]}))


def test_replicates_in_other_positions_by_sklearn():
    """Half of the treatments stand in one position: they are no group."""
    wells = plates(n_plates=4, treatments=12, shuffled=True)
    fixed = plates(n_plates=4, treatments=12)
    still = wells.treatment.isin([f"t{n:02d}" for n in range(6)])
    wells = pd.concat([wells[~still], fixed[fixed.treatment.isin(wells.treatment[still])]])
    wells = wells.reset_index(drop=True)
    x = np.random.default_rng(0).normal(size=(len(wells), 7))
    table = replicate_retrieval(x, wells, QUICK, other_positions=True).table.set_index("group")
    similarity, expected = 1 - cdist(x, x, "cosine"), {}
    for row in wells.index[wells.role != "negative_control"]:
        me = wells.loc[row]
        same = (wells.treatment == me.treatment) & (wells.well != me.well)
        control = (wells.role == "negative_control") & (wells.plate == me.plate)
        ranked = np.flatnonzero(same | control)
        if same.any():
            score = average_precision_score(same[ranked], similarity[row, ranked])
            expected.setdefault(me.treatment, []).append(score)
    assert set(table.index) == {f"t{n:02d}" for n in range(6, 12)} == set(expected)
    for name, scores in expected.items():
        assert table.mean_average_precision[name] == pytest.approx(np.mean(scores), abs=1e-9)
