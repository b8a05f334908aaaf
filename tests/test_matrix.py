"""Every installed method is tested on every installed backbone, by its contract class."""

import re
from pathlib import Path

import pytest

import peftcore
from peftcore.errors import AttachError, TargetError
from peftcore.registry.installed import installed
from peftcore.testing import Toy, pairs, reason_against
from peftcore.testing.toy import ToyBackbone

ROOT = Path(__file__).parents[1]


def test_the_matrix_has_every_method_and_every_backbone() -> None:
    methods = set(installed().methods) - {"probe"}
    assert set(pairs()) == {(m, b) for m in methods for b in installed().backbones}


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


def test_a_missing_feature_is_the_reason_and_says_what_it_is() -> None:
    reasons = {pair: reason for pair in pairs() if (reason := reason_against(*pair))}
    assert reasons["prefix", "esm"].startswith("it needs attention that takes keys and values")
    assert reasons["prompt", "whisper"] == "generation runs its encoder and its decoder apart"
    assert not [reason for reason in reasons.values() if len(reason.split()) < 4]


def test_a_method_cannot_run_where_a_feature_is_missing_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    methods = installed()._specs["methods"]
    probe = installed().methods["probe"]
    monkeypatch.setitem(methods, "probe", probe._replace(needs=("cache", "linear")))
    model = Toy()
    with pytest.raises(AttachError, match="probe cannot run on toy: it needs attention that takes"):
        peftcore.attach(model, "probe")
    assert not peftcore.adapters(model)
    monkeypatch.setattr(ToyBackbone, "has", ("cache",))
    peftcore.attach(model, "probe")


def test_a_role_that_a_family_lacks_is_stood_in_for_in_defaults_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    roles = {k: v for k, v in ToyBackbone.roles.items() if not k.startswith("attention.")}
    monkeypatch.setattr(ToyBackbone, "roles", roles)
    monkeypatch.setattr(ToyBackbone, "stands_in", {"attention.query": "mlp.up"})
    with pytest.raises(TargetError, match=r"'attention\.value' matches nothing"):
        peftcore.plan(Toy(), "lora")
    stand_ins = {"attention.query": "mlp.up", "attention.value": "mlp.down"}
    monkeypatch.setattr(ToyBackbone, "stands_in", stand_ins)
    adapter = peftcore.attach(Toy(), "lora")
    assert {item.site.role for item in adapter.placed} == {"mlp.up", "mlp.down"}
    assert adapter.methods[0].config.targets.roles == ("mlp.up", "mlp.down")
    with pytest.raises(TargetError, match=r"'attention\.query' matches nothing"):
        peftcore.plan(Toy(), "lora", targets=["attention.query"])
