"""The formula, Hugging Face PEFT's numbers, generation, counts, mistakes."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

import peftcore
from peftcore import AttachError, ConfigError, PeftcoreError, TargetError, installed
from peftcore.testing import Toy, perturb

T = 3
SMALL = {
    "vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 32,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GEMMA = {
    **SMALL, "model_type": "gemma3_text", "head_dim": 8, "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
GPT2 = {
    "model_type": "gpt2", "vocab_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 2,
    "n_positions": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
DECODERS = {"llama": {**SMALL, "model_type": "llama"}, "gemma3": GEMMA, "gpt2": GPT2}


def decoder(name: str = "llama", kernel: str = "sdpa", **more: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**{**DECODERS[name], **more})
    model = AutoModelForCausalLM.from_config(config, attn_implementation=kernel)
    return model.double().eval()


def tuned(model: nn.Module, **config: Any) -> peftcore.Adapter:
    return peftcore.attach(model, "prefix", **{"num_virtual_tokens": T, **config})


def ids(rows: int = 2, length: int = 7) -> Tensor:
    return torch.randint(3, 32, (rows, length))


def greedy(model: Any, tokens: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    mask = torch.ones_like(tokens) if mask is None else mask
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, **options}
    return model.generate(tokens, attention_mask=mask, **settings)[:, tokens.shape[1] :]


# --- the formula -------------------------------------------------------------------------------


def attention_by_hand(layer: Any, x: Tensor, turn: Any, key: Tensor, value: Tensor) -> Tensor:
    """Loop over rows, heads and queries of grouped-query attention with a prefix."""
    width, heads = layer.head_dim, layer.config.num_attention_heads
    q, k, v = (f(x).unflatten(-1, (-1, width)) for f in (layer.q_proj, layer.k_proj, layer.v_proj))
    q, k = turn(q), turn(k)
    out = torch.zeros_like(q)
    for row in range(x.shape[0]):
        for head in range(heads):
            group = head // layer.num_key_value_groups
            part = slice(group * width, (group + 1) * width)
            for i in range(x.shape[1]):
                keys = torch.cat([key[:, part], k[row, : i + 1, group]])
                values = torch.cat([value[:, part], v[row, : i + 1, group]])
                weights = (keys @ q[row, i, head] / width**0.5).softmax(0)
                out[row, i, head] = weights @ values
    return layer.o_proj(out.flatten(2))


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("projected", [False, True])
def test_attention_is_that_with_learned_keys_and_values_in_front(
    kernel: str, projected: bool
) -> None:
    model = decoder(kernel=kernel)
    adapter = tuned(model, prefix_projection=projected)
    layer, piece = model.model.layers[1].self_attn, adapter.placed[1].piece
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    cos, sin = model.model.rotary_emb(x, torch.arange(5)[None])

    def turn(states: Tensor) -> Tensor:
        half = states.unflatten(-1, (2, -1))
        turned = torch.stack([-half[..., 1, :], half[..., 0, :]], -2).flatten(-2)
        return states * cos[:, :, None] + turned * sin[:, :, None]

    causal = torch.full((5, 5), float("-inf"), dtype=torch.float64).triu(1)[None, None]
    mask = None if kernel == "sdpa" else causal
    out = layer(x, position_embeddings=(cos, sin), attention_mask=mask)[0]
    torch.testing.assert_close(out, attention_by_hand(layer, x, turn, *piece.states()))


def test_the_projection_is_one_network_with_the_columns_of_all_layers() -> None:
    model = decoder()
    adapter = tuned(model, prefix_projection=True, encoder_hidden_size=6)
    first, second = (item.piece for item in adapter.placed)
    encoder = first.encoder
    whole = torch.cat([p.weight for i in (first, second) for p in (i.up_key, i.up_value)])
    bias = torch.cat([p.bias for i in (first, second) for p in (i.up_key, i.up_value)])
    inner = torch.tanh(encoder.embedding @ encoder.down.weight.T + encoder.down.bias)
    made = (inner @ whole.T + bias).split(8, dim=1)
    torch.testing.assert_close(list(made), [*first.states(), *second.states()])
    count = T * 16 + 16 * 6 + 6 + (6 + 1) * 2 * 2 * 8
    assert sum(p.numel() for p in adapter.parameters()) == count


def test_the_network_of_all_layers_is_stored_once_and_stays_one_in_a_copy(tmp_path: Path) -> None:
    model, tokens = decoder(), ids()
    adapter = tuned(model, prefix_projection=True, encoder_hidden_size=6)
    perturb(adapter)
    adapter.save(tmp_path)
    names = [n for n in peftcore.inspect(tmp_path)["tensors"] if "encoder" in n]
    place = "model.layers.0.self_attn.prefix.encoder"
    assert sorted(names) == [f"{place}.down.bias", f"{place}.down.weight", f"{place}.embedding"]
    with torch.no_grad():
        made = model(tokens).logits
    twin = copy.deepcopy(model)
    first, second = (item.piece for item in peftcore.adapters(twin)["default"].placed)
    assert first.encoder is second.encoder is not adapter.placed[0].piece.encoder
    adapter.detach()
    again = peftcore.load(model, tmp_path)
    assert again.placed[0].piece.encoder is again.placed[1].piece.encoder
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, made)


def test_an_encoder_sees_the_prefix_beside_all_its_tokens() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16,
    )  # fmt: skip
    model = BertModel(config).double().eval()
    layer, x = model.encoder.layer[0].attention, torch.randn(2, 5, 16, dtype=torch.float64)
    adapter = tuned(model)
    q, k, v = (f(x) for f in (layer.self.query, layer.self.key, layer.self.value))
    key, value = (p[None].expand(2, -1, -1) for p in adapter.placed[0].piece.states())
    split = [torch.cat(p, 1).unflatten(-1, (2, 8)).transpose(1, 2)
             for p in ((q,), (key, k), (value, v))]  # fmt: skip
    weights = (split[0] @ split[1].mT / 8**0.5).softmax(-1)
    expected = layer.output((weights @ split[2]).transpose(1, 2).flatten(2), x)
    torch.testing.assert_close(layer(x)[0], expected)


# --- Hugging Face PEFT -------------------------------------------------------------------------


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_logits_and_gradients_equal_those_of_peft(projected: bool, padded: bool) -> None:
    """PEFT counts the prefix as positions; it is compared where real tokens begin at T."""
    peft = pytest.importorskip("peft")
    # its network is as wide as the keys, ours as the model; they agree without grouped queries
    model = decoder(num_key_value_heads=4 if projected else 2)
    width = 16 if projected else 8
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=T, prefix_projection=projected,
        encoder_hidden_size=6,
    )  # fmt: skip
    theirs = peft.get_peft_model(copy.deepcopy(model), config).double()
    network = {"prefix_projection": True, "encoder_hidden_size": 6} if projected else {}
    ours = tuned(model, **network)
    encoder = theirs.prompt_encoder["default"]
    last = encoder.transform[2] if projected else encoder.embedding
    pairs: list[tuple[Tensor, Tensor, Any]] = []
    if projected:
        shared = ours.placed[0].piece.encoder
        pairs += [
            (shared.embedding, encoder.embedding.weight, slice(None)),
            (shared.down.weight, encoder.transform[0].weight, slice(None)),
            (shared.down.bias, encoder.transform[0].bias, slice(None)),
        ]
    for i, item in enumerate(ours.placed):
        for j, part in enumerate(("key", "value")):
            at = slice(width * (2 * i + j), width * (2 * i + j + 1))
            if projected:
                up = getattr(item.piece, f"up_{part}")
                pairs += [(up.weight, last.weight, at), (up.bias, last.bias, at)]
            else:
                mine = getattr(item.piece, f"prefix_{part}")
                pairs.append((mine, last.weight, (slice(None), at)))
    with torch.no_grad():
        for mine, other, at in pairs:
            mine.copy_(other[at])
    tokens, mask = ids(), torch.ones(2, 7, dtype=torch.long)
    if padded:
        mask[0, :2] = 0
    place = (mask.cumsum(1) - 1).clamp_min(0)
    # PEFT itself adds T to positions that it is given
    outs = [
        model(tokens, attention_mask=mask, position_ids=place + T).logits,
        theirs(tokens, attention_mask=mask, position_ids=place).logits,
    ]
    outs = [out[mask.bool()] for out in outs]
    for out in outs:
        out.square().mean().backward()
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in ours.parameters()) == sum(
        p.numel() for p in theirs.parameters() if p.requires_grad
    )
    for mine, other, at in pairs:
        assert mine.grad.any()
        torch.testing.assert_close(mine.grad, other.grad[at], atol=1e-5, rtol=1e-5)


# --- generation --------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("name", DECODERS)
def test_generation_with_a_cache_is_what_full_passes_say(name: str, kernel: str) -> None:
    model = decoder(name, kernel)
    tuned(model)
    tokens = ids()
    made = greedy(model, tokens)
    whole = torch.cat([tokens, made], 1)
    with torch.no_grad():
        logits = model(whole, use_cache=False).logits[:, tokens.shape[1] - 1 : -1]
        cached = model(whole[:, :5]).past_key_values
        rest = model(whole[:, 5:], past_key_values=cached).logits
    logits[..., 2] = -torch.inf  # the end of the sequence is not allowed to come
    assert torch.equal(made, logits.argmax(-1))
    with torch.no_grad():
        torch.testing.assert_close(rest, model(whole, use_cache=False).logits[:, 5:])
    assert cached.get_seq_length() == whole.shape[1]


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("name", DECODERS)
def test_left_padding_changes_nothing(name: str, kernel: str) -> None:
    model = decoder(name, kernel)
    tuned(model)
    tokens, mask = ids(), torch.ones(2, 7, dtype=torch.long)
    tokens[0, :3], mask[0, :3] = 0, 0
    both = greedy(model, tokens, mask)
    assert torch.equal(both[0], greedy(model, tokens[:1, 3:])[0])
    assert torch.equal(both[1], greedy(model, tokens[1:])[0])


def test_beams_and_a_static_cache_work() -> None:
    model = decoder()
    tuned(model)
    tokens = ids()
    beams = greedy(model, tokens, num_beams=3)
    assert torch.equal(beams, greedy(model, tokens, num_beams=3, use_cache=False))
    assert torch.equal(
        greedy(model, tokens),
        greedy(model, tokens, cache_implementation="static", disable_compile=True),
    )


def test_the_decoder_of_an_encoder_decoder_generates_with_its_own_cache() -> None:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=32, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=4,
        max_source_positions=6, max_target_positions=12, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config).double().eval()
    peftcore.attach(model, "prefix", num_virtual_tokens=T)
    sound, tokens = torch.randn(2, 4, 12, dtype=torch.float64), ids(2, 6)
    with torch.no_grad():
        full = model(sound, decoder_input_ids=tokens, use_cache=False).logits
        cached = model(sound, decoder_input_ids=tokens[:, :5]).past_key_values
        last = model(sound, decoder_input_ids=tokens[:, 5:], past_key_values=cached).logits
    torch.testing.assert_close(last, full[:, 5:])


def test_the_real_tokens_keep_their_positions() -> None:
    model = decoder()
    tuned(model)
    seen: list[Tensor] = []

    def look(_: Any, args: Any, kwargs: Any, out: Any) -> None:
        seen.append(kwargs["position_ids"])

    model.model.rotary_emb.register_forward_hook(look, with_kwargs=True)
    greedy(model, ids(1, 4), max_new_tokens=2, min_new_tokens=2)
    assert [place.tolist() for place in seen] == [[[0, 1, 2, 3]], [[4]]]


# --- training ----------------------------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    model = decoder().train()
    adapter = tuned(model, prefix_projection=True)
    tokens, gradients = ids(), []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model(tokens, labels=tokens, use_cache=False).loss.backward()
        gradients.append([p.grad.clone() for p in adapter.parameters()])
        for p in adapter.parameters():
            p.grad = None
    torch.testing.assert_close(*gradients)


def test_a_decoder_compiles_into_one_graph() -> None:
    model, tokens = decoder(), ids()
    tuned(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        out = compiled(tokens, use_cache=False).logits
        torch.testing.assert_close(out, model(tokens, use_cache=False).logits)


def test_rows_can_have_their_own_prefixes() -> None:
    model, tokens = decoder(), ids()
    alone = []
    for name in ("a", "b"):
        tuned(model, num_virtual_tokens=2 + len(alone), name=name)
        with torch.no_grad():
            alone.append(model(tokens, use_cache=False).logits)
    with peftcore.route(model, ["a", "b"]), torch.no_grad():
        both = model(tokens, use_cache=False).logits
        with pytest.raises(AttachError, match="use_cache=False"):
            model(tokens)
    torch.testing.assert_close(both, torch.stack([alone[0][0], alone[1][1]]))


# --- counts and mistakes -----------------------------------------------------------------------


@pytest.mark.parametrize("length, count", [(30, 7_864_320), (10, 2_621_440)])
def test_llama_7b_has_the_published_count(length: int, count: int) -> None:
    if "llama" not in installed().backbones:
        pytest.skip("no installed backbone has llama-7b")
    model = peftcore.build_on_meta("llama-7b", head="causal-lm")
    plan = peftcore.plan(model, "prefix", num_virtual_tokens=length)
    assert plan.trainable == count == length * 2 * 32 * 4096


def test_grouped_queries_need_a_narrower_prefix() -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**SMALL))
    assert peftcore.plan(model, "prefix", num_virtual_tokens=T).trainable == T * 2 * 2 * 8


class Linears(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)


@pytest.mark.parametrize(
    "model, config, error, words",
    [
        (
            Toy,
            {},
            AttachError,
            "prefix cannot run on toy: it needs attention that takes .* a cache",
        ),
        (Linears, {}, TargetError, "'attention' matches nothing in this model"),
        (lambda: nn.TransformerEncoderLayer(8, 2), {}, TargetError, "self_attn.* takes no cache"),
        (decoder, {"targets": ["attention.key"]}, TargetError, "k_proj .* is of kind linear"),
        (decoder, {"num_virtual_tokens": 33}, TargetError, "33 is more than the 32 positions"),
        (decoder, {"num_virtual_tokens": 0}, ConfigError, "num_virtual_tokens: .* (got 0)"),
        (decoder, {"encoder_hidden_size": 4}, ConfigError, "prefix_projection: true"),
        (lambda: decoder(kernel="flex_attention"), {}, TargetError, "attn_implementation='sdpa'"),
    ],
    ids=["toy", "linears", "torch's", "no attention", "long", "none", "no network", "flex"],
)
def test_what_cannot_be_done_is_one_clear_error_before_any_change(
    model: Any, config: dict[str, Any], error: type[PeftcoreError], words: str
) -> None:
    bare = model()
    classes = [type(m) for m in bare.modules()]
    with pytest.raises(error, match=words.replace("(got 0)", r"\(got 0\)")):
        peftcore.attach(bare, "prefix", **config)
    assert [type(m) for m in bare.modules()] == classes


def test_every_sequence_of_a_packed_row_sees_the_prefix_as_it_does_alone() -> None:
    model = decoder()
    perturb(tuned(model))
    row, places = ids(1, 9), torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3]])
    packed = model(row, position_ids=places, use_cache=False).logits[:, 5:]
    torch.testing.assert_close(packed, model(row[:, 5:], use_cache=False).logits)


def test_what_a_kernel_would_compute_without_the_prefix_is_refused() -> None:
    windowed = decoder("gemma3")
    windowed.config._attn_implementation = "flash_attention_2"
    with pytest.raises(TargetError, match=r"window of 4 tokens .* attn_implementation='sdpa'"):
        tuned(windowed)
    model = decoder()
    model.config._attn_implementation = "flash_attention_2"
    tuned(model)
    with pytest.raises(AttachError, match="prefix needs one sequence in each row"):
        model(ids(1, 4), position_ids=torch.tensor([[0, 1, 0, 1]]), use_cache=False)


def test_some_layers_alone_can_have_a_prefix() -> None:
    adapter = tuned(decoder(), targets={"roles": ["attention"], "layers": "last 1"})
    assert [item.site.path for item in adapter.placed] == ["model.layers.1.self_attn"]
