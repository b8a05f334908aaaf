"""docs/survey.md: what its data says, with counts that our plans have."""

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytest.importorskip("peftcore_reasoning")


@pytest.fixture(scope="module")
def survey() -> Any:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import survey
    finally:
        sys.path.remove(str(ROOT / "tools"))
    return survey


def test_the_page_is_what_its_data_says(survey: Any) -> None:
    assert survey.PAGE.read_text("utf-8") == survey.written(), "run: python tools/survey.py"


def test_recipes_and_distributions_that_it_names_are_there(survey: Any) -> None:
    """Those of domains that are being built are named as not here yet."""
    for system in survey.SYSTEMS:
        for name in system.recipes:
            assert (ROOT / "examples" / name).is_file(), name
        assert any((ROOT / "plugins" / name).is_dir() for name in system.plugins) or (
            not system.recipes and not system.counts
        )


@pytest.mark.slow
def test_every_count_is_that_of_a_plan(survey: Any) -> None:
    assert list(survey.differences()) == []
