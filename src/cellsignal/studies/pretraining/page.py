"""Write the page docs/results/pretraining.md."""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cellsignal.common.errors import InputError
from cellsignal.config.options import add_set, refuse_repeated_seeds
from cellsignal.studies.pages import add_out, machine, show_page, text_table

if TYPE_CHECKING:
    from cellsignal.metrics.paired import Paired
    from cellsignal.studies.pretraining.bench import Bench, Scored

SEEDS = (0, 1, 2)
LONGER_ROW = 1  # of the table, after scratch
HEADS = ("network", "accuracy by well (SD over seeds)", "95 %", "over scratch", "p", "over longer")
PAGE = """# What is self-supervised pretraining worth with few labels?

The code is `cellsignal.studies.pretraining`; the command writes this page, `make pretraining` also
simulates and packs. Finished trainings are left as they are, stopped ones resume.

{command}

{machine}.

The same network everywhere, out of fold: no label of a held-out unit trains anything, and no image
of one is in the pretraining. The stage with labels is the same to the letter in every row that has
one, but for what the row's name says. *Longer* is the fair rival of pretraining: from scratch with
as many pixels as both stages see. Frozen rows, and the baselines below them, are a logistic
regression of features beside their difference from the plate's mean. Rates, temperature and crops
were written down once and not tuned; the quarter of the rate was added when the first seed of the
simulated plates had shown that the frozen features beat the fine-tuned ones. Intervals and paired
differences are over the units that folds do not split, all seeds of a well together
(`metrics/intervals.py`); p is of flipping the signs of whole units. They are not corrected for the
number of rows.

{sections}

## How far it reaches

- Short trainings of one small network: they show no gain of pretraining here, and cannot show that
  there is none with more images, epochs or a larger network.
- Where frozen features do better than the same features fine-tuned, what pretraining learnt is lost
  in the fine-tune, not missing. Compare them with the network as initialised before they are called
  a gain of pretraining: much is the classifier's, which sees differences from the plate's mean.
- A masked autoencoder was not tried.
- Plates of BBBC021 that hold one mechanism only punish every row that sees differences from the
  plate's mean ([bbbc021.md](bbbc021.md)).
"""
SECTION = """## {title}

`{config}`: {classes} classes; {labelled} labelled images a fold, {views} images in the pretraining;
{wells} wells of {units}; seeds: {seeds}. {views_epochs} epochs of pretraining and {epochs} with
labels; longer: {longer} epochs. Chance is {chance:.3f}.

{table}

{verdict}"""


def add_pretraining_study(add: Callable) -> None:
    """Add the parser of the study."""
    text = "what self-supervised pretraining is worth, beside training longer and frozen features"
    sub = add("pretraining", pretraining, text)
    sub.add_argument("configs", nargs="+", help="YAMLs: a self_supervised stage, and one of labels")
    add_set(sub, "change a key of every config, e.g. stages.views.epochs=3")
    text = "seeds of every network (default 0 1 2); given once, or once for each config in order"
    sub.add_argument("--seeds", type=int, nargs="+", action="append", metavar="N", help=text)
    text = "ImageNet weights of tf_efficientnet_lite0 (default: those of its package)"
    sub.add_argument("--weights", type=Path, help=text)
    add_out(sub)


def pretraining(arguments: argparse.Namespace) -> None:
    from cellsignal.config import load_config
    from cellsignal.studies.pretraining.bench import Bench

    words = arguments.configs
    benches = [
        Bench(load_config(word, arguments.set), seeds, arguments.weights)
        for word, seeds in zip(words, seeds_of(arguments.seeds, len(words)), strict=True)
    ]
    for bench in benches:  # all are checked before the first trains
        bench.check()
    for bench in benches:
        bench.train()
    text = pretraining_page(benches, arguments.configs)
    show_page(text, arguments.out)


def seeds_of(lists: Sequence[Sequence[int]] | None, configs: int) -> list[Sequence[int]]:
    """Return the seeds of each config.

    Args:
        lists: as `--seeds` was given: not at all, once for all configs, or once for each.

    Raises:
        InputError: another number of lists, or a seed that is given twice.
    """
    lists = lists or [SEEDS]
    if len(lists) not in (1, configs):
        raise InputError(f"--seeds: given {len(lists)} times for {configs} configs")
    for seeds in lists:
        refuse_repeated_seeds(seeds)
    return list(lists) * (configs if len(lists) == 1 else 1)


def pretraining_page(benches: Sequence["Bench"], words: Sequence[str]) -> str:
    """Score the trained rows and return their page.

    Args:
        words: the config of each bench, as it was given.
    """

    sections = [section(bench, word) for bench, word in zip(benches, words, strict=True)]
    return PAGE.format(
        command=command_text(words, [bench.seeds for bench in benches]),
        machine=machine(),
        sections="\n\n".join(sections),
    )


def command_text(words: Sequence[str], lists: Sequence[Sequence[int]]) -> str:
    """Return the command that makes the page, indented as Markdown's code."""
    given = [f"--seeds {' '.join(map(str, seeds))}" for seeds in lists]
    seeds = " ".join(given[:1] if len(set(given)) == 1 else given)
    lines = [
        f"cellsignal study pretraining {' '.join(words)} \\",
        f"    {seeds} --out docs/results/pretraining.md",
    ]
    return "\n".join(f"    {line}" for line in lines)


def section(bench: "Bench", word: str) -> str:
    """Return the table of one config, and what it says."""
    from cellsignal.metrics.intervals import plural

    rows, facts = bench.rows(), bench.facts()
    return SECTION.format(
        title=bench.reference.competition,
        config=word,
        units=plural(bench.group, len(set(bench.wells[bench.group]))),
        seeds=", ".join(map(str, bench.seeds)),
        table=table(rows),
        verdict=verdict(rows),
        **facts,
    )


def table(rows: Sequence["Scored"]) -> str:
    """Return the rows as a Markdown table; the first is the one compared with, then `longer`."""
    scratch, longer = rows[0], rows[LONGER_ROW]
    lines = [HEADS]
    for row in rows:
        if row.reason:
            lines.append((row.title, f"not measured: {row.reason}", "", "", "", ""))
            continue
        spread = "" if math.isnan(row.seeds_sd) else f" ({row.seeds_sd:.3f})"
        low, high = row.interval()
        over = "" if row is scratch else difference_text(row.against(scratch))
        p = "" if row is scratch else f"{row.against(scratch).p:.3f}"
        longer_text = "" if row is longer else difference_text(row.against(longer))
        figure = f"{row.accuracy:.3f}{spread}"
        lines.append((row.title, figure, f"{low:.2f} .. {high:.2f}", over, p, longer_text))
    return text_table(lines)


def difference_text(paired: "Paired") -> str:
    """Write a paired difference, such as "+0.031 [+0.010, +0.052]"."""
    if math.isnan(paired.low):
        return f"{paired.difference:+.3f}"
    low, high = max(paired.low, -1.0), min(paired.high, 1.0)  # shares differ by 1 at most
    return f"{paired.difference:+.3f} [{low:+.3f}, {high:+.3f}]"


def verdict(rows: Sequence["Scored"]) -> str:
    """Say of each pretrained row which rows it can be told apart from."""
    from cellsignal.studies.pretraining.rows import NETWORKS, UNTRAINED

    titles = {network.name: network.frozen_title for network in NETWORKS}
    untrained = [(row, "as initialised") for row in rows if row.title == titles[UNTRAINED]]
    rivals = [(rows[0], "scratch"), (rows[LONGER_ROW], "longer")]
    lines = []
    for row in (row for row in rows if row.title.startswith(("SimCLR", "VICReg"))):
        others = rivals + (untrained if row.title in titles.values() else [])
        words = [f"{told_apart(row.against(other))} {name}" for other, name in others]
        lines.append(f"- {row.title}: {', '.join(words)}.")
    return "\n".join(lines)


def told_apart(paired: "Paired") -> str:
    """Say where the interval of a difference lies."""
    if math.isnan(paired.low):
        return "without an interval beside"
    if paired.low > 0:
        return "better than"
    return "worse than" if paired.high < 0 else "not told apart from"
