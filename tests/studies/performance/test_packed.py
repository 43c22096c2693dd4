"""The sites that speed is measured on."""

import pytest

from cellsignal.common.errors import InputError
from cellsignal.competitions import get_competition
from cellsignal.studies.performance.packed import packed_plates

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("packed") / "raw"
    size = {"size": 32, "classes": 4, "controls": 1, "train_experiments": 1, "test_experiments": 1}
    get_competition("rxrx1").simulate(root, 0, **size)
    return root


def test_plates_of_a_folder(root):
    with packed_plates(root, limit=5) as found:
        assert len(found.store.samples) == 5 and found.root == root
    with (
        pytest.raises(InputError, match="has no site of which all files are there"),
        packed_plates(root, limit=0),
    ):
        pass
