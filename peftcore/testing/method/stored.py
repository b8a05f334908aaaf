"""Storing an adapter and putting it back."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import torch

import peftcore
from peftcore.testing.matrix import perturb, run, tensors_of
from peftcore.testing.method.on_toy import OnToy
from peftcore.testing.places import Run


class Stored(OnToy):
    """What is in a file, and what it gives back."""

    def test_saving_and_loading_gives_the_same_outputs(self, tmp_path: Path) -> None:
        model, batch = self.pair()
        adapter = self.attach(model)
        perturb(adapter)
        tuned = Run(model, batch)
        adapter.save(tmp_path / "a")
        stored = peftcore.inspect(tmp_path / "a")["tensors"]
        adapter.detach()
        peftcore.load(model, tmp_path / "a", name="again")
        again = Run(model, batch)
        assert again.same(tuned), (
            f"{self.method} computes otherwise once loaded{again.since(tuned)}"
        )
        base = {name for name, _ in model.named_parameters()} & set(stored)
        assert not base, f"parameters of the base are in the file, such as {sorted(base)[:1]}"

    def test_it_loads_on_the_same_base_in_half_precision(self, tmp_path: Path) -> None:
        model, batch = self.pair()
        bare = run(model, batch)
        half = copy.deepcopy(model).bfloat16()
        given = {k: v.bfloat16() if v.is_floating_point() else v for k, v in batch.items()}
        rounding = max(_distance(a, b) for a, b in zip(run(half, given), bare, strict=True))
        adapter = self.attach(model)
        perturb(adapter)
        tuned = run(model, batch)
        adapter.save(tmp_path / "a")
        # its values are those of the base, rounded
        peftcore.load(half, tmp_path / "a", allow_other_base=True)
        with torch.no_grad():
            found = tensors_of(half(**given))
        size = max(t.abs().max().item() for t in tuned)
        error = max(_distance(a, b) for a, b in zip(found, tuned, strict=True))
        change = max(_distance(a, b) for a, b in zip(bare, tuned, strict=True))
        allowed = 4 * rounding + 0.02 * (size + change)
        assert error <= allowed, (
            f"{self.method} on the base in bf16 is {error:.4f} off, more than rounding explains"
            f" ({allowed:.4f}): what it derives from the base must be stored with it"
        )

    def test_copies_and_pickles_behave_like_the_original(self) -> None:
        model, batch = self.pair()
        perturb(self.attach(model))
        tuned = Run(model, batch)
        twin = copy.deepcopy(model)
        for other, how in ((twin, "copy"), (pickle.loads(pickle.dumps(model)), "pickle")):
            found = Run(other, batch)
            assert found.same(tuned), f"the {how} computes something else{found.since(tuned)}"
        peftcore.detach(twin)
        assert Run(model, batch).same(tuned), "detaching the copy changed the original"


def _distance(one: torch.Tensor, two: torch.Tensor) -> float:
    return (one.float() - two.float()).abs().max().item()
