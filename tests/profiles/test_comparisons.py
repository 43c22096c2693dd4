"""From a config and a source of profiles to the tables; the competition is a stand-in with
compounds on plates of two batches.
"""

import numpy as np
import pandas as pd
import pytest
from helpers import write_config
from pycytominer import normalize

from cellsignal.common.errors import InputError
from cellsignal.competitions.samples import check_samples
from cellsignal.competitions.single_label import SingleLabel
from cellsignal.config import load_config
from cellsignal.evaluation.retrieval import TASKS
from cellsignal.prediction.container import save_predictions
from cellsignal.prediction.embeddings import save_embeddings
from cellsignal.profiles import comparisons
from cellsignal.profiles.profile_steps import Profiles, normalise_profiles
from cellsignal.profiles.sources import load_profiles
from cellsignal.profiles.treatments import treatment_table

MOAS = ("actin", "tubulin")
COMPOUNDS = {"a1": 0, "a2": 0, "a3": 0, "t1": 1, "t2": 1, "t3": 1}


def match_table(config, source="plain", *arguments, **options):
    return comparisons.match_table(load_profiles(config, source), *arguments, **options)


def retrieval_table(config, source="plain", *arguments, features=(), **options):
    loaded = load_profiles(config, source, features)
    return comparisons.retrieval_table(loaded, *arguments, **options)


class Screen:
    """Six compounds in five wells each and eight DMSO wells on each of four plates in two weeks,
    two images a well.
    """

    id = "screen"

    @property
    def task(self):
        return SingleLabel(self)

    def samples(self, root):
        rows = []
        for week, plate in (("w1", "p1"), ("w1", "p2"), ("w2", "p3"), ("w2", "p4")):
            names = [
                name for name in COMPOUNDS if (name[1] in "12") == (week == "w1") or name[1] == "3"
            ] + ["DMSO"] * 8
            for place, name in enumerate(names):
                for site in (1, 2):
                    rows.append(
                        (week, plate, f"{'ABC'[place % 3]}{place // 3 + 1:02d}", name, site)
                    )
        frame = pd.DataFrame(rows, columns=["experiment", "plate", "well", "compound", "site"])
        well = frame.plate + "_" + frame.well
        control = frame["compound"] == "DMSO"
        frame = frame.assign(
            sample_id=well + "_s" + frame.site.astype(str),
            target_id=well,
            well_id=well,
            cell_type="MCF7",
            label=frame["compound"].map(COMPOUNDS),
            role=np.where(control, "negative_control", "treatment"),
            treatment=frame["compound"] + "@1",
            split="train",
            files=[(f"{name}.png",) for name in well + "_s" + frame.site.astype(str)],
        )
        return check_samples(frame, root)

    def profile_wells(self, root):
        return self.samples(root).drop_duplicates("well_id").reset_index(drop=True)

    def treatments(self, root):
        rows = [
            (
                f"{name}@1",
                name,
                "treatment",
                MOAS[label],
                ("ACTB",) if label == 0 else ("TUBB", "TUBA"),
            )
            for name, label in COMPOUNDS.items()
        ]
        rows.append(("DMSO@1", "DMSO", "negative_control", None, None))
        return pd.DataFrame(
            rows, columns=["treatment", "compound", "role", "moa", "targets"]
        ).assign(modality="compound")

    def classes(self, root):
        return MOAS


@pytest.fixture
def config(tmp_path, monkeypatch):
    for place in ("cellsignal.profiles.sources", "cellsignal.prediction.entry"):
        monkeypatch.setattr(f"{place}.get_competition", lambda name: Screen())
    path = write_config(tmp_path, "bbbc021", tmp_path / "raw")
    monkeypatch.chdir(tmp_path)
    return load_config(path)


def features(frame, noise=0.3, seed=0) -> np.ndarray:
    """Twelve numbers a row: the plate's shift, and what the mechanism does."""
    rng = np.random.default_rng(seed)
    effect = np.vstack([[0] * 12, [3, 0, 2, 0] * 3, [0, 3, 0, -2] * 3])[
        frame.label.fillna(-1).to_numpy(int) + 1
    ]
    return (
        effect
        + 15 * rng.normal(size=(4, 12))[frame.groupby("plate").ngroup()]
        + noise * rng.normal(size=(len(frame), 12))
    )


def table_of_wells(path, change=None):
    samples = Screen().samples("raw").drop_duplicates("well_id")
    frame = pd.DataFrame(features(samples), columns=[f"Cells_f{i}" for i in range(12)])
    frame.insert(0, "Metadata_Plate", samples.plate.to_numpy())
    frame.insert(1, "Metadata_Well", samples.well.to_numpy())
    frame["Metadata_Count"] = 7
    (frame if change is None else change(frame)).to_csv(path, index=False)
    return path


def test_table_of_wells_is_joined_by_plate_and_well(config, tmp_path):
    def shuffled(frame):
        return frame.sample(frac=1, random_state=0).assign(
            Nuclei_gap=[np.nan] + [1.0] * (len(frame) - 1),
            Metadata_Well=lambda f: f.Metadata_Well.str.lower(),
        )

    found = load_profiles(config, table_of_wells(tmp_path / "wells.csv.gz", shuffled))
    samples = Screen().samples("raw").drop_duplicates("well_id")
    expected = pd.DataFrame(features(samples), index=samples.well_id).loc[found.wells.well_id]
    np.testing.assert_allclose(found.x, expected, rtol=1e-5)
    assert (
        found.features == tuple(f"Cells_f{i}" for i in range(12))
        and "1 missing or infinite values (Nuclei_gap)" in found.notes[0]
    )
    truth = samples.set_index("well_id").loc[found.wells.well_id]
    assert list(found.wells.treatment) == list(truth.treatment) and list(found.wells.role) == list(
        truth.role
    )
    known = found.wells[found.wells.role == "treatment"]
    assert (known.moa == known["compound"].map(COMPOUNDS).map(dict(enumerate(MOAS)))).all() and set(
        known.targets[known.moa == "actin"]
    ) == {("ACTB",)}
    assert found.wells.moa[found.wells.role == "negative_control"].isna().all()


def test_matching_and_its_normalisation(config, tmp_path):
    source = table_of_wells(tmp_path / "wells.csv")
    raw, whitened = match_table(config, source, normalise=()), match_table(config, source)
    assert raw.splitlines()[0].endswith("12 features of wells.csv; no normalisation, as asked")
    assert whitened.splitlines()[0].endswith("; tvn (by plate, on negative_controls)")
    rows = [
        {
            line.split()[0]: line.split()[1]
            for line in text.split("\nmoa")[0].splitlines()
            if line.startswith(("NSC ", "NSCB "))
        }
        for text in (raw, whitened)
    ]
    assert rows[1] == {"NSC": "6/6", "NSCB": "6/6"}
    assert rows[0]["NSCB"] in ("0/6", "1/6", "2/6", "3/6", "4/6"), "unnormalised the plates decide"


@pytest.mark.parametrize("method", ["standardize", "mad_robustize"])
def test_normalised_by_plate_on_its_controls_as_pycytominer_does(config, tmp_path, method):
    profiles = load_profiles(config, table_of_wells(tmp_path / "wells.csv"))
    found = normalise_profiles(profiles, [method])
    for plate, rows in profiles.wells.groupby("plate").indices.items():
        frame = pd.DataFrame(profiles.x[rows].astype(float), columns=profiles.features).assign(
            Metadata_role=profiles.wells.role.to_numpy()[rows]
        )
        expected = normalize(
            frame,
            list(profiles.features),
            meta_features=["Metadata_role"],
            samples="Metadata_role == 'negative_control'",
            method=method,
        )
        np.testing.assert_allclose(
            found.x[rows], expected[list(profiles.features)], rtol=1e-4, atol=1e-4, err_msg=plate
        )
    control = (profiles.wells.role == "negative_control").to_numpy()
    if method == "standardize":
        np.testing.assert_allclose(found.x[control].std(), 1, atol=1e-3)


def test_steps_follow_each_other_and_say_what_they_left_out(config, tmp_path):
    more = lambda frame: frame.assign(Cells_twice=2 * frame.Cells_f0 + 1, Cells_flat=frame.index)  # noqa: E731
    profiles = load_profiles(config, table_of_wells(tmp_path / "wells.csv", more))
    control = (profiles.wells.role == "negative_control").to_numpy()
    # the last feature does not vary among controls, so in units of their spread it is without
    # bounds
    profiles.x[:, -1] = np.where(control, 1.0, 2.0)
    found = normalise_profiles(profiles, ["mad_robustize", "feature_select", "spherize"])
    assert (
        not {"Cells_f0", "Cells_twice"} <= set(found.features)
        and "Cells_flat" not in found.features
    )
    assert any("do not vary" in note for note in found.notes) and any(
        "feature_select" in note for note in found.notes
    )
    spread = np.linalg.eigvalsh(np.cov(found.x[control], rowvar=False))
    assert spread.max() / spread.min() < 1.6, "sphered: the controls vary alike along every axis"
    with pytest.raises(InputError, match="'whiten' is not one of"):
        normalise_profiles(profiles, ["whiten"])
    with pytest.raises(
        InputError, match="plate w1 p1 has 0 wells of the reference 'negative_controls'"
    ):
        wells = profiles.wells.assign(role="treatment")
        normalise_profiles(Profiles(profiles.x, wells, profiles.features), ["standardize"])


def test_retrieval_table_writes_every_group(config, tmp_path):
    source, out = table_of_wells(tmp_path / "wells.csv"), tmp_path / "groups.csv"
    text = retrieval_table(config, source, normalise=("standardize",), null_size=200, out=out)
    groups = pd.read_csv(out)
    images = groups[(groups.profiles == "cellprofiler") & (groups.task == "replicates")]
    assert (
        set(images.group) == {f"{name}@1" for name in COMPOUNDS}
        and images.retrieved.all()
        and images["where"].eq("MCF7, compound").all()
    )
    kinds = {"cellprofiler", "position only", "shuffled labels", "controls by position"}
    assert kinds == set(groups.profiles)
    assert set(groups.group[groups.task == "targets"]) == {"ACTB", "TUBA", "TUBB"}
    lines = [line.split() for line in text.splitlines() if line.startswith("MCF7, compound")]
    assert (
        [line[2] for line in lines][:4] == ["replicates"] * 4
        and "position only" in text
        and "random" in text
    )
    with pytest.raises(InputError, match="positive pairs"):
        retrieval_table(
            config,
            table_of_wells(tmp_path / "one.csv", lambda f: f[f.Metadata_Plate == "p1"]),
            ("replicates",),
            ("standardize",),
            null_size=50,
        )


def embeddings(path, train, model="all"):
    samples = Screen().samples("raw")
    part = np.where(
        samples.role == "negative_control",
        "none",
        np.where(samples["compound"].isin(train), "train", "oof"),
    )
    keys = np.where(samples.plate == "p1", model, "all")
    values = features(samples, noise=0.1).astype(np.float16)
    save_embeddings(
        path,
        samples.assign(part=part, label=samples.label.fillna(-1), model=keys),
        values,
        {"fold": 0, "held_out": []},
    )
    return path


def test_embeddings_say_who_trained_the_network_and_score_the_others_apart(config, tmp_path):
    source = embeddings(tmp_path / "fold0_all.npz", ["a1", "a2", "a3", "t1"])
    found = load_profiles(config, source)
    assert (
        found.trained == {"a1@1", "a2@1", "a3@1", "t1@1"}
        and len(found.wells) == Screen().samples("raw").well_id.nunique()
    )
    text = match_table(config, source)
    assert "labels of 4 of the 6 treatments, so these scores are optimistic" in text
    rows = {line[:30].split("  ")[0]: line for line in text.splitlines() if line.startswith("NSC")}
    assert (
        "6/6" in rows["NSC"]
        and "2/2" in rows["NSC, not trained on"]
        and "2/2" in rows["NSCB, not trained on"]
    )
    with pytest.raises(InputError, match="embeddings of 2 models"):
        load_profiles(config, embeddings(tmp_path / "two.npz", ["a1"], model="HUVEC"))


def test_plain_features_are_the_mean_over_a_well(config, monkeypatch):
    from cellsignal.data.store import Store
    from cellsignal.profiles.image_features import image_features

    samples = Screen().samples("raw").assign(row=lambda f: np.arange(len(f)))
    images = np.random.default_rng(0).integers(0, 255, (len(samples), 2, 8, 8), np.uint8)

    class Stand:
        read = staticmethod(lambda row: images[row])

    Stand.samples = samples
    monkeypatch.setattr(Store, "open", lambda path: Stand)
    found = load_profiles(config)
    assert found.trained is None and found.x.shape == (samples.well_id.nunique(), 19)
    rows = samples.row[samples.well_id == found.wells.well_id[3]]
    np.testing.assert_allclose(
        found.x[3], np.mean([image_features(images[row]) for row in rows], axis=0), rtol=1e-5
    )


def predictions(config, fold, compounds, views=("rot0", "rot90")):
    samples = Screen().samples("raw")
    samples = samples[samples["compound"].isin(compounds)].reset_index(drop=True)
    truth = samples.label.to_numpy(int)
    logits = np.where(np.arange(2) == truth[:, None], 3.0, 0.0)
    logits[(samples.treatment == "t3@1").to_numpy()] = [2.0, 0.0]
    odd = (samples.site == 2).to_numpy() & (samples.plate == "p1").to_numpy()
    about = {
        "competition": config.competition,
        "classes": list(MOAS),
        "run": "tiny/seed0",
        "fold": fold,
        "fold_group": "compound",
    }
    about |= {"stage": config.stages[0].name, "stage_index": 0}
    views = {view: np.where(odd[:, None], -logits / 9, logits) for view in views}
    save_predictions(
        config.run_folder / "predictions" / f"fold{fold}_all.npz",
        samples,
        np.full(len(samples), "oof"),
        views,
        about,
    )


def test_treatments_are_counted_over_the_folds(config):
    config = config.model_copy(update={"folds": config.folds.model_copy(update={"use": None})})
    with pytest.raises(InputError, match="no predictions; run `cellsignal predict`"):
        treatment_table(config)
    predictions(config, 0, ["a1", "t1"])
    assert (
        "2/2" in treatment_table(config)
        and "4 treatments have no out-of-fold prediction and are not counted, first a2@1"
        in treatment_table(config)
    )
    predictions(config, 1, ["a2", "a3", "t2", "t3"])
    text = treatment_table(config)
    assert (
        "5/6" in text
        and "not counted" not in text
        and text.splitlines()[-1].split() == ["t3@1", "tubulin", "actin", "4"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="Metadata_Well"), "no column 'Metadata_Well'"),
        (
            lambda f: f.assign(Metadata_Plate="elsewhere"),
            "none of its plates and wells is in the data set, first 'elsewhere'",
        ),
        (
            lambda f: f[["Metadata_Plate", "Metadata_Well"]].assign(name="x"),
            "no column starts with Cells_, Cytoplasm_, Nuclei_; name the features with --features",
        ),
    ],
)
def test_tables_that_do_not_fit(config, tmp_path, change, message):
    with pytest.raises(InputError, match=f"wells.csv: {message}"):
        load_profiles(config, table_of_wells(tmp_path / "wells.csv", change))


def test_sources_that_are_not_there_or_damaged(config, tmp_path):
    for name in ("none.csv", "none.parquet", "none.npz"):
        with pytest.raises(InputError, match=name):
            load_profiles(config, tmp_path / name)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match=r"bad\.parquet: not a readable table"):
        load_profiles(config, tmp_path / "bad.parquet")


def test_a_data_set_without_mechanisms_cannot_be_matched(config, tmp_path, monkeypatch):
    monkeypatch.setattr(Screen, "treatments", lambda self, root: None)
    with pytest.raises(InputError, match="no well has both a treatment and a mechanism"):
        match_table(config, table_of_wells(tmp_path / "wells.csv"))
    assert "replicates" in retrieval_table(
        config, table_of_wells(tmp_path / "wells.csv"), normalise=("standardize",), null_size=50
    )
    assert TASKS == ("replicates", "targets", "compound_gene")


def constant(frame):
    return frame.assign(**{name: 3.0 for name in frame.columns if name.startswith("Cells_")})


def test_constant_features_are_one_line_by_the_default_steps_and_a_random_order_without(
    config, tmp_path
):
    source = table_of_wells(tmp_path / "wells.csv", constant)
    with pytest.raises(
        InputError, match="feature_select: none of the 12 features varies among the 48 wells"
    ) as told:
        retrieval_table(config, source, null_size=50)
    assert "\n" not in str(told.value)
    with pytest.raises(InputError, match="tvn: the negative_controls wells do not differ"):
        match_table(config, source)
    text = retrieval_table(config, source, ("replicates",), (), null_size=200)
    row = next(line.split() for line in text.splitlines() if "cellprofiler" in line)
    assert row[5] == row[6] and row[9] == "0/6", "mAP is that of a random order"
    assert (
        "48 of 48 wells have the profile of another;" in text
        and "every feature is constant" in text
    )


def test_a_missing_value_is_named_and_never_blamed_on_the_reference_wells(config, tmp_path):
    gap = table_of_wells(
        tmp_path / "wells.csv",
        lambda frame: frame.assign(Cells_f3=frame.Cells_f3.where(frame.index != 6)),
    )
    text = retrieval_table(config, gap, ("replicates",), null_size=50)
    assert (
        "1 missing or infinite values (Cells_f3)" in text
        and "Cells_f3" not in text.split("do not vary")[1:]
    )
    profiles = load_profiles(config, table_of_wells(tmp_path / "wells.csv"))
    profiles.x[6, 3] = np.nan
    for steps in (["mad_robustize"], ["standardize"], ["spherize"], ["tvn"], ["feature_select"]):
        with pytest.raises(
            InputError, match=r"feature Cells_f3 of well p1 .* is not a finite number"
        ):
            normalise_profiles(profiles, steps)


@pytest.mark.parametrize("step", ["mad_robustize", "standardize", "spherize", "tvn"])
def test_too_few_controls_name_the_plate_and_the_count(config, tmp_path, step):
    profiles = load_profiles(config, table_of_wells(tmp_path / "wells.csv"))
    control = (profiles.wells.role == "negative_control").to_numpy()
    few = control & (profiles.wells.plate == "p2").to_numpy()
    if step == "spherize":  # by plate it needs none: all controls but one are gone
        few = control
    chosen = ~few
    chosen[np.flatnonzero(few)[:1]] = True
    left = Profiles(
        profiles.x[chosen], profiles.wells[chosen].reset_index(drop=True), profiles.features
    )
    with pytest.raises(
        InputError,
        match=r"p2.* 1 wells|1 negative_controls wells in all.*plate p2 with 0 reference wells",
    ) as told:
        normalise_profiles(left, [step])
    assert "svd" not in str(told.value) and "bug" not in str(told.value)


def test_dependent_controls_are_told_without_a_library_in_the_message(config, tmp_path):
    """Two controls on each plate are plus and minus one another once their median is taken out."""
    profiles = load_profiles(config, table_of_wells(tmp_path / "wells.csv"))
    keep = np.ones(len(profiles.x), bool)
    for rows in profiles.wells.groupby("plate").indices.values():
        keep[[row for row in rows if profiles.wells.role[row] == "negative_control"][2:]] = False
    left = Profiles(
        profiles.x[keep], profiles.wells[keep].reset_index(drop=True), profiles.features
    )
    told = "sphere: the 8 negative_controls wells span . dimensions, too few for 12 features; fewest: experiment w1 plate p1 with 2"
    with pytest.raises(InputError, match=told):
        normalise_profiles(left, ["mad_robustize", "spherize"])


def standardised(frame):
    """The features in units of the spread of each plate's DMSO wells."""
    control = (
        Screen().samples("raw").drop_duplicates("well_id").role == "negative_control"
    ).to_numpy()
    out = frame.copy()
    names = [name for name in frame.columns if name.startswith("Cells_")]
    for rows in frame.groupby("Metadata_Plate").indices.values():
        known = frame[names].iloc[rows[control[rows]]]
        spread = 1.4826 * (known - known.median()).abs().median()
        out.loc[frame.index[rows], names] = (frame[names].iloc[rows] - known.median()) / spread
    return out


@pytest.mark.parametrize(
    ("measure", "steps"), [(match_table, "tvn"), (retrieval_table, "mad_robustize")]
)
def test_the_first_line_names_what_was_done(config, tmp_path, measure, steps):
    raw = table_of_wells(tmp_path / "wells.csv")
    assert f"; {steps} (by plate, on negative_controls)" in measure(config, raw).splitlines()[0]
    done = table_of_wells(tmp_path / "done.csv", standardised)
    head = measure(config, done).splitlines()[0]
    assert (
        "no normalisation: the profiles say they are normalised (the negative controls of each "
        "plate have a median of about 0" in head
    )
    named = table_of_wells(tmp_path / "x_normalized.csv")
    head = measure(config, named).splitlines()[0]
    assert "(a file's name says 'normalized', though its values do not look it)" in head
    forced = measure(config, done, normalise=("standardize",)).splitlines()[0]
    assert (
        "; standardize (by plate, on negative_controls), though the profiles say they are "
        "normalised" in forced
    )
    assert (
        measure(config, raw, normalise=()).splitlines()[0].endswith("; no normalisation, as asked")
    )


def test_rows_bear_the_name_of_their_source_and_copairs_is_quiet(config, tmp_path, caplog):
    caplog.set_level("INFO")
    text = retrieval_table(config, table_of_wells(tmp_path / "wells.csv"), null_size=50)
    assert (
        "images" not in text
        and "cellprofiler" in text
        and not [line for line in caplog.records if line.name == "copairs"]
    )
    renamed = table_of_wells(
        tmp_path / "mine.csv",
        lambda frame: frame.rename(columns=lambda name: name.replace("Cells_", "emb_")),
    )
    assert "  mine.csv  " in retrieval_table(
        config, renamed, ("replicates",), null_size=50, features=["emb_"]
    )
    network = embeddings(tmp_path / "fold0_all.npz", ["a1"])
    assert "  embeddings  " in retrieval_table(config, network, ("replicates",), null_size=50)


def test_both_nulls_say_which_they_are(config, tmp_path):
    source = table_of_wells(tmp_path / "wells.csv")
    assert "not the published fraction retrieved" in retrieval_table(config, source, null_size=50)
    assert "by the null of Chandrasekaran et al. 2024" in retrieval_table(
        config, source, null_size=50, null="published"
    )


def test_what_is_measured_apart_is_a_column_that_every_well_has(config, tmp_path):
    """A column that is empty for some wells would leave them out of every row without a word."""
    source = table_of_wells(tmp_path / "wells.csv")
    with pytest.raises(
        InputError, match=r"--within foo: no such column of the wells; they have experiment, plate"
    ):
        retrieval_table(config, source, null_size=50, within=("foo",))
    with pytest.raises(InputError, match=r"--within moa: is not known of \d+ of 48 wells, first "):
        retrieval_table(config, source, null_size=50, within=("moa",))
    assert "all wells" in retrieval_table(
        config, source, ("replicates",), (), null_size=50, within=()
    )


@pytest.mark.parametrize("null", ["copairs", "published"])
def test_a_null_of_too_few_orders_is_refused(config, tmp_path, null):
    for size in (-1, 0, 19):
        with pytest.raises(InputError, match=f"--null-size {size}: at least 20"):
            retrieval_table(
                config, table_of_wells(tmp_path / "wells.csv"), null_size=size, null=null
            )


def test_a_task_that_nothing_was_measured_of_is_refused(config, tmp_path):
    """No row, status 0: a reader of the table's end would take it for done."""
    source = table_of_wells(tmp_path / "wells.csv")
    with pytest.raises(
        InputError,
        match="compound_gene: nothing was measured: the profiles have no wells of crispr",
    ):
        retrieval_table(
            config,
            source,
            ("replicates", "compound_gene"),
            (),
            null_size=50,
            out=tmp_path / "out.csv",
        )
    assert not (tmp_path / "out.csv").exists()
    with pytest.raises(
        InputError,
        match=r"nothing was measured: p1_A01, .*cellprofiler: replicates: plate p1 .* has no negative control",
    ):
        retrieval_table(config, source, None, (), null_size=50, within=("well_id", "plate"))


def test_a_protocol_under_which_nothing_is_compared_has_no_figure(config, tmp_path):
    """Compounds that all stand in both weeks share every batch: NSCB compares none of them, and 0/2
    is not a measurement.
    """
    wells = Screen().profile_wells("raw")

    def of(names):
        chosen = wells[wells["compound"].isin({*names, "DMSO"})]
        return table_of_wells(
            tmp_path / "wells.csv",
            lambda frame: frame[
                (frame.Metadata_Plate + frame.Metadata_Well).isin(chosen.plate + chosen.well)
            ],
        )

    text = match_table(config, of(["a3", "t3"]), ())
    assert "NSCB: not given, no treatment has another to be compared with" in text
    rows = [line.split()[:2] for line in text.splitlines() if line.startswith("NSC")]
    assert [row for row in rows if "/" in row[1]] == [["NSC", "0/2"]]
    with pytest.raises(
        InputError, match="NSC and NSCB: no treatment has another to be compared with"
    ):
        match_table(config, of(["a3"]), ())
