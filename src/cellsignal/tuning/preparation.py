"""Check a search before anything trains, and write its fold tables."""

from collections.abc import Sequence
from pathlib import Path

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.config import Config
from cellsignal.training.check import check_jobs, check_model_section
from cellsignal.training.plan import jobs_of, open_store_and_folds
from cellsignal.training.ranks import this_process
from cellsignal.tuning.division import (
    Division,
    divide_folds,
    write_fresh_table,
    write_search_table,
)
from cellsignal.tuning.search import Search, save_search


def divide(
    config: Config, search: Sequence[int] | None, left_out: Sequence[int] | None
) -> Division:
    """Deal the folds of a config's table to the search and to the measuring of its winner.

    Raises:
        InputError: no store or fold table, or `division.divide_folds` refuses the folds.
    """
    competition = get_competition(config.competition)
    if config.protocol is not None and competition.protocol(config.protocol).parts:
        raise InputError(
            f"protocol: {config.protocol} is not scored out of fold, so `tune` has nothing to "
            "search by; leave it out"
        )
    return divide_folds(open_store_and_folds(config, competition)[1], search, left_out)


def prepare_search(search: Search, base: Config, table: Path) -> None:
    """Write the search's files and check that base and winner can be trained.

    Raises:
        InputError: the folder holds another search, or the base cannot be trained on these folds.
    """
    save_search(search, base, table)
    competition = get_competition(base.competition)
    store, folds = open_store_and_folds(base, competition)
    write_search_table(folds, search.division, search.folder)
    if not search.division.left_out:
        seed = base.seed + 1
        write_fresh_table(competition, store.samples, folds, seed, search.folder)
    config = search.base_config()
    check_model_section(config)
    check_jobs(jobs_of(config), this_process())
    for seed in search.seeds():
        jobs_of(search.confirm_config(None, {}, seed))
