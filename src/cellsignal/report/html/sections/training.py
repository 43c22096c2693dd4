"""Learning curves of all trainings, by run."""

from cellsignal.report.html.drawing import drawn
from cellsignal.report.html.page import choices, figure, paragraph
from cellsignal.report.html.view import RunView
from cellsignal.report.plots import learning_curves


def training(view: RunView) -> str:
    """Return a figure of the curves for each seed."""
    parts, monitored = [], view.task.monitored
    column = f"valid_{monitored}"
    for run, logs in view.logs.groupby("run", sort=False):
        if column not in logs:
            logs = logs.assign(**{column: float("nan")})

        def draw(path, logs=logs, run=run) -> None:
            learning_curves(path, logs, score=monitored, title=f"{run}: training")

        stages = ", ".join(dict.fromkeys(logs.stage))
        last = logs.dropna(subset=[column])
        value = f" ends at {last[column].iloc[-1]:.3f}" if len(last) else " is not measured yet"
        alt = (
            f"Learning curves of {run}: loss, validation {monitored.replace('_', ' ')} and "
            f"learning rate by epoch for the stages {stages}; the validation score of the last "
            f"training{value}."
        )
        width = 820 if logs.stage.nunique() > 1 else 520
        parts.append((run, figure(drawn(draw), alt, width=width)))
    note = "Thin lines are folds, the thick line is their mean; dashes are training, the full "
    note += "line is validation. A validation loss that rises while training falls is overfitting."
    running = [paragraph("The run is going on: this is its state when the page was made.")]
    return "".join(running * view.is_running) + choices(parts) + paragraph(note)
