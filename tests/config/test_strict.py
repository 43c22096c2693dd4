"""Words that YAML reads as something else: every key of the schema takes what its page documents,
in every spelling.
"""

import itertools
import typing

import pytest
import yaml
from pydantic import BaseModel

from cellsignal.common.errors import InputError
from cellsignal.config import load_config
from cellsignal.config.load import read_mapping
from cellsignal.config.schema import Config

TREE = {
    "name": "x",
    "competition": "rxrx1",
    "data": {"root": "a", "store": "b"},
    "folds": {"file": "f.csv"},
    "stages": [{"name": "all", "epochs": 3}],
}
BARE = {
    "off": ("off", "Off", "OFF", "no", "No", "NO", "false"),
    "none": ("none", "None", "NONE", "null", "~", ""),
}
BARE["on"] = ("on", "On", "ON", "yes", "YES", "true")


def sections(model: type[BaseModel], path: str = "") -> list[tuple[type[BaseModel], str]]:
    """Every section of the schema with the path of its keys, items of `augment` included."""
    found = [(model, path)]
    for name, field in model.model_fields.items():
        number = "0." if typing.get_origin(field.annotation) is tuple else ""
        for inner in models_in(field.annotation):
            found += sections(inner, f"{path}{name}.{number}")
    return found


def models_in(annotation) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in typing.get_args(annotation) for model in models_in(inner)]


LITERALS = [
    (section, f"{path}{key}", option)
    for section, path in sections(Config)
    for key, field in section.model_fields.items()
    if typing.get_origin(field.annotation) is typing.Literal
    for option in typing.get_args(field.annotation)
]
OPTIONAL = [
    (section, f"{path}{key}")
    for section, path in sections(Config)
    for key, field in section.model_fields.items()
    if type(None) in typing.get_args(field.annotation)
]


def read(section: type[BaseModel], key: str, text: str):
    """What a section's own validation starts from, for a value as it stands in a YAML file."""
    return section._reads_words({key: yaml.safe_load(text)})[key]


def test_the_schema_is_searched_to_its_ends():
    paths = {path for _, path, _ in LITERALS}
    assert {
        "stages.0.amp",
        "stages.0.triplet.mining",
        "stages.0.augment.0.name",
        "submit.repeats",
    } <= paths
    assert {"model.weights", "stages.0.augment.0.size", "data.channels", "stages.0.center.lr"} <= {
        path for _, path in OPTIONAL
    }


@pytest.mark.parametrize(("section", "path", "option"), LITERALS, ids=str)
def test_a_word_is_taken_in_every_spelling(section, path, option):
    key, word = path.rpartition(".")[2], str(option)
    quoted = [
        f"{mark}{spelling}{mark}"
        for mark in "\"'"
        for spelling in (word, word.upper(), word.capitalize())
    ]
    for text in (word, word.upper(), word.capitalize(), *BARE.get(option, ()), *quoted):
        assert read(section, key, text) == option, text
        assert type(read(section, key, text)) is type(option), text


@pytest.mark.parametrize(("section", "path"), OPTIONAL, ids=str)
def test_what_may_be_left_out_takes_none_in_every_spelling(section, path):
    for text in (*BARE["none"], "'none'", '"null"', '"~"'):
        assert read(section, path.rpartition(".")[2], text) is None, text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stages.0.amp", "off"),
        ("stages.0.compile", "off"),
        ("submit.repeats", "off"),
        ("normalization.by", "none"),
    ],
)
def test_a_word_counts_in_a_file_and_on_the_command_line(tmp_path, key, value):
    def read_key(config):
        for part in key.split("."):
            config = config[int(part)] if part.isdigit() else getattr(config, part)
        return config

    plain = tmp_path / "plain.yaml"
    plain.write_text(yaml.safe_dump(TREE))
    for number, word in enumerate(BARE[value]):
        assert read_key(load_config(plain, [f"{key}={word}"])) == value, word
        *_, last = key.split(".")
        file = tmp_path / f"{number}.yaml"
        line = f"{last}: {word}"
        stage, rest = (
            (f", {line}", "")
            if key.startswith("stages")
            else ("", f"{key.split('.')[0]}: {{{line}}}\n")
        )
        file.write_text(
            f"name: x\ncompetition: rxrx1\ndata: {{root: a, store: b}}\nfolds: {{file: f.csv}}\n"
            f"stages: [{{name: all, epochs: 3{stage}}}]\n{rest}"
        )
        assert read_key(load_config(file)) == value, word


@pytest.mark.parametrize(
    "change",
    ["stages.0.epochs=yes", "predict.tta=on", "data.workers=true", "stages.0.clip_norm=yes"],
)
def test_true_is_no_number(tmp_path, change):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(TREE))
    with pytest.raises(InputError, match=rf"{change.split('=')[0]}: .*'true'"):
        load_config(path, [change])


MISTAKES = [
    ("stages.0.amp=of", r"stages\.0\.amp: .* got 'of' \(did you mean 'off'\?\)"),
    (
        "stages.0.augment=[{name: blurr}]",
        r"stages\.0\.augment\.0\.name: there is no 'blurr' \(did you mean 'blur'\?\)",
    ),
    ("stages.0.augment=[{p: 1}]", r"stages\.0\.augment\.0: needs a name"),
    ("competitions=rxrx1", r"unknown key competitions \(did you mean 'competition'\?\)"),
    ("epochs=3", r"unknown key epochs \(did you mean 'stages\.0\.epochs'\?\)"),
    ("modle.backbone=x", r"unknown key modle \(did you mean 'model'\?\)"),
    ("name=2024", r"name: .* got 2024; write it in quotes"),
]


@pytest.mark.parametrize(("change", "expected"), MISTAKES)
def test_a_mistake_is_told_once(tmp_path, change, expected):
    tree = {
        key: value
        for key, value in TREE.items()
        if not (key == "competition" and change.startswith("competitions"))
    }
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(InputError, match=expected) as error:
        load_config(path, [change])
    line = str(error.value)
    assert ";" not in line.removesuffix("; write it in quotes")
    assert len(line) < 200 + len(str(tmp_path)), line


def test_two_mistakes_are_both_told(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(TREE))
    with pytest.raises(InputError, match=r"stages\.0\.amp: .*; unknown key modle") as error:
        load_config(path, ["stages.0.amp=of", "modle=x"])
    assert str(error.value).count(";") == 1


@pytest.mark.parametrize(("text", "key"), [("a: 1\nb: 2\na: 3\n", "a"), ("s: {x: 1, x: 2}\n", "x")])
def test_a_key_given_twice_is_refused(tmp_path, text, key):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"not valid YAML, line 1: the key '{key}' occurs twice"):
        read_mapping(path, "a config")


def test_a_merged_key_may_be_overridden(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n")
    assert read_mapping(path, "a config")["b"] == {"x": 3, "y": 2}


def test_no_two_words_of_a_key_mean_the_same():
    """`off`, `no` and `false` are one word; so are the others of a row."""
    for (section, path), group in itertools.groupby(LITERALS, key=lambda literal: literal[:2]):
        options = [option for _, _, option in group]
        for words in (("off", "no", "false"), ("on", "yes", "true"), ("none", "null", "~")):
            assert len(set(words) & set(options)) <= 1, (section, path)
