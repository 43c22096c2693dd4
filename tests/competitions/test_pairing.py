"""What is under a root and in no row, and the reverse."""

import pandas as pd

from cellsignal.competitions.pairing import images_without_row, rows_without_images


def test_rows_and_images_that_lack_each_other(tmp_path):
    for name in ("a/1.png", "a/2.PNG", "b.tif", "notes.txt", ".cache/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files = [("a/1.png#2",), ("./b.tif", "gone.png"), ("gone.png", "lost.png")]
    samples = pd.DataFrame({"sample_id": ["one", "half", "none"], "files": files})
    assert images_without_row(tmp_path, samples, tuple) == ["a/2.PNG"]
    assert rows_without_images(tmp_path, samples, tuple) == ["none"]
    (tmp_path / "c.zarr").mkdir()
    (tmp_path / "c.zarr/0.0").touch()  # a chunk has no suffix
    chunk = pd.DataFrame({"sample_id": ["chunk"], "files": [("c.zarr/0.0",)]})
    assert rows_without_images(tmp_path, chunk, tuple) == []
    stands_for_more = {"a/1.png#2": ("a/1.png", "a/2.PNG")}
    assert (
        images_without_row(tmp_path, samples, lambda names: stands_for_more.get(names[0], names))
        == []
    )
