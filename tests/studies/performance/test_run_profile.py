"""Where the CPU time of a run goes: seconds of functions, by hand."""

from pathlib import Path
from types import SimpleNamespace

import cellsignal
from cellsignal.studies.performance.run_profile import STEPS, cumulative_seconds


def test_the_seconds_are_those_of_the_named_functions():
    called = {
        ("/x/cellsignal/training/trainer.py", 1, "train_epoch"): (2, 2, 0.1, 4.0, {}),
        ("/x/cellsignal/training/trainer.py", 2, "__init__"): (2, 2, 0.1, 0.5, {}),
        ("/x/cellsignal/data/feed.py", 3, "__init__"): (2, 2, 0.1, 9.0, {}),
        ("/x/cellsignal/pipeline.py", 4, "prepare"): (1, 1, 0.1, 2.0, {}),
    }
    seconds = cumulative_seconds(SimpleNamespace(stats=called))
    assert seconds == {"prepare": 2.0, "train: build": 0.5, "train: epochs": 4.0}


def test_every_step_names_a_function_that_there_is():
    (root,) = cellsignal.__path__
    for module, name in STEPS.values():
        paths = list(Path(root).rglob(module.split("/")[-1]))
        texts = [path.read_text() for path in paths if path.as_posix().endswith(module)]
        assert len(texts) == 1 and f"def {name}(" in texts[0], (module, name)
