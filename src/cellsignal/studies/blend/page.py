"""Write the page docs/results/blend.md."""

from collections.abc import Sequence

from cellsignal.evaluation.nested_blend import NAMES, WAYS, Change
from cellsignal.studies.blend.competitions import (
    Outcome,
    Summary,
    bench_blends,
    bench_noise,
    summarise,
)
from cellsignal.studies.pages import machine, text_table

STACKING = NAMES["stack"]
MORE_SEEDS = (1, 2, 3)
PAGE = """# What is a blend of runs worth, and does its gain tell the truth?

The code is `cellsignal.studies.blend`; the command writes this page.

    cellsignal study blend --seed {seed} --competitions {count} --out docs/results/blend.md

{machine}.

Simulated logits of eight models in {count} competitions; nothing is trained. Three families of
architectures (4, 3 and 1 models) whose errors correlate, targets that are hard for all, effects of
whole units (experiments), models of different quality and calibration; in every third competition
one model is broken. Every fourth competition has several classes a target and is scored by macro
average precision, the others by accuracy. All gains are over equal weights of the raw logits.

**Nested**: temperatures and weights chosen on nine tenths of the units, measured on the others, in
turn; 95 % intervals over units. **In sample**: measured on the targets that chose.
**Fresh**: the truth, the same blend on 200 fresh units.

## Stacking, competition by competition

{table}

Rows where the blend loses: {lost}.

## How often each way wins

{summary}

Seed 0 was looked at while the method was written, and two things were changed for it: where several
classes may be true, an offset of each class is fitted too (without it competition 20 lost beyond
its interval), and the simulated logits of such competitions got the threshold that a trained
network has. Seeds {more} were not looked at before:

{others}

## Members of pure noise

Eight models that know nothing, six classes: every gain should be 0.

{noise}

## What it says

- A gain measured on the targets that chose is above the truth, and most where there is nothing to
  gain: that is why `cellsignal blend` prints the nested one and writes it to the submission.
- Equal weights of raw logits are easy to beat where models differ in the scale of their logits:
  compare the row of calibrated logits with equal weights. The rest is the weights' own.
- These are simulated logits. How models of real plates correlate is not known from them: the gain
  that `cellsignal blend` prints for the runs at hand is what counts.
"""


def blend_page(count: int, seed: int, more: Sequence[int] = MORE_SEEDS) -> str:
    """Run the study and return its page."""

    outcomes = list(bench_blends(count, seed))
    others = [outcome for other in more for outcome in bench_blends(count, other)]
    lost = [
        str(number)
        for number, outcome in enumerate(outcomes, 1)
        if outcome.nested.gain.score.change < 0 or outcome.fresh[STACKING][0] < 0
    ]
    return PAGE.format(
        seed=seed,
        count=count,
        machine=machine(),
        table=outcome_table(outcomes),
        lost=", ".join(lost) or "none",
        summary=summary_table(outcomes),
        more=", ".join(map(str, more)),
        others=summary_table(others) if others else "none",
        noise=summary_table(list(bench_noise(count, seed))),
    )


def outcome_table(outcomes: Sequence[Outcome]) -> str:
    """Return a Markdown table of stacking in each competition."""
    heads = ("", "metric", "units", "targets", "classes", "equal weights", "nested gain", "95 %")
    rows = [(*heads, "in sample", "fresh", "log-loss")]
    for number, outcome in enumerate(outcomes, 1):
        nested = outcome.nested
        gain, score = nested.gain, nested.gain.score
        rows.append(
            (
                str(number),
                "AP" if outcome.design.several else "accuracy",
                str(outcome.design.units),
                str(outcome.targets),
                str(outcome.design.classes),
                f"{nested.row('equal weights').score.value:.3f}",
                f"{score.change:+.4f}",
                _range(score),
                f"{gain.naive:+.4f}",
                f"{outcome.fresh[STACKING][0]:+.4f}",
                f"{gain.loss.change:+.3f}",
            )
        )
    return text_table(rows)


def summary_table(outcomes: Sequence[Outcome]) -> str:
    """Return a Markdown table of how often each way to blend won."""
    heads = ("way", "competitions", "better", "beyond its interval", "worse beyond its interval")
    truth = ("better on fresh units", "interval held the fresh gain")
    rows = [(*heads, *truth, "mean gain: nested", "in sample", "fresh")]
    for way in list(WAYS)[1:]:
        result: Summary = summarise(outcomes, way)
        counts = (result.better, result.surely_better, result.surely_worse)
        gains = (result.nested, result.naive, result.fresh)
        rows.append(
            (
                way,
                str(result.total),
                *map(str, counts),
                str(result.truly_better),
                str(result.held),
                *(f"{gain:+.4f}" for gain in gains),
            )
        )
    return text_table(rows)


def _range(change: Change) -> str:
    return f"{change.low:+.3f} .. {change.high:+.3f}"
