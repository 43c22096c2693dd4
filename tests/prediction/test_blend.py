"""Runs to a blend file to a submission, against brute force; runs that do not fit are refused."""

import contextlib
import json

import numpy as np
import pandas as pd
import pytest
from helpers import error_line
from scipy.special import log_softmax

from cellsignal.cli import main
from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.competitions.base import answers_path
from cellsignal.config.schema import Submit
from cellsignal.prediction.blend import blend_sources, group_runs, open_members, refuse_task
from cellsignal.prediction.blend_file import apply_blend, read_blend
from cellsignal.prediction.container import save_predictions
from cellsignal.prediction.entry import open_entry
from cellsignal.prediction.sources import read_sources

pytestmark = pytest.mark.slow

UNIT = {"rxrx1": "experiment", "idr0088_moa": "compound", "mitoreid": "compound"}


class Data:
    """A simulated competition and its training samples, dealt to two folds by unit."""

    def __init__(self, name, root, folder, **simulation):
        self.name, self.root, self.folder = name, root, folder
        self.competition = get_competition(name)
        self.competition.simulate(root, 3, **simulation)
        self.samples = self.competition.samples(root)
        self.samples = self.samples[self.samples.role == "treatment"].reset_index(drop=True)
        self.classes = list(self.competition.classes(root))
        self.known = (self.samples.split == "train").to_numpy()
        unit = self.samples[UNIT[name]].astype(str)
        units = sorted(unit[self.known].unique())
        self.fold_of = {name: number % 2 for number, name in enumerate(units)}
        self.fold = unit.map(self.fold_of).fillna(-1).to_numpy(int)
        self.several = self.competition.task.known_labels(self.samples, len(self.classes))

    def write(self, run, seed, signal, scale=1.0, folds=(0, 1), drop=0, test=True, **about):
        """Predictions of both folds: `signal` for the truth plus noise, times `scale`."""
        paths = []
        for fold in folds:
            part = np.where(self.known, np.where(self.fold == fold, "oof", ""), "test")
            kept = (part == "oof") | ((part == "test") & test)
            kept[np.flatnonzero(part == "oof")[:drop]] = False
            rng = np.random.default_rng([seed, fold])
            noise = rng.normal(size=(len(part), len(self.classes)))
            truth = np.nan_to_num(self.several) if self.several is not None else self.onehot()
            logits = {"identity": ((signal * truth + noise) * scale)[kept]}
            facts = {
                "competition": self.name,
                "classes": self.classes,
                "run": run,
                "stage": "all",
                "stage_index": 0,
                "fold": fold,
                "seed": 0,
                "data_root": str(self.root),
                "fold_group": UNIT[self.name],
            }
            path = self.folder / f"{run.replace('/', '_')}.{fold}.npz"
            labels = None if self.several is None else self.several[kept]
            save_predictions(path, self.samples[kept], part[kept], logits, facts | about, labels)
            paths.append(path)
        return paths

    def onehot(self):
        label = self.samples.label
        if self.name == "rxrx1":
            answers = self.competition.answers(answers_path(self.root))
            hidden = dict(zip(answers.id_code, answers.sirna.astype(int), strict=True))
            label = label.fillna(self.samples.target_id.map(hidden))
        return np.eye(len(self.classes))[label.fillna(0).astype(int)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blend")
    size = {"classes": 24, "controls": 1, "size": 16}
    experiments = {"train_experiments": 2, "test_experiments": 2}
    return Data("rxrx1", folder / "raw", folder, **size, **experiments)


@pytest.fixture(scope="module")
def files(data):
    """A good run, one whose logits are nine times too large and a useless one."""
    runs = (("a/seed0", 1, 1.5, 1.0), ("b/seed0", 2, 1.5, 9.0), ("c/seed0", 3, 0.0, 3.0))
    return [path for run in runs for path in data.write(*run)]


def test_members_are_what_runs_predict_out_of_fold(data, files):
    entry = open_entry(files, Submit())
    members, unit = open_members(entry, group_runs(entry.runs, False))
    assert unit == "experiment" and members.units == 8 and members.metric == "accuracy"
    frame = data.samples[data.known].drop_duplicates("target_id").sort_values("target_id")
    assert members.truth.tolist() == frame.label.tolist()
    assert [len(set(frame.experiment[members.unit == u])) for u in range(8)] == [1] * 8
    table = {}
    for member in entry.members[:2]:
        oof = member.ids["part"] == "oof"
        logits = pd.DataFrame(member.logits("identity")[oof].astype(float))
        table |= logits.groupby(member.ids["target_id"][oof]).mean().T.to_dict("list")
    expected = log_softmax([table[target] for target in frame.target_id], axis=1)
    assert members.scores[0] == pytest.approx(expected, abs=2e-3)


def test_a_blend_is_written_and_submitted_with_its_weights(data, files, tmp_path, capsys):
    with contextlib.chdir(tmp_path):
        assert main(["-q", "blend", *map(str, files), "--set", "submit.assignment=none"]) == 0
        text = capsys.readouterr().out
        assert text.splitlines()[-1] == "blends/a+b+c.json"
        words = ["--blend", "blends/a+b+c.json", "--out", "s.csv"]
        words += ["--set", "submit.assignment=none"]
        assert main(["-q", "submit", *map(str, files), *words]) == 0
    assert "stacking is better than equal weights on unseen experiments" in text
    blend = read_blend(tmp_path / "blends" / "a+b+c.json")
    runs = blend["runs"]
    assert runs["c/seed0"]["weight"] == 0
    assert runs["a/seed0"]["weight"] == pytest.approx(0.5, abs=0.1)
    ratio = runs["b/seed0"]["temperature"] / runs["a/seed0"]["temperature"]
    assert ratio == pytest.approx(9, rel=0.15)
    about = json.loads((tmp_path / "s.json").read_text())
    assert about["blend"]["nested"] == blend["nested"]
    assert about["weights"] == {run: runs[run]["weight"] for run in ("a/seed0", "b/seed0")}
    assert "blends/a+b+c.json" in about["inputs"]
    submission = pd.read_csv(tmp_path / "s.csv").set_index("id_code").sirna
    expected = by_hand(files, runs)
    assert (submission.loc[expected.index] == expected.idxmax(axis=1)).all()


def by_hand(files, runs):
    """Mean over sites and folds of a run's test logits, over its temperature, times its weight."""
    entry = open_entry(files, Submit())
    total = 0
    for run, numbers in runs.items():
        tables = []
        for member in entry.final(run):
            test = member.ids["part"] == "test"
            logits = pd.DataFrame(member.logits("identity")[test].astype(float))
            tables.append(logits.groupby(member.ids["target_id"][test]).mean())
        total = total + sum(tables) / len(tables) * numbers["weight"] / numbers["temperature"]
    return total


def test_the_submission_can_be_written_at_once(data, files, tmp_path, capsys):
    with contextlib.chdir(tmp_path):
        words = ["--out", "s.csv", "--file", "b.json", "--method", "hill", "--parts", "3"]
        assert main(["-q", "blend", *map(str, files), *words]) == 0
    out = capsys.readouterr()
    assert out.out.splitlines()[-1] == "s.csv" and (tmp_path / "s.csv").is_file()
    assert "flatter" in out.err or json.loads((tmp_path / "s.json").read_text())["blend"]
    assert read_blend(tmp_path / "b.json")["method"] == "hill"
    assert read_blend(tmp_path / "b.json")["nested"]["parts"] == 3


def test_seeds_are_one_member_that_is_named_so(data, tmp_path):
    files = [*data.write("d/seed0", 5, 1.5), *data.write("d/seed1", 6, 1.5)]
    files += data.write("e/seed0", 7, 1.5)
    file, text = blend_sources(read_sources(files), tmp_path / "b.json", parts=2)
    assert "d (seed ensemble of 2)" in text and "e/seed0" in text
    runs = read_blend(file)["runs"]
    assert runs["d/seed0"] == runs["d/seed1"] and runs["d/seed0"]["weight"] < 0.45
    _, text = blend_sources(read_sources(files), tmp_path / "c.json", by_seed=True, parts=2)
    assert "d/seed1" in text and "ensemble" not in text
    with pytest.raises(InputError, match=r"blend: d \(seed ensemble of 2\) is one member"):
        blend_sources(read_sources(files[:4]), tmp_path / "d.json")
    assert not (tmp_path / "d.json").exists()


def test_runs_that_differ_are_refused_in_one_line(data, files, tmp_path, capsys):
    first = files[:2]
    other = {
        "folds": data.write("x1/seed0", 1, 1.0, folds=(0,)),
        "drop": data.write("x2/seed0", 1, 1.0, drop=3),
        "unit": data.write("x3/seed0", 1, 1.0, fold_group="plate"),
    }
    swapped = Data.__new__(Data)
    vars(swapped).update(vars(data) | {"fold": np.where(data.fold >= 0, 1 - data.fold, -1)})
    other["swapped"] = swapped.write("x4/seed0", 1, 1.0)
    lines = {
        what: error_line(capsys, "blend", *first, *paths, cwd=tmp_path)
        for what, paths in other.items()
    }
    assert "out-of-fold targets are predicted by only one of a/seed0 and x1/seed0" in lines["folds"]
    assert lines["drop"].startswith("blend: ") and "only one of" in lines["drop"]
    assert "hold out whole experiments, those of x3/seed0 whole plates" in lines["unit"]
    assert "are held out by other folds in x4/seed0 than in a/seed0" in lines["swapped"]
    line = error_line(capsys, "blend", *first, cwd=tmp_path)
    assert line.startswith("blend: a/seed0 is one member")
    words = ["--set", "submit.merge=probabilities"]
    line = error_line(capsys, "blend", *files, *words, cwd=tmp_path)
    assert line.startswith("submit.merge: blend averages logits")
    line = error_line(capsys, "blend", *files, "--parts", 1, cwd=tmp_path)
    assert line.startswith("--parts 1: at least 2")
    assert list(tmp_path.iterdir()) == []


def test_one_unit_is_refused(data, tmp_path, capsys):
    few = Data.__new__(Data)
    one = next(name for name, fold in data.fold_of.items() if fold == 0)
    fold = np.where(data.samples.experiment == one, 0, np.where(data.known, 7, -1))
    vars(few).update(vars(data) | {"fold": fold})
    files = [*few.write("y1/seed0", 1, 1.0, folds=(0,)), *few.write("y2/seed0", 2, 1.0, folds=(0,))]
    line = error_line(capsys, "blend", *files, cwd=tmp_path)
    assert line.startswith("blend: all out-of-fold targets are of one experiment")


def test_a_blend_is_not_used_on_other_predictions(data, files, tmp_path, capsys):
    extra = data.write("z/seed0", 8, 1.5)
    blend_sources(read_sources([*files[:2], *extra]), tmp_path / "b.json", parts=2)
    words = ["--blend", "b.json", "--out", "s.csv"]
    line = error_line(capsys, "submit", *files[:2], *words, cwd=tmp_path)
    assert line == "b.json: z/seed0 is not given; give the runs that were blended, or blend again"
    line = error_line(capsys, "submit", *files, *extra, *words, cwd=tmp_path)
    assert "b/seed0 is not in the blend" in line
    line = error_line(capsys, "submit", *files[:2], *extra, *words, "--weight", "a=1", cwd=tmp_path)
    assert line.startswith("--weight: --blend has weights of its own")
    more = ["--set", "submit.merge=probabilities"]
    line = error_line(capsys, "submit", *files[:2], *extra, *words, *more, cwd=tmp_path)
    assert line.startswith("b.json: blends average logits")
    data.write("z/seed0", 9, 1.5)
    line = error_line(capsys, "submit", *files[:2], *extra, *words, cwd=tmp_path)
    assert line.startswith("b.json: was chosen on another state of ")
    assert not (tmp_path / "s.csv").exists()


def test_a_run_without_test_predictions_loses_its_weight_to_nobody(data, files, tmp_path):
    extra = data.write("w/seed0", 11, 1.5, test=False)
    blend_sources(read_sources([*files[:2], *extra]), tmp_path / "b.json", parts=2)
    entry = open_entry([*files[:2], *extra], Submit())
    with pytest.raises(InputError, match=r"w/seed0: has a weight in .* and no test predictions"):
        apply_blend(entry, tmp_path / "b.json")


def test_several_classes_are_blended_by_average_precision(tmp_path):
    competition = get_competition("idr0088_moa")
    several = Data("idr0088_moa", tmp_path / "raw", tmp_path, **competition.tiny_simulation)
    files = [*several.write("a/seed0", 1, 2.0), *several.write("b/seed0", 2, 2.0, scale=5.0)]
    file, text = blend_sources(read_sources(files), tmp_path / "b.json", parts=3)
    assert "average precision" in text and "compound" in text
    nested = read_blend(file)["nested"]
    assert nested["unit"] == "compound" and 0 < nested["average_precision"] <= 1


def test_rankings_are_not_supported_and_it_says_so():
    entry = type("Entry", (), {"competition": get_competition("mitoreid")})
    with pytest.raises(InputError, match="blend: mitoreid is scored by average_precision of rank"):
        refuse_task(entry)
