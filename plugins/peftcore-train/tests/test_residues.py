"""Sequences of residues as people write them."""

import pytest

from peftcore import DataError
from peftcore_train.residues import NEAREST, STANDARD, is_of_residues, residues


def test_what_is_written_otherwise_is_read_and_counted():
    text, changed = residues(" ev-QL..\nvesg*\n", STANDARD)
    assert text == "EVQLVESG"
    assert changed == {
        "blanks dropped": 3,
        "lower case read as upper": 6,
        "stops (*) at the end dropped": 1,
        "gaps (- .) dropped": 3,
    }
    assert residues("EVQL", STANDARD) == ("EVQL", {})


def test_rare_residues_stay_where_they_are_known_and_follow_the_table_elsewhere():
    rare = "".join(NEAREST)
    assert residues(rare, STANDARD + rare) == (rare, {})
    assert residues(rare, STANDARD + "X")[0] == "XXXXX"
    text, changed = residues(rare, STANDARD, "nearest")
    assert text == "CKDEL" and changed["U read as C"] == 1
    assert residues("AX", STANDARD, "nearest")[0] == "AX"
    _, changed = residues("AUU", STANDARD)
    assert changed == {"U, for which the vocabulary has no token": 2}
    with pytest.raises(DataError, match=r"no residue U; see rare_residues"):
        residues("AU", STANDARD, "refuse")


def test_a_vocabulary_of_residues_is_told_from_one_of_words_and_of_letters():
    special = ["[PAD]", "<cls>", "<null_1>", ".", "-"]
    assert is_of_residues(dict.fromkeys([*special, *STANDARD, "X"]))
    assert not is_of_residues(dict.fromkeys([*special, *STANDARD, "the"]))
    assert not is_of_residues(dict.fromkeys([*special, *STANDARD, *STANDARD.lower()]))
    assert not is_of_residues(dict.fromkeys([*special, *STANDARD[1:]]))
