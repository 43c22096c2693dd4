"""Write the page docs/results/shift.md."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from cellsignal.metrics.intervals import range_text
from cellsignal.studies.pages import machine, text_table
from cellsignal.studies.shift.results import SEVERE, Results

if TYPE_CHECKING:
    from cellsignal.studies.shift.simulated_plates import Design

SIZE = 96  # wells of a batch in the tables by alpha
KEPT, FALLEN = 0.95, 0.5  # the target: what control statistics keep, what AdaBN falls below
WINNER, PLAIN, BASE = "controls_offset", "adabn_plate", "erm"
FINISHED = """ --finished

This page is of what was finished when it was written: rows of fewer experiments lack seeds. The
command without `--finished` measures the rest."""
PAGE = """# What do batch effects and label shift do to each method?

The code is `cellsignal.studies.shift`; the command writes this page.

    cellsignal study shift --seeds {seeds} --out docs/results/shift.md{finished}

{machine}; {minutes:.0f} minutes of one core's CPU time.

Simulated plates as in simulated RxRx1: brightness at the spread measured on the real plates
(`simulation/calibration.py`), other optics, stain and response in each experiment, HUVEC,
{classes} classes, images of {size_px} px. For each seed {train} training experiments and {test} new
ones, of {plates} plates each. A plate has {positives} wells of positive controls (each another
effect that is no class) and {negatives} untreated ones; a training plate has {train_wells} wells of
each class, a new one {test_wells}. Networks: ResNet-10-t at a quarter of its width, {epochs}
epochs, the same schedule for all. Pixels are standardised over all training wells, so that batch
effects reach the network.

**Asked batches**: of 8, 32, 96 and 308 wells of one plate, whose classes follow a Dirichlet of
alpha: infinity (even: all classes alike), 1, .1, .01 (nearly all wells of one class). The wells of
a class come again where a batch needs more than there are. Over the plates and the three draws of a
seed (of 308 wells: one draw) the classes are in turn the most frequent one. "By plate" and "by
experiment" take the statistics of the asked batch alone, or of both plates' asked batches. Controls
are those of the same plate.

Accuracy over wells; 95 % intervals over up to {units} new experiments ({seeds_count} seeds of
{test}; the last column says of how many a row is), see [statistics.md](../statistics.md).

## Accuracy by alpha, batches of {size} wells

{by_alpha}

"Kept" is accuracy at alpha .01 over accuracy at alpha infinity, of the same method.

{target}

## Accuracy by wells of a batch

{by_size}

## Gains over ERM and over AdaBN by plate, paired over experiments, batches of {size} wells

{gains}

Rows that lost to ERM beyond their interval: at alpha infinity {lost_even}; at alpha .01
{lost_severe}.

{skipped}
## What the rows are

- **Statistics of controls**: each layer takes the moments of the plate's control wells.
- **Statistics foretold by controls**: those moments, moved by what separates treatments from
  controls on the training plates (`models/batch_norm.py`, `measure_offsets`): the difference of the
  means in SDs of the controls, and the ratio of the variances, averaged over plates, layer by layer
  behind layers that are standardised as in training. No label and no asked well takes part. It is
  `predict.adapt_wells: controls` or `negative_controls`.
- **Trained and adapted by controls**: {context} control wells of the plate join each training batch
  without a label, and BatchNorm standardises by them alone, in training as at inference. "By wells
  and controls" is the form of CS-ARM-BN (arXiv:2604.20824): both count.
- GroupDRO (step .01), DANN (weight .3, its ramp) and CORAL (weight 1, two experiments a batch) are
  mixed batches with one setting each, which nobody searched.
- InstanceNorm is no fair row: at {size_px} px its last layers standardise over 2 x 2 pixels.
- Hand-made features (`profiles/image_features.py`) are standardised by the plate's controls; the
  simulated effects are ones that such features see well. Compare networks with networks.
- Embeddings are ERM's; a linear classifier is trained on the training wells, corrected alike.
  ComBat-like: empirical Bayes of each batch's location and scale, towards the training plates.

Seed 0 was looked at while this was written: after 20 epochs, statistics of controls alone kept
their accuracy but had .75 where AdaBN had .96, so the offsets were added; then the epochs were cut
to {epochs}, and 44 controls in a batch to {context}, for time alone.

## What it says for a config

- `predict.adapt: plate` with `adapt_wells: all` needs plates like those that trained: many wells of
  all classes. The log warns where a unit has fewer than {least_wells} wells, or fewer than
  {least_treatments} treatments where all are known, and where controls are asked for and missing.
- Where plates have controls, training and new ones alike, `adapt_wells: controls` costs little on
  even plates and keeps its accuracy on any.
- These are simulated plates whose controls share every batch effect with the treatments. Real ones
  may not: what a config gains is what its own folds say.
"""


def shift_page(
    frame: pd.DataFrame, seeds: Sequence[int], design: "Design", finished: bool = False
) -> str:
    """Return the page of measured accuracies (`run.run_bench`)."""
    from cellsignal.studies.shift.networks import CONTEXT, EPOCHS
    from cellsignal.training.adaptation import LEAST_TREATMENTS, LEAST_WELLS

    results = Results.of(frame)
    return PAGE.format(
        seeds=" ".join(map(str, seeds)),
        seeds_count=len(seeds),
        finished=FINISHED if finished else "",
        machine=machine(),
        minutes=frame.attrs["cpu_s"] / 60,
        size_px=design.size,
        classes=design.classes,
        train=design.train_experiments,
        test=design.test_experiments,
        plates=design.plates,
        positives=design.positives,
        negatives=design.negatives,
        train_wells=design.train_wells,
        test_wells=design.test_wells,
        epochs=EPOCHS,
        units=results.units,
        size=SIZE,
        by_alpha=alpha_table(results),
        target=target_text(results),
        by_size=size_table(results),
        gains=gain_table(results),
        lost_even=_lost(results, math.inf),
        lost_severe=_lost(results, SEVERE),
        skipped=skipped_text(frame),
        context=CONTEXT,
        least_wells=LEAST_WELLS,
        least_treatments=LEAST_TREATMENTS,
    )


def alpha_table(results: Results) -> str:
    """Return the table of accuracy by method and alpha."""
    from cellsignal.studies.shift.simulated_plates import ALPHAS

    rows = [("method", *map(alpha_text, ALPHAS), "95 % at .01", "kept", "95 %", "experiments")]
    for method in results.methods:
        kept, low, high = results.kept(method, SIZE)
        rows.append(
            (
                title(method),
                *(_number(results.accuracy(method, alpha, SIZE)) for alpha in ALPHAS),
                range_text(*results.interval(method, SEVERE, SIZE), 2),
                _number(kept, 2),
                range_text(low, high, 2),
                str(results.experiments(method)),
            )
        )
    return text_table(rows)


def target_text(results: Results) -> str:
    """Say whether the target was met."""
    if not {WINNER, PLAIN} <= set(results.methods):
        return "The rows of the target were not measured."
    ours, plain = results.kept(WINNER, SIZE)[0], results.kept(PLAIN, SIZE)[0]
    verdict = "met" if ours >= KEPT and plain < FALLEN else "missed"
    return (
        f"Target: statistics foretold by controls keep {KEPT} of their accuracy at alpha .01, and "
        f"AdaBN by plate falls below {FALLEN} of its own: {ours:.2f} and {plain:.2f}, {verdict}."
    )


def size_table(results: Results) -> str:
    """Return the table of accuracy by method and size, for even and for skewed batches."""
    from cellsignal.studies.shift.simulated_plates import REPEATS

    columns = [(alpha, size) for alpha in (math.inf, SEVERE) for size in REPEATS]
    rows = [("method", *(f"{size} wells, {alpha_text(alpha)}" for alpha, size in columns))]
    for method in results.methods:
        figures = (results.accuracy(method, alpha, size) for alpha, size in columns)
        rows.append((title(method), *map(_number, figures)))
    return text_table(rows)


def gain_table(results: Results) -> str:
    """Return the table of paired gains over ERM and over AdaBN by plate."""
    rows = [("method", *(f"over {other}, {alpha_text(a)}" for other, a in _comparisons()))]
    others = {"ERM": BASE, "AdaBN": PLAIN}
    for method in results.methods:
        cells = []
        for other, alpha in _comparisons():
            paired = results.paired(method, others[other], alpha, SIZE)
            if paired is None or method == others[other]:
                cells.append("")
                continue
            ends = range_text(paired.low, paired.high, 3, "+")
            cells.append(f"{paired.difference:+.3f}" + (f" ({ends})" if ends else ""))
        rows.append((title(method), *cells))
    return text_table(rows)


def _comparisons() -> list[tuple[str, float]]:
    return [(other, alpha) for other in ("ERM", "AdaBN") for alpha in (math.inf, SEVERE)]


def _lost(results: Results, alpha: float) -> str:
    """Name the methods whose interval lies wholly below ERM."""
    pairs = {
        method: results.paired(method, BASE, alpha, SIZE)
        for method in results.methods
        if method != BASE
    }
    lost = [title(method) for method, paired in pairs.items() if paired and paired.high < 0]
    return "; ".join(lost) or "none"


def skipped_text(frame: pd.DataFrame) -> str:
    """Name the methods that were not measured, and why."""
    if "skipped" not in frame:
        return ""
    lines = frame.dropna(subset=["skipped"]).drop_duplicates("method")
    rows = [f"- {title(row.method)}: skipped. {row.skipped}" for row in lines.itertuples()]
    return "\n".join(["## Not measured", "", *rows, ""]) if rows else ""


def title(method: str) -> str:
    """Return a method's name in tables."""
    from cellsignal.studies.shift.methods import METHODS

    return {each.id: each.title for each in METHODS}[method]


def alpha_text(alpha: float) -> str:
    """Write alpha as the tables do."""
    return "even" if math.isinf(alpha) else f"alpha {alpha:g}"


def _number(value: float, digits: int = 3) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"
