"""The base of every config section: unknown keys are refused, values are frozen, YAML's words are
read by one rule.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

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


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _reads_words(cls, tree: Any) -> Any:
        return read_words(cls, tree)
