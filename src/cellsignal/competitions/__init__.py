"""The competitions, one folder each, behind one contract (`base.Competition`)."""

import difflib

from cellsignal.common.errors import InputError
from cellsignal.competitions import bbbc021, cpjump1, idr0088, mitoreid, rxrx1  # noqa: F401  (registers them)
from cellsignal.competitions.base import Competition, registered


def competition_ids() -> tuple[str, ...]:
    """The ids of all competitions, sorted."""
    return tuple(sorted(registered()))


def get_competition(competition_id: str) -> Competition:
    """The competition of that id.

    Raises:
        InputError: there is none; the message names the nearest.
    """
    try:
        return registered()[competition_id]()
    except KeyError:
        near = difflib.get_close_matches(competition_id, competition_ids(), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"unknown competition {competition_id!r}, known: {', '.join(competition_ids())}{hint}"
        ) from None
