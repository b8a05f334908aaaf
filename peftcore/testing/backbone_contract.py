"""What every backbone must do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import peftcore
from peftcore.errors import ConfigError
from peftcore.model.backbones import backbone_named, backbone_of
from peftcore.model.globs import path_matches
from peftcore.model.loaded import Loaded
from peftcore.model.roles import check_role
from peftcore.model.survey import survey
from peftcore.testing import kit
from peftcore.testing.declared import Declared
from peftcore.testing.matrix import loss_of, run, same, tiny
from peftcore.testing.padding import Padded

kit.register_kit()


class BackboneContract(Declared, Padded):
    """Subclass it, set ``backbone``, and pytest runs the contract.

    Attributes:
        backbone: name of the backbone.
        heads: heads that the family has; every role must be found with at least one of them.
    """

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write a checkpoint that the backbone loads; with ``save_pretrained`` by default."""
        if not hasattr(model, "save_pretrained"):
            pytest.skip("the model has no save_pretrained: override save()")
        model.save_pretrained(folder)  # type: ignore[operator]

    def test_every_role_matches_a_module(self) -> None:
        found: set[str] = set()
        for head in self.heads:
            knows, model, _ = tiny(self.backbone, head)
            found |= set(survey(model, knows).roles())
        roles = backbone_named(self.backbone).roles
        for role in roles:
            check_role(role)
        assert not set(roles) - found, "roles that match nothing"

    def test_no_two_roles_claim_one_module(self) -> None:
        for head in self.heads:
            knows, model, _ = tiny(self.backbone, head)
            globs = knows.role_globs(model)
            for path in survey(model, knows).modules:
                claims = [role for role, g in globs.items() if path_matches(path, g)]
                assert len(claims) <= 1, f"{path} is {' and '.join(claims)}"

    def test_every_block_has_the_same_roles(self) -> None:
        knows, model, _ = tiny(self.backbone, self.heads[0])
        found = survey(model, knows)
        by_block: dict[tuple[str, int], set[str]] = {}
        for site in found.sites:
            # roles of the family's own may be those of one block, such as a table of positions
            if site.block is not None and not site.role.startswith("x-"):
                by_block.setdefault((site.stack, site.block), set()).add(site.role)
        assert len(by_block) >= 2, "a small member needs two blocks, to see that they are alike"
        for stack in {stack for stack, _ in by_block}:
            roles = {b: names for (s, b), names in by_block.items() if s == stack}
            first, *rest = roles
            other = [b for b in rest if roles[b] != roles[first]]
            assert not other, (
                f"block {other[0]} has other roles than block {first}:"
                f" {sorted(roles[other[0]] ^ roles[first])}"
            )

    def test_the_model_is_known_to_belong_to_the_family(self) -> None:
        for head in self.heads:
            _, model, _ = tiny(self.backbone, head)
            assert backbone_of(model).name == self.backbone

    def test_tiny_is_small_and_quick(self) -> None:
        tiny(self.backbone)  # imports do not count
        start = time.process_time()
        _, model, _ = tiny(self.backbone)
        assert time.process_time() - start < 1
        assert sum(p.numel() for p in model.parameters()) < 1_000_000

    def test_tiny_is_the_same_under_the_same_seed(self) -> None:
        _, one, batch = tiny(self.backbone)
        _, two, again = tiny(self.backbone)
        assert list(one.state_dict()) == list(two.state_dict())
        assert same(run(one, batch), run(two, again))

    def test_what_was_saved_is_loaded_and_needs_no_weights_for_a_plan(self, tmp_path: Path) -> None:
        knows, first, last = backbone_named(self.backbone), self.heads[0], self.heads[-1]
        for saved in dict.fromkeys((first, last)):
            _, model, _ = tiny(self.backbone, saved)
            folder = tmp_path / saved
            folder.mkdir()
            self.save(model, folder)
            for head in dict.fromkeys((saved, last)):
                loaded = _loaded(knows.load, folder, head)
                check_on_meta(loaded, _loaded(knows.load_on_meta, folder, head), f"head {head}")
                if isinstance(loaded, Loaded) and head == saved:
                    check_restored(loaded, model)

    def test_the_context_marks_the_padding(self) -> None:
        for head in self.heads:
            knows, model, batch = tiny(self.backbone, head)
            if "attention_mask" not in batch or knows.entries(model):
                continue  # stacks with contexts of their own are held to it by padded rows
            context = knows.context(model.get_submodule(knows.entry(model)), (), batch)
            assert context.mask is not None and context.mask.dtype == torch.bool
            given = batch["attention_mask"].bool()
            if context.mask.shape == given.shape:
                assert torch.equal(context.mask, given), f"head {head}: other tokens are real"
            else:  # it is over what the blocks see, such as frames of sound
                whole = given.all(1)
                assert len(context.mask) == len(given), f"head {head}: the mask has other rows"
                assert bool(context.mask[whole].all()), f"head {head}: a whole row has padding"
            assert not bool(context.mask.all()), "the batch shall have padding"

    def test_no_linear_is_silently_dead(self) -> None:
        for head in self.heads:
            knows, model, batch = tiny(self.backbone, head)
            known = set(knows.role_globs(model)) & set(survey(model, knows).roles())
            linear = {
                s.role for s in survey(model, knows).sites
                if s.layer.kind == "linear" and s.role in known and s.role != "unused"
                and (s.features is None or s.role.endswith("qkv"))
            }  # fmt: skip
            if not linear:
                continue  # a convolutional network without its head
            adapter = peftcore.attach(model, "probe", targets=sorted(linear))
            loss_of(model(**batch)).backward()
            adapter.check_alive()

    def test_blocks_have_a_width(self) -> None:
        knows, model, _ = tiny(self.backbone)
        widths = {s.layer.out_features for s in survey(model, knows).sites if s.role == "block"}
        assert widths and 0 not in widths, "a block has no width: see Backbone.width"
        # the stream of a CNN grows from stage to stage
        assert len(widths) == 1 or "tokens" not in knows.has, f"blocks have the widths {widths}"

    def test_training_mode_and_gradients_reach_the_blocks(self) -> None:
        _, model, batch = tiny(self.backbone)
        model.train()
        loss_of(model(**batch)).backward()
        if not any(p.grad is not None for p in model.parameters()):
            pytest.fail("no parameter got a gradient")


def _loaded(load: Callable[..., Loaded], folder: Path, head: str) -> Loaded | str:
    """Return what is loaded, or the sentence that refuses it."""
    try:
        return load(str(folder), head=head)
    except ConfigError as error:
        return str(error)


def check_restored(loaded: Loaded, model: nn.Module) -> None:
    """Check that a whole checkpoint was read, and that the model is ready to be used.

    Raises:
        AssertionError: a parameter has other values, is said to be fresh, or the model trains.
    """
    assert not loaded.fresh, f"fresh: {loaded.fresh[0]} is in the checkpoint"
    assert not loaded.model.training, "load returns a model in training mode"
    state = loaded.model.state_dict()
    for name, value in model.state_dict().items():
        read = name in state and torch.equal(state[name], value)
        assert read, f"load: {name} is not what was saved"


def check_on_meta(loaded: Loaded | str, on_meta: Loaded | str, where: str) -> None:
    """Check that a model without weights is that with weights, in all that a plan counts.

    Raises:
        AssertionError: it is another one, or it has weights.
    """
    if isinstance(loaded, str) or isinstance(on_meta, str):
        assert loaded == on_meta, f"{where}: load says {loaded}, load_on_meta says {on_meta}"
        return
    here, there = _described(loaded.model), _described(on_meta.model)
    other = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    assert not other, (
        f"{where}: {other[0]} is {here.get(other[0])} by load and {there.get(other[0])} by"
        " load_on_meta"
    )
    fresh = sorted(set(loaded.fresh) ^ set(on_meta.fresh))
    assert not fresh, f"{where}: fresh of load and of load_on_meta differ in {fresh[0]}"
    read = [name for name, p in on_meta.model.named_parameters() if not p.is_meta]
    assert not read, f"{where}: load_on_meta reads {read[0]}"


def _described(model: nn.Module) -> dict[str, Any]:
    return {n: (tuple(p.shape), str(p.dtype)) for n, p in model.named_parameters()}
