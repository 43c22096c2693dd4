"""A journal cut or changed anywhere gives back its whole lines, and no other."""

from cellsignal.data.journal import JOURNAL, journal_line, read_journal


def test_a_journal_is_read_up_to_the_first_torn_line(tmp_path):
    entries = [{"row": row, "status": 1, "bytes": 10 + row} for row in (4, 0, 7)]
    lines = [journal_line(entry) for entry in entries]
    whole = b"".join(lines)
    ends = [len(b"".join(lines[:count])) for count in range(4)]
    assert read_journal(tmp_path) == ({}, 0)
    for length in range(len(whole) + 1):
        (tmp_path / JOURNAL).write_bytes(whole[:length])
        count = sum(end <= length for end in ends) - 1
        expected = {entry["row"]: entry for entry in entries[:count]}
        assert read_journal(tmp_path) == (expected, ends[count])
    flipped = bytearray(whole)
    flipped[ends[1] + 12] ^= 1
    (tmp_path / JOURNAL).write_bytes(bytes(flipped))
    assert read_journal(tmp_path) == ({4: entries[0]}, ends[1])
