"""Every installed method is tested on every installed backbone, by its contract class."""

import re
from pathlib import Path

import pytest

import peftcore
from peftcore.errors import AttachError
from peftcore.registry.installed import installed
from peftcore.testing import Toy, pairs

ROOT = Path(__file__).parents[1]


def test_the_matrix_has_every_method_and_every_backbone() -> None:
    found = {(pair.method, pair.backbone) for pair in pairs()}
    methods = set(installed().methods) - {"probe"}
    assert found == {(m, b) for m in methods for b in installed().backbones}


def test_every_method_of_this_repository_has_a_contract_class() -> None:
    """The contract tries the method on every backbone, unless the pair is declared impossible."""
    sources = [p.read_text() for p in ROOT.glob("plugins/*/tests/test_*.py")]
    under_contract = set(re.findall(r'^    method = "([\w-]+)"', "\n".join(sources), re.MULTILINE))
    ours = {
        name
        for name in installed().methods
        if (ROOT / "plugins" / installed().owner("methods", name).distribution).exists()
    }
    assert ours and not ours - under_contract


def test_impossible_pairs_say_why() -> None:
    assert not [p for p in pairs() if p.impossible and len(p.impossible.split()) < 4]


def test_a_method_cannot_run_where_a_feature_is_missing_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    specs = installed()._specs
    monkeypatch.setitem(
        specs["methods"], "probe", installed().methods["probe"]._replace(needs=("cache",))
    )
    assert installed().impossible("probe", "toy") == (
        "it needs attention that takes keys and values from a cache, which toy does not have"
    )
    monkeypatch.setitem(
        specs["backbones"], "toy", installed().backbones["toy"]._replace(has=("cache",))
    )
    assert not installed().impossible("probe", "toy")
    model = Toy()
    monkeypatch.setitem(specs["backbones"], "toy", installed().backbones["toy"]._replace(has=()))
    with pytest.raises(AttachError, match="probe cannot run on toy: it needs attention that takes"):
        peftcore.attach(model, "probe")
    assert not peftcore.adapters(model)
