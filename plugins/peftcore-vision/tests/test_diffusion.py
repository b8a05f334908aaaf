"""Rows 16 to 18 of Dutt et al.'s table on a small U-Net of diffusers: what each trains."""

import importlib.util
from pathlib import Path

import pytest
import torch

import peftcore
from peftcore import installed

pytest.importorskip("diffusers")
FILE = Path(__file__).parents[3] / "examples" / "diffusion.py"
_spec = importlib.util.spec_from_file_location("diffusion_example", FILE)
assert _spec is not None and _spec.loader is not None
example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(example)


def names(methods: list) -> set[str]:
    return {m if isinstance(m, str) else m["method"] for m in methods}


@pytest.mark.parametrize("subset", example.SUBSETS)
def test_a_subset_of_a_unet_is_trained_stored_and_loaded(subset: str, tmp_path: Path) -> None:
    methods = example.SUBSETS[subset]
    if missing := names(methods) - set(installed().methods):
        pytest.skip(f"not installed: {', '.join(missing)}")
    torch.manual_seed(0)
    model = example.unet().eval()
    named = dict(model.named_parameters())
    norms = {n for n in named if ".norm" in n or "conv_norm_out" in n}
    attention = {n for n in named if ".attn1." in n or ".attn2." in n}
    biases = {n for n in named if n.endswith("bias")}
    matrices = [p for n, p in named.items() if p.ndim > 1]
    branches = [
        n for n in named if n.endswith((".to_out.0.weight", ".ff.net.2.weight", ".conv2.weight"))
    ]
    expected = {
        # of each matrix the smaller side; of what has one axis a shift, of norms two
        "svdiff": sum(min(len(p), p.numel() // len(p)) for p in matrices)
        + size(named, norms | biases),
        "difffit": size(named, norms | biases) + len(branches),
        "attention": size(named, attention),
        "bias": size(named, biases),
        "norm": size(named, norms),
        "bias-norm-attention": size(named, biases | norms | attention),
        "full": size(named, set(named)),
    }
    adapter = peftcore.attach(model, methods)
    assert adapter.plan.trainable == expected[subset]
    given = (torch.randn(3, 1, 8, 8), torch.tensor([1, 50, 99]), torch.randn(3, 1, example.WIDTH))
    data = example.digits()["train"]
    example.fit(model, adapter.parameters(), data, 1, 1e-2, seed=0)
    adapter.check_alive()
    with torch.no_grad():
        tuned = model(*given).sample
        adapter.save(tmp_path / "a")
        adapter.detach()
        assert not torch.equal(model(*given).sample, tuned)
        peftcore.load(model, tmp_path / "a")
        assert torch.equal(model(*given).sample, tuned)


def size(named: dict, chosen: set[str]) -> int:
    return sum(named[name].numel() for name in chosen)
