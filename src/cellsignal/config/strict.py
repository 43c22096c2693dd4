"""The base of every config section: unknown keys are refused, values are frozen, YAML's words are
read by one rule.
"""

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    model_validator,
)

from cellsignal.config.words import read_words

Probability = Annotated[float, Field(ge=0, le=1)]


def _refuse_nats(value: float) -> float:
    if 0 < value < 1:
        raise ValueError(
            f"is a z, no longer nats a well: 3 is safe, 0 takes all, {value:g} would hardly leave "
            "any out"
        )
    return value


LeastZ = Annotated[float, Field(ge=0), AfterValidator(_refuse_nats)]  # of the groups of plates


def _read_views(value: Any) -> int | str | tuple[str, ...]:
    """Read `predict.tta`. Its names are checked in data/views.py, which knows them."""
    if value is None or value is False:
        return "none"
    if isinstance(value, str) and value.strip() in ("1", "2", "4", "8", "16"):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value in (1, 2, 4, 8, 16):
        return value
    if isinstance(value, str):
        return value.strip().lower()
    is_list = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    if is_list and value and len(set(value)) == len(value):
        return tuple(value)
    shown = repr(str(value).lower() if isinstance(value, bool) else value)
    raise ValueError(
        f"takes a list of different views, a preset, or its number of views (1, 2, 4, 8, 16), got "
        f"{shown}"
    )


Views = Annotated[int | str | tuple[str, ...], PlainValidator(_read_views)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _reads_words(cls, tree: Any) -> Any:
        return read_words(cls, tree)
