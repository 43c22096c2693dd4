"""Embeddings of every sample, and predictions by nearest training wells; no validation or test
label ever takes part.
"""

import functools
import json
import re
import zipfile
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import cellsignal, error_line, write_config

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.config import load_config
from cellsignal.config.schema import Submit
from cellsignal.data.store import Store
from cellsignal.prediction import predict as predicting
from cellsignal.prediction.container import load_predictions
from cellsignal.prediction.embeddings import Embeddings, embed, load_embeddings
from cellsignal.prediction.entry import open_entry
from cellsignal.prediction.well_classifiers import Classification, classify, classify_wells
from cellsignal.training.checkpoints import save_checkpoint
from cellsignal.training.identity import identity
from cellsignal.training.plan import jobs_of

D = 12
ONE_MODEL = [{"name": "all", "epochs": 1}]
BY_CELL_TYPE = [
    {"name": "all", "epochs": 1},
    {"name": "cell_type", "per": "cell_type", "init": "previous", "epochs": 1},
]


@pytest.fixture
def space(prepared, tmp_path, monkeypatch):
    """A packed data set in a folder of its own, which is also the working folder."""
    copy = prepared("rxrx1").copy(tmp_path / "space")
    monkeypatch.chdir(copy.folder)
    return copy


def truth_of(space) -> dict[str, int]:
    competition = get_competition("rxrx1")
    answers = competition.answers(space.answers)
    return dict(zip(answers.id_code, answers.sirna.astype(int), strict=True))


def config_of(space, **changes):
    """The tiny config with a checkpoint file (of no content) for every job."""
    config = load_config(
        write_config(space.folder, "rxrx1", space.root, **({"stages": ONE_MODEL} | changes))
    )
    for job in jobs_of(config):
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "last.pt").write_bytes(job.title.encode())
    return config


def code(text: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(text.encode()))


def embedder(truth, signal=3.0, batch=3.0, width=D):
    """A network that sees the treatment, the experiment and noise; the two views lie on both sides
    of it.
    """

    def predict_samples(job, state, chosen, views, embeddings):
        assert embeddings and tuple(views) == ("identity", "rot180")
        rows = []
        for s in job.store.samples.iloc[chosen].itertuples():
            label = truth.get(s.target_id, s.label)
            rows.append(
                signal * code(f"label {label}").normal(size=width)
                + batch * code(s.experiment).normal(size=width)
                + code(s.sample_id).normal(size=width)
            )
        rows = np.array(rows, np.float32) + state["offset"]
        return {"identity": rows + 0.5, "rot180": rows - 0.5}

    return lambda job, state: functools.partial(predict_samples, job, state)


@pytest.fixture
def embedded(space, monkeypatch):
    """A function of the embedder's parameters and the stages: the config, and its embeddings by
    that network.
    """

    def make(stages=ONE_MODEL, **parameters):
        config = config_of(space, stages=stages)
        monkeypatch.setattr(
            predicting, "load_checkpoint", lambda path: {"offset": float(len(path.parent.name))}
        )
        monkeypatch.setattr(predicting, "predictor_of", embedder(truth_of(space), **parameters))
        return config, [load_embeddings(path) for path in embed(config)]

    return make


def test_every_kept_sample_is_there_with_its_part(space, embedded):
    config, (found,) = embedded()
    store, (job,) = Store.open(space.folder / "store"), jobs_of(config)
    assert found.path.name == "fold0_all.npz" and found.values.dtype == np.float16
    assert found.samples.sample_id.tolist() == store.samples.sample_id.tolist() and set(
        found.samples.model
    ) == {"all"}
    by_part = found.samples.groupby("part").indices
    for name, positions in (("train", job.train), ("oof", job.valid), ("test", job.test)):
        assert by_part[name].tolist() == positions.tolist()
    assert set(found.samples.role[found.samples.part == "none"]) == {
        "negative_control",
        "positive_control",
    }
    assert (found.samples.label[found.samples.split == "test"] == -1).all()
    trained = (found.samples.split == "train").to_numpy()
    assert found.samples.label[trained].tolist() == store.samples.label[trained].tolist()
    network = embedder(truth_of(space))(job, {"offset": 3.0})
    expected = network(np.arange(len(store.samples)), ("identity", "rot180"), True)
    np.testing.assert_allclose(
        found.values, (expected["identity"] + expected["rot180"]) / 2, atol=0.02
    )
    held_out = set(found.samples.experiment[found.samples.part == "oof"])
    assert held_out == set(found.about["held_out"]) and held_out.isdisjoint(
        found.samples.experiment[found.samples.part == "train"]
    )
    with zipfile.ZipFile(found.path) as archive:
        assert not any(
            b"pickle" in archive.read(name)[:200] or archive.read(name)[:1] == b"\x80"
            for name in archive.namelist()
        )


def test_controls_that_train_are_no_training_wells_of_the_classifier(space, monkeypatch):
    config = config_of(
        space,
        data={
            "root": str(space.root),
            "store": "store",
            "size": 32,
            "workers": 0,
            "controls": "all",
            "sites": [1],
        },
    )
    monkeypatch.setattr(predicting, "load_checkpoint", lambda path: {"offset": 0.0})
    monkeypatch.setattr(predicting, "predictor_of", embedder(truth_of(space)))
    found = load_embeddings(embed(config)[0])
    assert set(found.samples.role[found.samples.part == "train"]) == {"treatment"} and set(
        found.samples.site
    ) == {1}


def test_a_model_for_each_cell_type_embeds_its_own(space, embedded):
    _, (found,) = embedded(BY_CELL_TYPE)
    assert (
        found.samples.model == found.samples.cell_type
    ).all() and found.path.name == "fold0_cell_type.npz"
    _, (one,) = embedded()
    offset = found.values.astype(float) - one.values.astype(float)
    np.testing.assert_allclose(
        offset, np.repeat(found.samples.model.str.len().to_numpy()[:, None] - 3.0, D, 1), atol=0.03
    )


def test_what_is_current_stays_and_what_is_not_is_made_again(space, embedded, monkeypatch):
    config, (found,) = embedded()
    before = found.path.stat().st_mtime_ns
    assert embed(config) == [found.path] and found.path.stat().st_mtime_ns == before
    (jobs_of(config)[0].folder / "last.pt").write_bytes(b"trained anew")
    assert embed(config)[0].stat().st_mtime_ns != before
    damaged = bytearray(found.path.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    found.path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"fold0_all\.npz: not an embeddings file"):
        load_embeddings(found.path)
    embed(config)
    assert (load_embeddings(found.path).values == found.values).all()


class Small(torch.nn.Module):
    """A network with the interface of `models.backbones`; not symmetric, so that turning an image
    changes its embedding.
    """

    def __init__(self):
        super().__init__()
        self.stem, self.width = torch.nn.Conv2d(6, D, 9, stride=8), D

    def embed(self, images):
        return self.stem(images).relu().mean((2, 3))


def test_the_embeddings_are_those_of_the_trained_model(space, monkeypatch):
    """Weights from the checkpoint and real images: standardised, turned and embedded here by hand."""
    monkeypatch.setattr(
        "cellsignal.prediction.predict.build_model", lambda *given, **named: Small()
    )
    config = load_config(
        write_config(
            space.folder,
            "rxrx1",
            space.root,
            stages=ONE_MODEL,
            normalization={"by": "image"},
        )
    )
    (job,) = jobs_of(config)
    torch.manual_seed(0)
    network = Small().eval()
    save_checkpoint(
        job.folder / "last.pt",
        {
            **identity(job),
            "progress": {"finished": True},
            "image_size": 32,
            "config": config.model_dump(mode="json"),
            "averaged": None,
            "model": network.state_dict(),
            "overall": ([0.0] * 6, [1.0] * 6),
        },
    )
    found, store = load_embeddings(embed(config)[0]), job.store
    assert len(found.values) == len(store.samples)
    for row in (0, 17, len(store.samples) - 1):
        image = store.read(int(store.samples.row.iloc[row])).astype(np.float32)
        sd = np.maximum(image.std((1, 2), keepdims=True), 0.5)
        image = torch.tensor((image - image.mean((1, 2), keepdims=True)) / sd)[None]
        with torch.inference_mode():
            expected = (network.embed(image) + network.embed(torch.rot90(image, 2, (2, 3)))) / 2
        np.testing.assert_allclose(found.values[row], expected[0].numpy(), rtol=0.01, atol=0.005)


@pytest.mark.parametrize("method", ["centre", "knn"])
@pytest.mark.parametrize("normalise", ["none", "centre", "standardise", "tvn", "sphere"])
def test_no_label_but_those_of_training_wells_takes_part(embedded, method, normalise):
    """With every other label changed the scores are the same; with a training label changed they
    are not.
    """
    _, (found,) = embedded(signal=1.0)
    how = Classification(method, k=3, normalise=normalise)
    _, scores = classify_wells(found, how)
    train = (found.samples.part == "train").to_numpy()
    for changed, same in ((~train, True), (train, False)):
        label = found.samples.label.where(~changed, (found.samples.label + 1) % 8)
        again = Embeddings(found.path, found.samples.assign(label=label), found.values, found.about)
        assert np.array_equal(classify_wells(again, how)[1], scores) == same


@pytest.mark.parametrize("method", ["centre", "knn"])
def test_validation_wells_are_not_among_the_fitted(embedded, method):
    """On noise a classifier that has seen the validation wells is right on most of them, an honest
    one on 1 in 8.

    And without these wells the test wells score the same.
    """
    _, (found,) = embedded(signal=0.0, batch=0.0, width=64)
    how = Classification(method, k=1, normalise="none")

    def right(embeddings):
        frame, scores = classify_wells(embeddings, how)
        oof = (frame.part == "oof").to_numpy()
        return (scores.argmax(1) == frame.label)[oof].mean(), scores[~oof]

    own = found.samples[found.samples.part == "oof"]
    frame = pd.concat([found.samples, own.assign(part="train")], ignore_index=True)
    values = np.concatenate([found.values, found.values[own.index]])
    dishonest, _ = right(Embeddings(found.path, frame, values, found.about))
    honest, test_scores = right(found)
    assert dishonest > 0.8 and honest < 0.45  # 32 wells, chance 1 / 8
    kept = (found.samples.part != "oof").to_numpy()
    _, without = right(
        Embeddings(
            found.path, found.samples[kept].reset_index(drop=True), found.values[kept], found.about
        )
    )
    np.testing.assert_allclose(without, test_scores, atol=1e-5)


def test_centring_by_experiment_takes_the_batch_out(space, embedded):
    _, (found,) = embedded(signal=1.0, batch=10.0)
    truth = truth_of(space)

    def accuracy(**how):
        frame, scores = classify_wells(found, Classification(**how))
        true = np.where(
            frame.part == "oof", frame.label, [truth.get(t, -1) for t in frame.target_id]
        )
        return (scores.argmax(1) == true).mean()

    plain, centred = accuracy(normalise="none"), accuracy(normalise="centre", by="experiment")
    assert centred > 0.8 > plain + 0.1
    assert accuracy(method="knn", normalise="centre", by="experiment", k=3) > 0.7


def test_models_of_different_cell_types_do_not_meet(embedded):
    """Each model's space turned and moved by itself: nothing changes, though the wells of different
    models lie elsewhere to each other.
    """
    _, (found,) = embedded(BY_CELL_TYPE, signal=1.0)
    turned, rng = found.values.astype(np.float64), np.random.default_rng(0)
    for rows in found.samples.groupby("model").indices.values():
        turned[rows] = turned[rows] @ np.linalg.qr(rng.normal(size=(D, D)))[0] + 20 * rng.normal(
            size=D
        )
    again = Embeddings(found.path, found.samples, turned, found.about)
    for how in (
        Classification(),
        Classification("knn", k=3),
        Classification(metric="euclidean", normalise="sphere", by="experiment"),
    ):
        (frame, scores), (_, same) = classify_wells(found, how), classify_wells(again, how)
        np.testing.assert_allclose(same, scores, atol=0.02)
        assert (
            len(frame)
            == found.samples.target_id[found.samples.part.isin(("oof", "test"))].nunique()
        )


def test_sites_of_a_well_are_one_vote_and_parts_of_a_split_well_are_two(embedded):
    _, (found,) = embedded()
    frame, scores = classify_wells(found, Classification(normalise="none"))
    assert frame.target_id.is_unique and len(scores) == len(frame)
    samples = found.samples.copy()
    rows = samples.index[samples.well_id == samples.well_id[samples.part == "train"].iloc[0]]
    alone = Embeddings(
        found.path,
        samples.drop(rows[1:]).reset_index(drop=True),
        np.delete(found.values, rows[1:], 0),
        found.about,
    )
    samples.loc[rows[1:], "part"] = "oof"
    split = Embeddings(found.path, samples, found.values, found.about)
    before = classify_wells(alone, Classification(normalise="none"))[1]
    after = classify_wells(split, Classification(normalise="none"))
    # its validation image is asked for, and its training image alone is fitted
    assert len(after[1]) == len(before) + 1
    np.testing.assert_allclose(
        after[1][(after[0].well_id != samples.well_id[rows[0]]).to_numpy()], before, atol=1e-5
    )


def test_the_predictions_file_merges_and_submits(space, embedded, capsys):
    embedded(signal=2.0)
    assert (
        cellsignal(
            "profiles",
            "classify",
            "config.yaml",
            "--normalise",
            "tvn",
            "--by",
            "experiment",
            cwd=space.folder,
        )
        == 0
    )
    out = capsys.readouterr().out
    path = space.run_folder / "predictions_embeddings" / "fold0_all_centre.npz"
    assert "fold0_all_centre.npz" in out and "tiny_centre/seed0" in out and "well" in out
    assert (space.run_folder / "report" / "confusion_centre.png").is_file()
    chance = 1 / len(get_competition("rxrx1").classes(space.root))
    assert re.search(rf"^chance +{chance:.4f}$", out, re.M)
    predictions = load_predictions(path)
    assert (
        predictions.views == ("embedding",)
        and predictions.about["settings"]["normalise"] == "tvn"
        and predictions.about["fold"] == 0
    )
    entry, truth = open_entry([path], Submit()), truth_of(space)
    merged = entry.merge(entry.final(), "test")
    assert merged.target_id.tolist() == sorted(truth)
    assert (merged.scores.argmax(1) == [truth[t] for t in merged.target_id]).mean() > 0.8
    oof = entry.merge(entry.final(), "oof")
    assert f"{(oof.scores.argmax(1) == oof.label).mean():.4f}" in out
    assert cellsignal("submit", path, "--root", space.root, "--out", "s.csv", cwd=space.folder) == 0
    answers = get_competition("rxrx1").answers(space.answers)
    assert (
        get_competition("rxrx1").task.score(pd.read_csv(space.folder / "s.csv", dtype=str), answers)
        > 0.8
    )
    assert json.loads((space.folder / "s.json").read_text())["runs"] == ["tiny_centre/seed0"]


def test_a_full_model_predicts_test_wells_only(space, monkeypatch):
    config = config_of(space, folds={"file": "folds.csv", "use": [], "full": True})
    monkeypatch.setattr(predicting, "load_checkpoint", lambda path: {"offset": 0.0})
    monkeypatch.setattr(predicting, "predictor_of", embedder(truth_of(space)))
    (path,) = classify(config, Classification("knn", k=2))
    assert path.name == "full_all_knn.npz" and set(load_predictions(path).ids["part"]) == {"test"}


def test_what_is_refused(space, embedded, capsys, monkeypatch):
    config, (found,) = embedded()

    def line(*words):
        return error_line(capsys, "profiles", "classify", "config.yaml", *words, cwd=space.folder)

    assert "--k: only --method knn has neighbours" in line("--k", 3)
    assert "--k: at least 1, not 0" in line("--method", "knn", "--k", 0)
    assert "--normalise is none" in line("--normalise", "none", "--by", "plate")
    assert "33 neighbours asked for, 32 training wells" in line("--method", "knn", "--k", 33)
    assert "plate 1: 1 wells of the reference 'negative_controls', at least 2" in line(
        "--normalise", "tvn", "--reference", "negative_controls"
    )
    with pytest.raises(InputError, match=r"x\.npz: no such embeddings file"):
        load_embeddings(space.folder / "x.npz")
    monkeypatch.setattr(
        predicting,
        "predictor_of",
        lambda job, state: (
            lambda chosen, views, embeddings: {"identity": np.full((len(chosen), D), np.nan)}
        ),
    )
    found.path.unlink()
    with pytest.raises(
        InputError,
        match=r"last\.pt: embeddings of view 'identity': sample '.*' has a value that is not a finite number",
    ):
        embed(config)
    monkeypatch.setattr(
        predicting,
        "predictor_of",
        lambda job, state: (
            lambda chosen, views, embeddings: {"identity": np.full((len(chosen), D), 7e4)}
        ),
    )
    with pytest.raises(
        InputError, match=r"last\.pt: its embeddings are not finite numbers of 16 bits"
    ):
        embed(config)
    (jobs_of(config)[0].folder / "last.pt").unlink()
    with pytest.raises(InputError, match=r"last\.pt: no such checkpoint; train first"):
        embed(config)
