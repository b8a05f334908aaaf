"""Switching, routing, merging and composing adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import peftcore
from peftcore.errors import AttachError, ConfigError, MergeError, PeftcoreError
from peftcore.model.walk import base_modules
from peftcore.registry.installed import installed
from peftcore.registry.references import resolve
from peftcore.testing.closeness import check_close
from peftcore.testing.matrix import loss_of, perturb, run, same
from peftcore.testing.method.on_toy import OnToy
from peftcore.testing.places import Run
from peftcore.testing.refusals import refused


class Switched(OnToy):
    """Several adapters, or none, on one model."""

    def test_disabled_and_detached_are_the_base_bit_for_bit(self) -> None:
        model, batch = self.pair()
        bare, keys = Run(model, batch), list(model.state_dict())
        classes = [type(m) for _, m, _ in base_modules(model)]
        flags = [p.requires_grad for p in model.parameters()]
        adapter = self.attach(model)
        perturb(adapter)
        assert set(keys) <= set(model.state_dict())
        tuned = Run(model, batch)
        with peftcore.disabled(model):
            off = Run(model, batch)
            assert off.same(bare), f"disabled, {self.method} changes the base{off.since(bare)}"
        assert Run(model, batch).same(tuned), f"{self.method} is another once it was disabled"
        adapter.detach()
        off = Run(model, batch)
        assert off.same(bare), f"detaching {self.method} leaves the base changed{off.since(bare)}"
        assert list(model.state_dict()) == keys
        assert [type(m) for _, m, _ in base_modules(model)] == classes
        assert [p.requires_grad for p in model.parameters()] == flags

    def test_a_checkpoint_of_the_base_loads_while_attached(self) -> None:
        model, batch = self.pair()
        state = {k: v.clone() for k, v in model.state_dict().items()}
        bare = run(model, batch)
        self.attach(model)
        model.load_state_dict(state)
        with peftcore.disabled(model):
            assert same(run(model, batch), bare), "the base's checkpoint is not what was loaded"

    def test_two_adapters_act_one_at_a_time(self) -> None:
        model, batch = self.pair()
        outputs = {}
        for times, name in ((1, "a"), (2, "b")):
            adapter = self.attach(model, name=name)
            for _ in range(times):
                perturb(adapter)
            outputs[name] = Run(model, batch)
        assert not outputs["a"].same(outputs["b"]), f"two adapters of {self.method} are the same"
        for name in ("a", "b", "a"):
            peftcore.activate(model, name)
            now = Run(model, batch)
            assert now.same(outputs[name]), (
                f"adapter {name} is not what it was before the other was there"
                f"{now.since(outputs[name])}"
            )

    def test_rows_of_one_batch_can_have_their_own_adapters(self) -> None:
        model, _ = self.pair()
        batch = self.batch(model, rows=4)
        single: dict[str | None, list[Any]] = {None: run(model, batch)}
        for times, name in ((1, "a"), (2, "b")):
            adapter = self.attach(model, name=name)
            for _ in range(times):
                perturb(adapter)
            single[name] = run(model, batch)
        names = ["a", None, "b", "a"]
        try:
            with peftcore.route(model, names):
                mixed = run(model, batch)
        except PeftcoreError:
            if self.routes:
                raise
            return
        assert self.routes is not False, f"{self.method} serves rows: leave routes = False out"
        for i in (i for i, out in enumerate(mixed) if out.dim() > 0):
            for row, served in enumerate(names):
                expected = single[served][i][row]
                check_close(mixed[i][row], expected, f"row {row}, adapter {served}", atol=1e-5)

    # --- merging -------------------------------------------------------------------------

    def test_merging_keeps_the_outputs_and_can_be_undone_exactly(self) -> None:
        model, batch = self.pair()
        adapter = self.attach(model)
        perturb(adapter)
        tuned = Run(model, batch)
        state = {k: v.clone() for k, v in model.state_dict().items()}
        able = all(p.piece.is_change() for p in adapter.placed)
        if not (able if self.merges is None else self.merges):
            assert not able, f"all pieces of {self.method} are changes of weights: it can be merged"
            with pytest.raises(MergeError):
                adapter.merge()
        else:
            adapter.merge()
            merged = Run(model, batch)
            for found, expected in zip(merged.out, tuned.out, strict=True):
                what = f"{self.method} merged{merged.since(tuned)}"
                check_close(found, expected, what, atol=self.merge_tolerance)
            adapter.unmerge()
        assert Run(model, batch).same(tuned), f"{self.method} computes otherwise once unmerged"
        after = model.state_dict()
        moved = [k for k in state if not torch.equal(state[k], after[k])]
        assert not moved, f"{moved[0]} is not what it was before the merge"

    # --- together with others ------------------------------------------------------------

    @pytest.mark.parametrize("other", ["bitfit", "lora", "probe"])
    @pytest.mark.parametrize("first", [True, False])
    def test_it_composes_with_other_methods(self, other: str, first: bool, tmp_path: Path) -> None:
        if other == self.method or other not in installed().methods:
            pytest.skip(f"{other} is not another installed method")
        model, batch = self.pair()
        own = self.choice(self.toy_name())
        methods: list[Any] = [own, other] if first else [other, own]
        if not resolve(installed().methods[self.method].method).composes:
            with refused(ConfigError, f"{self.method} goes with no other method", model=model):
                peftcore.attach(model, methods)
            for name, chosen in zip("ab", methods, strict=True):
                peftcore.attach(model, [chosen], name=name)
            with pytest.raises(AttachError, match=f"{self.method} of adapter .* with no other"):
                peftcore.activate(model, "a", "b")
            return
        adapter = peftcore.attach(model, methods)
        loss_of(model(**batch)).backward()
        adapter.check_alive()
        perturb(adapter)
        tuned = Run(model, batch)
        adapter.save(tmp_path / "both")
        adapter.detach()
        peftcore.load(model, tmp_path / "both")
        now = Run(model, batch)
        assert now.same(tuned), (
            f"{self.method} with {other} computes otherwise once loaded{now.since(tuned)}"
        )
