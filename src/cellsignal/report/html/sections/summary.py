"""The first section: what was done, how good it is, how sure that is, what would be cheating."""

import numpy as np

from cellsignal.common.errors import InputError
from cellsignal.report.html.page import (
    cards,
    counted,
    folded,
    listed,
    missing,
    paragraph,
    plural,
    unit_name,
)
from cellsignal.report.html.sections.classified import classified_cards
from cellsignal.report.html.sections.results_files import best_baseline
from cellsignal.report.html.view import RunView
from cellsignal.report.runs import run_state

# why wells of one unit are alike
ALIKE = {
    "experiment": ": they share its day, its cells and its staining",
    "plate": ": they share its day, its cells and its staining",
}


def summary(view: RunView) -> str:
    """Return the summary; what lacks is a line in it."""
    parts = [paragraph(text) for text in _what_was_done(view)]
    try:
        parts.append(_scores(view))
    except InputError as error:
        parts += [_from_training(view), missing(str(error))]
    return "".join(parts) + folded("What would be cheating", _cheating(view), is_open=True)


def _what_was_done(view: RunView) -> list[str]:
    competition = view.competition
    text = [f"{competition.title}. {_data(view)}Scored by {competition.metric}."]
    if view.record is not None:
        runs = view.record["runs"]
        text.append(f"A submission, merged from {len(runs)} runs: {', '.join(runs)}.")
    if not view.configs:
        return text
    config = view.config
    stages = ", then ".join(
        f"{stage.name!r} ({stage.epochs} epochs"
        + (", a model for each cell type)" if stage.per == "cell_type" else ")")
        for stage in config.stages
    )
    text.append(f"Network: {config.model.backbone}. Trained on {stages}.")
    if config.model.frozen:
        text.append(
            "The network is frozen: training fits its head alone. "
            f"`cellsignal profiles classify {view.command}` classifies its embeddings, which "
            "mostly scores higher."
        )
    states = [
        f"seed {config.seed}: {run_state(config, config.run_folder)}"
        for config in view.configs
        if config.run_folder.is_dir()
    ]
    text.append(f"State: {'; '.join(states) or 'not begun'}.")
    return text


def _data(view: RunView) -> str:
    """Count what the data set holds, if it is here."""
    try:
        samples = view.samples
    except InputError:
        return ""
    wells = samples[samples.role == "treatment"].drop_duplicates("well_id")
    train, test = wells[wells.split == "train"], wells[wells.split == "test"]
    text = f"{counted(len(train), 'labelled well')} of "
    text += counted(train.experiment.nunique(), "experiment")
    if len(test):
        others = set(test.experiment).isdisjoint(train.experiment)
        where = counted(test.experiment.nunique(), f"{'other ' * others}experiment")
        text += f", {counted(len(test), 'test well')} of {where}"
    return f"{text}; {counted(samples.cell_type.nunique(), 'cell type')}. "


def _scores(view: RunView) -> str:
    """The cards, and the sentences that say how to read them."""
    items = [*classified_cards(view), *(_score_card(view, part) for part in view.outcomes)]
    more = "guessing blindly"
    steps = next((rungs for rungs in view.ladders.values() if rungs), [])
    if steps and view.outcome.groups is not None and steps[-1].chance > 1.1 * view.chance:
        more += f"; {steps[-1].chance:.3f} where the class group of a plate is known"
    items.append(("Chance", f"{view.chance:.3f}", more))
    baseline = best_baseline(view)
    if baseline is None:
        items.append(("Best baseline", "–", f"`cellsignal baseline {view.command}` measures them"))
    else:
        items.append(("Best baseline", f"{baseline[1]:.3f}", baseline[0]))
    text, group = "", unit_name(view.fold_group)
    if view.metric not in view.competition.metric:
        text = f"The competition's own metric, {view.competition.metric}, is on the leaderboard. "
    text += (
        f"Out of fold: each well is predicted by a model that trained on no well of its {group}. "
        "An interval is for another draw of what its card counts, not of wells: wells of one "
        f"{group} are alike{ALIKE.get(group, '')}. It says nothing of another laboratory or "
        "microscope."
    )
    return cards(items) + paragraph(text)


def _score_card(view: RunView, part: str) -> tuple[str, str, str]:
    """The final score of a part: name, figure, and what it is of."""
    outcome = view.outcomes[part]
    value, low, high = outcome.clustered(view.fold_group)
    by, units = outcome.units(view.fold_group)
    interval = f"too few {plural(unit_name(by))} for an interval"
    if np.isfinite([low, high]).all():
        interval = f"95 % interval {low:.3f} to {high:.3f}"
    name = f"{'Test' if part == 'test' else 'Out-of-fold'} {view.metric}"
    size = counted(len(outcome.targets.target_id), view.unit)
    return name, f"{value:.3f}", f"{interval}; {size} of {counted(len(set(units)), unit_name(by))}"


def _from_training(view: RunView) -> str:
    """The last validation scores, where nothing is predicted yet."""
    try:
        logs = view.logs
    except InputError:
        return ""
    column = f"valid_{view.task.monitored}"
    if column not in logs or logs[column].isna().all():
        return ""
    last = logs.dropna(subset=[column])
    last = last[last.stage == last.stage.iloc[-1]].groupby(["run", "fold", "model"]).tail(1)
    value = last[column].mean()
    more = f"mean of {len(last)} trainings of stage {last.stage.iloc[0]!r}; not the score"
    return cards([(f"Validation {view.metric}", f"{value:.3f}", more)])


def _cheating(view: RunView) -> str:
    group = unit_name(view.fold_group)
    items = [
        f"A random split of wells: wells of one {group} look alike, so it promises what a new "
        f"{group} does not keep. Here whole {plural(group)} are held out.",
        "Copying rare classes before the split: copies of one image would train and validate.",
        "Choosing a recipe, an epoch or a step on the rows that the quoted score is of. "
        "`predict.checkpoint: best` is such a choice, and is named under each figure that it "
        "touches.",
        "A second stage or pseudo-labels that have seen the validation wells.",
        "Answers by position: where a plate's layout repeats, row and column alone tell the "
        "class. Compare the baselines by position.",
    ]
    chosen = [config.name for config in view.configs if config.predict.checkpoint == "best"]
    if chosen:
        items.insert(
            0,
            f"Note: {chosen[0]} predicts with its best checkpoint, which was chosen on "
            "the validation wells: its out-of-fold scores are a little optimistic.",
        )
    return listed(items)
