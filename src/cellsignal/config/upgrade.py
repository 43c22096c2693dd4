"""Keys of earlier versions: how a recorded config is rewritten, and what to write instead of them.

A config that a run recorded is rewritten, so that old runs can be read and resumed. In a person's
file a key that is gone is refused, with a line that says what to write.
"""

import copy
from typing import Any

# key that is gone -> what to write instead
REMOVED = {
    "betas": "adam's betas are 0.9 and 0.999 now; remove the key",
    "unique_labels": "write labels: unique in place of true, labels: any in place of false",
    "balanced": "write labels: balanced in place of true, labels: any in place of false",
    "identities": "batches.images is enough, with batch_size: identities x images; remove the key",
    "gamma": "write factor in its place",
    "pct_start": "write warmup_epochs: pct_start x epochs",
    "nesterov": "write optimizer.name: nesterov in place of nesterov: true",
    "unlabelled": "write target: any_compound in place of target: compound and unlabelled: true",
}
# augmentation that is gone -> the same one as a transform of albumentations
REMOVED_AUGMENTATIONS = {
    "salt_and_pepper": "{albumentations: SaltAndPepper, amount: [0.001, 0.01], p: 0.3}"
}
# sections of one key that earlier versions wrote out: that key and its default
_FLATTENED = {
    "focal": {"gamma": 2.0},
    "swa": {"start": 0.75},
    "early_stopping": {"patience": 5},
    "drop_predicted_controls": {"after_epochs": None},
}
# keys that every recorded config has, since defaults are written out, and hardly a person's file
_WRITTEN_OUT = {"seed", "runs", "normalization", "model", "predict", "submit"}


def upgrade_recorded(tree: dict[str, Any]) -> dict[str, Any]:
    """Rewrite a config of an earlier version in today's keys.

    A removed key goes only where what it says can be said in today's keys. Otherwise it stays, and
    is then refused as unknown.
    """
    tree = copy.deepcopy(tree)
    stages = tree.get("stages")
    for stage in stages if isinstance(stages, list) else ():
        if not isinstance(stage, dict):
            continue  # refused by the schema
        _flatten(stage)
        if set(tree) >= _WRITTEN_OUT:
            _rename(stage)
    return tree


def _flatten(stage: dict[str, Any]) -> None:
    """Write sections of one key as its value, and leave out keys that had their default."""
    early_stopping = stage.get("early_stopping")  # a number in today's configs
    if isinstance(early_stopping, dict) and early_stopping.get("min_delta") == 0:
        del early_stopping["min_delta"]
    for key, defaults in _FLATTENED.items():
        section = stage.get(key)
        if isinstance(section, dict) and set(section) <= set(defaults):
            (stage[key],) = (defaults | section).values()
    optimizer = stage.get("optimizer")
    if isinstance(optimizer, dict) and optimizer.get("betas") in ([0.9, 0.999], (0.9, 0.999)):
        del optimizer["betas"]


def _rename(stage: dict[str, Any]) -> None:
    """Say with today's keys what a recorded stage says with those that are gone."""
    for key, rename in (
        ("optimizer", _rename_optimizer),
        ("schedule", _rename_schedule),
        ("batches", _rename_batches),
    ):
        if isinstance(stage.get(key), dict):
            rename(stage[key], stage)
    if not stage.get("unlabelled", True):
        del stage["unlabelled"]
    elif stage.get("unlabelled") and stage.get("target") == "compound":
        del stage["unlabelled"]
        stage["target"] = "any_compound"
    augment = stage.get("augment")
    if isinstance(augment, list):
        stage["augment"] = [_rename_augmentation(item) for item in augment]


def _rename_optimizer(optimizer: dict[str, Any], stage: dict[str, Any]) -> None:
    if not optimizer.get("nesterov", True):
        del optimizer["nesterov"]
    elif optimizer.get("nesterov") and optimizer.get("name") == "sgd":
        del optimizer["nesterov"]
        optimizer["name"] = "nesterov"


def _rename_schedule(schedule: dict[str, Any], stage: dict[str, Any]) -> None:
    name = schedule.get("name")
    if "gamma" in schedule:
        gamma = schedule.pop("gamma")
        if name == "exponential":
            schedule["factor"] = gamma
        elif name != "plateau":
            schedule["factor"] = None  # had no effect
    share = schedule.pop("pct_start", 0.2)
    if name == "onecycle" and share != 0.2:
        schedule["warmup_epochs"] = share * stage["epochs"]


def _rename_batches(batches: dict[str, Any], stage: dict[str, Any]) -> None:
    for key, labels in (("unique_labels", "unique"), ("balanced", "balanced")):
        if batches.pop(key, False):
            batches["labels"] = labels
    identities, images = batches.get("identities"), batches.get("images")
    if identities is None or (images and identities * images == stage.get("batch_size")):
        batches.pop("identities", None)


def _rename_augmentation(item: Any) -> Any:
    if not isinstance(item, dict) or item.get("name") != "salt_and_pepper":
        return item
    return {
        "name": "albumentations",
        "transform": "SaltAndPepper",
        "parameters": {"amount": list(item.get("amount", (0.001, 0.01)))},
        "p": item.get("p", 0.3),
    }
