"""A frozen backbone on the command line: embedded once for all folds, named by a logistic
regression.
"""

import numpy as np
import pytest
import safetensors.torch
from helpers import cellsignal, error_line, write_config

from cellsignal.config import load_config
from cellsignal.evaluation.matching import average
from cellsignal.models.torchvision_cpu import import_timm
from cellsignal.prediction import embeddings as module
from cellsignal.prediction.container import load_predictions
from cellsignal.prediction.embeddings import load_embeddings
from cellsignal.prediction.well_classifiers import linear_scores

pytestmark = pytest.mark.slow

FROZEN = {"backbone": "test_resnet", "frozen": True, "layers": [1, 2]}
STAGES = [{"name": "head", "epochs": 1, "batch_size": 16}]


def test_folds_share_what_a_frozen_backbone_says(prepared, tmp_path, monkeypatch, capsys):
    space = prepared("bbbc021").copy(tmp_path / "space")
    folds = {"file": "folds.csv", "full": True}
    config = write_config(
        space.folder,
        "bbbc021",
        space.root,
        model=FROZEN,
        stages=STAGES,
        folds=folds,
        normalization={"by": "image"},
    )
    assert cellsignal("train", config, cwd=space.folder) == 0
    calls, real = [], module._embed_samples
    monkeypatch.setattr(module, "_embed_samples", lambda *words: calls.append(1) or real(*words))
    assert (
        cellsignal(
            "profiles",
            "classify",
            config,
            "--method",
            "linear",
            "--normalise",
            "none",
            cwd=space.folder,
        )
        == 0
    )
    assert "_linear/seed0" in capsys.readouterr().out
    paths = sorted((space.run_folder / "embeddings").glob("*.npz"))
    assert len(paths) == 3
    found = [load_embeddings(path) for path in paths]
    assert len(calls) == 3 and not np.array_equal(found[0].values, found[1].values), (
        "every seed draws its own random weights"
    )

    first = found[0]
    x, wells = average(first.values, first.samples, ("well_id", "part"))
    train, asked = ((wells.part == "train").to_numpy(), wells.part.isin(["oof", "test"]).to_numpy())
    expected = linear_scores(
        x[train], wells.label.to_numpy()[train], x[asked], len(first.about["classes"])
    )
    scores = load_predictions(
        space.run_folder / "predictions_embeddings" / f"{paths[0].stem}_linear.npz"
    )
    row = {well: place for place, well in enumerate(wells.well_id[asked])}
    places = [row[well] for well in scores.ids["well_id"]]
    np.testing.assert_allclose(scores.logits("embedding"), expected[places], atol=2e-2)


def test_the_weights_of_a_file_are_embedded_once(prepared, tmp_path, monkeypatch):
    space = prepared("bbbc021").copy(tmp_path / "space")
    safetensors.torch.save_file(
        import_timm().create_model("test_resnet").state_dict(), space.folder / "weights.safetensors"
    )
    folds, model = {"file": "folds.csv", "full": True}, FROZEN | {"weights": "weights.safetensors"}
    # global statistics are those of the fold's training images
    for by, times in (("image", 1), ("global", 3)):
        config = write_config(
            space.folder,
            "bbbc021",
            space.root,
            name=by,
            model=model,
            stages=STAGES,
            folds=folds,
            normalization={"by": by},
        )
        assert cellsignal("train", config, cwd=space.folder) == 0
        calls, real = [], module._embed_samples
        with monkeypatch.context() as patch:
            patch.setattr(
                module,
                "_embed_samples",
                lambda *words, real=real, calls=calls: calls.append(1) or real(*words),
            )
            assert cellsignal("embed", config, cwd=space.folder) == 0
        assert len(calls) == times
        with_parts = [
            load_embeddings(path)
            for path in sorted((space.folder / "runs" / by / "seed0" / "embeddings").glob("*.npz"))
        ]
        assert len({tuple(found.samples.part) for found in with_parts}) == 3, (
            "each fold has its own training wells"
        )


def test_neighbours_are_of_knn_alone(prepared, tmp_path, capsys):
    space = prepared("bbbc021").copy(tmp_path / "space")
    config = write_config(space.folder, "bbbc021", space.root, model=FROZEN, stages=STAGES)
    assert load_config(config).model.layers == (1, 2)
    assert error_line(
        capsys, "profiles", "classify", config, "--method", "linear", "--k", 3, cwd=space.folder
    ).startswith("--k: only")
