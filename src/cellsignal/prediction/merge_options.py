"""How predictions are merged: their `submit` section, and the weight of each run."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from cellsignal.common.errors import InputError
from cellsignal.config.explain import describe
from cellsignal.config.schema import Submit

log = logging.getLogger(__name__)
MOST = 1e6  # weight of a run; sums of float32 lose the lighter runs beyond


def choose_section(
    sections: Mapping[str, Mapping[str, Any] | None],
    changed: Mapping[str, Any],
    keys: Sequence[str] | None = None,
) -> tuple[Submit, str]:
    """Return the `submit` section of a merge, and the name of its config.

    Args:
        sections: Name of a config or run -> its section; None where predictions of an earlier
            version do not carry one.
        changed: Keys set on the command line.
        keys: Those that matter here; all by default.

    Raises:
        InputError: Two sections differ in a key that matters and is not in `changed`, or a value is
        wrong.
    """
    known = {
        name: validate_section(section, name)
        for name, section in sections.items()
        if section is not None
    }
    if not known:
        return validate_section(
            changed, "submit"
        ), "the default submit section (the predictions carry none)"
    first, section = next(iter(known.items()))
    for name, other in known.items():
        for key in keys or tuple(Submit.model_fields):
            values = getattr(section, key), getattr(other, key)
            if key not in changed and values[0] != values[1]:
                raise InputError(
                    f"submit.{key}: {values[0]} in {first}, {values[1]} in {name}; give one for "
                    f"all, e.g. --set submit.{key}={values[0]}"
                )
    without = [name for name in sections if name not in known]
    if without:
        log.warning(
            "%s: made by an earlier version, which noted no submit section; that of %s serves",
            ", ".join(without),
            first,
        )
    words = (
        ""
        if not changed
        else f", with {', '.join(f'{key}: {value}' for key, value in changed.items())}"
    )
    return validate_section(
        section.model_dump() | dict(changed), "submit"
    ), f"the submit section of {first}{words}"


def validate_section(section: Mapping[str, Any], name: str) -> Submit:
    """Return a `submit` section, checked.

    Raises:
        InputError: An unknown key or a wrong value; the message begins with `name`.
    """
    try:
        return Submit.model_validate(dict(section))
    except ValidationError as error:
        raise InputError(f"{name}: {describe(error)}") from None


def resolve_weights(weights: Mapping[str, float], runs: Sequence[str]) -> dict[str, float]:
    """Return the weight of every run in the mean, 1 by default.

    Args:
        weights: Of a run ("name/seed0"), or of a run's name, which stands for all its seeds. A
            seed's own weight wins.
        runs: All runs, as "name/seed0".

    Raises:
        InputError: no run has that name (the message lists all), or a weight is not a positive
            number.
    """
    names = list(dict.fromkeys(run.partition("/")[0] for run in runs))
    for name, weight in weights.items():
        if name not in runs and name not in names:
            raise InputError(
                f"weights: no predictions of a run called {name!r}; there are {', '.join(runs)}"
            )
        if not 0 < weight < math.inf:
            raise InputError(f"weights: {name}={weight:g} is not a positive number")
        if not 1 / MOST <= weight <= MOST:
            raise InputError(
                f"weights: {name}={weight:g} lies outside {1 / MOST:g} .. {MOST:g}; only their "
                "ratios count"
            )
    resolved = {run: weights.get(run, weights.get(run.partition("/")[0], 1.0)) for run in runs}
    for run in runs:
        name = run.partition("/")[0]
        siblings = [other for other in weights if other.startswith(f"{name}/")]
        if siblings and run not in weights and name not in weights:
            log.warning(
                "%s: no --weight is given, while %s has one; it weighs 1. `%s=...` stands for all "
                "seeds",
                run,
                siblings[0],
                name,
            )
    return resolved


def weights_text(
    weights: Mapping[str, float], temperatures: Mapping[str, float] | None = None
) -> str:
    """The weights of runs, and their temperatures if there are any, in one line."""
    words = "weights: " + ", ".join(f"{run} {weight:g}" for run, weight in weights.items())
    if temperatures:
        numbers = ", ".join(f"{run} {number:.3g}" for run, number in temperatures.items())
        words += f"; temperatures: {numbers}"
    return words
