"""Dtypes, quantised layers, compiled graphs, generation, and every installed backbone."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

import peftcore
from peftcore.errors import PeftcoreError
from peftcore.model.backbones import backbone_of
from peftcore.model.features import has
from peftcore.model.survey import survey
from peftcore.registry.installed import installed
from peftcore.testing import kit
from peftcore.testing.closeness import check_close
from peftcore.testing.generation import prompts, written
from peftcore.testing.matrix import (
    check_pair,
    loss_of,
    perturb,
    reason_against,
    refusal,
    run,
    tensors_of,
    tiny,
)
from peftcore.testing.method.on_toy import OnToy, gradients
from peftcore.testing.places import Run
from peftcore.testing.toy import FakeQuantLinear


class Computed(OnToy):
    """What an adapter computes, wherever it is put."""

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
    def test_other_dtypes_keep_their_dtype(self, dtype: torch.dtype) -> None:
        model, batch = self.pair()
        model = model.to(dtype)
        given = {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.items()}
        expected = [t.dtype for t in run(model, given)]
        adapter = self.attach(model)
        perturb(adapter)
        out = model(**given)
        assert [t.dtype for t in tensors_of(out)] == expected
        loss_of(out).backward()
        adapter.check_alive()
        wanted = torch.promote_types(dtype, torch.float32)
        wrong = [name for name, p in adapter.named_parameters() if p.dtype != wanted]
        assert not wrong, f"{wrong[0]} is not kept in {wanted}"

    def test_it_works_on_a_quantised_base(self) -> None:
        model, batch = self.pair()
        quantise(model)
        bare = Run(model, batch)
        adapter = self.attach(model)
        loss_of(model(**batch)).backward()
        adapter.check_alive()
        perturb(adapter)
        assert not Run(model, batch).same(bare), f"{self.method} changes nothing"
        adapter.detach()
        off = Run(model, batch)
        assert off.same(bare), f"detaching {self.method} leaves the base changed{off.since(bare)}"

    def test_compiled_it_gives_the_same(self) -> None:
        if self.compiles is False:
            pytest.skip("declared not to compile into one graph")
        model, batch = self.pair()
        batch.pop("labels", None)
        perturb(self.attach(model))
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        try:
            with torch.no_grad():
                out = tensors_of(compiled(**batch))
        except torch._dynamo.exc.TorchDynamoException as error:
            if self.compiles:
                raise
            pytest.skip(f"does not compile into one graph: {str(error).splitlines()[0]}")
        for found, expected in zip(out, run(model, batch), strict=True):
            check_close(found, expected, f"{self.method} compiled", atol=1e-6)

    # --- on other backbones ----------------------------------------------------------------

    @pytest.mark.backbones
    def test_it_works_on_every_installed_backbone(self, backbone_name: str) -> None:
        config = self.choice(backbone_name)
        del config["method"]
        expected = self.refused_on.get(backbone_name, "")
        if reason := reason_against(self.method, backbone_name):
            expected = f"{self.method} cannot run on {backbone_name}: {re.escape(reason)}"
        if expected:
            sentence = refusal(self.method, backbone_name, config)
            assert re.search(expected, sentence), (
                f"{self.method} on {backbone_name}: {sentence or 'it runs'}; declared is that it is"
                f" refused with {expected!r}"
            )
            return
        # the toys are further eyes, not families that an author must know
        lenient = None in (self.merges, self.routes, self.compiles) or backbone_name in kit.TOYS
        if lenient and (sentence := refusal(self.method, backbone_name, config)):
            pytest.skip(f"refused on {backbone_name}: {sentence}")
        try:
            check_pair(self.method, backbone_name, config)
        except PeftcoreError as error:
            raise AssertionError(
                f"{self.method} on {backbone_name}: {error} If that is as it should be, declare the"
                f" sentence: refused_on = {{{backbone_name!r}: '...'}}; if it needs other settings"
                f" there: on = {{{backbone_name!r}: {{...}}}}."
            ) from error

    @pytest.mark.backbones
    def test_generation_with_a_cache_is_generation_without(self) -> None:
        name, model, batch = self.writing()
        perturb(peftcore.attach(model, [self.choice(name)]))
        prompt = prompts(batch)
        ids = [written(model, prompt, use_cache=cached) for cached in (True, False)]
        assert torch.equal(*ids), f"{self.method} on {name} writes other words with a cache"

    @pytest.mark.backbones
    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_checkpointing_of_a_real_model_gives_the_same_gradients(
        self, use_reentrant: bool
    ) -> None:
        name, model, batch = self.writing()
        enable: Any = getattr(model, "gradient_checkpointing_enable", None)
        if enable is None:
            pytest.skip(f"{name} has no gradient checkpointing of its own")
        adapter = peftcore.attach(model, [self.choice(name)])
        perturb(adapter)
        model.train()
        found = []
        for checkpointed in (False, True):
            if checkpointed:
                enable({"use_reentrant": use_reentrant})
                if use_reentrant:
                    model.enable_input_require_grads()  # type: ignore[operator]
            torch.manual_seed(1)
            loss_of(model(**batch, use_cache=False)).backward()
            found.append(gradients(adapter))
            for parameter in model.parameters():
                parameter.grad = None
        for tensor, plain in found[0].items():
            what = f"gradient of {tensor} on {name} with checkpointing"
            check_close(found[1][tensor], plain, what, atol=1e-6, rtol=1e-4)

    def writing(self) -> tuple[str, nn.Module, dict[str, Any]]:
        """Return a small language model on which the method runs: an installed one, or the toy."""
        ours = [n for n in installed().backbones if n in kit.TOYS]
        for name in [n for n in installed().backbones if n not in kit.TOYS] + ours:
            knows, model, batch = tiny(name, peftcore.backbone_named(name).default_head)
            found = survey(model, knows)
            writes = has(found, "cache") and not has(found, "bidirectional")
            if not writes or not hasattr(model, "generate"):
                continue
            config = self.choice(name)
            del config["method"]
            if not refusal(self.method, name, config):
                return name, model, batch
        pytest.skip(f"{self.method} runs on no installed backbone that generates")


def quantise(model: nn.Module) -> None:
    """Put a fake-quantised layer in place of every linear layer of the blocks that is called."""
    for site in survey(model, backbone_of(model)).sites:
        called = site.features is None and site.block is not None and not site.direct
        if called and isinstance(site.module, nn.Linear):
            parent, _, leaf = site.path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, FakeQuantLinear(site.module))
