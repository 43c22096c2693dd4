"""What predictions and embeddings were made from, and whether a config, a store and checkpoints
still say the same.

One list of inputs serves every reader: `predict` and `embed` make a file anew when the list has
changed, the pieces of an interrupted prediction lie in a folder named by it, and `submit`, `oof`,
`protocol` and `treatments` refuse a config's predictions that were made from something else.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cellsignal.common.errors import InputError
from cellsignal.common.files import changed_inputs, digest, sha256
from cellsignal.competitions import get_competition
from cellsignal.competitions.folds import labelled
from cellsignal.config import Config
from cellsignal.data.folds import FoldTable, read_folds
from cellsignal.data.store import Store
from cellsignal.prediction.container import read_about, read_parts
from cellsignal.training.identity import refuse_other_run

log = logging.getLogger(__name__)
MADE_FROM = "made_from"  # key of `about`


def config_inputs(config: Config, stage_index: int) -> dict[str, Any]:
    """Return the parts of a config that decide the bytes of a stage's predictions and embeddings."""
    tree = config.model_dump(mode="json")
    return {
        "predict": tree["predict"],
        "protocol": config.protocol,
        "normalization": tree["normalization"],
        "data": {name: tree["data"][name] for name in ("channels", "controls", "sites", "size")},
        "model": tree["model"],
        "amp": tree["stages"][stage_index]["amp"],
    }


def store_inputs(store: Store) -> dict[str, str]:
    """Return the hashes of a store's images and of its samples table."""
    return {"store": store.content_hash, "samples": store.info["samples_sha256"]}


def made_from(
    config: Config,
    stage_index: int,
    store: Store,
    checkpoints: dict[str, Path],
    sample_ids: Sequence[str],
    part: Sequence[str],
    version: int,
) -> dict[str, Any]:
    """Return all that decides the bytes of a predictions or embeddings file.

    Args:
        checkpoints: Key of a model -> its file.
        sample_ids, part: (N,) The samples in the file and the part each is of.
        version: Of the code that makes the file.
    """
    return {
        "version": version,
        "checkpoints": {key: sha256(path) for key, path in checkpoints.items()},
        **store_inputs(store),
        "predicted": digest(sorted(zip(map(str, sample_ids), map(str, part), strict=True))),
        "data_root": str(config.data.root),
        **config_inputs(config, stage_index),
    }


def is_current(path: Path, load: Callable[[Path], Any], inputs: dict[str, Any]) -> bool:
    """Whether the file that `load` reads is there and was made from just these inputs; logs what
    has changed.

    Args:
        load: Gives an object with `about`.
        inputs: Of `made_from`.
    """
    if not path.exists():
        return False
    try:
        about = load(path).about
    except InputError as error:
        log.warning("%s; making it anew", error)
        return False
    changed = changed_inputs(about.get(MADE_FROM), inputs)
    if changed:
        log.info("%s: is made anew, for these have changed: %s", path, ", ".join(changed))
    return not changed


def config_predictions(
    config: Config, *, all_seeds: bool = True, stage_index: int | None = None
) -> list[Path]:
    """Return the predictions files of a config's run, each held to what the config says now.

    Files of folds that `folds.use` leaves out are passed over, with a warning; so are folds without
    a file.

    Args:
        all_seeds: Of all seeds that were predicted; else of the config's own.
        stage_index: Of this stage alone.

    Raises:
        InputError: An unknown competition, no predictions, or predictions that were made from
        something else: another
            training, setting, store, checkpoint, stage or fold table. Names the file, and the
            command that makes it anew.
    """
    get_competition(config.competition)
    folder = config.runs / config.name
    seeds = "seed*" if all_seeds else f"seed{config.seed}"
    where = folder if all_seeds else config.run_folder
    paths = sorted(folder.glob(f"{seeds}/predictions/*.npz"))
    if not paths:
        raise InputError(
            f"{where}: no predictions; run `cellsignal predict` with this config first"
        )
    abouts = {path: read_about(path) for path in paths}
    used = [path for path in paths if _is_used(path, abouts[path], config, stage_index)]
    if not used:
        raise InputError(
            f"{where}: no predictions of this config's folds and stages; run `cellsignal predict` "
            "first"
        )
    for run_folder in dict.fromkeys(path.parent.parent for path in used):
        refuse_other_run(run_folder, config)
    _warn_of_missing(config, [abouts[path] for path in used], folder)
    store = Store.open(config.data.store) if (config.data.store / "store.json").is_file() else None
    folds = None
    # a store of test samples alone, as a kernel packs it, has nothing that a fold could hold out
    if store is not None and config.folds.file.is_file() and labelled(store.samples).any():
        folds = read_folds(config.folds.file, store.samples)
    for path in used:
        difference = _difference(path, abouts[path], config, store) or _other_fold(
            path, abouts[path], store, folds, config
        )
        if difference:
            raise InputError(
                f"{path}: {difference}; run `cellsignal predict` with this config again"
            )
    return used


def _is_used(path: Path, about: dict[str, Any], config: Config, stage_index: int | None) -> bool:
    fold = about.get("fold")
    left_out = (
        not config.folds.full
        if fold is None
        else config.folds.use is not None and fold not in config.folds.use
    )
    if left_out:
        log.warning("%s: is left out, the config's folds do not name its fold", path)
        return False
    return stage_index is None or about.get("stage_index") == stage_index


def _warn_of_missing(config: Config, abouts: list[dict[str, Any]], folder: Path) -> None:
    """Say which of the folds that the config uses, and whether its own seed, are not among the
    predictions.
    """
    folds = {about.get("fold") for about in abouts}
    missing = [f"fold {fold}" for fold in sorted(set(config.folds.use or ()) - folds)]
    if config.folds.full and None not in folds:
        missing.append("the model of all folds (folds.full)")
    seeds = sorted({about.get("seed") for about in abouts} - {None})
    if seeds and config.seed not in seeds:
        missing.append(f"seed {config.seed} (those of seed {', '.join(map(str, seeds))} serve)")
    for what in missing:
        log.warning("%s: no predictions of %s, which the config uses", folder, what)


def _difference(
    path: Path, about: dict[str, Any], config: Config, store: Store | None
) -> str | None:
    """The first thing in which predictions and config differ, in words."""
    if about.get("competition") != config.competition:
        return f"predicts {about.get('competition')!r}, the config is for {config.competition!r}"
    names = [stage.name for stage in config.stages]
    stage = about.get("stage")
    if stage not in names or names.index(stage) != about.get("stage_index"):
        return f"is of stage {stage!r}, the config has the stages {', '.join(names)}"
    recorded = about.get(MADE_FROM, {})
    settings = recorded if "predict" in recorded else {"predict": about.get("settings", {})}
    now = config_inputs(config, names.index(stage))
    for key in changed_inputs(settings, now):
        if _has(settings, key) and _has(now, key) and key != "predict.batch_size":
            return (
                f"was made with {key} {_value(settings, key)}, the config says {_value(now, key)}"
            )
    if "predict" not in recorded:
        log.warning(
            "%s: an earlier version made it; its store and checkpoints cannot be checked", path
        )
        return None
    changed = (
        []
        if store is None
        else [key for key, value in store_inputs(store).items() if recorded.get(key) != value]
    )
    if changed:
        return f"was made from another state of {store.path} (its {' and '.join(changed)} changed since)"
    return _changed_checkpoint(path, about)


def _other_fold(
    path: Path, about: dict[str, Any], store: Store | None, folds: FoldTable | None, config: Config
) -> str | None:
    """In words, where out-of-fold samples are not what the fold table holds out for their fold."""
    fold = about.get("fold")
    if folds is None or store is None or fold is None:
        return None
    if fold not in folds.folds:
        return f"is of fold {fold}, and {config.folds.file} has the folds {', '.join(map(str, folds.folds))}"
    held_out = set(store.samples.sample_id[folds.validation(store.samples, fold)].astype(str))
    sample_ids, part = read_parts(path)
    other = [name for name in sample_ids[part == "oof"] if name not in held_out]
    if other:
        return (
            f"{len(other)} of its out-of-fold samples are not those that fold {fold} of "
            f"{config.folds.file} "
            f"holds out, first {str(other[0])!r}"
        )
    return None


def _changed_checkpoint(path: Path, about: dict[str, Any]) -> str | None:
    """A checkpoint beside the predictions that is not the one they were made by; those that are not
    here are not asked.
    """
    fold = "full" if about.get("fold") is None else f"fold{about['fold']}"
    for key, recorded in about[MADE_FROM]["checkpoints"].items():
        name = Path(about.get("inputs", {}).get(key, {}).get("path", "last.pt")).name
        file = path.parent.parent / fold / about["stage"] / key / name
        if file.is_file() and sha256(file) != recorded:
            return f"was made by another state of {file}"
    return None


def _has(tree: Any, key: str) -> bool:
    return _value(tree, key, missing := object()) is not missing


def _value(tree: Any, key: str, default: Any = None) -> Any:
    for part in key.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return default
        tree = tree[part]
    return tree
