"""The optimiser and the learning-rate schedule of a stage."""

from typing import Any, Literal

from pydantic import Field, model_validator

from cellsignal.config.strict import Strict

# schedule -> what it multiplies the rate by, where no `factor` is given
FACTORS = {"plateau": 0.1, "exponential": 0.95}


class Optimizer(Strict):
    """The optimiser of the network."""

    name: Literal["adamw", "adam", "sgd", "nesterov"] = "adamw"
    """Which optimiser; adam and adamw have betas .9 and .999, nesterov is sgd with Nesterov's form
    of momentum."""
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate; the schedule scales it."""
    weight_decay: float = Field(0.01, ge=0)
    """Decay of the weights: decoupled for adamw, an L2 term for the others."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of sgd and nesterov."""
    decay_all: bool = False
    """Whether biases and norms decay too."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> "Optimizer":
        if self.name == "nesterov" and self.momentum == 0:
            raise ValueError("name: nesterov needs a momentum above 0; without one write name: sgd")
        return self


class Schedule(Strict):
    """The learning rate over a stage. Warm-up is linear from 0 and comes before the schedule."""

    name: Literal["constant", "cosine", "onecycle", "plateau", "exponential"] = "cosine"
    """Which curve."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Epochs of warm-up; in onecycle those in which the rate rises, 0: a fifth of the stage."""
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    """cosine: the share of lr at its end."""
    over_epochs: int | None = Field(None, ge=1)
    """cosine: its length, where the stage ends before it; none: the stage's epochs."""
    cycles: int = Field(1, ge=1)
    """cosine: so many falls of equal length after the warm-up, each from lr anew
    (arXiv:1608.03983); what a snapshot ensemble is made of (`snapshots: cycles`)."""
    factor: float | None = Field(None, gt=0, le=1)
    """What the rate is multiplied by: in plateau when the figure no longer gets better (none: 0.1),
    in exponential after each epoch (none: 0.95)."""
    patience: int = Field(2, ge=0)
    """plateau: epochs without a better monitored figure before the rate falls."""

    @model_validator(mode="before")
    @classmethod
    def _fill_factor(cls, tree: Any) -> Any:
        if not isinstance(tree, dict) or tree.get("factor") is not None:
            return tree
        factor = FACTORS.get(str(tree.get("name")).strip().casefold())
        return tree if factor is None else tree | {"factor": factor}

    @model_validator(mode="after")
    def _name_has_these_keys(self) -> "Schedule":
        if self.over_epochs is not None and self.name != "cosine":
            raise ValueError(f"over_epochs needs name: cosine, not {self.name}")
        if self.cycles > 1 and (self.name != "cosine" or self.over_epochs is not None):
            raise ValueError("cycles needs name: cosine, and goes without over_epochs")
        return self
