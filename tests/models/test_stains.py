import pytest

from cellsignal.competitions import get_competition
from cellsignal.models.stains import SYNONYMS, stain_of, stains_of


@pytest.mark.parametrize(
    ("channel", "stain"),
    [
        ("nuclei", "dna"),
        ("DNA", "dna"),
        ("Hoechst 33342", "dna"),
        ("DAPI", "dna"),
        ("endoplasmic_reticulum", "er"),
        ("Mito", "mito"),
        ("MitoTracker", "mito"),
        ("F-actin", "actin"),
        ("Brightfield (high)", "brightfield_high"),
        ("ch1", "ch1"),
        ("...", "unnamed"),
    ],
)
def test_one_word_for_what_data_sets_call_differently(channel, stain):
    assert stain_of(channel) == stain


def test_no_word_has_two_stains():
    words = [word for stain, others in SYNONYMS.items() for word in (stain, *others)]
    assert len(words) == len(set(words))


def test_data_sets_share_the_stains_that_they_share():
    rxrx1, bbbc021, cpjump1 = (
        stains_of(get_competition(name).channels) for name in ("rxrx1", "bbbc021", "cpjump1")
    )
    assert set(rxrx1) & set(bbbc021) == {"dna", "actin"}
    assert set(rxrx1) & set(cpjump1) == {"dna", "er", "rna", "mito"}
    assert len(set(rxrx1)) == 6


def test_a_number_of_channels_has_numbered_names():
    assert stains_of(3) == ("channel_1", "channel_2", "channel_3")
