"""Pictures of profiles' figures: written, and no curve or bar is lost."""

import pandas as pd
from matplotlib.figure import Figure

from cellsignal.report import profile_plots


def drawn(monkeypatch, tmp_path, frame) -> Figure:
    figures = []
    monkeypatch.setattr(profile_plots, "save", lambda figure, path: figures.append(figure))
    frame.to_csv(tmp_path / "t.csv", index=False)
    profile_plots.profiles_plot(tmp_path / "t.csv", tmp_path / "t.png")
    return figures[0]


def test_a_panel_a_task_and_a_curve_a_kind(monkeypatch, tmp_path):
    rows = [
        ("all", task, kind, value)
        for task in ("replicates", "targets")
        for kind in ("mine", "position only")
        for value in (0.2, 0.9, 0.4)
    ]
    names = ["where", "task", "profiles", "mean_average_precision"]
    figure = drawn(monkeypatch, tmp_path, pd.DataFrame(rows, columns=names))
    assert len(figure.axes) == 2
    for axis in figure.axes:
        assert [list(line.get_ydata()) for line in axis.lines] == 2 * [[0.9, 0.4, 0.2]]
        texts = [text.get_text() for text in axis.get_legend().get_texts()]
        assert texts == ["mine: 0.500", "position only: 0.500"]


def test_a_bar_a_protocol(monkeypatch, tmp_path):
    frame = pd.DataFrame(
        {"protocol": ["NSC"] * 4 + ["NSCB"] * 2, "right": [True] * 3 + [False] * 3}
    )
    axis = drawn(monkeypatch, tmp_path, frame).axes[0]
    assert [bar.get_width() for bar in axis.patches] == [0.75, 0.0]
    assert [text.get_text() for text in axis.texts] == ["3/4", "0/2"]
