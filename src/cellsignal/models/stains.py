"""The names of stains: data sets call the same dye by different words."""

import re
from collections.abc import Sequence

# our word -> what data sets and vendors call the same dye or structure
SYNONYMS = {
    "dna": ("nuclei", "nucleus", "hoechst", "hoechst33342", "hoechst_33342", "dapi", "draq5"),
    "er": ("endoplasmic_reticulum", "concanavalin_a"),
    "rna": ("nucleoli", "syto14", "syto_14"),
    "mito": ("mitochondria", "mitotracker", "mito_tracker"),
    "actin": ("phalloidin", "f_actin"),
    "tubulin": ("microtubules", "b_tubulin", "beta_tubulin", "alpha_tubulin"),
    "golgi": ("wga", "wheat_germ_agglutinin"),
    "agp": ("actin_golgi_plasma_membrane", "actin_golgi_pm"),
}
_STAIN_OF = {word: stain for stain, words in SYNONYMS.items() for word in (stain, *words)}


def stain_of(channel: str) -> str:
    """Return the stain of a channel's name: our word for it, or the name in small letters.

    Letters and digits count, other signs become one "_": "Mito", "mitochondria" and "MitoTracker"
    are all "mito". Brightfield and unknown names are stains of their own.
    """
    word = re.sub(r"[^a-z0-9]+", "_", channel.casefold()).strip("_")
    return _STAIN_OF.get(word, word) or "unnamed"


def stains_of(channels: int | Sequence[str]) -> tuple[str, ...]:
    """Return the stain of each channel; of a number of channels: channel_1, channel_2, ..."""
    if isinstance(channels, int):
        return tuple(f"channel_{number}" for number in range(1, channels + 1))
    return tuple(map(stain_of, channels))
