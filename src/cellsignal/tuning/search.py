"""A search: its folder, what it varies, and the configs of its trials.

In `<runs>/<name>_tune/` lie `base.yaml` (the config that trials change), `search.json` (what the
search is), the fold tables, `journal.log` (the trials, as lines of JSON) and the results.
"""

import glob
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from cellsignal.common.errors import InputError
from cellsignal.common.files import changed_inputs, sha256, write_json, write_text
from cellsignal.config import Config, config_differences, dump_config, load_config
from cellsignal.tuning.division import FRESH_TABLE, SEARCH_TABLE, Division
from cellsignal.tuning.space import Choices, Range, Space, set_words

BASE, ABOUT, JOURNAL, LOCK = "base.yaml", "search.json", "journal.log", "lock"
# sections and keys of the base that may change between two calls without changing a score
_FREE = ("data.workers", "data.cache_gib", "data.device_gib", "tracking")
# attributes of a search that may change between two calls
_OF_CALL = ("trials", "hours", "processes", "confirm_seeds", "runs")


@dataclass(frozen=True)
class Search:
    """What a search is.

    Attributes:
        name: of the base run; trials are `<name>_trial000` and so on.
        runs: folder of all runs.
        halving: of trials with 1, N, N * N ... folds the best 1/N go on; 0: all do.
        trials: number of trials, those of earlier calls counted.
        hours: no trial starts when all trials together have trained for so long; None: no limit.
        confirm_seeds: number of seeds with which base and winner are trained again.
    """

    name: str
    runs: Path
    space: Space
    division: Division
    seed: int
    halving: int
    trials: int
    hours: float | None
    processes: int
    confirm_seeds: int

    @property
    def folder(self) -> Path:
        return search_folder(self.runs, self.name)

    @property
    def journal(self) -> Path:
        return self.folder / JOURNAL

    @property
    def base(self) -> Config:
        """The config that trials change."""
        return load_config(self.folder / BASE)

    def trial_name(self, number: int) -> str:
        return f"{self.name}_trial{number:03d}"

    def trial_config(self, number: int, values: Mapping[str, Any], folds: Sequence[int]) -> Config:
        """Return the config of a trial, on the first of its folds.

        Raises:
            InputError: the config refuses the values together.
        """
        return self._config(self.trial_name(number), set_words(values), folds)

    def base_config(self) -> Config:
        """Return the config of the unchanged base on the folds of the search."""
        return self._config(f"{self.name}_base", [], self.division.search)

    def confirm_config(self, number: int | None, values: Mapping[str, Any], seed: int) -> Config:
        """Return the config that measures a trial, or the base (None), with another seed.

        It is trained on the folds of the search's left-out groups, or on a fresh fold table.
        """
        name = f"{self.name}_base" if number is None else self.trial_name(number)
        words = [*set_words(values), f"seed={json.dumps(seed)}"]
        if self.division.left_out:
            return self._config(f"{name}_confirm", words, self.division.left_out, own=True)
        words.append(f"folds.file={json.dumps(str(self.folder / FRESH_TABLE))}")
        return self._config(f"{name}_confirm", words, None, own=True)

    def seeds(self) -> list[int]:
        """Return the seeds of the measuring: those after the seed of the search."""
        first = self.base.seed + 1
        return list(range(first, first + self.confirm_seeds))

    def _config(
        self, name: str, words: list[str], folds: Sequence[int] | None, *, own: bool = False
    ) -> Config:
        use = "none" if folds is None else json.dumps(list(folds))
        table = [] if own else [f"folds.file={json.dumps(str(self.folder / SEARCH_TABLE))}"]
        fixed = [f"name={json.dumps(name)}", f"folds.use={use}", "folds.full=false"]
        return load_config(self.folder / BASE, [*words, *table, *fixed])


def search_folder(runs: Path, name: str) -> Path:
    return runs / f"{name}_tune"


# kept between calls
# --------------------------------------------------------------------------------------------------


def save_search(search: Search, base: Config, table: Path) -> None:
    """Write `base.yaml` and `search.json`, or hold the search to those of an earlier call.

    Args:
        table: the config's own fold table.

    Raises:
        InputError: the folder holds a search with another config, space, folds or seed (the first
            difference is named), or runs with the names of trials are there but no journal. A
            folder without both holds no search: its files are written anew.
    """
    folder = search.folder
    about = _dump(search) | {"table": sha256(table)}
    if search.journal.is_file():
        _refuse_other_search(folder, about, base)
    else:
        _refuse_other_runs(search)
    write_text(folder / BASE, dump_config(base))
    write_json(folder / ABOUT, about)


def load_search(folder: Path) -> Search:
    """Read a search that `save_search` wrote."""
    tree = _read_about(folder)
    tree.pop("table", None)
    space: Space = {
        key: Choices(tuple(part["texts"])) if "texts" in part else Range(**part)
        for key, part in tree.pop("space").items()
    }
    parts = tree.pop("division")
    lists = {name: tuple(parts.pop(name)) for name in ("search", "left_out")}
    tree["runs"] = Path(tree["runs"])
    return Search(space=space, division=Division(**parts, **lists), **tree)


def _read_about(folder: Path) -> dict[str, Any]:
    """Read `search.json`.

    Raises:
        InputError: it is missing or damaged.
    """
    path = folder / ABOUT
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(tree, dict):
            raise ValueError("is no mapping")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path}: cannot be read ({why}); move {folder} and the trials' runs away to start anew"
        ) from None
    return tree


def _dump(search: Search) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(search), default=str))


def _refuse_other_search(folder: Path, about: dict[str, Any], base: Config) -> None:
    advice = "give --name for a search of its own, or move that away"
    old = load_config(folder / BASE).model_dump(mode="json")
    differences = [
        line
        for line in config_differences(old, base.model_dump(mode="json"))
        if not line.startswith(_FREE)
    ]
    if differences:
        raise InputError(f"{folder}: is a search of another config ({differences[0]}); {advice}")
    before = _read_about(folder)
    kept = [
        {name: value for name, value in tree.items() if name not in _OF_CALL}
        for tree in (before, about)
    ]
    changed = changed_inputs(*kept)
    if changed:
        raise InputError(f"{folder}: is a search with another {changed[0]}; {advice}")


def _refuse_other_runs(search: Search) -> None:
    others = _runs_of_trials(search)
    if others and (search.folder / ABOUT).is_file():
        _refuse_lost(search, "is gone", others[0])
    if others:
        raise InputError(
            f"{others[0]}: is a run of no search that is here; give --name for other names, or "
            "`cellsignal runs delete` it"
        )


def refuse_lost_trials(search: Search, count: int) -> None:
    """Refuse a journal that has lost trials: their runs are there.

    Args:
        count: trials that the journal holds.

    Raises:
        InputError: names the first run that is not of these trials, and says what to do.
    """
    for folder in _runs_of_trials(search):
        number = _number_of_trial(search, folder)
        if number is not None and number >= count:
            _refuse_lost(search, f"was cut short (it holds {count} trials)", folder)


def _refuse_lost(search: Search, what: str, run: Path) -> NoReturn:
    raise InputError(
        f"{search.journal}: {what}, and {run} is a run of its search; put the whole journal back, "
        f"or move {search.folder} and the runs {search.name}_base* and {search.name}_trial* away "
        "to start anew"
    )


def _runs_of_trials(search: Search) -> list[Path]:
    """Return the folders of runs that have the names of this search's runs, sorted."""
    pattern = re.compile(rf"{re.escape(search.name)}_(trial\d+|base)(_confirm)?")
    folders = search.runs.glob(f"{glob.escape(search.name)}_*")
    return sorted(folder for folder in folders if pattern.fullmatch(folder.name))


def _number_of_trial(search: Search, folder: Path) -> int | None:
    """Return the number of a run's trial; None if it is a run of the base."""
    word = folder.name.removeprefix(f"{search.name}_").removesuffix("_confirm")
    return None if word == "base" else int(word.removeprefix("trial"))
