"""What ran in a forward is what runs in its recomputation, with both kinds of checkpointing."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import peftcore
from peftcore.errors import AttachError
from peftcore.run.recomputing import parts
from peftcore.testing import Toy
from peftcore.testing.matrix import tiny
from peftcore.testing.toy import Block

# in the forward passes of evaluation
pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")

KINDS = ("plain", "reentrant", "not reentrant", "nested", "layer", "transformers")


class Around(nn.Module):
    """Runs a block under torch's checkpointing, as an own model would."""

    def __init__(self, block: nn.Module, kind: str):
        super().__init__()
        self.block, self.kind = block, kind

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.kind == "plain":
            return self.block(x, mask)  # type: ignore[no-any-return]
        if self.kind == "nested":
            inner = partial(checkpoint, self.block, use_reentrant=False)
            return checkpoint(inner, x, mask, use_reentrant=False)  # type: ignore
        return checkpoint(self.block, x, mask, use_reentrant=self.kind == "reentrant")  # type: ignore


class Layer(nn.Module):
    """Checkpoints itself in its call, as many models do."""

    gradient_checkpointing = True

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.training:
            return super().__call__(*args, **kwargs)
        return checkpoint(partial(super().__call__, **kwargs), *args, use_reentrant=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.block(x, mask)  # type: ignore[no-any-return]


def wrapped(block: nn.Module, kind: str) -> nn.Module:
    if kind == "layer":
        return Layer(block)
    if kind != "transformers":
        return Around(block, kind)
    from transformers.modeling_layers import GradientCheckpointingLayer

    class Ours(GradientCheckpointingLayer):
        def __init__(self) -> None:
            super().__init__()
            self.block = block

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.block(x, mask)  # type: ignore[no-any-return]

    made = Ours()
    made.gradient_checkpointing = True
    made._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    return made


class Trained:
    """A toy whose blocks are checkpointed, with two adapters."""

    def __init__(self, kind: str, method: str):
        _, model, self.batch = tiny("toy")
        assert isinstance(model, Toy)
        model.blocks = nn.ModuleList(wrapped(block, kind) for block in model.blocks)
        # the input of the first block must require a gradient for reentrant checkpointing
        model.embeddings.register_forward_hook(lambda m, i, out: out.requires_grad_())
        self.model = model.train()
        targets = {"targets": ["path:blocks.*.block.{up,attention.value}"]}
        for i, name in enumerate("ab"):
            adapter = peftcore.attach(
                model, method, name=name, backbone="toy" if method == "loreft" else None,
                **(targets if method in ("lora", "probe") else {}),
            )  # fmt: skip
            noise = torch.Generator().manual_seed(i)
            with torch.no_grad():
                for parameter in adapter.parameters():
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=noise))
        peftcore.activate(model, "a")

    def loss(self, shift: int = 0) -> Tensor:
        batch = {**self.batch, "input_ids": (self.batch["input_ids"] + shift) % 24}
        return self.model(**batch).loss  # type: ignore[no-any-return]

    def gradients(self) -> dict[str, Tensor | None]:
        return {
            f"{name}.{key}": None if p.grad is None else p.grad.clone()
            for name, adapter in peftcore.adapters(self.model).items()
            for key, p in adapter.named_parameters()
        }


def two_adapters_then_backward(t: Trained) -> None:
    one = t.loss()
    peftcore.activate(t.model, "b")
    two = t.loss(1)
    (one + 2 * two).backward()


def switched(t: Trained) -> None:
    loss = t.loss()
    peftcore.activate(t.model, "b")
    loss.backward()


def switched_off(t: Trained) -> None:
    loss = t.loss()
    peftcore.activate(t.model)
    loss.backward()


def switched_on(t: Trained) -> None:
    with peftcore.disabled(t.model):
        loss = t.loss()
    (loss + t.loss(1)).backward()


def switched_and_evaluated(t: Trained) -> None:
    loss = t.loss()
    peftcore.activate(t.model, "b")
    with torch.no_grad():
        t.loss(3)
    loss.backward()


def backward_in_disabled(t: Trained) -> None:
    loss = t.loss()
    with peftcore.disabled(t.model):
        loss.backward()


def reference_between(t: Trained) -> None:
    """As preference losses do."""
    with torch.no_grad(), peftcore.disabled(t.model):
        wanted = t.loss()
    loss = t.loss()
    with torch.no_grad(), peftcore.disabled(t.model):
        wanted = wanted + t.loss(2)
    (loss - wanted).pow(2).backward()


def routed_and_left(t: Trained) -> None:
    with peftcore.route(t.model, ["a", "b"]):
        loss = t.loss()
    loss.backward()


def routed_differently(t: Trained) -> None:
    with peftcore.route(t.model, ["a", "b"]):
        one = t.loss()
    with peftcore.route(t.model, ["b", None]):
        two = t.loss(1)
        (one + two).backward()


def one_of_two_graphs_first(t: Trained) -> None:
    one, two = t.loss(), t.loss(1)
    one.backward()
    peftcore.activate(t.model, "b")
    three = t.loss(2)
    two.backward()
    three.backward()


def backward_twice(t: Trained) -> None:
    loss = t.loss()
    loss.backward(retain_graph=True)
    peftcore.activate(t.model, "b")
    loss.backward()


STORIES: list[Callable[[Trained], None]] = [
    two_adapters_then_backward, switched, switched_off, switched_on, switched_and_evaluated,
    backward_in_disabled, reference_between, routed_and_left, routed_differently,
    one_of_two_graphs_first, backward_twice,
]  # fmt: skip


@pytest.mark.parametrize("method", ["lora", "bitfit", "full", "loreft"])
@pytest.mark.parametrize("story", STORIES, ids=lambda s: s.__name__)
def test_gradients_are_those_without_checkpointing_or_an_error(
    story: Callable[[Trained], None], method: str
) -> None:
    plain = Trained("plain", method)
    story(plain)
    wanted = plain.gradients()
    assert any(g is not None and g.abs().sum() > 0 for g in wanted.values())
    for kind in KINDS[1:]:
        t = Trained(kind, method)
        try:
            story(t)
        except AttachError as error:
            assert method in ("bitfit", "full"), (kind, error)
            assert "computed again in backward" in str(error)
            continue
        found = t.gradients()
        for name, grad in wanted.items():
            here = found[name]
            if grad is None or here is None:
                assert all(g is None or not g.any() for g in (grad, here)), (kind, name)
                continue
            torch.testing.assert_close(here, grad, msg=lambda m, k=kind, n=name: f"{k} {n}: {m}")


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("what", ["merge", "merge and unmerge", "detach a"])
def test_a_recomputation_after_weights_changed_is_refused(kind: str, what: str) -> None:
    t = Trained(kind, "lora")
    loss = t.loss()
    if what == "detach a":
        peftcore.detach(t.model, "a")
    else:
        peftcore.merge(t.model)
        if what == "merge and unmerge":
            peftcore.unmerge(t.model)
    with pytest.raises(AttachError, match="merged, unmerged or taken off"):
        loss.backward()


def test_a_merge_between_forward_and_backward_is_seen_without_checkpointing() -> None:
    t = Trained("plain", "lora")
    loss = t.loss()
    peftcore.merge(t.model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_forward_that_nothing_is_known_of_is_not_computed_again(kind: str) -> None:
    _, model, batch = tiny("toy")
    assert isinstance(model, Toy)
    model.blocks = nn.ModuleList(wrapped(block, kind) for block in model.blocks)
    model.embeddings.register_forward_hook(lambda m, i, out: out.requires_grad_())
    loss = model.train()(**batch).loss
    peftcore.attach(model, "lora", targets=["path:blocks.*.block.up"])
    with pytest.raises(AttachError, match="before the adapter was attached"):
        loss.backward()


@pytest.mark.parametrize("kind", ["reentrant", "not reentrant"])
def test_the_whole_model_may_be_one_checkpointed_part(kind: str) -> None:
    def gradients(whole: bool) -> dict[str, Tensor | None]:
        t = Trained("plain", "loreft")
        embedded = torch.zeros((), requires_grad=True)

        def call(_: Tensor, shift: int) -> Tensor:
            return t.loss(shift)

        losses = []
        for shift, name in enumerate("ab"):
            peftcore.activate(t.model, name)
            losses.append(
                checkpoint(call, embedded, shift, use_reentrant=kind == "reentrant")
                if whole
                else call(embedded, shift)
            )
        sum(losses).backward()  # type: ignore[union-attr]
        return t.gradients()

    wanted, found = gradients(False), gradients(True)
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad)


def test_torch_keeps_one_object_for_a_part_from_forward_to_recomputation() -> None:
    """The private ground of ``recomputing``: were it to go, this says so first."""
    for reentrant in (False, True):
        seen: list[list[Any]] = []

        def part(x: Tensor, seen: list[list[Any]] = seen) -> Tensor:
            seen.append(parts())
            return x.sin().cos()

        x = torch.ones(2, requires_grad=True)
        checkpoint(part, x, use_reentrant=reentrant).sum().backward()
        assert len(seen) == 2 and len(seen[0]) == len(seen[1]) == 1
        assert seen[0][0] is seen[1][0]
    assert parts() == []


def test_evaluation_without_gradients_leaves_nothing_behind() -> None:
    t = Trained("reentrant", "lora")
    t.model.eval()
    with torch.no_grad(), nullcontext():
        t.loss()
    t.model.train()
    for name in "ab":
        peftcore.activate(t.model, name)
        t.loss().backward()
    assert all(g is not None for g in t.gradients().values())
    assert isinstance(t.model.blocks[0].block, Block)
