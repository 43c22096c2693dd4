"""The config schema: what is refused, and what the message says."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from cellsignal.common.errors import InputError
from cellsignal.config import config_differences, dump_config, load_config
from cellsignal.config.load import change_of
from cellsignal.config.schema import Config, Submit
from cellsignal.config.stage import PseudoLabels

REPOSITORY = Path(__file__).resolve().parents[2]
BASE = {
    "name": "x",
    "competition": "rxrx1",
    "data": {"root": "a", "store": "b"},
    "folds": {"file": "f.csv"},
    "stages": [{"name": "all", "epochs": 2, "augment": [{"name": "blur", "sigma": [0.5, 1.0]}]}],
}


@pytest.fixture
def write(tmp_path):
    def _write(tree, name="c.yaml"):
        path = tmp_path / name
        path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
        return path

    return _write


def test_every_committed_config_loads():
    files = sorted((REPOSITORY / "configs").rglob("*.yaml"))
    assert files
    for file in files:
        assert load_config(file).competition == file.parent.name


def test_dump_and_load_is_the_same_config(write):
    config = load_config(write(BASE))
    assert load_config(write(dump_config(config), "again.yaml")) == config


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (["modle.backbone=resnet18"], r"unknown key modle \(did you mean 'model'\?\)"),
        (["stages.0.optimizer.lrr=1"], r"stages\.0\.optimizer\.lrr \(did you mean 'lr'\?\)"),
        (
            ["stages.0.augment.0.sgima=1"],
            r"stages\.0\.augment\.0.*sgima \(did you mean 'sigma'\?\)",
        ),
        *(
            (
                [f"stages.0.snapshots={word}"],
                rf": stages\.0\.snapshots: takes cycles, or a list of epochs such as \[10, 20\], "
                rf"got {shown}$",
            )
            for word, shown in (("cycle", "'cycle'"), ("3", "3"), ("[1, x]", r"\[1, 'x'\]"))
        ),
        (["stages.0.snapshots=[true]"], r"snapshots: takes cycles"),
        (["stages.0.epochs=none"], r"stages\.0\.epochs: .*got 'none'"),
        (["stages.0.epochs=0"], r"stages\.0\.epochs: .*greater than or equal to 1, got 0"),
        (
            ["stages.1.epochs=3"],
            r"--set stages\.1\.epochs=3: '1' is neither a name nor an index of a list of 1",
        ),
        (
            ["normalization.by=global", "normalization.wells=controls"],
            "controls needs by: experiment or plate",
        ),
        (["stages.0.init=previous"], "the first stage has no previous one"),
        (["stages.0.mix={mixup: 0}"], "alpha above 0"),
        (["nonsense"], "write key.path=value"),
        (
            ["stages.0.schedule={name: onecycle, warmup_epochs: 2}"],
            r"stages\.0: schedule\.warmup_epochs: 2 leaves onecycle none of 2 epochs",
        ),
        (
            ["stages.0.optimizer={name: nesterov, momentum: 0}"],
            r"stages\.0\.optimizer: name: nesterov needs",
        ),
    ],
)
def test_wrong_keys_are_named_with_their_path(write, change, expected):
    with pytest.raises(InputError, match=expected) as error:
        load_config(write(BASE), change)
    assert "\n" not in str(error.value)


def test_override_of_a_nested_key(write):
    config = load_config(write(BASE), ["stages.0.epochs=7", "predict.tta=4", "data.sites=[1]"])
    assert (config.stages[0].epochs, config.predict.tta, config.data.sites) == (7, 4, (1,))


def test_base_is_merged_key_by_key_and_lists_are_replaced(write):
    write(BASE, "base.yaml")
    path = write(
        {
            "base": "base.yaml",
            "name": "y",
            "data": {"size": 64},
            "stages": [{"name": "only", "epochs": 1}],
        },
        "over.yaml",
    )
    config = load_config(path)
    assert (
        config.name,
        config.data.size,
        str(config.data.root),
        [s.name for s in config.stages],
    ) == (
        "y",
        64,
        "a",
        ["only"],
    )


def test_a_chain_of_bases_and_items_changed_by_name(write):
    write(BASE, "base.yaml")
    write({"base": "base.yaml", "name": "y", "seed": 3}, "middle.yaml")
    change = {"all": {"epochs": 7, "augment": {"blur": {"p": 0.9}, 0: {"sigma": [1, 2]}}}}
    config = load_config(write({"base": "middle.yaml", "stages": change, "seed": 4}, "top.yaml"))
    (stage,) = config.stages
    assert (config.name, config.seed, stage.epochs, stage.augment[0].p) == ("y", 4, 7, 0.9)
    assert stage.augment[0].sigma == (1, 2)


def test_a_base_lies_beside_its_file(write, tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    write(BASE, "base.yaml")
    path = write({"base": "../base.yaml", "name": "y"}, "below/over.yaml")
    monkeypatch.chdir("/")
    assert load_config(path).name == "y"


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ({"base": "over.yaml"}, r"circle: over\.yaml -> over\.yaml"),
        ({"base": "none.yaml"}, r"none\.yaml: no such file"),
        ({"base": ["base.yaml"]}, "needs the path of one config"),
        ({"base": "base.yaml", "stages": {"al": {}}}, r"stages: 'al' .*did you mean 'all'\?"),
        ({"base": "base.yaml", "stages": {"all": {"epoch": 3}}}, r"epoch \(did you mean 'epochs'"),
    ],
)
def test_a_base_that_cannot_be_is_refused_in_one_line(write, over, expected):
    write(BASE, "base.yaml")
    with pytest.raises(InputError, match=expected) as error:
        load_config(write(over, "over.yaml"))
    assert "\n" not in str(error.value)


def test_a_circle_of_two_bases_is_refused(write):
    write({"base": "b.yaml"}, "a.yaml")
    with pytest.raises(InputError, match=r"circle: a\.yaml -> b\.yaml -> a\.yaml"):
        load_config(write({"base": "a.yaml"}, "b.yaml").with_name("a.yaml"))


def test_an_override_by_name(write):
    tree = BASE | {"stages": [*BASE["stages"], {"name": "fine_tune", "epochs": 2}]}
    changes = ["stages.fine_tune.epochs=3", "stages.all.augment.blur.p=0.5"]
    config = load_config(write(tree), [*changes, "stages.all.augment.1={name: rotate90}"])
    first, second = config.stages
    assert (second.epochs, first.augment[0].p, first.augment[1].name) == (3, 0.5, "rotate90")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("stages.al.epochs=3", r"'al' is neither .* \(did you mean 'all'\?\)"),
        ("stages.1.epochs=3", r"'1' is neither .* of 1; there is all"),
        ("stages.all.augment.blur.p=0.5", "'blur' occurs 2 times; give its number"),
    ],
)
def test_an_override_of_no_one_item_is_refused(write, change, expected):
    stage = BASE["stages"][0] | {"augment": [{"name": "blur"}, {"name": "blur"}]}
    with pytest.raises(InputError, match=expected):
        load_config(write(BASE | {"stages": [stage]}), [change])


@pytest.mark.parametrize(
    ("text", "expected"), [("a: [", "not valid YAML"), ("[1, 2]", "mapping"), ("", "mapping")]
)
def test_what_is_no_config(write, text, expected):
    with pytest.raises(InputError, match=expected):
        load_config(write(text))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")


def test_differences_name_the_keys():
    old, new = Config(**BASE).model_dump(mode="json"), Config(**BASE).model_dump(mode="json")
    new["stages"][0]["epochs"] = 5
    new["seed"] = 3
    assert config_differences(old, new) == ["seed: 0 -> 3", "stages.0.epochs: 2 -> 5"]


@pytest.mark.parametrize(
    ("value", "accepted"), [(0, True), (1, True), (3, True), (0.02, False), (-1, False)]
)
@pytest.mark.parametrize("section", [Submit, PseudoLabels])
def test_least_confidence_is_a_z_and_no_longer_nats(section, value, accepted):
    if accepted:
        assert section(least_confidence=value).least_confidence == value
    else:
        with pytest.raises(
            ValidationError,
            match="is a z, no longer nats a well" if value > 0 else "greater than or equal",
        ):
            section(least_confidence=value)
    assert section().least_confidence == 3.0


@pytest.mark.parametrize(
    ("content", "kind"), [("", "empty"), ("- a", "a list"), ("word", "text"), ("3", "the value 3")]
)
def test_what_is_no_mapping_is_named_in_plain_words(tmp_path, content, kind):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=f"a config is a mapping of keys, this is {kind}$"):
        load_config(path)


@pytest.mark.parametrize(
    "text", ["stores/a", "a b: [c]", "x #y", "123", "null", " a ", "a'b", 'a"b\\', "{a", "~", "ü"]
)
def test_a_change_gives_its_text_back(write, text):
    changed = load_config(write(BASE), [change_of("data.store", text)])
    assert str(changed.data.store) == text
