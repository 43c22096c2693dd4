"""What the tests of pages share: a run, a second one of another seed, and their blend."""

import pytest
from helpers import cellsignal


@pytest.fixture(scope="package")
def submitted(trained, tmp_path_factory):
    """A workspace whose run has a submission and a second seed."""
    space = trained("rxrx1").copy(tmp_path_factory.mktemp("report") / "space")
    words = [
        "config.yaml",
        "--seeds",
        5,
        "--set",
        "stages=[{name: all, epochs: 1, batch_size: 16}]",
    ]
    words += ["--set", "name=other"]
    for verb in ("train", "predict"):
        assert cellsignal(verb, *words, cwd=space.folder) == 0
    words = [
        "submit",
        "tiny",
        "other",
        "--out",
        "submissions/both.csv",
        "--set",
        "submit.merge=logits",
    ]
    assert cellsignal(*words, cwd=space.folder) == 0
    words = ["submit", "config.yaml", "--out", "submissions/tiny.csv"]
    assert cellsignal(*words, cwd=space.folder) == 0
    words = ["score", "submissions/tiny.csv", "--answers", space.answers, "--root", space.root]
    assert cellsignal(*words, cwd=space.folder) == 0
    return space
