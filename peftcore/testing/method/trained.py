"""Training: the start, gradients, and the loop of docs/how-to/own-loop.md."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import peftcore
from peftcore.model.backbones import backbone_of
from peftcore.model.survey import survey
from peftcore.registry.installed import installed
from peftcore.testing.closeness import check_close
from peftcore.testing.matrix import loss_of, perturb
from peftcore.testing.method.on_toy import OnToy, gradients
from peftcore.testing.places import Run
from peftcore.testing.refusals import Snapshot


def train(
    model: nn.Module, adapter: peftcore.Adapter, batch: Mapping[str, Any], steps: int, lr: float
) -> Iterator[float]:
    """Train as a loop of one's own does, with all that it calls; yield the loss of each step."""
    adapter.before_run(steps)
    optimiser = torch.optim.AdamW(adapter.parameter_groups(lr), weight_decay=0.1)
    model.train()
    for step in range(1, steps + 1):
        loss = loss_of(model(**batch))
        if step == 1:
            adapter.check_alive(loss)
        (loss + adapter.extra_loss()).backward()
        optimiser.step()
        adapter.after_step(step, steps)
        optimiser.zero_grad()
        yield loss.item()
    adapter.after_run()
    model.eval()


def one_step(model: nn.Module, batch: Mapping[str, Any], lr: float) -> None:
    """Take one step of plain gradient descent with the adapter of a model."""
    adapter = peftcore.adapters(model)["default"]
    torch.manual_seed(3)  # the same dropout, whoever steps
    loss = loss_of(model.train()(**batch)) + adapter.extra_loss()
    loss.backward()
    with torch.no_grad():
        for parameter in adapter.parameters():
            assert parameter.grad is not None
            parameter.sub_(lr * parameter.grad)
            parameter.grad = None
    model.eval()


class Trained(OnToy):
    """What happens to an adapter while it is trained."""

    def test_it_starts_as_the_base_or_says_that_it_does_not(self) -> None:
        model, batch = self.pair()
        bare = Run(model, batch)
        self.attach(model)
        found = Run(model, batch)
        pairs = zip(bare.out, found.out, strict=True)
        difference = max((a - b).abs().max().item() for a, b in pairs)
        if installed().methods[self.method].identity_at_start:
            assert difference <= 1e-6, (
                f"{self.method} changes the base at its start{found.since(bare)}"
            )
        else:
            assert difference > 0, f"{self.method} starts as the base: say identity_at_start=True"

    def test_a_plan_leaves_the_model_as_it_was(self) -> None:
        model, _ = self.pair()
        before = Snapshot(model)
        peftcore.plan(model, [self.choice(self.toy_name())])
        assert not before.change(), f"planning {self.method}: {before.change()}"

    def test_all_that_is_trained_gets_a_gradient_and_the_base_gets_none(self) -> None:
        model, batch = self.pair()
        adapter = self.attach(model)
        perturb(adapter)
        loss_of(model(**batch)).backward()
        adapter.check_alive()
        trained = {id(p) for p in adapter.parameters()}
        assert trained, f"{self.method} trains nothing"
        leaked = [
            name for name, p in model.named_parameters()
            if p.grad is not None and id(p) not in trained
        ]  # fmt: skip
        assert not leaked, f"frozen {leaked[0]} got a gradient"

    def test_the_loss_falls_and_the_base_stays(self) -> None:
        model, _ = self.pair()
        batch = self.batch(model, rows=8)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        adapter = self.attach(model)
        losses = list(train(model, adapter, batch, self.steps, self.learning_rate))
        assert losses[-1] < losses[0], f"the loss of {self.method} goes from {losses[0]:.4f} up"
        adapter.detach()
        after = model.state_dict()
        assert before.keys() == after.keys()
        moved = [k for k in before if not torch.equal(before[k], after[k])]
        assert not moved, f"training changed {moved[0]} of the base"

    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_checkpointed_blocks_give_the_same_gradients(self, use_reentrant: bool) -> None:
        model, batch = self.pair()
        adapter = self.attach(model)
        perturb(adapter)
        model.train()
        found = []
        for checkpointed in (False, True):
            if checkpointed:
                checkpoint_blocks(model, use_reentrant=use_reentrant)
            torch.manual_seed(1)  # the same dropout
            loss_of(model(**batch)).backward()
            found.append(gradients(adapter))
            for parameter in adapter.parameters():
                parameter.grad = None
        for name, plain in found[0].items():
            what = f"gradient of {name} with checkpointing"
            check_close(found[1][name], plain, what, atol=1e-6)

    @pytest.mark.parametrize("how", ["deepcopy", "pickle"])
    def test_a_copy_trains_on_as_the_original_does(self, how: str) -> None:
        model, batch = self.pair()
        self.attach(model)
        one_step(model, batch, self.learning_rate)
        tuned = Run(model, batch)
        twin = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
        copied = Run(twin, batch)
        assert copied.same(tuned), f"the {how} computes something else{copied.since(tuned)}"
        one_step(twin, batch, self.learning_rate)
        now = Run(model, batch)
        assert now.same(tuned), f"training the {how} changed the original{now.since(tuned)}"
        one_step(model, batch, self.learning_rate)
        one, two = Run(twin, batch), Run(model, batch)
        assert one.same(two), f"the {how} trains otherwise{one.since(two)}"
        peftcore.detach(twin)
        assert not peftcore.adapters(twin) and peftcore.adapters(model)


def checkpoint_blocks(model: nn.Module, *, use_reentrant: bool) -> None:
    """Let the blocks of a model forget their activations and compute them again in backward."""
    for site in survey(model, backbone_of(model)).sites:
        if site.role == "block":
            site.module.__dict__["forward"] = _forgetful(site.module, use_reentrant)


def _forgetful(block: nn.Module, use_reentrant: bool) -> Any:
    plain = type(block).forward.__get__(block)  # type: ignore[attr-defined]

    def forward(x: torch.Tensor, *rest: Any) -> Any:
        if use_reentrant and not x.requires_grad:
            x = x.detach().requires_grad_()  # else this kind gives the block no gradient
        return checkpoint(plain, x, *rest, use_reentrant=use_reentrant)

    return forward
