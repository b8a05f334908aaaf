"""What every method must do, on the toy and on every installed backbone."""

from __future__ import annotations

import copy
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from torch import nn

import peftcore
from peftcore.errors import ConfigError, MergeError
from peftcore.model.walk import base_modules
from peftcore.registry.installed import installed
from peftcore.registry.references import resolve
from peftcore.schema import validated
from peftcore.testing import toy
from peftcore.testing.matrix import (
    check_pair,
    loss_of,
    pairs,
    perturb,
    reason_against,
    refusal,
    run,
    same,
    tensors_of,
    tiny,
)

toy.register()


def _generate(metafunc: Any, method: str) -> None:
    """Parametrise ``backbone_name`` over the backbones that a method can run on."""
    if "backbone_name" in metafunc.fixturenames:
        names = [backbone for name, backbone in pairs() if name == method]
        metafunc.parametrize("backbone_name", names)


class MethodContract:
    """Subclass it, set ``method``, and pytest runs the contract.

    Attributes:
        method: name of the method.
        config: configuration to test with, on the toy and on every backbone.
        on: further configuration on a backbone, by its name.
        refused_on: pattern of the sentence that refuses a backbone, by its name, where the reason
            is none of the features that the spec needs.
        merges: whether the method can be merged; an error is expected where it cannot.
        merge_tolerance: largest difference between merged and unmerged outputs, fp32.
        steps, learning_rate: training steps in which the toy's loss must fall.
        routes: whether several adapters of it can serve the rows of one batch.
        compiles: whether ``torch.compile(fullgraph=True)`` is expected to work.
    """

    method: ClassVar[str]
    config: ClassVar[dict[str, Any]] = {}
    on: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    refused_on: ClassVar[Mapping[str, str]] = {}
    merges: ClassVar[bool] = True
    merge_tolerance: ClassVar[float] = 1e-5
    steps: ClassVar[int] = 30
    learning_rate: ClassVar[float] = 1e-2
    routes: ClassVar[bool] = True
    compiles: ClassVar[bool] = True

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Parametrise over the installed backbones."""
        _generate(metafunc, self.method)

    @pytest.fixture(autouse=True)
    def _seeded(self) -> Iterator[None]:
        torch.manual_seed(0)
        yield

    def attach(self, model: nn.Module, **options: Any) -> peftcore.Adapter:
        """Attach the method with the contract's configuration."""
        return peftcore.attach(model, [self.choice()], **options)

    def choice(self, backbone: str = "toy") -> dict[str, Any]:
        """Return the method with its configuration for a backbone."""
        return {"method": self.method, **self.config, **self.on.get(backbone, {})}

    def pair(self) -> tuple[nn.Module, dict[str, Any]]:
        """Return the toy and a batch of it."""
        _, model, batch = tiny("toy")
        return model, batch

    # --- specification and configuration -------------------------------------------------

    def test_the_plugin_module_imports_without_torch(self) -> None:
        owner = installed().owner("methods", self.method)
        code = (
            "import sys; from peftcore import installed; "
            f"assert {self.method!r} in installed().methods, installed().records; "
            "heavy = {'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules); "
            "assert not heavy, heavy"
        )
        if owner.distribution != "peftcore":
            subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

    def test_every_field_of_the_configuration_is_described(self) -> None:
        fields = resolve(installed().methods[self.method].config).model_fields
        assert not [name for name, info in fields.items() if not info.description]

    def test_the_configuration_survives_yaml_and_json(self) -> None:
        model = resolve(installed().methods[self.method].config)
        config = model.model_validate(self.config)
        dumped = config.model_dump(mode="json")
        assert model.model_validate(yaml.safe_load(yaml.safe_dump(dumped))) == config
        assert model.model_validate(json.loads(json.dumps(dumped))) == config
        assert model.model_json_schema()["type"] == "object"

    def test_an_unknown_field_is_refused_with_the_nearest_one(self) -> None:
        model = resolve(installed().methods[self.method].config)
        name = next(name for name in model.model_fields if len(name) > 2)
        typo = name[:-2] + name[-1] + name[-2] + "x"
        with pytest.raises(ConfigError, match=f"{typo} is not a field of {self.method}"):
            validated(model, {typo: 1}, where="methods[0]", label=self.method)

    # --- training ------------------------------------------------------------------------

    def test_it_starts_as_the_base_or_says_that_it_does_not(self) -> None:
        model, batch = self.pair()
        bare = run(model, batch)
        self.attach(model)
        difference = max(
            (a - b).abs().max().item() for a, b in zip(bare, run(model, batch), strict=True)
        )
        if installed().methods[self.method].identity_at_start:
            assert difference <= 1e-6
        else:
            assert difference > 0

    def test_all_that_is_trained_gets_a_gradient_and_the_base_gets_none(self) -> None:
        model, batch = self.pair()
        adapter = self.attach(model)
        perturb(adapter)
        loss_of(model(**batch)).backward()
        adapter.check_alive()
        trained = {id(p) for p in adapter.parameters()}
        assert trained and not [
            p for p in model.parameters() if p.grad is not None and id(p) not in trained
        ]

    def test_the_loss_falls_and_the_base_stays(self) -> None:
        model, batch = self.pair()
        batch = peftcore.backbone_named("toy").batch(model, rows=8)  # type: ignore
        before = {k: v.clone() for k, v in model.state_dict().items()}
        adapter = self.attach(model)
        optimiser = torch.optim.AdamW(adapter.parameters(), self.learning_rate, weight_decay=0.1)
        losses = []
        for _ in range(self.steps):
            loss = loss_of(model(**batch))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        adapter.detach()
        after = model.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[k], after[k]) for k in before)

    # --- storing -------------------------------------------------------------------------

    def test_saving_and_loading_gives_the_same_outputs(self, tmp_path: Path) -> None:
        model, batch = self.pair()
        adapter = self.attach(model)
        perturb(adapter)
        tuned = run(model, batch)
        adapter.save(tmp_path / "a")
        stored = peftcore.inspect(tmp_path / "a")["tensors"]
        adapter.detach()
        peftcore.load(model, tmp_path / "a", name="again")
        assert same(run(model, batch), tuned)
        base = {name for name, _ in model.named_parameters()} & set(stored)
        assert not base, "parameters of the base are in the file"

    def test_copies_and_pickles_behave_like_the_original(self) -> None:
        model, batch = self.pair()
        perturb(self.attach(model))
        tuned = run(model, batch)
        twin = copy.deepcopy(model)
        assert same(run(twin, batch), tuned)
        peftcore.detach(twin)
        assert same(run(model, batch), tuned)
        assert same(run(pickle.loads(pickle.dumps(model)), batch), tuned)

    # --- switching -----------------------------------------------------------------------

    def test_disabled_and_detached_are_the_base_bit_for_bit(self) -> None:
        model, batch = self.pair()
        bare, keys = run(model, batch), list(model.state_dict())
        classes = [type(m) for _, m, _ in base_modules(model)]
        flags = [p.requires_grad for p in model.parameters()]
        adapter = self.attach(model)
        perturb(adapter)
        assert set(keys) <= set(model.state_dict())
        tuned = run(model, batch)
        with peftcore.disabled(model):
            assert same(run(model, batch), bare)
        assert same(run(model, batch), tuned)
        adapter.detach()
        assert same(run(model, batch), bare)
        assert list(model.state_dict()) == keys
        assert [type(m) for m in model.modules()] == classes
        assert [p.requires_grad for p in model.parameters()] == flags

    def test_a_checkpoint_of_the_base_loads_while_attached(self) -> None:
        model, batch = self.pair()
        state = {k: v.clone() for k, v in model.state_dict().items()}
        bare = run(model, batch)
        self.attach(model)
        model.load_state_dict(state)
        with peftcore.disabled(model):
            assert same(run(model, batch), bare)

    def test_two_adapters_act_one_at_a_time(self) -> None:
        model, batch = self.pair()
        outputs = {}
        for name in ("a", "b"):
            adapter = self.attach(model, name=name)
            perturb(adapter)
            if name == "b":
                perturb(adapter)
            outputs[name] = run(model, batch)
        assert not same(outputs["a"], outputs["b"])
        for name in ("a", "b", "a"):
            peftcore.activate(model, name)
            assert same(run(model, batch), outputs[name])

    def test_rows_of_one_batch_can_have_their_own_adapters(self) -> None:
        model, _ = self.pair()
        batch = peftcore.backbone_named("toy").batch(model, rows=4)  # type: ignore
        single: dict[str | None, list[Any]] = {None: run(model, batch)}
        for times, name in ((1, "a"), (2, "b")):
            adapter = self.attach(model, name=name)
            for _ in range(times):
                perturb(adapter)
            single[name] = run(model, batch)
        names = ["a", None, "b", "a"]
        if not self.routes:
            with pytest.raises(peftcore.PeftcoreError), peftcore.route(model, names):
                model(**batch)
            return
        with peftcore.route(model, names):
            mixed = run(model, batch)
        logits = [o for o in range(len(mixed)) if mixed[o].dim() > 0]
        for o in logits:
            for row, served in enumerate(names):
                torch.testing.assert_close(
                    mixed[o][row], single[served][o][row], atol=1e-5, rtol=1e-5
                )

    # --- merging -------------------------------------------------------------------------

    def test_merging_keeps_the_outputs_and_can_be_undone_exactly(self) -> None:
        model, batch = self.pair()
        adapter = self.attach(model)
        perturb(adapter)
        tuned = run(model, batch)
        state = {k: v.clone() for k, v in model.state_dict().items()}
        if not self.merges:
            assert not all(p.piece.is_change() for p in adapter.placed)
            with pytest.raises(MergeError):
                adapter.merge()
        else:
            adapter.merge()
            for a, b in zip(run(model, batch), tuned, strict=True):
                torch.testing.assert_close(a, b, atol=self.merge_tolerance, rtol=1e-5)
            adapter.unmerge()
        assert same(run(model, batch), tuned)
        after = model.state_dict()
        assert all(torch.equal(state[k], after[k]) for k in state)

    # --- together with others ------------------------------------------------------------

    @pytest.mark.parametrize("other", ["bitfit", "lora", "probe"])
    @pytest.mark.parametrize("first", [True, False])
    def test_it_composes_with_other_methods(self, other: str, first: bool, tmp_path: Path) -> None:
        if other == self.method or other not in installed().methods:
            pytest.skip(f"{other} is not another installed method")
        model, batch = self.pair()
        own = self.choice()
        methods: list[Any] = [own, other] if first else [other, own]
        if not resolve(installed().methods[self.method].method).composes:
            with pytest.raises(ConfigError, match=f"{self.method} goes with no other method"):
                peftcore.attach(model, methods)
            assert not peftcore.adapters(model)
            return
        adapter = peftcore.attach(model, methods)
        loss_of(model(**batch)).backward()
        adapter.check_alive()
        perturb(adapter)
        tuned = run(model, batch)
        adapter.save(tmp_path / "both")
        adapter.detach()
        peftcore.load(model, tmp_path / "both")
        assert same(run(model, batch), tuned)

    # --- dtypes, layers, programs --------------------------------------------------------

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
    def test_other_dtypes_keep_their_dtype(self, dtype: torch.dtype) -> None:
        model, batch = self.pair()
        model = model.to(dtype)
        expected = [t.dtype for t in run(model, batch)]
        adapter = self.attach(model)
        perturb(adapter)
        out = model(**batch)
        assert [t.dtype for t in tensors_of(out)] == expected
        loss_of(out).backward()
        adapter.check_alive()
        assert all(
            p.dtype == torch.promote_types(dtype, torch.float32) for p in adapter.parameters()
        )

    def test_it_works_on_a_quantised_base(self) -> None:
        model, batch = self.pair()
        for block in model.blocks:  # type: ignore[union-attr]
            for parent in (block, block.attention):
                for name, child in list(parent.named_children()):
                    if isinstance(child, nn.Linear):
                        setattr(parent, name, toy.FakeQuantLinear(child))
        bare = run(model, batch)
        adapter = self.attach(model)
        loss_of(model(**batch)).backward()
        adapter.check_alive()
        perturb(adapter)
        assert not same(run(model, batch), bare)
        adapter.detach()
        assert same(run(model, batch), bare)

    def test_compiled_it_gives_the_same(self) -> None:
        if not self.compiles:
            pytest.skip("declared not to compile into one graph")
        model, batch = self.pair()
        batch.pop("labels")
        perturb(self.attach(model))
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        with torch.no_grad():
            out = tensors_of(compiled(**batch))
        for a, b in zip(out, run(model, batch), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)

    def test_it_works_on_every_installed_backbone(self, backbone_name: str) -> None:
        config = self.choice(backbone_name)
        del config["method"]
        expected = self.refused_on.get(backbone_name, "")
        if reason := reason_against(self.method, backbone_name):
            expected = f"{self.method} cannot run on {backbone_name}: {re.escape(reason)}"
        if expected:
            assert re.search(expected, refusal(self.method, backbone_name, config))
        else:
            check_pair(self.method, backbone_name, config)
