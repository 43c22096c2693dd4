"""Read the `--set` choices of a download."""

from collections.abc import Callable, Mapping
from typing import Any

from cellsignal.common.errors import InputError


def texts(word: str) -> tuple[str, ...]:
    """Split "BR1,BR2" into ("BR1", "BR2")."""
    return tuple(part.strip() for part in word.split(",") if part.strip())


def numbers(word: str) -> tuple[int, ...] | None:
    """Split "1,2" into (1, 2); "all" gives None."""
    return None if word == "all" else tuple(int(part) for part in texts(word))


def flag(word: str) -> bool:
    """Read "true" or "false"."""
    return {"true": True, "false": False}[word]


def read_choices(
    competition_id: str, words: Mapping[str, str], kinds: Mapping[str, Callable[[str], Any]]
) -> dict[str, Any]:
    """Return the words as the values that a download takes.

    Raises:
        InputError: a choice that there is not, or a word that is not one of its kind.
    """
    choices = {}
    for name, word in words.items():
        if name not in kinds:
            known = ", ".join(kinds) or "none"
            raise InputError(f"download {competition_id}: no choice {name!r}; there is {known}")
        try:
            choices[name] = kinds[name](word)
        except (ValueError, KeyError):
            raise InputError(
                f"download {competition_id}: {name}={word!r} is not what it takes"
            ) from None
    return choices
