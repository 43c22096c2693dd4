"""Read a whole store, local or remote, and list the sites that are damaged."""

from pathlib import Path

from cellsignal.common.places import Place
from cellsignal.data.store import Store

Damage = tuple[str, str]  # sample id, what is wrong and what to do


def check_store(place: Place) -> tuple[int, list[Damage]]:
    """Read all of a store: tables, arrays, and all sites, whose pixels have checksums.

    A remote store is read past the local copies of its sites.

    Returns:
        The number of sites, and the damaged ones in the order of the samples table.

    Raises:
        InputError: there is no complete store, its tables are damaged, or it cannot be fetched.
    """
    store = Store.open(place if isinstance(place, Path) else place.without_cache())
    _ = store.skipped  # its list is read as well
    ids = dict(zip(store.samples.row, store.samples.sample_id, strict=True))
    damage = [(ids[row], message) for row, message in store.check()]
    return len(ids), damage


def damage_text(sites: int, damage: list[Damage]) -> str:
    """Return a count, and a line for each damaged site."""
    lines = [f"{sites} site{'' if sites == 1 else 's'}, {len(damage)} damaged"]
    return "\n".join([*lines, *(f"  {message} [{name}]" for name, message in damage)])
