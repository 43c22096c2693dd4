"""Which submit section and which weights a merge uses, and that it says so."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers import cellsignal, error_line

from cellsignal.common.errors import InputError
from cellsignal.common.files import limited_name
from cellsignal.competitions import get_competition
from cellsignal.config.schema import Submit
from cellsignal.prediction.container import save_predictions
from cellsignal.prediction.merge_options import choose_section, resolve_weights


def section(**keys):
    return Submit(**keys).model_dump(mode="json")


def test_the_section_that_all_runs_were_made_with_is_used():
    how, words = choose_section({"a": section(pool="well"), "b": section(pool="well")}, {})
    assert how == Submit(pool="well") and words == "the submit section of a"
    how, words = choose_section({"a": section(pool="well")}, {"merge": "probabilities"})
    assert how == Submit(pool="well", merge="probabilities") and words.endswith(
        "with merge: probabilities"
    )


def test_sections_that_differ_need_a_word(caplog):
    sections = {"a": section(pool="well"), "b": section(), "c": None}
    with pytest.raises(
        InputError,
        match=r"submit\.pool: well in a, target in b; give one for all, e\.g\. --set submit.pool=well",
    ):
        choose_section(sections, {})
    assert choose_section(sections, {"pool": "target"})[0] == Submit()
    assert "c: made by an earlier version" in caplog.text
    assert choose_section(sections, {}, keys=("merge",))[0].merge == "geometric"


def test_predictions_without_a_section_take_the_default_and_say_so():
    how, words = choose_section({"a": None}, {"pool": "well"})
    assert how == Submit(pool="well") and "default" in words and "carry none" in words


@pytest.mark.parametrize("changed", [{"pool": "plate"}, {"pol": "well"}])
def test_a_wrong_key_or_value_is_named(changed):
    with pytest.raises(InputError, match=r"^submit: .*po"):
        choose_section({"a": section()}, changed)


def test_a_runs_name_stands_for_all_its_seeds(caplog):
    runs = ["mine/seed0", "mine/seed1", "other/seed0"]
    assert resolve_weights({"mine": 2}, runs) == {
        "mine/seed0": 2,
        "mine/seed1": 2,
        "other/seed0": 1,
    }
    assert resolve_weights({"mine": 2, "mine/seed1": 3}, runs) == {
        "mine/seed0": 2,
        "mine/seed1": 3,
        "other/seed0": 1,
    }
    assert not caplog.text
    assert resolve_weights({"mine/seed0": 2}, runs) == {
        "mine/seed0": 2,
        "mine/seed1": 1,
        "other/seed0": 1,
    }
    assert "mine/seed1: no --weight is given, while mine/seed0 has one; it weighs 1" in caplog.text
    with pytest.raises(
        InputError,
        match="no predictions of a run called 'min'; there are mine/seed0, mine/seed1, other/seed0",
    ):
        resolve_weights({"min": 2}, runs)
    for weight in (0, -1, np.nan, np.inf):
        with pytest.raises(InputError, match=r"weights: mine=.* is not a positive number"):
            resolve_weights({"mine": weight}, runs)


@pytest.fixture
def bbbc021(simulated, tmp_path):
    """Writes predictions of a run, the wells' two sites apart, with its submit section; and the
    samples.
    """
    competition, root = get_competition("bbbc021"), simulated("bbbc021")
    samples = competition.samples(root)
    samples = samples[samples.split == "test"]

    def write(name, run="r/seed0", seed=0, logits=None, **about):
        n, classes = len(samples), competition.classes(root)
        values = (
            np.random.default_rng(seed).normal(size=(n, len(classes))) if logits is None else logits
        )
        facts = {
            "classes": classes,
            "competition": "bbbc021",
            "run": run,
            "stage": "all",
            "stage_index": 0,
            "seed": 0,
            "fold": 0,
            "fold_group": "compound",
            "data_root": str(root),
        }
        save_predictions(
            tmp_path / name, samples, np.repeat("test", n), {"identity": values}, facts | about
        )
        return name

    return write, samples


def test_submit_merges_files_as_their_runs_say(bbbc021, tmp_path, capsys):
    write, samples = bbbc021
    write("p.npz", submit=section(pool="well"))
    assert cellsignal("submit", "p.npz", "--out", "s.csv", cwd=tmp_path) == 0
    assert "merged by the submit section of r/seed0" in capsys.readouterr().out
    found = pd.read_csv(tmp_path / "s.csv", dtype=str).set_index("image_id").moa
    wells = found.loc[samples.target_id].groupby(samples.well_id.to_numpy()).nunique()
    assert (wells == 1).all()
    assert json.loads((tmp_path / "s.json").read_text())["merge"]["pool"] == "well"
    write("q.npz", run="q/seed0", submit=section())
    line = error_line(capsys, "submit", "p.npz", "q.npz", "--out", "t.csv", cwd=tmp_path)
    assert (
        "submit.pool: well in r/seed0, target in q/seed0" in line
        and not (tmp_path / "t.csv").exists()
    )
    assert (
        cellsignal(
            "submit",
            "p.npz",
            "q.npz",
            "--out",
            "t.csv",
            "--set",
            "submit.pool=target",
            cwd=tmp_path,
        )
        == 0
    )
    assert (
        cellsignal("submit", "p.npz", "q.npz", "--out", "u.csv", "--pool", "target", cwd=tmp_path)
        == 0
    )
    assert (tmp_path / "t.csv").read_bytes() == (tmp_path / "u.csv").read_bytes()


def test_weights_are_used_printed_and_kept(bbbc021, tmp_path, capsys):
    write, samples = bbbc021
    n = len(samples)
    first, second = np.eye(6)[np.zeros(n, int)], np.eye(6)[np.ones(n, int)]
    write("a0.npz", run="a/seed0", logits=2 * first)
    write("a1.npz", run="a/seed1", logits=2 * first)
    write("b0.npz", run="b/seed0", logits=3 * second)
    chosen = {}
    for name, words in {
        "even": [],
        "b": ["--weight", "b=2"],
        "a": ["--weight", "a=2", "--weight", "b=2"],
    }.items():
        assert (
            cellsignal(
                "submit", "a0.npz", "a1.npz", "b0.npz", "--out", f"{name}.csv", *words, cwd=tmp_path
            )
            == 0
        )
        chosen[name] = set(pd.read_csv(tmp_path / f"{name}.csv").moa)
    out = capsys.readouterr().out
    assert (
        "weights: a/seed0 1, a/seed1 1, b/seed0 2" in out
        and "weights: a/seed0 2, a/seed1 2, b/seed0 2" in out
    )
    assert chosen["even"] == chosen["a"] != chosen["b"] and all(
        len(values) == 1 for values in chosen.values()
    )
    assert json.loads((tmp_path / "b.json").read_text())["weights"] == {
        "a/seed0": 1,
        "a/seed1": 1,
        "b/seed0": 2,
    }


def test_a_name_is_never_longer_than_a_file_can_have(bbbc021, tmp_path, capsys):
    write, _ = bbbc021
    runs = [f"a_long_name_of_a_run_{i:02d}/seed0" for i in range(12)]
    files = [write(f"{i}.npz", run=run, seed=i) for i, run in enumerate(runs)]
    assert cellsignal("submit", *files, cwd=tmp_path) == 0
    (path,) = (tmp_path / "submissions").glob("*.csv")
    assert (
        len(path.name) <= 125 and json.loads(path.with_suffix(".json").read_text())["runs"] == runs
    )
    assert cellsignal("submit", *files[:11], cwd=tmp_path) == 0
    assert len(list((tmp_path / "submissions").glob("*.csv"))) == 2


def test_limited_names_differ_where_the_names_do():
    names = ["a" * 300, "a" * 299 + "b", "é" * 200, "x/y", "x_y", "..", "", "short"]
    limited = [limited_name(name) for name in names]
    assert len(set(limited)) == len(names) and limited[4] == "x_y" and limited[7] == "short"
    assert all(
        0 < len(name.encode()) <= 120 and "/" not in name and name != ".." for name in limited
    )


def test_predictions_of_another_copy_are_refused_by_every_reader(
    bbbc021, simulated, tmp_path, capsys
):
    write, _ = bbbc021
    write("p.npz")
    competition = get_competition("bbbc021")
    other = tmp_path / "other"
    competition.simulate(
        other, 9, compounds_per_class=2, test_compounds_per_class=1, doses=1, replicates=1, size=24
    )
    for verb, more in (("submit", ["--out", "s.csv"]), ("score", [])):
        line = error_line(capsys, verb, "p.npz", "--root", other, *more, cwd=tmp_path)
        assert "p.npz: " in line and str(simulated("bbbc021")) in line
    assert not (tmp_path / "s.csv").exists()


def test_predictions_with_other_labels_or_wells_than_the_data_are_refused(simulated, tmp_path):
    from cellsignal.prediction.entry import open_entry

    competition, root = get_competition("bbbc021"), simulated("bbbc021")
    samples = competition.samples(root)
    samples = samples[samples.split == "train"]
    facts = {
        "classes": competition.classes(root),
        "competition": "bbbc021",
        "run": "r/seed0",
        "stage": "all",
        "stage_index": 0,
        "seed": 0,
        "fold": 0,
        "fold_group": "compound",
        "data_root": str(root),
    }
    logits = {"identity": np.zeros((len(samples), 6))}
    for column, values in (
        ("label", (samples.label + 1) % 6),
        ("well_id", samples.well_id.to_numpy()[::-1]),
        ("sample_id", samples.sample_id + "x"),
    ):
        save_predictions(
            tmp_path / "p.npz",
            samples.assign(**{column: values}),
            np.repeat("oof", len(samples)),
            logits,
            facts,
        )
        with pytest.raises(
            InputError,
            match="that .* has not" if column == "sample_id" else f"has another {column} in",
        ):
            open_entry([tmp_path / "p.npz"], Submit())


@pytest.mark.parametrize("weight", ["1e-50", "1e39"])
def test_a_weight_that_float32_cannot_hold_is_refused_by_name(weight):
    with pytest.raises(InputError, match=r"weights: a=1e[-+]\d+ lies outside 1e-06 .. 1e\+06"):
        resolve_weights({"a": float(weight)}, ["a/seed0", "b/seed0"])


def test_a_value_that_is_no_yaml_is_named(tmp_path, capsys):
    line = error_line(capsys, "submit", "p.npz", "--set", "submit.repeats=[", cwd=tmp_path)
    assert line == "--set submit.repeats: '[' is not a YAML value"


@pytest.mark.parametrize(
    "words",
    [
        ("submit", "p.npz", "--out"),
        ("score", "s.csv", "--answers"),
        ("leaderboard", "--leaderboard"),
    ],
)
def test_a_name_that_no_file_can_have_is_one_line(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cellsignal.prediction.sources.read_sources", lambda *words: None)
    monkeypatch.setattr(
        "cellsignal.prediction.sources.submit_sources",
        lambda sources, out, **more: (out.is_file(), [], None),
    )
    line = error_line(
        capsys,
        *words,
        "s" * 300 + ".csv",
        *(["--competition", "bbbc021"] if words[0] == "score" else []),
        cwd=tmp_path,
    )
    assert line.startswith("ssss") and "304 bytes is too long" in line
