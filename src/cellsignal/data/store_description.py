"""Check what a store's description, its `store.json`, says."""

from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

from cellsignal.common.errors import InputError
from cellsignal.data.codec import Layout

# formats: a file a site, many sites in a file; 3 had a frame for each channel and no lz4, and 2
# tables that are not compressed
FORMAT, SHARDED = 4, 5
READABLE = (2, 3, FORMAT, SHARDED)
CODECS = get_args(get_type_hints(Layout)["codec"])


def how_to_renew(info: dict[str, Any]) -> str:
    """Return what to do about damaged arrays or tables."""
    if is_sharded(info):
        return "give `cellsignal prepare CONFIG --shards` again, which writes it anew"
    return "pack it anew"


def how_to_rewrite_table(info: dict[str, Any]) -> str:
    """Return what to do about a table that is lost or damaged."""
    return how_to_renew(info) if is_sharded(info) else "run `cellsignal prepare` again"


def is_sharded(info: dict[str, Any]) -> bool:
    """Return whether `store.json` describes a store of shards."""
    return info.get("format") == SHARDED


def check_description(info: Any, file: Path) -> None:
    """Refuse what no `store.json` says, so that its readers need not ask.

    Args:
        info: what was parsed from `file`.

    Raises:
        InputError: it is no store's description, or one of another version.
    """
    if isinstance(info, dict) and info.get("format", FORMAT) not in READABLE:
        raise InputError(
            f"{file}: store format {info['format']}, this version reads "
            f"{', '.join(map(str, READABLE[:-1]))} and {READABLE[-1]}; pack it anew, or use the "
            "version of cellsignal that made it"
        )
    if not isinstance(info, dict) or not _has_types(info, _types(info)):
        raise InputError(f"{file}: is not the description of a cellsignal store")
    if info["codec"] not in CODECS:
        raise InputError(
            f"{file}: codec {info['codec']}, this version reads {', '.join(CODECS[:-1])} and "
            f"{CODECS[-1]}; use the version of cellsignal that made it"
        )


def _types(info: dict[str, Any]) -> dict[str, type | UnionType]:
    types = {"format": int, "cellsignal": str, "source": dict, "channels": list, "shape": list}
    types |= {"codec": str, "size": int | None, "n": int, "samples_sha256": str, "complete": bool}
    if info.get("complete"):
        types["arrays_digest"] = str
    return types | ({"shards": dict} if is_sharded(info) else {})


def _has_types(info: dict[str, Any], types: dict[str, type | UnionType]) -> bool:
    if any(name not in info or not isinstance(info[name], types[name]) for name in types):
        return False
    sizes = [info["n"], *info["shape"]]
    if len(sizes) != 3 or not all(isinstance(size, int) and size > 0 for size in sizes):
        return False
    if not info["channels"] or not all(isinstance(name, str) for name in info["channels"]):
        return False
    if not is_sharded(info):
        return True
    shards = {"most_mb": int | float, "made_from": str}
    shards |= {"table_sha256": str, "number": int} if info["complete"] else {}
    return all(isinstance(info["shards"].get(name), kind) for name, kind in shards.items())
