"""OME-Zarr plates of both versions: recognised, read to the pixel, and never with a silent hole."""

import json
import shutil

import numpy as np
import pytest
import yaml
from helpers import cellsignal, error_line
from zarr_plates import (
    LABELS,
    WELLS,
    make_plate,
    multiscales,
    put_array,
    put_attributes,
    write_map,
)

from cellsignal.competitions.plates.competition import Plates
from cellsignal.competitions.plates.description import read_description
from cellsignal.competitions.plates.pixels import read_site

PLATES = Plates()
KINDS = {
    "0.4": {"version": "0.4"},
    "0.4, flat names": {"version": "0.4", "separator": "."},
    "0.4, czyx": {"version": "0.4", "axes": "czyx"},
    "0.5": {"version": "0.5"},
    "0.5, shards": {"version": "0.5", "shards": True},
    "0.5, cyx": {"version": "0.5", "axes": "cyx", "depth": 1},
    "0.5, yx": {"version": "0.5", "axes": "yx", "depth": 1, "labels": ["DNA"]},
}


USUAL = ("0.4", "0.5, shards")  # the others are read by `make test-slow`
MARKED = [kind if kind in USUAL else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]


def make(root, **options):
    pixels = {plate: make_plate(root / f"{plate}.zarr", **options) for plate in ("P1", "P2")}
    write_map(root)
    return pixels


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """Plates of version 0.4 with their plates.yaml. Read only."""
    root = tmp_path_factory.mktemp("described") / "raw"
    make(root)
    assert cellsignal("init", root, cwd=root.parent) == 0
    return root


@pytest.fixture
def root(described, tmp_path):
    return shutil.copytree(described, tmp_path / "raw")


def change_images(root, **keys):
    path = root / "plates.yaml"
    tree = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(tree | {"images": tree["images"] | keys}, sort_keys=False))


@pytest.mark.parametrize("kind", MARKED)
def test_init_and_reading(kind, tmp_path, capsys):
    root, labels = tmp_path / "raw", KINDS[kind].get("labels", LABELS)
    pixels = make(root, **KINDS[kind])
    assert cellsignal("init", root, cwd=tmp_path) == 0
    images = read_description(root).images
    assert (images.layout, images.bits) == ("ome_zarr", 16)
    assert list(images.channels.values()) == list(labels)
    assert (root / "plates.yaml").read_text().count("\n") <= 25
    samples = PLATES.samples(root)
    assert PLATES.left_out(root) == () and len(samples) == 16
    assert sorted(set(samples.well)) == list(WELLS) and set(samples.plate) == {"P1", "P2"}
    for row in samples.itertuples():
        read = read_site(root, row.files, images)
        assert np.array_equal(read, pixels[row.plate][row.well, row.site].max(1)), row.sample_id
    capsys.readouterr()
    words = ("verify", "plates", "--root", root, "--workers", 0)
    assert cellsignal(*words, cwd=tmp_path) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_stacks(version, tmp_path):
    root = tmp_path / "raw"
    pixels = make(root, version=version, depth=3)
    assert cellsignal("init", root, cwd=tmp_path) == 0
    ways = {"mean": lambda s: np.rint(s.mean(1)), 2: lambda s: s[:, 1], 3: lambda s: s[:, 2]}
    for z, project in ways.items():
        change_images(root, z=z)
        row = PLATES.samples(root).iloc[5]
        expected = project(pixels[row.plate][row.well, row.site])
        images = read_description(root).images
        assert np.array_equal(read_site(root, row.files, images), expected)
    change_images(root, z=4)
    assert "no plane z 4" in {reason for reason, _ in _left_out(root, tmp_path)}


def _left_out(root, tmp_path):
    from cellsignal.competitions.plates.planes import join_sites

    return join_sites(root, read_description(root)).left_out


def test_a_folder_that_is_a_plate(tmp_path):
    root = tmp_path / "BR7.ome.zarr"
    make_plate(root, "0.5")
    write_map(root)
    assert cellsignal("init", root, cwd=tmp_path) == 0
    samples = PLATES.samples(root)
    assert set(samples.plate) == {"BR7"} and samples.well_id.iloc[0] == "BR7_B02"
    # by the percentiles of the plate, which is found again from the entry
    image = PLATES.calibrate(root, tmp_path / "calibration").read(root, samples.files.iloc[0])
    assert image.dtype == np.uint8 and image.max() == 255


def test_channels_in_another_order_on_another_plate(tmp_path):
    """A channel is found by its label, not by its place in the array."""
    root = tmp_path / "raw"
    make_plate(root / "P1.zarr")
    pixels = make_plate(root / "P2.zarr", labels=LABELS[::-1])
    write_map(root)
    assert cellsignal("init", root, cwd=tmp_path) == 0
    samples = PLATES.samples(root).set_index("sample_id")
    read = read_site(root, samples.files["P2_B02_s1"], read_description(root).images)
    assert np.array_equal(read, pixels["B02", 1].max(1)[::-1])


# holes: never black
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "chunk"),
    [("0.4", "0/1/0/1/1"), ("0.4, flat names", "0.1.0.1.1"), ("0.5", "c/0/1/0/1/1")],
)
def test_a_missing_chunk_is_a_missing_plane(kind, chunk, tmp_path, capsys):
    root = tmp_path / "raw"
    make(root, **KINDS[kind] | {"depth": 1})
    assert cellsignal("init", root, cwd=tmp_path) == 0
    files = PLATES.samples(root).set_index("sample_id").files["P1_B03_s1"]
    path = root / "P1.zarr/B/3/0/0" / chunk
    path.unlink()
    capsys.readouterr()
    assert cellsignal("samples", "plates", "--root", root, cwd=tmp_path) == 0
    expected = "1: no file of channel Alexa 488; first plate P1 well B03 site 1"
    assert expected in capsys.readouterr().out
    with pytest.raises(Exception, match="no such chunk; it would be read as black") as caught:
        read_site(root, files, read_description(root).images)
    assert str(path) in str(caught.value)


def test_a_plane_missing_in_a_stack(root):
    (root / "P1.zarr/B/3/0/0/0/1/1/0/0").unlink()
    reason = "not the 2 z planes that most sites have"
    assert PLATES.left_out(root) == ((reason, "plate P1 well B03 site 1"),)


@pytest.mark.parametrize("place", ["first", "in the last shard"])
@pytest.mark.slow
def test_a_hole_in_a_shard_is_found(place, tmp_path, capsys):
    """A shard without one of its chunks, written as such: reading it would give zeros."""
    root = tmp_path / "raw"
    make(root, version="0.5", shards=True)
    assert cellsignal("init", root, cwd=tmp_path) == 0
    import zarr

    array = zarr.open_array(root / "P1.zarr/B/2/0/0", mode="r")
    pixels = array[...]
    corner = slice(0, 5) if place == "first" else slice(15, 16)
    pixels[0, 1, 1, corner, corner] = 0
    shutil.rmtree(root / "P1.zarr/B/2/0/0")
    options = {"chunks": array.chunks, "shards": array.shards, "dtype": "uint16"}
    holes = zarr.create_array(root / "P1.zarr/B/2/0/0", shape=pixels.shape, **options)
    holes[...] = pixels
    capsys.readouterr()
    words = ("verify", "plates", "--root", root, "--workers", 0)
    assert cellsignal(*words, cwd=tmp_path) == 2
    out = capsys.readouterr().out
    assert "1 error," in out and "the shard lacks a chunk of the plane" in out
    assert "P1.zarr/B/2/0/0/c/0/1/0/" in out and "[P1_B02_s1]" in out


@pytest.mark.slow
def test_alike_chunks_are_no_fault_and_alike_planes_are(root, tmp_path, capsys):
    """Black tiles of one plane may have the same bytes; two channels may not."""
    rng, field = np.random.default_rng(0), root / "P1.zarr/B/2/0/0"
    pixels = rng.integers(1, 255, (1, 2, 2, 16, 16)).astype(np.uint16)
    pixels[:, :, :, :10] = 0
    put_array(field, "0.4", pixels, (1, 1, 1, 10, 10))
    words = ("verify", "plates", "--root", root, "--workers", 0)
    assert cellsignal(*words, cwd=tmp_path) == 0
    pixels[:, 1] = pixels[:, 0]
    put_array(field, "0.4", pixels, (1, 1, 1, 10, 10))
    capsys.readouterr()
    assert cellsignal(*words, cwd=tmp_path) == 2
    out = capsys.readouterr().out
    assert "error identical_channels: 1\n  P1.zarr/B/2/0/0/0/1/0/0/0: has the same bytes as " in out
    pixels[:, 1] = 7
    put_array(field, "0.4", pixels, (1, 1, 1, 10, 10))
    assert cellsignal(*words, cwd=tmp_path) == 0
    named = "P1.zarr/B/2/0/0/0/1/0/0/0: every pixel of channel Alexa_488 is "
    assert named in capsys.readouterr().out


def test_a_damaged_chunk_is_named_by_verify(root, tmp_path, capsys):
    path = root / "P1.zarr/B/2/0/0/0/0/0/0/0"
    path.write_bytes(path.read_bytes()[:10])
    capsys.readouterr()
    words = ("verify", "plates", "--root", root, "--workers", 0)
    assert cellsignal(*words, cwd=tmp_path) == 2
    assert "P1.zarr/B/2/0/0/0/0/0/0/0: cannot be decoded" in capsys.readouterr().out


# what is there and what is not
# --------------------------------------------------------------------------------------------------


def well_not_there(root):
    shutil.rmtree(root / "P1.zarr/C/2")
    return ("a well that is listed and not there", "P1/C/2")


def field_not_there(root):
    shutil.rmtree(root / "P1.zarr/C/2/1")
    return ("a field that is listed and not there", "P1 C02 field 1")


def array_not_there(root):
    shutil.rmtree(root / "P1.zarr/C/2/1/0")
    return ("a field that is listed and not there", "P1 C02 field 1")


def no_chunk_of_a_field(root):
    for path in (root / "P1.zarr/C/2/1/0").iterdir():
        shutil.rmtree(path) if path.is_dir() else None
    return ("a field without one whole plane", "P1 C02 field 1")


def other_acquisition(root):
    path = root / "P1.zarr/.zattrs"
    tree = json.loads(path.read_text())
    tree["plate"]["acquisitions"] = [{"id": 4}, {"id": 7}]
    path.write_text(json.dumps(tree))
    images = [{"path": "0", "acquisition": 4}, {"path": "1", "acquisition": 7}]
    put_attributes(root / "P1.zarr/C/2", "0.4", {"well": {"images": images}})
    return ("another acquisition than the first", "P1 C02 field 1")


def other_time(root):
    pixels = np.ones((3, 2, 2, 16, 16), np.uint16)
    put_array(root / "P1.zarr/C/2/1/0", "0.4", pixels, (1, 1, 1, 10, 10))
    return ("another time point than the first", "P1 C02 field 1, 2")


@pytest.mark.parametrize(
    "plant",
    [
        well_not_there,
        field_not_there,
        array_not_there,
        no_chunk_of_a_field,
        other_acquisition,
        other_time,
    ],
)
def test_what_is_left_out_is_counted(root, plant, tmp_path, capsys):
    reason, name = plant(root)
    expected = [(reason, name)]
    if plant is well_not_there:
        expected.append(("a well of the platemap without images", "P1_C02"))
    assert list(PLATES.left_out(root)) == expected
    words = ("samples", "plates", "--root", root)
    assert cellsignal(*words, cwd=tmp_path) == 0
    out = capsys.readouterr().out
    assert f"1: {reason}; first {name}" in out and "rows without images" not in out


def set_metadata(path, change):
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def wrong_axes(field):
    put_attributes(field, "0.4", {"multiscales": multiscales("tcxyz")})
    return r"axes t, c, x, y, z of an array with 5; expected some of t, c, z and both of y, x"


def no_axes(field):
    put_attributes(field, "0.4", {"multiscales": [{"datasets": [{"path": "0"}]}]})
    return r"axes none of an array with 5"


def wrong_number_of_labels(field):
    what = {"multiscales": multiscales("tczyx"), "omero": {"channels": [{"label": "DNA"}]}}
    put_attributes(field, "0.4", what)
    return r"omero.channels names 1 channels, the array has 2"


def objects(field):
    set_metadata(field / "0/.zarray", lambda tree: tree.update(dtype="|O"))
    return r"pixels of type '|O', uint8 or uint16 expected"


def pickles(field):
    codecs = [{"id": "pickle", "protocol": 5}]
    set_metadata(field / "0/.zarray", lambda tree: tree.update(filters=codecs))
    return r"codec 'pickle' is not read"


def no_json(field):
    (field / ".zattrs").write_text("{")
    return r".zattrs: is not JSON"


def outside(field):
    put_attributes(field.parent, "0.4", {"well": {"images": [{"path": "../../../../secret"}]}})
    return r"'../../../../secret' is no path within the plate"


def no_well(field):
    facts = {"wells": [{"path": "B/x"}]}
    put_attributes(field.parents[2], "0.4", {"plate": facts})
    return r"plate.wells: 'B/x' is not a well"


def no_wells(field):
    put_attributes(field.parents[2], "0.4", {"plate": {}})
    return r"plate.wells: is no list"


def other_channels(field):
    plate = field.parents[2]
    shutil.rmtree(plate)
    make_plate(plate, labels=("Hoechst 33342", "Cy5"))
    return "plate P1 has no file of channel 'Alexa 488'; its files show Cy5, Hoechst 33342"


@pytest.mark.parametrize(
    "plant",
    [
        wrong_axes,
        no_axes,
        wrong_number_of_labels,
        objects,
        pickles,
        no_json,
        outside,
        no_well,
        no_wells,
        other_channels,
    ],
)
def test_a_fault_is_one_line(root, plant, tmp_path, capsys):
    why = plant(root / "P1.zarr/B/2/0")
    line = error_line(capsys, "samples", "plates", "--root", root, cwd=tmp_path)
    assert why in line and str(root) in line
    if plant is not other_channels:
        assert why in error_line(capsys, "init", root, "--force", cwd=tmp_path)


def shard_after_another_codec(tree):
    tree["codecs"].insert(0, {"name": "transpose", "configuration": {"order": [0, 1, 2, 3, 4]}})
    return "codec 'sharding_indexed' is not read"


def shard_in_a_shard(tree):
    shard = tree["codecs"][0]["configuration"]
    shard["codecs"] = [{"name": "sharding_indexed", "configuration": shard | {}}]
    return "codec 'sharding_indexed' is not read"


def packed_index(tree):
    tree["codecs"][0]["configuration"]["index_codecs"] = [{"name": "bytes"}, {"name": "zstd"}]
    return "shards with an index coded by bytes, zstd: are not read"


def numbers_of_64_bits(tree):
    tree["data_type"] = "float64"
    return "pixels of type 'float64', uint8 or uint16 expected"


def no_chunk_grid(tree):
    del tree["chunk_grid"]
    return "is no metadata of an array (KeyError: 'chunk_grid')"


@pytest.mark.parametrize(
    "plant",
    [
        shard_after_another_codec,
        shard_in_a_shard,
        packed_index,
        numbers_of_64_bits,
        no_chunk_grid,
    ],
)
def test_an_array_of_version_3_that_is_not_read(plant, tmp_path, capsys):
    """In whose shards a hole would not be seen, or that holds no pixels."""
    root = tmp_path / "raw"
    make_plate(root / "P1.zarr", "0.5", sites=1, shards=True)
    write_map(root)
    path, whys = root / "P1.zarr/B/2/0/0/zarr.json", []
    set_metadata(path, lambda tree: whys.append(plant(tree)))
    line = error_line(capsys, "init", root, cwd=tmp_path)
    assert line.startswith(f"{path}: ") and whys[0] in line


@pytest.mark.parametrize(("change", "why"), [("size", "wrong_size"), ("depth", "wrong_depth")])
def test_verify_names_a_field_of_another_size_or_depth(root, change, why, tmp_path, capsys):
    side, kind = (20, np.uint16) if change == "size" else (16, np.uint8)
    pixels = np.random.default_rng(0).integers(1, 200, (1, 2, 2, side, side)).astype(kind)
    put_array(root / "P2.zarr/C/3/1/0", "0.4", pixels, (1, 1, 1, 10, 10))
    capsys.readouterr()
    words = ("verify", "plates", "--root", root, "--workers", 0)
    assert cellsignal(*words, cwd=tmp_path) == 2
    out = capsys.readouterr().out
    assert f"error {why}: 1" in out and "P2.zarr/C/3/1/0" in out


@pytest.mark.slow
def test_a_plate_is_packed_and_changes_are_seen(tmp_path):
    """From init to a store; a chunk that changes is packed anew."""
    from cellsignal.data.store import Store

    root = tmp_path / "raw"
    make(root, version="0.5", dtype=np.uint8)
    assert cellsignal("init", root, cwd=tmp_path) == 0
    config = {
        "name": "zarr",
        "competition": "plates",
        "data": {"root": str(root), "store": "store", "size": 16, "workers": 0},
        "folds": {"file": "folds.csv"},
        "model": {"backbone": "test_resnet"},
        "stages": [
            {
                "name": "all",
                "epochs": 1,
                "batch_size": 8,
                "optimizer": {"name": "adamw", "lr": 1e-3},
            }
        ],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert cellsignal("prepare", "config.yaml", cwd=tmp_path) == 0
    store = Store.open(tmp_path / "store")
    files = store.samples.files[3]
    before = store.read(3)
    assert np.array_equal(before, PLATES.read(root, files))
    import zarr

    array = zarr.open_array(root / files[0].partition("#")[0], mode="r+")
    array[...] = 255 - array[...]
    assert cellsignal("prepare", "config.yaml", cwd=tmp_path) == 0
    after = Store.open(tmp_path / "store").read(3)
    assert np.array_equal(after, PLATES.read(root, files)) and not np.array_equal(after, before)
