"""Tokens in blocks: naive references, counts, masks and positions, mistakes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftcore
from peftcore import (
    AttachError,
    PeftcoreError,
    TargetError,
    backbone_named,
    build_on_meta,
    installed,
)
from peftcore.testing import Toy, perturb

CLOSE = {"atol": 1e-9, "rtol": 1e-7}
ENCODERS = ("bert", "roberta", "deberta", "distilbert", "electra", "esm")
CONFIGS = {
    "deep": ("vpt", {"num_virtual_tokens": 3}),
    "shallow": ("vpt", {"num_virtual_tokens": 3, "deep": False}),
    "projected": ("vpt", {"num_virtual_tokens": 3, "project": 4}),
    "embedding": ("embedding_prompt", {"num_virtual_tokens": 3}),
}


def tiny(name: str, **sizes: Any) -> tuple[nn.Module, dict[str, Any]]:
    if name not in installed().backbones:
        pytest.skip(f"no installed plugin provides {name}")
    torch.manual_seed(0)
    knows = backbone_named(name)
    model = knows.tiny().double()
    batch = knows.batch(model)
    return model, {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}


def attach(model: nn.Module, kind: str, **more: Any) -> peftcore.Adapter:
    method, config = CONFIGS[kind]
    return peftcore.attach(model, method, **config, **more)


def prompts(adapter: peftcore.Adapter) -> list[Tensor]:
    """Return the tokens of each block, [P, d]; those of the first alone where there are no more."""
    perturb(adapter)
    tensors = {name.rpartition(".")[2]: [] for name, _ in adapter.named_parameters()}
    for name, parameter in adapter.named_parameters():
        tensors[name.rpartition(".")[2]].append(parameter.detach().clone())
    if "weight" not in tensors:
        return tensors["prompt"]
    return [p @ tensors["weight"][0].T + tensors["bias"][0] for p in tensors["prompt"]]


def put_in(x: Tensor, prompt: Tensor, at: int) -> Tensor:
    return torch.cat([x[:, :at], prompt.expand(len(x), -1, -1), x[:, at:]], dim=1)


def take_out(x: Tensor, count: int, at: int) -> Tensor:
    return torch.cat([x[:, :at], x[:, at + count :]], dim=1)


# --- the papers' formulas ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_image_model_runs_its_blocks_on_the_longer_sequence(kind: str) -> None:
    model, batch = tiny("timm-vit")
    network: Any = model
    adapter = attach(model, kind)
    learned = prompts(adapter)
    tuned = model(**batch)
    adapter.detach()
    at = 0 if kind == "embedding" else 1
    x = network.norm_pre(network._pos_embed(network.patch_embed(batch["x"])))
    if kind == "shallow":
        x = take_out(network.blocks(put_in(x, learned[0], at)), 3, at)
    else:
        assert len(learned) == len(network.blocks)
        for block, prompt in zip(network.blocks, learned, strict=True):
            x = take_out(block(put_in(x, prompt, at)), 3, at)
    torch.testing.assert_close(tuned, network.forward_head(network.norm(x)), **CLOSE)


@pytest.mark.parametrize("padded", [False, True])
def test_wavlm_has_one_table_of_positions_for_the_longer_sequence(padded: bool) -> None:
    model, batch = tiny("wavlm")
    if not padded:
        del batch["attention_mask"]
    network: Any = model
    adapter = attach(model, "embedding")
    learned = prompts(adapter)
    seen: list[Any] = []
    network.encoder.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    tuned = model(**batch).last_hidden_state
    adapter.detach()
    x, mask, bias = seen[0][0][0], seen[0][1]["attention_mask"], None
    if padded:
        assert not mask.all()
        mask = torch.cat([mask.new_ones(2, 3), mask], dim=1)
    for layer, prompt in zip(network.encoder.layers, learned, strict=True):
        x, bias = layer(put_in(x, prompt, 0), attention_mask=mask, position_bias=bias)
        assert bias.shape[-1] == x.shape[1]
        x = x[:, 3:]
    torch.testing.assert_close(tuned, x, **CLOSE)


def test_the_place_of_the_tokens_does_not_matter_without_relative_positions() -> None:
    model, batch = tiny("clip-vision")
    outs = []
    for name, after in (("a", 0), ("b", 1), ("c", 4)):
        torch.manual_seed(1)
        attach(model, "deep", name=name, after=after)
        outs.append(model(**batch)[0])
    torch.testing.assert_close(outs[0], outs[1], **CLOSE)
    torch.testing.assert_close(outs[0], outs[2], **CLOSE)


# --- masks, positions, checkpointing -----------------------------------------------------------


@pytest.mark.parametrize("kind", ["deep", "shallow", "embedding"])
@pytest.mark.parametrize("name", ENCODERS)
def test_padding_changes_nothing(name: str, kind: str) -> None:
    model, batch = tiny(name)
    prompts(attach(model, kind))
    out = model(**batch)[0]
    assert out.shape[:2] == batch["input_ids"].shape
    for row, length in enumerate(batch["attention_mask"].sum(1)):
        alone = {key: value[row : row + 1, :length] for key, value in batch.items()}
        torch.testing.assert_close(out[row, :length], model(**alone)[0][0], **CLOSE)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_every_kind_of_mask_grows_with_the_sequence(implementation: str) -> None:
    model, batch = tiny("bert")
    adapter = attach(model, "deep")
    learned = prompts(adapter)
    expected = model(**batch)[0]
    model.set_attn_implementation(implementation)
    torch.testing.assert_close(model(**batch)[0], expected, **CLOSE)
    changed = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 9)
    real = batch["attention_mask"].bool()
    out = model(**{**batch, "input_ids": changed})[0]
    torch.testing.assert_close(out[real], expected[real], **CLOSE)
    with torch.no_grad():
        adapter.parameters()[-1].copy_(learned[-1] + 1)
    assert not torch.allclose(model(**batch)[0][real], expected[real])


def test_torchs_own_encoder_is_tuned_too() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double().eval()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    hidden = torch.arange(5) >= torch.tensor([[5], [3]])
    prompts(attach(model, "deep"))
    out = model(x, src_key_padding_mask=hidden)
    torch.testing.assert_close(out[1, :3], model(x[1:, :3])[0], **CLOSE)
    causal = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    later = model(x, mask=causal)
    torch.testing.assert_close(later[:, :2], model(x[:, :2], mask=causal[:2, :2]), **CLOSE)


@pytest.mark.parametrize("kind", ["deep", "shallow"])
@pytest.mark.parametrize("name", ["bert", "clip-vision", "wavlm"])
def test_gradient_checkpointing_changes_nothing(name: str, kind: str) -> None:
    model, batch = tiny(name)
    adapter = attach(model, kind, dropout=0.0)
    prompts(adapter)
    grads = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()(**batch)[0].square().mean().backward()
        grads.append([p.grad for p in adapter.parameters()])
        model.zero_grad()
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("kind", ["deep", "shallow"])
def test_edits_at_positions_count_the_tokens_of_the_row_only(kind: str) -> None:
    if "loreft" not in installed().methods:
        pytest.skip("no installed plugin provides loreft")
    model, batch = tiny("bert")
    seen: list[Tensor] = []
    edit = {"method": "loreft", "rank": 2, "positions": "f1+l1"}
    peftcore.attach(model, [{**edit, "targets": {"roles": ["block"], "layers": "1"}}], name="e")
    attach(model, kind, name="p")
    model.encoder.layer[1].register_forward_hook(lambda m, a, out: seen.append(out))
    for names in (("p",), ("p", "e")):
        peftcore.activate(model, *names)
        model(**batch)
    moved = (seen[0] != seen[1]).any(-1).nonzero().tolist()
    last = (batch["attention_mask"].sum(1) - 1).tolist()
    assert moved == [[0, 0], [0, last[0]], [1, 0], [1, last[1]]]


def test_dropout_is_on_the_tokens_in_training_only() -> None:
    model, batch = tiny("clip-vision")
    attach(model, "deep", dropout=0.5)
    first, again = model(**batch)[0], model(**batch)[0]
    assert torch.equal(first, again)
    model.train()
    assert not torch.equal(model(**batch)[0], model(**batch)[0])


# --- counts and starts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config, count",
    [
        ({"deep": False, "num_virtual_tokens": 10}, 10 * 768),
        ({"num_virtual_tokens": 10}, 12 * 10 * 768),
        ({"num_virtual_tokens": 10, "project": 96}, 12 * 10 * 96 + 96 * 768 + 768),
    ],
    ids=str,
)
def test_vit_b16_has_p_tokens_a_block(config: dict[str, Any], count: int) -> None:
    tiny("timm-vit")
    assert peftcore.plan(build_on_meta("vit-b16-224"), "vpt", **config).trainable == count


def test_wavlm_base_plus_has_5_tokens_a_block() -> None:
    tiny("wavlm")
    plan = peftcore.plan(build_on_meta("wavlm-base-plus"), "embedding_prompt")
    assert plan.trainable == 5 * 768 * 12 == 46_080
    assert round(plan.percent("of_base"), 4) == 0.0488


@pytest.mark.parametrize(
    "name, method, bound",
    [
        ("clip-vision", "vpt", (6 / (3 * 4 * 4 + 32)) ** 0.5),
        ("bert", "vpt", (6 / (3 * 16 * 16 + 32)) ** 0.5),
        ("bert", "embedding_prompt", (6 / (32 * 41)) ** 0.5),
    ],
)
def test_tokens_start_uniform_within_the_papers_bound(name: str, method: str, bound: float) -> None:
    model, _ = tiny(name)
    adapter = peftcore.attach(model, method, num_virtual_tokens=40)
    for prompt in adapter.parameters():
        assert 0.95 * bound < prompt.abs().max() <= bound


# --- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, method, config, words",
    [
        ("bert", "vpt", {"targets": ["attention"]}, "is no block; tokens go into whole blocks"),
        ("whisper", "vpt", {}, "is a block of a decoder, whose cache has no place"),
        (
            "wavlm",
            "embedding_prompt",
            {"targets": {"roles": ["block"], "layers": "0"}},
            "hand the bias of relative positions on",
        ),
        (
            "llama",
            "vpt",
            {},
            "vpt cannot run on llama: it needs blocks whose tokens",
        ),
        ("timm-cnn", "embedding_prompt", {}, "embedding_prompt cannot run on timm-cnn"),
    ],
)
def test_what_cannot_be_done_is_one_clear_error(
    name: str, method: str, config: dict[str, Any], words: str
) -> None:
    model, _ = tiny(name)
    keys = list(model.state_dict())
    for run in (peftcore.plan, peftcore.attach):
        with pytest.raises(PeftcoreError, match=words):
            run(model, method, **config)
    assert list(model.state_dict()) == keys


def test_shallow_tokens_need_neighbours_that_are_never_left_out() -> None:
    model, _ = tiny("wav2vec2")
    model.config.layerdrop = 0.1
    with pytest.raises(TargetError, match=r"leaves out blocks at random \(layerdrop = 0.1\)"):
        attach(model, "shallow")
    attach(model, "deep")
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    targets = {"roles": ["block"], "layers": "0;2"}
    with pytest.raises(TargetError, match=r"blocks \[0, 2\] are not next to each other"):
        attach(nn.TransformerEncoder(layer, 3), "shallow", targets=targets)


def test_sequences_that_are_not_rows_first_are_refused() -> None:
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False
    )
    with pytest.raises(AttachError, match=r"layers\.0\.self_attn has batch_first=False"):
        attach(model, "deep")
    images = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4)) for _ in "ab")
    attach(images, "deep")
    with pytest.raises(AttachError, match="a tensor of 4 axes"):
        images[0](torch.zeros(1, 4, 2, 2))


def test_kernels_that_would_not_see_virtual_tokens_are_refused() -> None:
    model, _ = tiny("bert")
    for kernel, window in (("flex_attention", None), ("flash_attention_2", 8)):
        model.config._attn_implementation = kernel
        model.config.sliding_window = window
        with pytest.raises(TargetError, match=f"runs {kernel}, .* attn_implementation='sdpa'"):
            attach(model, "deep")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    attach(model, "deep")
    with pytest.raises(AttachError, match="enable_nested_tensor=False"), torch.no_grad():
        model(torch.zeros(1, 3, 8), src_key_padding_mask=torch.tensor([[False, False, True]]))


def test_shallow_tokens_come_before_others() -> None:
    ids, mask = torch.ones(1, 3, dtype=torch.long), torch.ones(1, 3)
    shallow, deep = ({"method": CONFIGS[k][0], **CONFIGS[k][1]} for k in ("shallow", "embedding"))
    model = Toy()
    peftcore.attach(model, [shallow, deep])
    model(ids, mask)
    other = Toy()
    peftcore.attach(other, [deep, shallow])
    with pytest.raises(AttachError, match="shallow vpt comes first"):
        other(ids, mask)
