"""What every backbone must do."""

from __future__ import annotations

import time

import pytest
import torch

import peftcore
from peftcore.model.backbones import backbone_named, backbone_of
from peftcore.model.globs import path_matches
from peftcore.model.roles import check_role
from peftcore.model.survey import survey
from peftcore.testing import kit
from peftcore.testing.declared import Declared
from peftcore.testing.matrix import loss_of, run, same, tiny

kit.register_kit()


class BackboneContract(Declared):
    """Subclass it, set ``backbone``, and pytest runs the contract.

    Attributes:
        backbone: name of the backbone.
        heads: heads that the family has; every role must be found with at least one of them.
    """

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
        by_block: dict[int, set[str]] = {}
        for site in found.sites:
            if site.block is not None:
                by_block.setdefault(site.block, set()).add(site.role)
        assert len(by_block) >= 2
        assert len({frozenset(roles) for roles in by_block.values()}) == 1

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

    def test_the_context_marks_the_padding(self) -> None:
        for head in self.heads:
            knows, model, batch = tiny(self.backbone, head)
            context = knows.context(model.get_submodule(knows.entry(model)), (), batch)
            if "attention_mask" not in batch:
                continue
            assert context.mask is not None and context.mask.dtype == torch.bool
            assert torch.equal(context.mask, batch["attention_mask"].bool())
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
            adapter = peftcore.attach(model, "probe", targets=sorted(linear))
            loss_of(model(**batch)).backward()
            adapter.check_alive()

    def test_blocks_have_a_width(self) -> None:
        knows, model, _ = tiny(self.backbone)
        widths = {s.layer.out_features for s in survey(model, knows).sites if s.role == "block"}
        assert len(widths) == 1 and widths != {0}

    def test_training_mode_and_gradients_reach_the_blocks(self) -> None:
        _, model, batch = tiny(self.backbone)
        model.train()
        loss_of(model(**batch)).backward()
        if not any(p.grad is not None for p in model.parameters()):
            pytest.fail("no parameter got a gradient")
