"""What methods know of the two sides of an encoder with a decoder."""

import sys
from typing import Any

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import MarianConfig, MarianMTModel

import peftcore
from peftcore import (
    AttachError,
    Context,
    MethodConfig,
    MethodSpec,
    Targeted,
    Targets,
    Transform,
    backbone_named,
    backbone_of,
    hookimpl,
)
from peftcore.testing import perturb

IDS = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 0, 0]])
MASK = (IDS > 0).long()
SIZES = {"layers": 2, "ffn_dim": 48, "attention_heads": 4}
LABELS = torch.tensor([[8, 9, 6, 1], [7, 1, -100, -100]])


@pytest.fixture
def t5() -> nn.Module:
    torch.manual_seed(0)
    return backbone_named("t5").tiny(head="seq2seq-lm")


def contexts(model: nn.Module, monkeypatch: Any, **options: Any) -> dict[str, list[Context]]:
    """Attach edits to both sides, and return the list in which each side's contexts are put."""
    seen: dict[str, list[Context]] = {"encoder": [], "decoder": []}
    adapter = peftcore.attach(model, "loreft", positions="all", rank=2, **options)
    for item in adapter.placed:

        def note(hidden: Tensor, context: Context, stack: str = item.site.stack) -> Tensor:
            seen[stack].append(context)
            return hidden

        monkeypatch.setattr(item.piece, "forward", note)
    return seen


def same(found: Tensor | None, expected: Any) -> bool:
    assert found is not None
    return torch.equal(found, torch.as_tensor(expected).bool())


def test_each_side_is_told_of_its_own_tokens(t5, monkeypatch) -> None:
    seen = contexts(t5, monkeypatch, targets={"roles": ["block"], "layers": "0,2"})
    t5(input_ids=IDS, attention_mask=MASK, labels=LABELS)
    (reads,), (writes,) = seen["encoder"], seen["decoder"]
    assert same(reads.mask, MASK) and same(reads.prompt, MASK)
    # a token predicts each label; the start token is all that comes before the first one
    assert same(writes.mask, [[1, 1, 1, 1], [1, 1, 0, 0]])
    assert same(writes.prompt, [[1, 0, 0, 0], [1, 0, 0, 0]])
    assert writes.memory is not None and same(writes.memory.mask, MASK)


def test_a_mask_of_the_decoder_is_taken_before_its_labels(t5, monkeypatch) -> None:
    seen = contexts(t5, monkeypatch, targets={"roles": ["block"], "layers": "2"})
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    t5(input_ids=IDS, attention_mask=MASK, labels=LABELS, decoder_attention_mask=mask)
    assert same(seen["decoder"][0].mask, mask)


def test_labels_of_one_call_say_nothing_of_the_next(t5, monkeypatch) -> None:
    seen = contexts(t5, monkeypatch, targets={"roles": ["block"], "layers": "2"})
    t5(input_ids=IDS, attention_mask=MASK, labels=LABELS)
    read = torch.zeros(2, 5, 32)
    t5.decoder(input_ids=LABELS.clamp(min=5), encoder_hidden_states=read)
    assert same(seen["decoder"][1].mask, torch.ones(2, 4))


def test_of_generated_tokens_none_is_a_prompt_with_a_cache_and_without(t5, monkeypatch) -> None:
    seen = contexts(t5, monkeypatch, targets={"roles": ["block"], "layers": "0,2"})
    for cached in (True, False):
        t5.generate(
            input_ids=IDS, attention_mask=MASK, max_new_tokens=3, min_new_tokens=3, num_beams=2,
            do_sample=False, use_cache=cached,
        )  # fmt: skip
        first, *rest = seen["decoder"]
        assert same(first.prompt, torch.ones(4, 1)) and not first.generated
        for step, context in enumerate(rest, 2):
            assert context.generated if cached else context.prompt.sum(1).tolist() == [1] * 4
            assert cached or context.prompt.shape == (4, step)
        assert len(seen["encoder"]) == 1 and same(seen["encoder"][0].mask, MASK)
        for side in seen.values():
            side.clear()


def test_padding_of_the_encoder_that_no_mask_tells_is_refused(t5) -> None:
    peftcore.attach(t5, "loreft", rank=2)
    with pytest.raises(AttachError, match="loreft counts real tokens, and rows of this call"):
        t5(input_ids=IDS, labels=LABELS)


def test_padding_of_a_side_without_pieces_is_no_matter(t5) -> None:
    peftcore.attach(t5, "loreft", rank=2)
    read = IDS.masked_fill(MASK == 0, 0)
    t5(input_ids=IDS, attention_mask=MASK, decoder_input_ids=read)


def test_positions_are_counted_where_the_prompt_is_read_and_nowhere_else(t5) -> None:
    adapter = peftcore.attach(t5, "loreft", rank=2, targets=["block"])
    assert {item.site.stack for item in adapter.placed} == {"encoder"}
    adapter.detach()
    keys = peftcore.attach(t5, "loreft", rank=2, targets=["cross_attention.key"])
    assert {item.site.stack for item in keys.placed} == {"decoder"}
    keys.detach()
    with pytest.raises(AttachError, match="counts the tokens of a prompt, which the stack encoder"):
        peftcore.attach(t5, "loreft", rank=2, targets={"roles": ["block"], "stack": "decoder"})
    assert not peftcore.adapters(t5)


def test_rows_of_both_sides_and_beams_have_their_own_adapters(t5) -> None:
    batch = {"input_ids": IDS, "attention_mask": MASK}

    def written() -> Tensor:
        return t5.generate(**batch, max_new_tokens=4, num_beams=2, do_sample=False)

    expected = []
    for name, targets in (("a", ["block"]), ("b", ["cross_attention.value"])):
        perturb(peftcore.attach(t5, "loreft", rank=2, targets=targets, name=name))
        expected.append((written(), t5(**batch, labels=LABELS).logits))
    with peftcore.route(t5, ["a", "b"]):
        found = [(written(), t5(**batch, labels=LABELS).logits) for _ in range(2)]
    for ids, logits in found:
        for row in range(2):
            assert torch.equal(ids[row], expected[row][0][row])
            torch.testing.assert_close(logits[row], expected[row][1][row], atol=1e-4, rtol=1e-4)


class Lengths(Transform):
    """Keep how many tokens came by."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        context.keep(self, self.factor * hidden.shape[1])
        return hidden


class Keeping(Targeted):
    kinds = ("module",)

    def piece(self, site: Any, config: Any) -> Lengths:
        return Lengths()

    @hookimpl
    def peftcore_extra_loss(self, kept: Any) -> Tensor:
        return torch.stack([value for values in kept.values() for value in values]).sum()


class KeepingConfig(MethodConfig):
    targets: Targets = Field(Targets(roles=("block",)), description="Where to look.")


def test_what_pieces_keep_on_both_sides_is_of_one_call(t5, with_plugin, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sides", sys.modules[__name__])
    with_plugin(MethodSpec("keeping", "Keeps.", "sides:KeepingConfig", "sides:Keeping"))
    adapter = peftcore.attach(t5, "keeping")
    for _ in range(2):
        t5(input_ids=IDS, attention_mask=MASK, labels=LABELS)
    assert adapter.extra_loss() == 2 * (5 + 4)


def test_gradients_are_the_same_with_checkpointing(t5) -> None:
    adapter = peftcore.attach(t5, "loreft", rank=2)
    perturb(adapter)
    t5.train()
    found = []
    for checkpointed in (False, True):
        if checkpointed:
            t5.gradient_checkpointing_enable({"use_reentrant": False})
        t5(input_ids=IDS, attention_mask=MASK, labels=LABELS, use_cache=False).loss.backward()
        found.append([p.grad.clone() for p in adapter.parameters()])
        t5.zero_grad()
        for parameter in adapter.parameters():
            parameter.grad = None
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again, atol=1e-6, rtol=1e-4)


def test_an_encoder_with_a_decoder_that_no_plugin_knows_is_told_the_same() -> None:
    torch.manual_seed(0)
    sides = {f"{s}_{k}": v for s in ("encoder", "decoder") for k, v in SIZES.items()}
    config = MarianConfig(
        vocab_size=40, d_model=32, max_position_embeddings=32, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0, scale_embedding=True, **sides,
    )  # fmt: skip
    model = MarianMTModel(config).eval()
    assert backbone_of(model).name == "structural"
    adapter = peftcore.attach(model, "loreft", rank=2, positions="f1+l1", targets=["block"])
    assert {item.site.stack for item in adapter.placed} == {"encoder"}
    perturb(adapter)
    padded = model(input_ids=IDS, attention_mask=MASK, labels=LABELS).logits
    alone = model(input_ids=IDS[1:, :3], attention_mask=MASK[1:, :3], labels=LABELS[1:, :2]).logits
    torch.testing.assert_close(padded[1:, :2], alone, atol=1e-5, rtol=1e-4)
    with pytest.raises(AttachError, match="counts real tokens"):
        model(input_ids=IDS, labels=LABELS)
