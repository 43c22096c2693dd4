"""Names of one substance, and names of two."""

import pytest

from cellsignal.audit.spelling import loosely, skeleton, substance


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Propranolol", "propranolol"),
        ("(S)-Propranolol hydrochloride", "propranolol HCl"),
        ("(±)-Verapamil", "verapamil"),
        ("(2R,3S)-tartaric acid", "tartaric acid"),
        ("dl-methadone", "Methadone dihydrochloride"),
        ("AG-013736", "AG013736"),
        ("BMS 961", "bms-961"),
        ("imatinib mesylate", "Imatinib"),
        ("(+/-)-ibuprofen", "ibuprofen sodium salt"),
    ],
)
def test_one_substance(one, other):
    assert substance(one) == substance(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("AZ-A", "AZ-C"),
        ("GSK-1", "GSK-11"),
        ("estradiol", "estriol"),
        ("sodium chloride", "potassium chloride"),
        ("SB-202190", "SB-203580"),
        ("lithium", "sodium"),
    ],
)
def test_two_substances(one, other):
    assert substance(one) != substance(other)


def test_names_of_units():
    assert loosely("HUVEC-01") == loosely("huvec 1") == loosely("HUVEC_001")
    assert loosely("HUVEC-01") != loosely("HUVEC-10")
    assert loosely("EXP-1_12") != loosely("EXP-11_2")
    assert loosely("P0") != loosely("P")


def test_first_block_of_an_inchikey():
    assert skeleton("aelcinscmgfisi-bdakngLRSA-n") == "AELCINSCMGFISI"
    assert skeleton("AELCINSCMGFISI") is None
    assert skeleton("aspirin") is None
