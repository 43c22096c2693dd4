"""What a user may choose of a download, from the words of the command line."""

from collections.abc import Callable, Mapping
from typing import Any

from cellsignal.common.errors import InputError


def texts(word: str) -> tuple[str, ...]:
    """ "BR1,BR2" -> ("BR1", "BR2")."""
    return tuple(part.strip() for part in word.split(",") if part.strip())


def numbers(word: str) -> tuple[int, ...] | None:
    """ "1,2" -> (1, 2); "all" -> None."""
    return None if word == "all" else tuple(int(part) for part in texts(word))


def flag(word: str) -> bool:
    """ "true" or "false"."""
    return {"true": True, "false": False}[word]


def read_choices(
    competition_id: str, words: Mapping[str, str], kinds: Mapping[str, Callable[[str], Any]]
) -> dict[str, Any]:
    """The words as the values that a download takes.

    Raises:
        InputError: a choice that there is not, or a word that is none of its kind.
    """
    found = {}
    for name, word in words.items():
        if name not in kinds:
            raise InputError(
                f"download {competition_id}: no choice {name!r}; there is "
                f"{', '.join(kinds) or 'none'}"
            )
        try:
            found[name] = kinds[name](word)
        except (ValueError, KeyError):
            raise InputError(
                f"download {competition_id}: {name}={word!r} is not what it takes"
            ) from None
    return found
