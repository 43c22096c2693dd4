"""List the variants that docs/results/rxrx1_simulated.md compares, as changes of its reference."""

from dataclasses import dataclass

SEEDS, ENSEMBLE_SEEDS = (0, 1, 2), (0, 1, 2, 3, 4)  # of every row; of the reference
REFERENCE = "reference"

_CELL_TYPE = (
    "stages.1={name: cell_type, per: cell_type, init: previous, epochs: 4, batch_size: 24, "
    "optimizer: {name: adamw, lr: 5.0e-4, weight_decay: 0.05},"
    " schedule: {name: cosine}, label_smoothing: 0.1, amp: auto, validate_every: 4, augment: "
    "[{name: horizontal_flip}, {name: transpose},"
    " {name: rotate90}, {name: gain_bias, gain: 0.1, bias: 0.1}], batches: {unit: %s}}"
)


def _unit(batches: str, adapt: str) -> tuple[str, ...]:
    return (f"stages.0.batches.unit={batches}", f"predict.adapt={adapt}")


@dataclass(frozen=True)
class Variant:
    """One row: what differs from the reference, as `--set` words."""

    name: str
    title: str
    changes: tuple[str, ...] = ()


VARIANTS = {
    "unit of batch statistics, in training and at inference": (
        Variant("random", "random batches, running statistics", _unit("mixed", "none")),
        Variant("cell_type", "cell type", _unit("cell_type", "cell_type")),
        Variant("experiment", "experiment", _unit("experiment", "experiment")),
        Variant(REFERENCE, "plate (the reference)"),
        Variant(
            "random_adapted", "random in training, plate at inference", _unit("mixed", "plate")
        ),
    ),
    "normalisation of the images": (
        Variant("by_global", "global", ("normalization.by=global",)),
        Variant("by_experiment", "experiment", ("normalization.by=experiment",)),
        Variant("by_image", "image", ("normalization.by=image",)),
        Variant("by_controls", "control wells of the plate", ("normalization.wells=controls",)),
    ),
    "stages": (
        Variant(
            "long", "one stage of 14 epochs", ("stages.0.epochs=14", "stages.0.validate_every=14")
        ),
        Variant(
            "two_stage", "two stages, 10 + 4 epochs for each cell type", (_CELL_TYPE % "plate",)
        ),
    ),
    "losses and labels": (
        Variant(
            "arcface",
            "neck, ArcFace (m .5, s 30) beside cross-entropy",
            (
                "model.neck=256",
                "model.cosine_head=true",
                "stages.0.cross_entropy=0.8",
                "stages.0.margin={name: arcface, margin: 0.5, scale: 30, weight: 0.1}",
            ),
        ),
        Variant("cutmix", "CutMix on half of the batches", ("stages.0.mix={cutmix: 1.0, p: 0.5}",)),
        Variant("controls", "control wells of all experiments as classes", ("data.controls=all",)),
        Variant(
            "pseudo_labels",
            "pseudo-labels of test wells in the last four epochs",
            ("stages.0.pseudo_labels={start: 6}",),
        ),
    ),
    "averaging of the weights": (Variant("ema", "EMA, .99", ("stages.0.ema=0.99",)),),
}
BASELINE = Variant(
    "baseline",
    "plain two stages: random batches, running statistics",
    (*_unit("mixed", "none"), _CELL_TYPE % "mixed"),
)
# what the validation experiments spoke for (controls, the second stage); pseudo-labels, which only
# test wells can show, beforehand
FINAL = Variant(
    "final",
    "control wells as classes, two stages, pseudo-labels at the end of the first and in the second",
    (
        _CELL_TYPE % "plate",
        "data.controls=all",
        "stages.0.pseudo_labels={start: 6}",
        "stages.1.pseudo_labels={first: 0.7}",
    ),
)


def all_variants() -> list[Variant]:
    """Return every row of the table that takes training, each once."""
    return [*(variant for section in VARIANTS.values() for variant in section), BASELINE]


def wanted_runs() -> list[tuple[Variant, int, int]]:
    """Return (variant, seed, views) of all rows.

    Variants whose predicting is compared are predicted in every view.
    """
    compared = (REFERENCE, BASELINE.name, FINAL.name)
    rows = []
    for variant in (*all_variants(), FINAL):
        views = 16 if variant.name in compared else 1
        rows += [(variant, seed, views) for seed in SEEDS]
    return rows + [(reference(), seed, 16) for seed in ENSEMBLE_SEEDS if seed not in SEEDS]


def reference() -> Variant:
    """Return the variant that the others are compared with."""
    return next(variant for variant in all_variants() if variant.name == REFERENCE)
