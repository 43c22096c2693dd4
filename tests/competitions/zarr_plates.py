"""Write small OME-Zarr plates of versions 0.4 and 0.5, as public converters lay them out."""

import json

import numpy as np
import zarr

WELLS = ("B02", "B03", "C02", "C03")
LABELS = ("Hoechst 33342", "Alexa 488")


def put_attributes(folder, version, attributes):
    """Write the attributes of a group."""
    folder.mkdir(parents=True, exist_ok=True)
    if version == "0.4":
        (folder / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
        (folder / ".zattrs").write_text(json.dumps(attributes))
    else:
        tree = {"zarr_format": 3, "node_type": "group"}
        tree["attributes"] = {"ome": {"version": version, **attributes}}
        (folder / "zarr.json").write_text(json.dumps(tree))


def multiscales(axes, levels=2):
    kinds = {"t": "time", "c": "channel"}
    return [
        {
            "axes": [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes],
            "datasets": [{"path": str(level)} for level in range(levels)],
        }
    ]


def put_array(folder, version, pixels, chunks, separator="/", shards=None):
    """Write an array, also its empty chunks."""
    options = {"chunks": chunks, "overwrite": True, "config": {"write_empty_chunks": True}}
    if version == "0.4":
        encoding = {"name": "v2", "separator": separator}
        options |= {"zarr_format": 2, "chunk_key_encoding": encoding}
    elif shards:
        options |= {"shards": shards}
    array = zarr.create_array(folder, shape=pixels.shape, dtype=pixels.dtype, **options)
    array[...] = pixels


def make_plate(
    plate,
    version="0.4",
    axes="tczyx",
    depth=2,
    side=16,
    sites=2,
    labels=LABELS,
    shards=False,
    separator="/",
    dtype=np.uint16,
):
    """Write a plate of `WELLS`; return {(well, site): (C, Z, H, W)} of the highest resolution."""
    rng = np.random.default_rng(sum(map(ord, plate.name)))
    pixels = {}
    paths = [{"path": f"{w[0]}/{int(w[1:])}", "rowIndex": 0, "columnIndex": 0} for w in WELLS]
    rows, columns = [{"name": "B"}, {"name": "C"}], [{"name": "2"}, {"name": "3"}]
    facts = {"name": plate.name, "rows": rows, "columns": columns, "wells": paths}
    put_attributes(plate, version, {"plate": facts})
    size = {"t": 1, "c": len(labels), "z": depth, "y": side, "x": side}
    # chunks do not divide the side: the last ones reach beyond the image
    last = 5 if shards else 10
    chunk = [{"y": last, "x": last}.get(axis, 1) for axis in axes]
    shard = [{"y": 10, "x": 10, "z": 2}.get(axis, 1) for axis in axes]
    for well in WELLS:
        folder = plate / well[0] / str(int(well[1:]))
        put_attributes(plate / well[0], version, {})
        images = [{"path": str(site)} for site in range(sites)]
        put_attributes(folder, version, {"well": {"images": images}})
        for site in range(sites):
            field = folder / str(site)
            what = {"multiscales": multiscales(axes)}
            what["omero"] = {"channels": [{"label": name, "color": "00FF00"} for name in labels]}
            put_attributes(field, version, what)
            whole = rng.integers(1, 255, (len(labels), depth, side, side)).astype(dtype)
            pixels[well, site + 1] = whole
            array = whole.reshape([size[axis] for axis in axes])
            how = {"separator": separator, "shards": tuple(shard) if shards else None}
            put_array(field / "0", version, array, tuple(chunk), **how)
            put_array(field / "1", version, array[..., ::2, ::2], tuple(chunk), **how)
    return pixels


def write_map(folder):
    rows = [f"{well},{'drug' if well[0] == 'B' else 'other'}" for well in WELLS]
    (folder / "map.csv").write_text("well,compound\n" + "\n".join(rows) + "\n")
