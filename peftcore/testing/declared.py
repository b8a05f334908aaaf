"""What a backbone declares of its family, compared with a small model of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from peftcore.errors import nearest
from peftcore.model.backbones import Backbone, backbone_named
from peftcore.model.features import has
from peftcore.model.globs import path_matches
from peftcore.model.layers import has_forward_of_its_own
from peftcore.model.roles import check_role
from peftcore.model.sites import Site
from peftcore.model.survey import Survey, survey
from peftcore.model.walk import bare_class
from peftcore.registry.installed import installed
from peftcore.testing.generation import prompts, written
from peftcore.testing.matrix import run, tensors_of, tiny


class Calls:
    """What ran while a model was watched.

    Attributes:
        count: number of calls of each module, by path.
        outputs: last output of each block, by path.
        outside: blocks that ran outside of a call of the entry module.
    """

    def __init__(self) -> None:
        self.count: dict[str, int] = {}
        self.outputs: dict[str, Any] = {}
        self.outside: list[str] = []
        self._depth = 0

    @contextmanager
    def of(self, found: Survey, entry: nn.Module) -> Iterator[None]:
        """Watch a model for a while."""
        blocks = {site.path for site in found.sites if site.role == "block"}
        hooks = [
            entry.register_forward_pre_hook(self._enter),
            entry.register_forward_hook(self._leave),
        ]
        for path, module in found.modules.items():

            def note(_: Any, __: Any, out: Any, path: str = path) -> None:
                self.count[path] = self.count.get(path, 0) + 1
                if path in blocks:
                    self.outputs[path] = out
                    if not self._depth:
                        self.outside.append(path)

            hooks.append(module.register_forward_hook(note))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, *_: Any) -> None:
        self._depth += 1

    def _leave(self, *_: Any) -> None:
        self._depth -= 1


class Declared:
    """The part of :class:`BackboneContract` that looks at features, stacks and direct weights."""

    backbone: ClassVar[str]
    heads: ClassVar[tuple[str, ...]] = ("none",)

    def surveyed(self, head: str) -> tuple[Backbone, nn.Module, dict[str, Any], Survey]:
        """Return the backbone, a small model, a batch, and what the walk over the model finds."""
        knows, model, batch = tiny(self.backbone, head)
        return knows, model, batch, survey(model, knows)

    def watched(self, head: str) -> tuple[Survey, Calls]:
        """Run a batch and return what ran."""
        knows, model, batch, found = self.surveyed(head)
        calls = Calls()
        with calls.of(found, model.get_submodule(knows.entry(model))):
            run(model, batch)
        return found, calls

    # --- features -------------------------------------------------------------------------

    def test_features_that_it_names_are_known_and_told_once(self) -> None:
        knows, known = backbone_named(self.backbone), installed().features
        for name in (*knows.has, *knows.lacks):
            assert name in known, f"{name!r} is no feature.{nearest(name, known)}"
        seen = [name for name in knows.has if known[name].found]
        assert not seen, f"{', '.join(seen)}: found in the model, and need not be declared"
        both = set(knows.has) & set(knows.lacks)
        assert not both, f"the family both has and lacks {', '.join(sorted(both))}"

    def test_it_lacks_what_it_says_that_it_lacks(self) -> None:
        for head in self.heads:
            knows, _, _, found = self.surveyed(head)
            there = [name for name in knows.lacks if has(found, name)]
            assert not there, f"lacks {there[0]}, which the model has"
        assert all(len(why.split()) > 2 for why in knows.lacks.values()), "say why in a sentence"

    def test_it_has_tokens_if_its_blocks_return_sequences(self) -> None:
        found, calls = self.watched(self.heads[0])
        blocks = [s for s in found.sites if s.role == "block" and s.path in calls.outputs]
        assert blocks, "no block ran"
        for site in blocks:
            out = tensors_of(calls.outputs[site.path])[0]
            tokens = out.dim() == 3 and out.shape[2] == site.layer.out_features
            assert tokens == ("tokens" in found.backbone.has), (
                f"{site.path} returns {tuple(out.shape)}: 'tokens' of has is told wrongly"
            )

    def test_it_is_bidirectional_if_a_token_sees_the_next_one(self) -> None:
        if "tokens" not in backbone_named(self.backbone).has:
            pytest.skip("the family has no tokens")
        knows, model, _, found = self.surveyed(self.heads[0])
        torch.manual_seed(1)
        batch = knows.batch(model, 1)
        sees = any(_sees_the_next(model, batch, stack) for stack in _stacks(found))
        assert sees == ("bidirectional" in knows.has), (
            f"'bidirectional' of has is told wrongly: an earlier token {'sees' if sees else 'does'}"
            f"{'' if sees else ' not see'} a later one"
        )

    def test_a_cache_is_taken_and_changes_nothing(self) -> None:
        knows, model, batch, _ = self.surveyed("none")
        if "cache" not in knows.has:
            pytest.skip("the family has no cache")
        entry = model.get_submodule(knows.entry(model))
        names = inspect.signature(bare_class(entry).forward).parameters  # type: ignore
        assert "past_key_values" in names, f"{type(entry).__name__} takes no past_key_values"
        _, model, batch = tiny(self.backbone, knows.default_head)
        if not (knows.generating and hasattr(model, "generate") and "input_ids" in batch):
            pytest.skip("the family has a cache, and generates nothing from a prompt")
        one, two = (written(model, prompts(batch), use_cache=cached) for cached in (True, False))
        assert torch.equal(one, two), "other words are written with the cache than without"

    def test_every_pass_is_one_pass_of_the_whole_if_it_says_so(self) -> None:
        knows = backbone_named(self.backbone)
        if "one-pass" not in knows.has:
            pytest.skip("the family says that there are several")
        for head in self.heads:
            _, calls = self.watched(head)
            often = [path for path in calls.outputs if calls.count[path] != 1]
            assert not often, f"{often[0]} runs {calls.count[often[0]]} times for one batch"
        _, model, batch, found = self.surveyed(knows.default_head)
        if knows.generating and hasattr(model, "generate") and "input_ids" in batch:
            calls = Calls()
            with calls.of(found, model.get_submodule(knows.entry(model))):
                written(model, prompts(batch), use_cache=True)
            assert calls.outputs and not calls.outside, (
                f"generation runs {calls.outside[:1]} outside of {type(model).__name__}"
            )

    def test_queries_are_projected_once_if_it_says_so(self) -> None:
        found, calls = self.watched(self.heads[0])
        paths = {s.path for s in found.sites if s.role in ("attention.query", "attention.qkv")}
        if not paths:
            pytest.skip("no projection of queries is known")
        most = max(calls.count.get(path, 0) for path in paths)
        assert (most <= 1) == ("own-queries" in found.backbone.has), (
            f"a projection of queries runs {most} times: 'own-queries' of has is told wrongly"
        )

    # --- roles and stacks --------------------------------------------------------------------

    def test_what_stands_in_is_there_and_what_it_stands_in_for_is_not(self) -> None:
        knows = backbone_named(self.backbone)
        surveys = [self.surveyed(head)[3] for head in self.heads]
        roles = {role for found in surveys for role in found.roles()}
        linear = any(s.kind == "linear" and s.role != "head" for f in surveys for s in f.sites)
        for role, other in knows.stands_in.items():
            if role != "all-linear":
                check_role(role)
            there = linear if role == "all-linear" else role in roles
            assert not there, f"{role} needs no stand-in: the family has it"
            assert other in roles, f"{other} stands in for {role}, and the family has it not"

    def test_every_stack_has_blocks_and_every_block_one_stack(self) -> None:
        knows = backbone_named(self.backbone)
        if not knows.stacks:
            pytest.skip("the family has one stack")
        for head in self.heads:
            _, _, _, found = self.surveyed(head)
            blocks = [site for site in found.sites if site.role == "block"]
            nowhere = [site.path for site in blocks if site.stack not in knows.stacks]
            assert not nowhere, f"{nowhere[0]} is in no stack"
            for name, (first, stop) in {s.stack: s.stack_blocks for s in blocks}.items():
                inside = [site.block for site in blocks if site.stack == name]
                assert inside == list(range(first, stop)), f"the blocks of {name} do not follow"
        together = {site.stack for site in self.surveyed(self.heads[0])[3].sites if site.stack}
        assert together == set(knows.stacks), "a stack that no model has"

    # --- weights that are read directly --------------------------------------------------------

    def test_weights_that_are_read_directly_belong_to_no_call(self) -> None:
        globs = backbone_named(self.backbone).direct_weights
        found_by: dict[str, bool] = dict.fromkeys(globs, False)
        for head in self.heads:
            found, calls = self.watched(head)
            for path, module in found.modules.items():
                for glob in (g for g in globs if path_matches(path, (g,))):
                    found_by[glob] = True
                    called = calls.count.get(path, 0) and not has_forward_of_its_own(module)
                    assert not called, f"{path} is called: leave it out of direct_weights"
        spare = [glob for glob, there in found_by.items() if not there]
        assert not spare, f"direct_weights: {spare[0]} matches no module"

    def test_every_other_layer_is_called(self) -> None:
        waiting: dict[str, str] = {}
        called: set[str] = set()
        for head in self.heads:
            found, calls = self.watched(head)
            for site in found.sites:
                plain = site.kind in ("linear", "embedding") or site.kind.startswith("conv")
                if not plain or site.direct or site.role == "unused":
                    continue
                if calls.count.get(site.path):
                    called.add(site.path)
                waiting[site.path] = site.here
        dead = [here for path, here in waiting.items() if path not in called]
        assert not dead, (
            f"{dead[0]} never runs: name it in direct_weights where its weight is read, or give it"
            " the role unused"
        )


def _stacks(found: Survey) -> list[list[Site]]:
    """Return the blocks of each stack; of the main one alone, where the family has one."""
    main = found.backbone.main_stack
    stacks: dict[str, list[Site]] = {}
    for site in found.sites:
        if site.role == "block" and (not main or site.stack == main):
            stacks.setdefault(site.stack, []).append(site)
    return list(stacks.values())


@torch.no_grad()
def _sees_the_next(model: nn.Module, batch: dict[str, Any], stack: list[Site]) -> bool:
    """Tell whether the first token of a stack changes where the second one does."""
    outs: list[Tensor] = []

    def move(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        first = args[0] if args else next(iter(kwargs.values()))
        moved = first.clone()
        moved[:, 1] += 1
        if args:
            return (moved, *args[1:]), kwargs
        return args, {**kwargs, next(iter(kwargs)): moved}

    keep = stack[-1].module.register_forward_hook(lambda _, __, o: outs.append(tensors_of(o)[0]))
    try:
        model(**batch)
        hook = stack[0].module.register_forward_pre_hook(move, with_kwargs=True)
        try:
            model(**batch)
        finally:
            hook.remove()
    finally:
        keep.remove()
    return not torch.equal(outs[0][:, 0], outs[1][:, 0])
