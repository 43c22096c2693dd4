"""A model that leaves the house: the same numbers as the run, for any number and size of images."""

import json
import zipfile

import numpy as np
import pytest
import torch
from helpers import cellsignal, contents, error_line
from tiny import make_config, stage

from cellsignal.common.errors import InputError
from cellsignal.common.files import sha256
from cellsignal.data.store import Store
from cellsignal.export import chosen as choosing
from cellsignal.export import formats, write
from cellsignal.export.write import export_model
from cellsignal.prediction.container import load_predictions
from cellsignal.training.run import train

pytestmark = pytest.mark.slow

KINDS = ["torch_export", pytest.param("onnx", marks=pytest.mark.slow)]

# a network of one size is traced in a second
FIXED = {"model": {"backbone": "scratch_cnn"}, "normalization": {"by": "none"}}


def need(name):
    for package in formats.EXTRAS.get(name, ()):
        pytest.importorskip(package)


def outputs(path, facts, arrays):
    """Run a file as one who has nothing of this package would."""
    assert sha256(path) == facts["sha256"]
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        about = session.get_modelmeta().custom_metadata_map["cellsignal"]
        values = session.run(["logits", "probabilities"], arrays)
    else:
        extra = {"cellsignal.json": ""}
        program = torch.export.load(path, extra_files=extra)
        about = extra["cellsignal.json"]
        result = program.module()(**{n: torch.from_numpy(v) for n, v in arrays.items()})
        values = [result[name].detach().numpy() for name in ("logits", "probabilities")]
    assert json.loads(about)["classes"] == facts["classes"]
    return values


def standardised_by_hand(store, rows, channels=6):
    """docs/export.md: mean and SD of all pixels of a plate's images."""
    pixels = np.stack([store.read(int(row)) for row in rows]).astype(np.float64)
    pixels = pixels.transpose(1, 0, 2, 3).reshape(channels, -1)
    return pixels.mean(1), pixels.std(1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_gives_the_predictions_of_the_run(kind, trained, tmp_path):
    """Held to the predictions file of the run, which knows nothing of the export."""
    need(kind)
    space = trained("rxrx1")
    out = tmp_path / "model"
    words = ["export", "tiny", "--stage", "all", "--format", kind, "--out", out]
    assert cellsignal(*words, cwd=space.folder) == 0
    (path,) = [f for f in out.iterdir() if f.suffix in (".pt2", ".onnx")]
    assert sorted(f.name for f in out.iterdir()) == [
        "MODEL_CARD.md",
        path.name,
        f"{path.name}.json",
    ]
    facts = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert facts["inputs"]["images"]["shape"] == ["batch", 6, "height", "width"]
    predictions = load_predictions(space.run_folder / "predictions/fold0_all.npz")
    assert facts["classes"] == list(predictions.classes)
    store = Store.open(space.folder / "store")
    samples = store.samples.set_index("sample_id")
    expected = predictions.logits("identity").astype(np.float32)
    for count in (1, 3, 7):
        ids = predictions.ids["sample_id"][:count]
        statistics = []
        for sample_id in ids:
            of = samples.loc[sample_id]
            same = (samples.experiment == of.experiment) & (samples.plate == of.plate)
            statistics.append(standardised_by_hand(store, samples.row[same]))
        shift, scale = np.array(statistics, np.float32).transpose(1, 0, 2).copy()
        images = np.stack([store.read(int(samples.row[name])) for name in ids])
        logits, probabilities = outputs(
            path, facts, {"images": images, "shift": shift, "scale": scale}
        )
        # the predictions file keeps halves, and may be of bfloat16
        assert np.abs(logits - expected[:count]).max() < 0.03 * max(1, np.abs(expected).max())
        assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
        odds = np.exp(logits.astype(np.float64))
        assert np.allclose(probabilities, odds / odds.sum(1, keepdims=True), atol=1e-5)


@pytest.fixture(scope="module")
def made(plates, tmp_path_factory):
    """(normalisation, model keys, ...) -> a trained config; each is trained once."""
    done = {}

    def of(name, **more):
        if name not in done:
            runs = tmp_path_factory.mktemp(name)
            data = {"size": None} | more.pop("data", {})
            config = make_config(plates, runs, [stage(epochs=1, amp="off")], data=data, **more)
            train(config)
            done[name] = config
        return done[name]

    return of


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("global", {"normalization": {"by": "global"}}),
        ("image", {"normalization": {"by": "image"}, "predict": {"center_crop": 16}}),
        (
            "controls",
            {
                "normalization": {"by": "experiment", "wells": "controls"},
                "model": {"backbone": "test_resnet", "cell_type_vector": True},
                "data": {"channels": [2, 5]},
            },
        ),
    ],
)
def test_other_sizes_and_normalisations_equal_the_module(name, more, made, tmp_path):
    config = made(name, **more)
    path = export_model(config, tmp_path / "out", "torch_export")
    facts = json.loads(path.with_name("model.pt2.json").read_text())
    chosen = choosing.open_chosen(choosing.choose_job(config, None, None, None))
    names = {"controls": ["cell_type", "images", "scale", "shift"]}.get(name, ["images"])
    assert sorted(facts["inputs"]) == names
    assert facts["cell_types"] == (["HEPG2", "HUVEC", "RPE", "U2OS"] if len(names) > 1 else None)
    for size in ((24, 24), (40, 56)):
        inputs = formats.enlarged(chosen.inputs.rows(3), size)
        logits, _ = outputs(path, facts, inputs.arrays)
        grey = torch.from_numpy(inputs.images).float()
        if name == "global":
            mean, sd = (torch.tensor(values)[None] for values in chosen.pixels.overall)
        elif name == "image":
            mean, sd = grey.mean((2, 3)), grey.std((2, 3), correction=0)
        else:
            mean, sd = torch.from_numpy(inputs.shift), torch.from_numpy(inputs.scale)
        x = (grey - mean[:, :, None, None]) / sd[:, :, None, None]
        if name == "image":
            top, left = (size[0] - 16) // 2, (size[1] - 16) // 2
            x = x[:, :, top : top + 16, left : left + 16]
        others = [torch.from_numpy(inputs.cell_type)] if name == "controls" else []
        with torch.inference_mode():
            expected = chosen.model.network(x, *others)
        assert np.abs(logits - expected.numpy()).max() < 1e-4
        assert np.abs(logits[0] - logits[1]).max() > 1e-3  # of different images


def test_a_network_of_one_size_says_so(made, tmp_path):
    config = made("fixed", **FIXED)
    path = export_model(config, tmp_path / "out", "torch_export")
    facts = json.loads(path.with_name("model.pt2.json").read_text())
    assert facts["any_size"] is False and facts["checked"]["sizes"] == [[24, 24]]
    assert facts["inputs"]["images"]["shape"] == ["batch", 6, 24, 24]
    assert "no other size" in path.with_name("MODEL_CARD.md").read_text()


def test_a_file_that_differs_is_deleted(made, tmp_path, monkeypatch):
    config = made("fixed", **FIXED)
    real = choosing.open_chosen

    def other(job):
        chosen = real(job)
        chosen.expected[2, 1] += 0.001 * max(1, np.abs(chosen.expected).max())
        return chosen

    monkeypatch.setattr(write, "open_chosen", other)
    with pytest.raises(InputError, match=r"model\.pt2: deleted: .* differs from the run by 0\.00"):
        export_model(config, tmp_path / "out", "torch_export")
    assert contents(tmp_path) == {}


def test_a_killed_export_leaves_nothing_that_counts(made, tmp_path, monkeypatch):
    config = made("fixed", **FIXED)

    def killed(*_):
        raise KeyboardInterrupt

    before = export_model(config, tmp_path / "out", "torch_export")
    kept = contents(tmp_path)
    (tmp_path / "out/.model.pt2.unfinished").mkdir()
    (tmp_path / "out/.model.pt2.unfinished/model.pt2").write_bytes(b"half")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(write, "write_card", killed)
        export_model(config, tmp_path / "out", "torch_export")
    assert contents(tmp_path) == kept
    assert export_model(config, tmp_path / "out", "torch_export") == before


def test_the_card_says_what_it_is(trained, tmp_path):
    space = trained("rxrx1")
    words = ["export", "tiny", "--key", "RPE", "--out", tmp_path / "m"]
    assert cellsignal(*words, cwd=space.folder) == 0
    card = (tmp_path / "m/MODEL_CARD.md").read_text()
    assert "**simulated**" in card and "CC BY-NC-SA 4.0" in card
    assert "names one class of 8" in card and "cell types RPE" in card
    predictions = load_predictions(space.run_folder / "predictions/fold0_cell_type.npz")
    rows = (predictions.ids["cell_type"] == "RPE") & (predictions.ids["part"] == "oof")
    scores = predictions.logits("identity").astype(np.float64)[rows]
    ids, labels = predictions.ids["target_id"][rows], predictions.label[rows]
    scores -= np.log(np.exp(scores).sum(1, keepdims=True))
    right = [scores[ids == i].mean(0).argmax() == labels[ids == i][0] for i in np.unique(ids)]
    assert f"accuracy: {np.mean(right):.3f} " in card and f"({sum(right)}/{len(right)})" in card
    assert "chance: 0.1250" in card and "no interval over groups" in card


# refusals
# --------------------------------------------------------------------------------------------------


def test_what_cannot_be_exported_is_one_line(trained, tmp_path, capsys):
    space = trained("rxrx1")
    before = contents(space.run_folder)

    def line(*words):
        return error_line(
            capsys, "export", "tiny", "--out", tmp_path / "m", *words, cwd=space.folder
        )

    assert line("--fold", "7") == "--fold 7: tiny has the folds 0"
    assert line("--stage", "al") == "--stage al: tiny has the stages all, cell_type"
    assert line() == (
        "--key: stage 'cell_type' has a model for each of HEPG2, HUVEC, RPE, U2OS; name one"
    )
    assert "; not of 'HELA'" in line("--key", "HELA")
    assert line("--stage", "all", "--set", "predict.adapt=plate").startswith("predict.adapt: plate")
    assert not (tmp_path / "m").exists() and contents(space.run_folder) == before


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(formats.EXTRAS, "onnx", ("json", "no_such_package"))
    with pytest.raises(InputError, match=r"needs the package no_such_package.*\[onnx\]"):
        formats.require_packages("onnx")


def test_a_folder_of_another_model_is_refused(made, tmp_path):
    out = tmp_path / "out"
    export_model(made("fixed", **FIXED), out, "torch_export")
    text = (out / "model.pt2.json").read_text()
    (out / "model.pt2.json").write_text(text.replace('"sha256": "', '"sha256": "0'))
    kept = contents(out)
    with pytest.raises(InputError, match="holds another model"):
        export_model(made("fixed", **FIXED), out, "torch_export")
    assert contents(out) == kept


# what is loaded
# --------------------------------------------------------------------------------------------------


def test_only_the_file_that_was_written_is_loaded(made, tmp_path):
    path = export_model(made("fixed", **FIXED), tmp_path, "torch_export")
    digest = sha256(path)
    with open(path, "ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match="SHA-256 differs"):
        formats.run_written("torch_export", path, digest, [])


def test_a_pickled_part_is_never_loaded(made, tmp_path):
    path = export_model(made("fixed", **FIXED), tmp_path, "torch_export")
    formats.refuse_pickles(path)
    other = tmp_path / "other.pt2"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("_weights_config.json"):
                data = data.replace(b'"use_pickle": false', b'"use_pickle": true', 1)
            new.writestr(name, data)
    with pytest.raises(InputError, match="is pickled; it is not loaded"):
        formats.run_written("torch_export", other, sha256(other), [])


def test_a_file_that_takes_its_own_size_alone_says_so(made, monkeypatch):
    """Where no tracing is good for other sizes, the run's own is left."""
    config = made("global", normalization={"by": "global"})
    chosen = choosing.open_chosen(choosing.choose_job(config, None, None, None))
    real = formats._trace

    def refuse_any_size(model, example, any_size):
        if any_size:
            raise RuntimeError("Guard failed")
        return real(model, example, any_size)

    monkeypatch.setattr(formats, "_trace", refuse_any_size)
    assert formats.other_size(chosen.model, chosen.inputs) == (56, 88)
    program, other = formats.trace(chosen.model, chosen.inputs, (56, 88))
    assert other is None
    images = torch.from_numpy(chosen.inputs.images[:3])
    with torch.inference_mode():
        logits = program.module()(images=images)["logits"].numpy()
    assert np.abs(logits - chosen.expected[:3]).max() < 1e-4


def test_channels_that_the_model_does_not_see_are_said_and_change_nothing(tmp_path, plates):
    model = {"backbone": "test_resnet", "channel_wise": "mean"}
    config = make_config(plates, tmp_path / "runs", [stage(epochs=1)], model=model)
    train(config)
    seeing = config.model_copy(
        update={"predict": config.predict.model_copy(update={"channels": (1, 3)})}
    )
    path = export_model(seeing, tmp_path / "out", "torch_export")
    facts = json.loads(path.with_name(f"{path.name}.json").read_text())
    names = facts["channels"]
    assert len(names) == 6 and facts["channels_seen"] == [names[0], names[2]]
    card = path.with_name("MODEL_CARD.md").read_text()
    assert f"It looks at {names[0]}, {names[2]} alone" in card
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 6, 24, 24), np.uint8)
    statistics = {
        "shift": np.full((2, 6), 100, np.float32),
        "scale": np.full((2, 6), 50, np.float32),
    }
    before = outputs(path, facts, {"images": images, **statistics})[0]
    hidden, shown = images.copy(), images.copy()
    hidden[:, [1, 3, 4, 5]] = 0
    shown[:, 2] = 0
    assert np.array_equal(before, outputs(path, facts, {"images": hidden, **statistics})[0])
    assert not np.allclose(before, outputs(path, facts, {"images": shown, **statistics})[0])


def test_statistics_of_controls_are_refused_with_options_that_work(tmp_path, plates, capsys):
    config = make_config(
        plates,
        tmp_path / "runs",
        [stage(epochs=1)],
        predict={"adapt": "plate", "adapt_wells": "controls"},
    )
    train(config)
    words = ("export", "runs/tiny/seed0/config.yaml", "--out", "out")
    line = error_line(capsys, *words, cwd=tmp_path)
    advice = ("--set", "predict.adapt=none", "--set", "predict.adapt_wells=all")
    assert " ".join(advice) in line
    assert cellsignal(*words, *advice, cwd=tmp_path) == 0
