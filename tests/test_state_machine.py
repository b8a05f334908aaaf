"""Whatever is done with adapters, in any order: outputs are what they are from scratch.

The reference of a step is a bare copy of the base, with the change of each adapter's own tensors
added as a dense matrix; nothing of the machinery under test takes part in it.
"""

import copy
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor, nn
from torch.func import functional_call

import peftcore
from peftcore.errors import PeftcoreError
from peftcore.testing import Toy

NAMES = ("a", "b", "c")
KINDS_OF_ADAPTERS = ("lora", "probe", "whole", "both")
ROWS = 3


class Transformer(nn.Module):
    """One block of attention and feed-forward, and a head that is tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, 8)
        self.query, self.value = nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 13, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        x = x + (self.query(x) @ x.transpose(1, 2)).softmax(-1) @ self.value(x)
        return self.head(x + self.down(self.up(self.norm(x)).relu()))  # type: ignore[no-any-return]


class Conv(nn.Module):
    """A convolution with a batch norm, and two linears."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.middle, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu().mean((2, 3))
        return self.head(self.middle(x).tanh())  # type: ignore[no-any-return]


class Kind:
    """A model, a batch for it, and where its adapters act."""

    def __init__(self, name: str):
        torch.manual_seed(3)
        self.name = name
        self.model: Any
        ids = torch.randint(0, 11, (ROWS, 5))
        if name == "transformer":
            self.model, self.batch = Transformer(), {"ids": ids}
            self.linears, self.whole = ["query", "value", "up"], ["norm"]
            self.embedding, self.heads = "embedding", ["head"]
        elif name == "toy":
            self.model = Toy()
            self.batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            self.linears, self.whole = ["blocks.0.up", "blocks.1.attention.value"], ["head"]
            self.embedding, self.heads = "embeddings", []
        else:
            self.model, self.batch = Conv(), {"x": torch.randn(ROWS, 2, 6, 6)}
            self.linears, self.whole = ["middle"], ["head"]
            self.embedding, self.heads = "", []
        self.model.eval()

    def methods(self, kind: str) -> tuple[list[Any], list[str]]:
        """Return the methods and modules_to_save of a kind of adapter."""
        targets = [f"path:{path}" for path in self.linears]
        chosen: list[Any] = []
        if kind in ("lora", "both"):
            chosen = [{"method": "lora", "rank": 2, "targets": targets}]
        elif kind == "probe":
            chosen = [{"method": "probe", "targets": targets}]
        return chosen, [f"path:{p}" for p in self.whole] if kind in ("whole", "both") else []


def run(
    model: nn.Module,
    batch: dict[str, Tensor],
    dtype: torch.dtype,
    values: dict[str, Tensor] | None = None,
) -> Tensor:
    """Return what a model computes, with ``values`` in place of some of its tensors."""
    given = {n: t.to(dtype) if t.is_floating_point() else t for n, t in batch.items()}
    with torch.no_grad():
        out = functional_call(model, values, kwargs=given) if values else model(**given)
    return getattr(out, "logits", out)  # type: ignore[no-any-return]


def check_near(found: Tensor, wanted: Tensor) -> None:
    near = 2e-4
    if wanted.dtype is torch.bfloat16:  # folded into the weights, a change is rounded with them
        near = 0.06 * max(1.0, wanted.abs().max().item())
    assert found.dtype == wanted.dtype and torch.allclose(found, wanted, atol=near, rtol=near), (
        f"off by {(found - wanted).abs().max().item()}"
    )


class Adapters(RuleBasedStateMachine):
    """A model, what is done with it, and what it should be."""

    kind_name = "toy"

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.kind = Kind(self.kind_name)
        self.model = self.kind.model
        self.bare = copy.deepcopy(self.model)
        self.dtype = torch.float32
        self.active: list[str] = []
        self.merged: list[str] = []
        self.kinds: dict[str, str] = {}
        self.statistics: dict[str, dict[str, Tensor]] = {}
        self.saved: dict[str, tuple[str, dict[str, Tensor]]] = {}
        self.blocks: list[tuple[Any, Any]] = []

    def teardown(self) -> None:
        while self.blocks:
            self.blocks.pop()[0].__exit__(None, None, None)
        self.stack.close()

    # --- the reference ---------------------------------------------------------------------------

    def reference(self, names: list[str]) -> Tensor:
        """Run the bare model with the changes of some adapters, each as a dense matrix."""
        values: dict[str, Tensor] = {}
        for name in names:
            adapter = peftcore.adapters(self.model)[name]
            for item in adapter.placed:
                where = f"{item.site.path}.weight"
                tensors = dict(item.piece.named_parameters())
                if item.label == "lora":
                    change = tensors["lora_B"].double() @ tensors["lora_A"].double() * (2 / 2)
                else:
                    change = tensors["change"].double()
                old = values.get(where, self.bare.get_parameter(where)).detach()
                values[where] = (old.double() + change.detach()).to(old)
            for swap in adapter.swaps:
                values[swap.selected.info.name] = swap.own.detach().to(self.dtype)
            values |= self.statistics.get(name, {})
        return run(self.bare, self.kind.batch, self.dtype, values)

    def wanted(self) -> Tensor:
        now: Any = self.blocks[-1][1] if self.blocks else self.merged or self.active
        if isinstance(now, tuple):
            rows = [self.reference([n] if n else []) for n in now]
            return torch.stack([out[i] for i, out in enumerate(rows)])
        return self.reference(list(now))

    @invariant()
    def outputs_are_those_of_the_reference(self) -> None:
        found, wanted = run(self.model, self.kind.batch, self.dtype), self.wanted()
        check_near(found, wanted)
        if not self.blocks and not self.merged:
            have = [n for n, a in peftcore.adapters(self.model).items() if a.active]
            assert sorted(have) == sorted(self.active)

    def attempt(self, act: Any) -> bool:
        """Do something, or see it refused with everything as it was."""
        before = {n: t.clone() for n, t in self.model.state_dict().items()}
        try:
            act()
        except PeftcoreError as error:
            assert str(error).strip()
            after = self.model.state_dict()
            assert list(after) == list(before)
            assert all(torch.equal(after[n], t) for n, t in before.items()), error
            return False
        return True

    def swaps(self, names: list[str]) -> bool:
        return any(self.kinds[n] in ("whole", "both") for n in names)

    # --- what can be done ------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), kind=st.sampled_from(KINDS_OF_ADAPTERS))
    def attach(self, name: str, kind: str) -> None:
        methods, saved = self.kind.methods(kind)
        done = self.attempt(
            lambda: peftcore.attach(self.model, methods, name=name, modules_to_save=saved)
        )
        assert done == (name not in self.kinds and not self.blocks and not self.merged)
        if done:
            self.kinds[name] = kind
            self.statistics[name] = {}
            self.active = [name]
            noise = torch.Generator().manual_seed(len(name) + ord(name))
            with torch.no_grad():
                for p in peftcore.adapters(self.model)[name].parameters():
                    p.add_((0.2 * torch.randn(p.shape, generator=noise)).to(p))

    @rule(names=st.lists(st.sampled_from(NAMES), max_size=2, unique=True))
    def activate(self, names: list[str]) -> None:
        self._note_statistics()
        done = self.attempt(lambda: peftcore.activate(self.model, *names))
        known = bool(self.kinds) and all(n in self.kinds for n in names)
        clash = known and sum(self.swaps([n]) for n in names) > 1
        assert done == (known and not clash and not self.merged)
        if done and self.blocks:
            self.blocks[-1] = (self.blocks[-1][0], list(names))
        elif done:
            self.active = list(names)

    @rule()
    def disabled(self) -> None:
        self._open(lambda: peftcore.disabled(self.model), [])

    @rule(names=st.lists(st.sampled_from([*NAMES, None]), min_size=ROWS, max_size=ROWS))
    def route(self, names: list[str | None]) -> None:
        self._open(lambda: peftcore.route(self.model, names), tuple(names))

    def _open(self, make: Any, setting: Any) -> None:
        if len(self.blocks) > 2:
            return
        self._note_statistics()
        block: list[Any] = []

        def enter() -> None:
            made = make()
            made.__enter__()
            block.append(made)

        if self.attempt(enter):
            self.blocks.append((block[0], setting))

    @precondition(lambda self: self.blocks)
    @rule(which=st.integers(0, 2))
    def leave(self, which: int) -> None:
        self.blocks.pop(which % len(self.blocks))[0].__exit__(None, None, None)

    @rule(name=st.sampled_from([None, None, *NAMES]), back=st.booleans())
    def merge(self, name: str | None, back: bool) -> None:
        self._note_statistics()
        names = [name] if name else list(self.active)
        before = list(self.active)
        done = self.attempt(lambda: peftcore.merge(self.model, *filter(None, [name])))
        known = bool(names) and all(n in self.kinds for n in names)
        assert done == (known and not self.blocks and not self.merged)
        self.active = [] if done else before
        self.merged = names if done else self.merged
        self.outputs_are_those_of_the_reference()
        if done and back:
            self.unmerge()

    @rule()
    def unmerge(self) -> None:
        done = self.attempt(lambda: peftcore.unmerge(self.model))
        assert done == bool(self.merged)
        if done:
            self.active, self.merged = self.merged, []

    @rule(name=st.sampled_from(NAMES))
    def save_and_load_elsewhere(self, name: str) -> None:
        if name not in self.kinds:
            return
        self._note_statistics()
        path = self.folder / name
        peftcore.adapters(self.model)[name].save(path)
        fresh = copy.deepcopy(self.bare)
        peftcore.load(fresh, path)
        check_near(run(fresh, self.kind.batch, self.dtype), self.reference([name]))

    @rule(name=st.sampled_from(NAMES))
    def detach(self, name: str) -> None:
        self._note_statistics()
        done = self.attempt(lambda: peftcore.detach(self.model, name))
        assert done == (name in self.kinds and not self.blocks)
        if done:
            self.active = [n for n in self.merged or self.active if n != name]
            self.merged = []
            del self.kinds[name]
            if not self.kinds:
                here = self.model.state_dict()
                assert list(here) == list(self.bare.state_dict())
                assert [type(m) for m in self.model.modules()] == [
                    type(m) for m in self.bare.modules()
                ]

    @rule()
    def train(self) -> None:
        if self.blocks or self.merged or not self.active:
            return
        chosen = [peftcore.adapters(self.model)[n] for n in self.active]
        optimiser = torch.optim.SGD([p for a in chosen for p in a.parameters()], 0.05)
        self.model.train()
        batch = {
            n: t.to(self.dtype) + 0.5 if t.is_floating_point() else t
            for n, t in self.kind.batch.items()
        }
        out = self.model(**batch)
        getattr(out, "logits", out).float().pow(2).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        self.model.eval()
        self._note_statistics()

    def _note_statistics(self) -> None:
        """Note the running statistics that have moved; they belong to the active adapters."""
        if self.blocks or self.merged:
            return
        for name in self.active:
            self.statistics[name] = {
                path: value.clone()
                for path, value in self.model.named_buffers()
                if path.startswith("norm.") and not torch.equal(value, self.bare.get_buffer(path))
            }

    @rule(block=st.sampled_from([None, None, "disabled", "route"]))
    def copy(self, block: str | None) -> None:
        if block == "disabled":
            self.disabled()
        elif block == "route":
            self.route(["a", "b", None])
        twins: list[Any] = []
        if self.attempt(lambda: twins.append(copy.deepcopy(self.model))):
            if self.blocks:
                return
            self.model = twins[0]
        else:
            assert self.blocks

    @precondition(lambda self: not self.blocks)
    @rule(dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
    def cast(self, dtype: torch.dtype) -> None:
        if self.dtype is torch.bfloat16 or (self.merged and dtype is torch.bfloat16):
            return  # a second rounding is another model
        self.model.to(dtype)
        self.bare.to(dtype)
        for own in self.statistics.values():
            own.update({n: t.to(dtype) if t.is_floating_point() else t for n, t in own.items()})
        self.dtype = dtype

    @precondition(lambda self: self.kind.embedding)
    @rule()
    def resize(self) -> None:
        """Put a longer embedding into the model, as resize_token_embeddings does."""
        if self.blocks or self.merged:
            return
        for model in (self.model, self.bare):
            old = model.get_submodule(self.kind.embedding)
            new = nn.Embedding(len(old.weight) + 1, old.weight.shape[1], dtype=self.dtype)
            with torch.no_grad():
                new.weight[:-1] = old.weight
                new.weight[-1] = 0.25
            new.weight.requires_grad_(old.weight.requires_grad)
            setattr(model, self.kind.embedding, new)
            for head in self.kind.heads:
                model.get_submodule(head).weight = new.weight

    @initialize(kinds=st.lists(st.sampled_from(KINDS_OF_ADAPTERS), min_size=2, max_size=2))
    def begin(self, kinds: list[str]) -> None:
        """Start where something can go wrong: with two adapters, both active where they may be."""
        for name, kind in zip("ab", kinds, strict=True):
            self.attach(name, kind)
        self.activate(["a", "b"])


def machine(kind: str, examples: int, steps: int) -> Any:
    """Return the test of one kind of model."""
    made = type(f"Adapters_{kind}", (Adapters,), {"kind_name": kind}).TestCase
    made.settings = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
        derandomize=examples < 1_000, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # to shrink what fails takes minutes; do it by hand
    )  # fmt: skip
    return made


KINDS = ("transformer", "toy", "conv")


@pytest.mark.filterwarnings("ignore::peftcore.adapter.watch.DeadPieceWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_any_order_of_actions_computes_what_it_should(kind: str) -> None:
    machine(kind, 167, 8)().runTest()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::peftcore.adapter.watch.DeadPieceWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_many_orders_of_actions(kind: str) -> None:
    machine(kind, 6_667, 12)().runTest()
