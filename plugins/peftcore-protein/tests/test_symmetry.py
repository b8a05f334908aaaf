import pytest

from peftcore import DataError
from peftcore_protein.symmetry import SYMMETRIES, symmetry_class, symmetry_target

TABLE = {
    **{f"C{n}": n - 1 for n in range(1, 7)},
    **{f"C{n}": 6 for n in (7, 8, 9)},
    **{f"C{n}": 7 for n in range(10, 18)},
    "D2": 8, "D3": 9, "D4": 10, "D5": 11,
    **{f"D{n}": 12 for n in range(6, 13)},
    "H": 13, "O": 14, "T": 15, "I": 16,
    "C18": 17, "D13": 17, "C0": 17, "D1": 17, "helical": 17, "c2": 17,
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_every_symmetry_has_its_class(name: str) -> None:
    assert symmetry_class(name) == TABLE[name]


def test_there_are_18_classes() -> None:
    assert len(SYMMETRIES) == 18 and set(TABLE.values()) == set(range(18))


def test_several_symmetries_are_several_ones() -> None:
    target = symmetry_target("C2 D3")
    assert target.nonzero().flatten().tolist() == [1, 9]
    assert target.max() == 1


def test_two_names_of_one_class_are_one_unless_released() -> None:
    assert symmetry_target("C7 C8")[6] == 1
    assert symmetry_target("C7  C8", released=True)[6] == 2


def test_an_empty_label_is_told() -> None:
    with pytest.raises(DataError, match="symmetry label is empty"):
        symmetry_target(" ")
