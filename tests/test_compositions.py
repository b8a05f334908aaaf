"""Any two methods on one model: together in both orders, or refused with a reason."""

from pathlib import Path
from typing import Any

import pytest
import torch

import peftcore
from peftcore.errors import PeftcoreError
from peftcore.registry.installed import installed
from peftcore.testing import loss_of, pairs, perturb, reason_against, run, same, tiny

METHODS = sorted({method for method, _ in pairs()})
#: What fits the small models where the defaults do not.
SMALL: dict[str, dict[str, Any]] = {
    "compacter": {"bottleneck": 4},
    "kadaptation": {"phm_dim": 4},
    "prompt": {"num_virtual_tokens": 4},
    "s2lora": {"rank": 8},
}
ON: dict[tuple[str, str], dict[str, Any]] = {("bitfit", "llama"): {"add_missing": True}}
#: llama_adapter cannot tell how many heads the toy has.
UNFIT = {("llama_adapter", "toy")}
#: The cheapest backbone on which both can run is taken.
BACKBONES = [
    b for b in ("toy", "llama", "bert", "timm-vit", "timm-cnn") if b in installed().backbones
]
#: Methods that leave nothing to those behind them: all that these train is taken already.
REFUSED = {
    "compacter": {"norm_tuning"},
    "difffit": {"bitfit", "norm_tuning"},
    "fairtune": {"attention_tuning", "bitfit", "freeze", "norm_tuning"},
    "full": {"attention_tuning", "bitfit", "fairtune", "freeze", "norm_tuning"},
    "houlsby": {"norm_tuning"},
}


def backbone_for(*methods: str) -> str | None:
    return next(
        (
            b
            for b in BACKBONES
            if all((m, b) not in UNFIT and not reason_against(m, b) for m in methods)
        ),
        None,
    )


def choice(method: str, backbone: str) -> dict[str, Any]:
    return {"method": method, **SMALL.get(method, {}), **ON.get((method, backbone), {})}


def seconds(first: str) -> list[str]:
    """Return half of the other methods; each pair is tried in one order, by turns."""
    here = METHODS.index(first)
    return [m for i, m in enumerate(METHODS) if i != here and (i < here) == (i + here) % 2]


@pytest.mark.parametrize("first", METHODS)
def test_two_methods_live_together_or_say_why_not(first: str, tmp_path: Path) -> None:
    check(first, {*seconds(first), *REFUSED.get(first, ())}, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("first", METHODS)
def test_so_they_do_in_the_other_order(first: str, tmp_path: Path) -> None:
    check(first, {*METHODS} - {first, *seconds(first)}, tmp_path)


def check(first: str, others: set[str], tmp_path: Path) -> None:
    refused = {}
    for second in sorted(others):
        backbone = backbone_for(first, second)
        if backbone is None:
            continue
        _, model, batch = tiny(backbone)
        bare, keys = run(model, batch), list(model.state_dict())
        try:
            adapter = peftcore.attach(model, [choice(first, backbone), choice(second, backbone)])
        except PeftcoreError as error:
            refused[second] = str(error)
            assert same(run(model, batch), bare) and list(model.state_dict()) == keys
            continue
        (loss_of(model(**batch)) + adapter.extra_loss()).backward()
        adapter.check_alive()
        labels = {item.label for item in adapter.placed} | {s.selected.label for s in adapter.swaps}
        assert labels == {first, second}
        torch.manual_seed(0)
        perturb(adapter)
        tuned = run(model, batch)
        adapter.save(tmp_path / second)
        adapter.detach()
        assert same(run(model, batch), bare)
        peftcore.load(model, tmp_path / second)
        assert same(run(model, batch), tuned), f"{first} + {second} on {backbone}"
    assert refused.keys() == REFUSED.get(first, set()) & others
    assert all("found nothing to do" in reason for reason in refused.values())
