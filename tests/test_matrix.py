"""Every installed method is tested on every installed backbone, by its contract class."""

import re
from pathlib import Path

from peftcore.plugins import registry
from peftcore.testing import pairs

ROOT = Path(__file__).parents[1]


def test_the_matrix_has_every_method_and_every_backbone() -> None:
    found = {(pair.method, pair.backbone) for pair in pairs()}
    methods = set(registry().methods) - {"probe"}
    assert found == {(m, b) for m in methods for b in registry().backbones}


def test_every_method_of_this_repository_has_a_contract_class() -> None:
    """The contract tries the method on every backbone, unless the pair is declared impossible."""
    sources = [p.read_text() for p in ROOT.glob("plugins/*/tests/test_*.py")]
    under_contract = set(re.findall(r'^    method = "([\w-]+)"', "\n".join(sources), re.MULTILINE))
    ours = {
        name
        for name in registry().methods
        if (ROOT / "plugins" / registry().owner("methods", name).distribution).exists()
    }
    assert ours and not ours - under_contract


def test_impossible_pairs_say_why() -> None:
    assert not [p for p in pairs() if p.impossible and len(p.impossible.split()) < 4]
