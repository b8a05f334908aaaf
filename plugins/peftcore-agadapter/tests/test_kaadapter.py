"""KaAdapter on CLIP's two towers: formula, start, what is shared, and how many parameters."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

import peftcore
from peftcore import TargetError, build_on_meta, installed
from peftcore.testing import perturb

pytestmark = pytest.mark.skipif(
    "vision-language" not in installed().backbones, reason="the backbone of both towers is missing"
)


def clip(vision: int = 6, text: int = 4) -> CLIPModel:
    """Return a small CLIP with towers of other widths and depths."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "intermediate_size": 24}
    config = CLIPConfig(
        text_config={
            **heads, "hidden_size": 12, "num_hidden_layers": text, "vocab_size": 30,
            "max_position_embeddings": 8, "eos_token_id": 1,
        },
        vision_config={
            **heads, "hidden_size": 16, "num_hidden_layers": vision, "image_size": 16,
            "patch_size": 8,
        },
        projection_dim=8,
    )  # fmt: skip
    return CLIPModel(config).eval()


def batch() -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(1)
    return {
        "input_ids": torch.randint(2, 30, (2, 5), generator=chance),
        "pixel_values": torch.randn(3, 3, 16, 16, generator=chance),
    }


def towers(model: CLIPModel) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        out = model(**batch())
    return out.text_embeds, out.image_embeds


def bottlenecks(adapter: peftcore.Adapter, stack: str) -> list[Any]:
    found: list[Any] = [item.piece for item in adapter.placed if item.site.stack == stack]
    return [piece for piece in found if hasattr(piece, "middle")]


def test_both_towers_start_as_they_were() -> None:
    model = clip()
    bare = towers(model)
    adapter = peftcore.attach(model, "kaadapter", rank=4)
    assert all(map(torch.equal, towers(model), bare))
    perturb(adapter)
    for tuned, before in zip(towers(model), bare, strict=True):
        assert (tuned - before).abs().max() > 1e-3


def test_blocks_of_the_same_relative_depth_share_their_middle() -> None:
    adapter = peftcore.attach(clip(), "kaadapter", rank=4)
    vision, text = (bottlenecks(adapter, stack) for stack in ("vision", "language"))
    assert len({id(piece.middle) for piece in text}) == 4
    numbers = [[t.middle for t in text].index(v.middle) for v in vision]
    assert numbers == [4 * i // 6 for i in range(6)] == [0, 0, 1, 2, 2, 3]


def test_a_loss_on_images_alone_moves_what_texts_go_through() -> None:
    model = clip()
    adapter = peftcore.attach(model, "kaadapter", rank=4)
    perturb(adapter)
    before = towers(model)[0]
    model.get_image_features(batch()["pixel_values"]).pooler_output.square().sum().backward()
    text = bottlenecks(adapter, "language")
    assert all(piece.middle.weight.grad.abs().sum() > 0 for piece in text)
    assert all(piece.down.grad is None for piece in text)
    with torch.no_grad():
        for piece in text:
            piece.middle.weight -= 0.1 * piece.middle.weight.grad.sign()
    assert (towers(model)[0] - before).abs().max() > 1e-4


def test_what_is_added_is_that_of_the_formula() -> None:
    model = clip(1, 1)
    adapter = peftcore.attach(model, "kaadapter", rank=4, scale=2.0)
    perturb(adapter)
    (piece,) = bottlenecks(adapter, "vision")
    mlp = model.vision_model.encoder.layers[0].mlp
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        tuned = mlp(x)
        with peftcore.disabled(model):
            bare = mlp(x)
        inner = F.gelu(x @ piece.down.T + piece.down_bias)
        inner = F.gelu(inner @ piece.middle.weight.T + piece.middle.bias)
        added = 2 * (inner @ piece.up.T + piece.up_bias)
    torch.testing.assert_close(tuned, bare + added)


def closed_form(r: int, shared: bool = True) -> int:
    """Return the number of parameters on CLIP's bigG: 48 blocks of 1,664 and 32 of 1,280."""
    ends = sum(n * (2 * d * r + r + d) for n, d in ((48, 1664), (32, 1280)))
    return ends + (32 if shared else 80) * (r * r + r)


def test_the_number_of_parameters_on_bigg_is_that_of_the_closed_form() -> None:
    model = build_on_meta("clip-vit-bigg-14", head="none")
    plan = peftcore.plan(model, "kaadapter")
    assert plan.base == 2_539_567_105
    assert plan.trainable == closed_form(64) == 15_725_568
    apart = peftcore.plan(model, "kaadapter", shared=False, rank=16)
    assert apart.trainable == closed_form(16, shared=False)


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        (["mlp.up"], "block [0-9] has only one: name two linear layers"),
        (["mlp.*", "attention.query"], "is no end of an MLP that begins with width"),
        (["attention.query", "mlp.up"], "of width 24, is no end of an MLP"),
    ],
)
def test_targets_that_are_no_two_ends_are_refused(targets: list[str], sentence: str) -> None:
    with pytest.raises(TargetError, match=sentence):
        peftcore.plan(clip(), "kaadapter", rank=4, targets=targets)
