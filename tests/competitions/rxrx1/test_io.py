"""Reading sites: as the competition does, and through the functions that users of rxrx-io know."""

import cv2
import numpy as np
import pandas as pd
import pytest
from rxrx1_release import write_release, write_site_file

from cellsignal.common.errors import ImageError, InputError
from cellsignal.competitions.rxrx1 import RxRx1, io


def write_site(root, well="C03", side=32, seed=0, split="train", experiment="HEPG2-01"):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (6, side, side), dtype=np.uint8)
    for channel, gray in enumerate(image, 1):
        path = root / split / experiment / "Plate1" / f"{well}_s1_w{channel}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), gray)
    return image


@pytest.fixture
def root(tmp_path):
    write_release(tmp_path / "rxrx1")
    return tmp_path / "rxrx1"


def files_of(root, sample_id="HEPG2-01_1_C03_s1"):
    samples = RxRx1().samples(root)
    return samples.files[samples.sample_id == sample_id].iloc[0]


def test_read_gives_the_six_channels_in_order(root):
    image = write_site(root)
    np.testing.assert_array_equal(RxRx1().read(root, files_of(root)), image)
    np.testing.assert_array_equal(RxRx1().read(root, files_of(root), (32, 32)), image)
    assert len(RxRx1.channels) == 6


@pytest.mark.parametrize("odd, shape", [(4, None), (4, (32, 32)), (1, (32, 32))])
def test_a_file_of_another_size_is_named(root, odd, shape):
    write_site(root)
    path = root / files_of(root)[odd - 1]
    cv2.imwrite(str(path), np.zeros((16, 16), np.uint8))
    with pytest.raises(
        ImageError, match=rf"C03_s1_w{odd}\.png: 16x16 pixels, 32x32 expected"
    ) as caught:
        RxRx1().read(root, files_of(root), shape)
    assert caught.value.kind == "wrong_size"


def test_a_missing_channel_is_named(root):
    write_site(root)
    (root / files_of(root)[2]).unlink()
    with pytest.raises(ImageError, match=r"C03_s1_w3\.png: no such image file"):
        RxRx1().read(root, files_of(root))


def test_root_shape_is_that_of_most_sites(root):
    with pytest.raises(InputError, match="no readable image"):
        RxRx1().root_shape(root)
    write_site(root, "C03", side=16)
    for well in ("C04", "C05", "C06"):
        write_site(root, well, side=32)
    (root / files_of(root, "HEPG2-01_1_C06_s1")[0]).write_bytes(b"\x89PNG broken")
    assert RxRx1().root_shape(root) == (32, 32)


def test_image_path_is_the_published_layout():
    path = io.image_path("train", "HUVEC-03", 4, "O23", 2, 6, base_path="base")
    assert path == "base/train/HUVEC-03/Plate4/O23_s2_w6.png"
    paths = io.channel_paths("train", "HUVEC-03", 4, "O23", 2, (6, 1), base_path="base")
    assert [p[-6:-4] for p in paths] == ["w6", "w1"]


def test_load_site_takes_the_channels_asked_for(root):
    image = write_site(root)
    loaded = io.load_site("train", "HEPG2-01", 1, "C03", 1, base_path=root)
    np.testing.assert_array_equal(loaded, image.transpose(1, 2, 0))
    part = io.load_site("train", "HEPG2-01", 1, "C03", 1, channels=(5, 2), base_path=root)
    np.testing.assert_array_equal(part, image[[4, 1]].transpose(1, 2, 0))
    assert loaded.dtype == np.uint8


def test_rgb_is_the_formula_pixel_by_pixel(root):
    image = write_site(root, side=6)
    rgb = io.load_site_as_rgb("train", "HEPG2-01", 1, "C03", 1, channels=(1, 3, 6), base_path=root)
    colours = {1: ((19, 0, 249), 51), 3: ((255, 0, 25), 64), 6: ((254, 255, 40), 191)}
    for y in range(6):
        for x in range(6):
            for c in range(3):
                total = sum(
                    int(min((image[w - 1, y, x] / 255) / (high / 255), 1.0) * colour[c])
                    for w, (colour, high) in colours.items()
                )
                assert rgb[y, x, c] == min(total, 255)
    assert rgb.shape == (6, 6, 3) and rgb.dtype == int


def test_rgb_map_is_the_published_one():
    assert {c: (tuple(v["rgb"]), tuple(v["range"])) for c, v in io.RGB_MAP.items()} == {
        1: ((19, 0, 249), (0, 51)),
        2: ((42, 255, 31), (0, 107)),
        3: ((255, 0, 25), (0, 64)),
        4: ((45, 255, 252), (0, 191)),
        5: ((250, 0, 253), (0, 89)),
        6: ((254, 255, 40), (0, 191)),
    }


def test_combine_metadata_has_the_known_columns_and_order(root):
    frame = io.combine_metadata(root)
    assert frame.index.name == "id_code"
    assert frame.columns.tolist() == [
        "cell_type",
        "dataset",
        "experiment",
        "plate",
        "sirna",
        "site",
        "well",
        "well_type",
    ]
    assert (frame.plate.dtype, frame.sirna.dtype, frame.site.dtype) == (
        np.int64,
        np.float64,
        np.int64,
    )
    assert len(frame) == 2 * 7 * 2 * 4
    for dataset, rows in (("test", frame.iloc[:56]), ("train", frame.iloc[56:])):
        assert set(rows.dataset) == {dataset}
        assert list(zip(rows.index, rows.site, strict=True)) == sorted(
            zip(rows.index, rows.site, strict=True)
        )
    assert frame.sirna.isna().equals((frame.dataset == "test") & (frame.well_type == "treatment"))
    bare = io.combine_metadata(root, include_controls=False)
    assert len(bare) == 2 * 4 * 2 * 4 and "well_type" not in bare
    treatments = frame[frame.well_type == "treatment"].drop(columns="well_type")
    pd.testing.assert_frame_equal(bare, treatments)


def test_combine_metadata_of_the_release_by_site_is_the_same(tmp_path):
    """rxrx.ai's metadata.csv of the same wells gives the same frame; a site that it lacks has no
    row.
    """
    truth = write_release(tmp_path / "wells")
    write_site_file(tmp_path / "sites", truth)
    for controls in (True, False):
        frame = io.combine_metadata(tmp_path / "wells", include_controls=controls)
        pd.testing.assert_frame_equal(
            io.combine_metadata(tmp_path / "sites", include_controls=controls), frame
        )
    path = tmp_path / "sites" / "metadata.csv"
    rows = pd.read_csv(path, dtype=str)
    absent = rows.iloc[3]
    rows.drop(index=3).to_csv(path, index=False)
    frame = io.combine_metadata(tmp_path / "wells")
    kept = ~((frame.index == absent.well_id) & (frame.site == int(absent.site)))
    assert (~kept).sum() == 1
    pd.testing.assert_frame_equal(io.combine_metadata(tmp_path / "sites"), frame[kept])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, "int32", float])
def test_a_tensor_has_the_type_asked_for_and_the_same_values(root, dtype):
    expected = write_site(root).transpose(1, 2, 0)
    paths = io.channel_paths("train", "HEPG2-01", 1, "C03", 1, base_path=root)
    image = io.load_images_as_tensor(paths, dtype=dtype)
    assert image.dtype == np.dtype(dtype) and np.array_equal(image, expected)
    assert io.load_images_as_tensor(paths).dtype == np.uint8
    assert np.array_equal(io.load_images_as_tensor(paths, dtype), image)


@pytest.mark.slow
def test_real_site_and_metadata(real_data):
    root = real_data / "rxrx1"
    image = io.load_site("train", "RPE-01", 3, "B02", 1, base_path=root)
    assert image.shape == (512, 512, 6) and image.dtype == np.uint8
    files = tuple(f"train/RPE-01/Plate3/B02_s1_w{c}.png" for c in range(1, 7))
    np.testing.assert_array_equal(
        RxRx1().read(root, files, RxRx1.image_shape), image.transpose(2, 0, 1)
    )
    rgb = io.load_site_as_rgb("train", "RPE-01", 3, "B02", 1, base_path=root)
    assert rgb.shape == (512, 512, 3) and rgb.min() >= 0 and 0 < rgb.max() <= 255
    assert RxRx1().root_shape(root) == (512, 512)
    frame = io.combine_metadata(root)
    assert (
        len(frame) == 125_510
        and frame.dataset.iloc[0] == "test"
        and frame.index[0] == "HEPG2-08_1_B02"
    )
    assert int(frame.sirna.isna().sum()) == 2 * 19_897
