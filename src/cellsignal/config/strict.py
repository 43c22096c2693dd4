"""The base of every config section: unknown keys are refused, values are frozen, YAML's words are read by one rule."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cellsignal.config.words import read_words

Probability = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _reads_words(cls, tree: Any) -> Any:
        return read_words(cls, tree)
