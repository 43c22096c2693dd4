"""Recorded configs of earlier versions are read; a person's file is told what to write instead."""

import pytest
import yaml
from pydantic import ValidationError

from cellsignal.common.errors import InputError
from cellsignal.config import load_config
from cellsignal.config.schema import Config
from cellsignal.config.upgrade import REMOVED, upgrade_recorded

BASE = {
    "name": "x",
    "competition": "rxrx1",
    "data": {"root": "a", "store": "b"},
    "folds": {"file": "f.csv"},
    "stages": [{"name": "all", "epochs": 8}],
}
SALT = {"name": "salt_and_pepper", "p": 0.4, "amount": [0.01, 0.02]}


def recorded(**old):
    """A config with every default written out, its stage changed to what old versions wrote."""
    tree = Config(**BASE).model_dump(mode="json")
    (stage,) = tree["stages"]
    for key, value in old.items():
        stage[key] = stage[key] | value if isinstance(stage.get(key), dict) else value
    return tree


def test_a_config_of_an_earlier_version_is_read():
    old = BASE["stages"][0] | {
        "focal": {"gamma": 1.5},
        "swa": {"start": 0.5},
        "early_stopping": {"patience": 4, "min_delta": 0.0},
        "drop_predicted_controls": {"after_epochs": 1},
        "optimizer": {"name": "adam", "betas": [0.9, 0.999]},
    }
    (stage,) = Config(**upgrade_recorded(BASE | {"stages": [old]})).stages
    values = stage.focal, stage.swa, stage.early_stopping, stage.drop_predicted_controls
    assert (*values, stage.optimizer.name) == (1.5, 0.5, 4, 1, "adam")
    assert old["focal"] == {"gamma": 1.5}, "the recorded config is left as it is"


def test_a_config_recorded_today_stays_as_it_is():
    parts = {"early_stopping": 4, "swa": 0.5, "drop_predicted_controls": 1, "focal": 1.5}
    tree = Config(**BASE | {"stages": [BASE["stages"][0] | parts]}).model_dump(mode="json")
    assert upgrade_recorded(tree) == tree


@pytest.mark.parametrize(
    "part", [{"optimizer": {"betas": [0.8, 0.9]}}, {"early_stopping": {"min_delta": 0.1}}]
)
def test_a_removed_key_that_had_an_effect_is_not_dropped(part):
    tree = upgrade_recorded(BASE | {"stages": [BASE["stages"][0] | part]})
    with pytest.raises(ValidationError, match=r"betas|early_stopping"):
        Config(**tree)


@pytest.mark.parametrize(
    ("old", "today"),
    [
        ({"batches": {"unique_labels": True}}, {"batches": {"labels": "unique"}}),
        ({"batches": {"balanced": True}}, {"batches": {"labels": "balanced"}}),
        ({"batches": {"unique_labels": False, "balanced": False, "identities": None}}, {}),
        ({"batches": {"identities": 8, "images": 4}}, {"batches": {"images": 4}}),
        ({"optimizer": {"name": "sgd", "nesterov": True}}, {"optimizer": {"name": "nesterov"}}),
        ({"optimizer": {"name": "sgd", "nesterov": False}}, {"optimizer": {"name": "sgd"}}),
        ({"target": "compound", "unlabelled": True}, {"target": "any_compound"}),
        ({"target": "compound", "unlabelled": False}, {"target": "compound"}),
        (
            {"schedule": {"name": "exponential", "factor": 0.1, "gamma": 0.9}},
            {"schedule": {"name": "exponential", "factor": 0.9}},
        ),
        (
            {"schedule": {"name": "plateau", "factor": 0.5, "gamma": 0.95}},
            {"schedule": {"name": "plateau", "factor": 0.5}},
        ),
        ({"schedule": {"factor": 0.1, "gamma": 0.95, "pct_start": 0.2}}, {}),
        (
            {"schedule": {"name": "onecycle", "pct_start": 0.25}},
            {"schedule": {"name": "onecycle", "warmup_epochs": 2.0}},
        ),
        ({"schedule": {"name": "onecycle", "pct_start": 0.2}}, {"schedule": {"name": "onecycle"}}),
        (
            {"augment": [SALT, {"name": "rotate90"}]},
            {
                "augment": [
                    {"albumentations": "SaltAndPepper", "amount": [0.01, 0.02], "p": 0.4},
                    {"name": "rotate90"},
                ]
            },
        ),
    ],
)
def test_keys_that_are_gone_are_said_in_todays(old, today, tmp_path):
    """To the same config as one that is written today, so that the run resumes."""
    expected = Config(**BASE | {"stages": [BASE["stages"][0] | today]})
    assert Config(**upgrade_recorded(recorded(**old))).model_dump() == expected.model_dump()
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(recorded(**old)))
    assert load_config(path) == expected


@pytest.mark.parametrize(
    ("old", "key"),
    [
        ({"batches": {"identities": 4, "images": 4}}, "batches.identities"),
        ({"optimizer": {"name": "adam", "nesterov": True}}, "optimizer.nesterov"),
        ({"target": "label", "unlabelled": True}, "unlabelled"),
    ],
)
def test_what_today_cannot_say_is_refused(old, key):
    with pytest.raises(ValidationError, match=key.replace(".", r"\.")):
        Config(**upgrade_recorded(recorded(**old)))


@pytest.mark.parametrize(
    ("change", "key", "advice"),
    [
        ("batches={unique_labels: true}", "batches.unique_labels", "write labels: unique"),
        ("batches={balanced: true}", "batches.balanced", "write labels: balanced"),
        ("batches={identities: 8, images: 4}", "batches.identities", "images is enough"),
        ("schedule={name: exponential, gamma: 0.9}", "schedule.gamma", "write factor"),
        ("schedule={name: onecycle, pct_start: 0.3}", "schedule.pct_start", "warmup_epochs"),
        ("optimizer={name: sgd, nesterov: true}", "optimizer.nesterov", "name: nesterov"),
        ("optimizer={betas: [0.8, 0.9]}", "optimizer.betas", "remove the key"),
        ("unlabelled=true", "unlabelled", "write target: any_compound"),
        (
            "augment=[{name: salt_and_pepper}]",
            "augment.0.name",
            "write {albumentations: SaltAndPepper, amount: [0.001, 0.01], p: 0.3}",
        ),
    ],
)
def test_a_persons_file_is_told_what_to_write_instead(change, key, advice, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(BASE))
    with pytest.raises(InputError) as error:
        load_config(path, [f"stages.0.{change}"])
    message = str(error.value)
    assert f"stages.0.{key}" in message and advice in message and "\n" not in message


def test_every_key_that_is_gone_has_its_line_tested_above():
    tested = test_a_persons_file_is_told_what_to_write_instead.pytestmark[0].args[1]
    assert set(REMOVED) <= {key.rpartition(".")[2] for _, key, _ in tested}
