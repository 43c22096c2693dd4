"""Record what predictions were made from, and check that config and files still agree.

One list of inputs serves every reader: `predict` and `embed` make a file anew when the list has
changed, the pieces of an interrupted prediction lie in a folder named by it, and `submit`, `oof`,
`score` and `treatments` refuse a config's predictions that were made from something else.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cellsignal.common.errors import InputError
from cellsignal.common.files import changed_inputs, digest, flatten_dict, sha256
from cellsignal.competitions import get_competition
from cellsignal.competitions.folds import labelled
from cellsignal.config import Config
from cellsignal.config.schema import Model, Predict
from cellsignal.config.strict import Strict
from cellsignal.data.folds import FoldTable, read_folds
from cellsignal.data.store import Store, has_store
from cellsignal.prediction.container import read_about, read_parts

log = logging.getLogger(__name__)
MADE_FROM = "made_from"  # key of `about`
# keys of the config that the first predictions files do not have
_LATER = {"channels", "channel_wise", "channel_dropout", "dynamic_size"}


def config_inputs(config: Config, stage_index: int) -> dict[str, Any]:
    """Return the config keys that decide the bytes of a stage's predictions and embeddings."""
    tree, names = config.model_dump(mode="json"), ("channels", "controls", "sites", "size")
    return {
        "predict": _without_defaults(tree["predict"], Predict),
        "protocol": config.protocol,
        "normalization": tree["normalization"],
        "data": {name: tree["data"][name] for name in names}
        | ({} if config.data.exclude is None else {"exclude": _hash_of(config.data.exclude)}),
        "model": _without_defaults(tree["model"], Model),
        "amp": tree["stages"][stage_index]["amp"],
    }


def _without_defaults(section: dict[str, Any], schema: type[Strict]) -> dict[str, Any]:
    """Leave out the keys that came after the first files, where they say what was done before."""
    fields = schema.model_fields
    return {
        name: value
        for name, value in section.items()
        if name not in _LATER or value != fields[name].default
    }


def _hash_of(file: Path) -> str:
    """Return the hash of a list that the config names; jobs say it if there is no such file."""
    return sha256(file) if file.is_file() else "missing"


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
        checkpoints: key of a model -> its file.
        sample_ids, part: (N,) the samples in the file and the part each is of.
        version: of the code that makes the file.
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
    """Return whether a file exists and was made from exactly these inputs; log what changed.

    Args:
        load: reads the file and returns an object with `about`.
        inputs: of `made_from`.
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
    """Return the predictions files of a config's run, each checked against the config.

    Files of folds that `folds.use` leaves out are passed over, with a warning; so are folds without
    a file.

    Args:
        all_seeds: of all seeds that were predicted; else of the config's own.
        stage_index: of this stage alone.

    Raises:
        InputError: an unknown competition, no predictions, or predictions that were made from
            something else: another training, setting, store, checkpoint, stage or fold table. Names
            the file, and the command that makes it anew.
    """
    get_competition(config.competition)
    folder = config.runs / config.name if all_seeds else config.run_folder
    paths = sorted(folder.glob("seed*/predictions/*.npz" if all_seeds else "predictions/*.npz"))
    if not paths:
        raise InputError(
            f"{folder}: no predictions; run `cellsignal predict` with this config first"
        )
    abouts = {}
    for path in paths:
        about = read_about(path)
        if _is_used(path, about, config, stage_index):
            abouts[path] = about
    if not abouts:
        raise InputError(
            f"{folder}: no predictions of this config's folds and stages; run `cellsignal predict` "
            "first"
        )
    from cellsignal.training.identity import refuse_other_run  # loads torch

    for run_folder in dict.fromkeys(path.parent.parent for path in abouts):
        refuse_other_run(run_folder, config)
    _warn_of_missing(config, list(abouts.values()))
    store, folds = _read_store_and_folds(config)
    for path, about in abouts.items():
        difference = _find_difference(path, about, config, store)
        if difference is None and folds is not None:
            difference = _find_fold_difference(path, about, store, folds, config)
        if difference is not None:
            raise InputError(
                f"{path}: {difference}; run `cellsignal predict` with this config again"
            )
    return list(abouts)


def _read_store_and_folds(config: Config) -> tuple[Store | None, FoldTable | None]:
    """Read the config's store and fold table, each None if it does not exist.

    A store of test samples alone, as a kernel packs it, has nothing that a fold could hold out.
    """
    if not has_store(config.data.store):
        return None, None
    store = Store.open(config.data.store)
    if not config.folds.file.is_file() or not labelled(store.samples).any():
        return store, None
    return store, read_folds(config.folds.file, store.samples)


def _is_used(path: Path, about: dict[str, Any], config: Config, stage_index: int | None) -> bool:
    fold, use = about.get("fold"), config.folds.use
    used = config.folds.full if fold is None else use is None or fold in use
    if not used:
        log.warning("%s: is left out, the config's folds do not name its fold", path)
        return False
    return stage_index is None or about.get("stage_index") == stage_index


def _warn_of_missing(config: Config, abouts: list[dict[str, Any]]) -> None:
    """Warn about folds of the config, or its own seed, that have no predictions."""
    folds = {about.get("fold") for about in abouts}
    missing = [f"fold {fold}" for fold in sorted(set(config.folds.use or ()) - folds)]
    if config.folds.full and None not in folds:
        missing.append("the model of all folds (folds.full)")
    seeds = sorted({about.get("seed") for about in abouts} - {None})
    if seeds and config.seed not in seeds:
        missing.append(f"seed {config.seed} (those of seed {', '.join(map(str, seeds))} serve)")
    folder = config.runs / config.name
    for what in missing:
        log.warning("%s: no predictions of %s, which the config uses", folder, what)


def _find_difference(
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
    is_recorded = "predict" in recorded
    before = flatten_dict(recorded if is_recorded else {"predict": about.get("settings", {})})
    now = flatten_dict(config_inputs(config, names.index(stage)))
    for key in now:
        if key in before and before[key] != now[key] and key != "predict.batch_size":
            return f"was made with {key} {before[key]}, the config says {now[key]}"
    if not is_recorded:
        log.warning(
            "%s: an earlier version made it; its store and checkpoints cannot be checked", path
        )
        return None
    if store is not None:
        hashes = store_inputs(store)
        changed = [key for key, value in hashes.items() if recorded.get(key) != value]
        if changed:
            names = " and ".join(changed)
            return f"was made from another state of {store.path} (its {names} changed since)"
    return _find_changed_checkpoint(path, about)


def _find_fold_difference(
    path: Path, about: dict[str, Any], store: Store, folds: FoldTable, config: Config
) -> str | None:
    """Return how out-of-fold samples differ from the fold table's held-out ones, or None."""
    fold = about.get("fold")
    if fold is None:
        return None
    if fold not in folds.folds:
        names = ", ".join(map(str, folds.folds))
        return f"is of fold {fold}, and {config.folds.file} has the folds {names}"
    held_out = set(store.samples.sample_id[folds.validation(store.samples, fold)].astype(str))
    sample_ids, part = read_parts(path)
    others = [name for name in sample_ids[part == "oof"] if name not in held_out]
    if not others:
        return None
    return (
        f"{len(others)} of its out-of-fold samples are not those that fold {fold} of "
        f"{config.folds.file} holds out, first {str(others[0])!r}"
    )


def _find_changed_checkpoint(path: Path, about: dict[str, Any]) -> str | None:
    """A checkpoint beside the predictions that did not make them; absent ones are not checked."""
    fold = "full" if about.get("fold") is None else f"fold{about['fold']}"
    for key, recorded in about[MADE_FROM]["checkpoints"].items():
        name = Path(about.get("inputs", {}).get(key, {}).get("path", "last.pt")).name
        file = path.parent.parent / fold / about["stage"] / key / name
        if file.is_file() and sha256(file) != recorded:
            return f"was made by another state of {file}"
    return None
