"""Models whose weights accelerate keeps on the CPU or on disk between calls, by its own hooks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import remove_hook_from_module
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

import peftcore
from peftcore import Reparam, Site, Structural, info_of
from peftcore.errors import AttachError, MergeError
from peftcore.method.placed import Placed
from peftcore.run.holder import ContextHolder
from peftcore.run.program import Program
from peftcore.run.rewriting import put, rewrite
from peftcore.run.seat import seat_of
from peftcore.testing.matrix import perturb, run, same, tiny

CPU = torch.device("cpu")


def in_memory(model: nn.Module, folder: Path) -> None:
    cpu_offload(model, CPU)


def on_disk(model: nn.Module, folder: Path) -> None:
    disk_offload(model, folder, CPU)


def in_part(model: nn.Module, folder: Path) -> None:
    places = {"embeddings": "cpu", "blocks.0": "cpu", "blocks.1": "disk", "head": "cpu"}
    dispatch_model(model, places, main_device="cpu", offload_dir=folder)


#: One method for each kind of piece: a sum, weights through their layer and made, states, a call.
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 2, "targets": ["all-linear"]},
    "dora": {"rank": 2, "targets": ["all-linear"]},
    "svdiff": {"targets": ["mlp.up"]},
    "loreft": {"rank": 2},
    "adapter": {"bottleneck": 2},
}
WAYS = [*((kind, in_memory) for kind in KINDS), ("dora", on_disk), ("lora", in_part)]


def toy(method: str) -> tuple[Any, dict[str, Any], Callable[[], peftcore.Adapter]]:
    _, model, batch = tiny("toy")

    def attach() -> peftcore.Adapter:
        torch.manual_seed(0)
        adapter = peftcore.attach(model, method, **KINDS[method])
        perturb(adapter)
        return adapter

    return model, batch, attach


def step(model: nn.Module, batch: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    model.train()
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    model.eval()


@pytest.mark.parametrize("before", [True, False], ids=["offloaded before", "offloaded after"])
@pytest.mark.parametrize(("method", "offload"), WAYS)
def test_an_offloaded_model_computes_trains_and_stores_what_a_resident_one_does(
    method: str, offload: Callable[..., Any], before: bool, tmp_path: Path
) -> None:
    resident, batch, attach = toy(method)
    bare = run(resident, batch)
    expected = attach()
    model, _, attach = toy(method)
    if before:
        offload(model, tmp_path / "base")
    adapter = attach()
    pairs = [
        (m, torch.optim.SGD(a.parameters(), lr=0.1))
        for m, a in ((resident, expected), (model, adapter))
    ]
    if not before:
        offload(model, tmp_path / "base")
    assert same(run(model, batch), run(resident, batch))
    for one, optimizer in pairs:
        step(one, batch, optimizer)
    tuned = run(resident, batch)
    assert same(run(model, batch), tuned)
    for one, name in ((expected, "resident"), (adapter, "offloaded")):
        one.save(tmp_path / name)
    files = [tmp_path / name / "adapter.safetensors" for name in ("resident", "offloaded")]
    assert files[0].read_bytes() == files[1].read_bytes()  # the base's fingerprint is in it
    with pytest.raises(MergeError, match=r"cannot be merged: (the weight is on the meta|.* is no)"):
        adapter.merge()
    adapter.detach()
    assert same(run(model, batch), bare) and all(p.requires_grad for p in model.parameters())
    peftcore.load(model, tmp_path / "resident")
    assert same(run(model, batch), tuned)


def test_every_adapter_comes_back_when_it_is_next_used(tmp_path: Path) -> None:
    _, resident, batch = tiny("toy")
    _, model, _ = tiny("toy")
    for one in (resident, model):
        for name in ("a", "b"):
            torch.manual_seed(0)
            perturb(peftcore.attach(one, "lora", name=name, **KINDS["lora"]))
        peftcore.activate(one, "a")
    in_memory(model, tmp_path)
    for names in (["a"], ["a", "b"]):
        for one in (resident, model):
            peftcore.activate(one, *names)
        assert same(run(model, batch), run(resident, batch))


@pytest.mark.parametrize("method", ["bitfit", "norm_tuning", "full"])
def test_a_base_parameter_that_is_offloaded_is_not_trained(method: str, tmp_path: Path) -> None:
    _, model, batch = tiny("toy")
    bare = run(model, batch)
    in_memory(model, tmp_path)
    with pytest.raises(AttachError, match=r"is offloaded by accelerate.* Keep this module on cpu"):
        peftcore.attach(model, method)
    remove_hook_from_module(model, recurse=True)
    adapter = peftcore.attach(model, method)
    perturb(adapter)
    tuned = run(model, batch)
    in_memory(model, tmp_path)
    assert same(run(model, batch), tuned)
    for act in (lambda: adapter.save(tmp_path / "a"), adapter.detach, adapter.merge):
        with pytest.raises(AttachError, match="was offloaded by accelerate while an adapter had"):
            act()
    remove_hook_from_module(model, recurse=True)
    adapter.save(tmp_path / "a")
    adapter.detach()
    assert same(run(model, batch), bare)
    peftcore.load(model, tmp_path / "a")
    assert same(run(model, batch), tuned)


class ReadsDirectly(nn.MultiheadAttention):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("whole", [True, False])
def test_places_whose_weights_come_with_another_call_are_refused(whole: bool) -> None:
    model = nn.Sequential(ReadsDirectly(8, 2), nn.Linear(8, 8)).eval()
    x = torch.randn(2, 3, 8)
    bare = model(x)
    cpu_offload(model, CPU, preload_module_classes=["ReadsDirectly"] if whole else None)
    for target in ("path:0.out_proj", "attention.qkv"):
        with pytest.raises(AttachError, match=r"accelerate offloads the weights there, .*exclude"):
            peftcore.attach(model, "lora", rank=2, targets=[target])
    peftcore.attach(model, "lora", rank=2, targets=["path:1"])
    if whole:
        assert torch.equal(model(x), bare)


def test_statistics_that_are_offloaded_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    cpu_offload(model, CPU, offload_buffers=True)
    with pytest.raises(AttachError, match=r"1\.running_mean is offloaded .*without offload_buffer"):
        peftcore.attach(model, "lora", rank=2, targets=["path:0"])


def test_a_place_without_tensors_of_its_own_is_where_what_encloses_it_is() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, elementwise_affine=False)).to("meta")
    sites = peftcore.survey(model, peftcore.backbone_of(model)).sites
    assert {site.path: site.layer.device.type for site in sites} == {"0": "meta", "1": "meta"}


class Remembers(Reparam):
    """Notes the weights that it was given to precompute from."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))
        self.seen: list[StorageWeakRef] = []

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.factor

    def precompute(self, weight: Callable[[], Tensor]) -> Tensor:
        self.seen.append(StorageWeakRef(weight().untyped_storage()))
        return weight().sum()

    def through(
        self, call: Callable[[Tensor], Tensor], x: Tensor, precomputed: Tensor, bias: Tensor | None
    ) -> Tensor:
        return call(x)


def test_what_a_piece_keeps_for_a_sequence_keeps_no_offloaded_weight(tmp_path: Path) -> None:
    layer = nn.Linear(4, 4).eval()
    on_disk(layer, tmp_path)  # from where each call reads the weights anew
    piece, holder = Remembers().eval(), ContextHolder(Structural())
    site = Site("", "linear", layer, info_of(layer))
    rewrite(layer, holder)
    put(layer, "a", Placed(site, "remembers", "", piece))
    seat_of(layer).program = Program(layer, seat_of(layer).placed["a"], holder)
    with torch.no_grad():
        for _ in range(3):
            layer(torch.randn(2, 4))
    assert len(piece.seen) == 1 and piece.seen[0].expired()
