"""The formula, Hugging Face PEFT's numbers, generation, counts, mistakes."""

import copy
import math
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

import peftcore
from peftcore import AttachError, ConfigError, PeftcoreError, TargetError, installed
from peftcore.testing import Toy, perturb
from peftcore_llama_adapter.pieces import AddPrompts

K = 3
SMALL = {
    "vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "intermediate_size": 24,
    "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT2 = {
    "model_type": "gpt2", "vocab_size": 32, "n_embd": 16, "n_layer": 3, "n_head": 4,
    "n_positions": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
DECODERS = {
    **{name: {**SMALL, "model_type": name} for name in ("llama", "mistral", "qwen3")},
    "gemma3": {**SMALL, "model_type": "gemma3_text", "query_pre_attn_scalar": 7},
    "gpt2": GPT2,
}
#: Families that turn neighbours instead of halves, the second of them in half of each head.
INTERLEAVED = {name: {**SMALL, "model_type": name} for name in ("cohere", "glm")}


def decoder(name: str = "llama", **more: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**({**DECODERS, **INTERLEAVED}[name] | more))
    return AutoModelForCausalLM.from_config(config).double().eval()


def attached(model: nn.Module, **config: Any) -> peftcore.Adapter:
    settings = {"adapter_len": K, "adapter_layers": 2, **config}
    return peftcore.attach(model, "llama_adapter", **settings)


def prompts_of(adapter: peftcore.Adapter) -> list[Any]:
    return [item.piece for item in adapter.placed if isinstance(item.piece, AddPrompts)]


def ids(rows: int = 2, length: int = 7) -> Tensor:
    return torch.randint(3, 32, (rows, length))


def greedy(model: Any, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    mask = torch.ones_like(tokens) if mask is None else mask
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    return model.generate(tokens, attention_mask=mask, **settings)[:, tokens.shape[1] :]


# --- the formula -------------------------------------------------------------------------------


def two_softmaxes(
    q: Tensor, k: Tensor, v: Tensor, key: Tensor, value: Tensor, gate: Tensor, scale: float
) -> Tensor:
    """Loop over rows, heads and queries; q is [B, L, heads, width], key [K, kv heads, width]."""
    out = torch.zeros_like(q)
    group = q.shape[2] // k.shape[2]
    for row in range(q.shape[0]):
        for head in range(q.shape[2]):
            kv = head // group
            for i in range(q.shape[1]):
                here = q[row, i, head] * scale
                tokens = (k[row, : i + 1, kv] @ here).softmax(0)
                prompts = gate[head] * (key[:, kv] @ here).softmax(0)
                values = torch.cat([value[:, kv], v[row, : i + 1, kv]])
                out[row, i, head] = torch.cat([prompts, tokens]) @ values
    return out.flatten(2)


def turned_in_pairs(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn features 2i and 2i + 1 of each head by angle i, as many as there are angles for."""
    out = states.clone()
    angles = torch.unique(torch.atan2(sin, cos)[0, 1])  # of position 1, each of them is there twice
    for i, angle in enumerate(sorted(angles.tolist(), reverse=True)):
        for place in range(states.shape[1]):
            c, s = math.cos(angle * place), math.sin(angle * place)
            a, b = states[:, place, :, 2 * i], states[:, place, :, 2 * i + 1]
            out[:, place, :, 2 * i] = a * c - b * s
            out[:, place, :, 2 * i + 1] = a * s + b * c
    return out


@pytest.mark.parametrize("gate", ["tanh", "linear"])
@pytest.mark.parametrize("name", [*DECODERS, *INTERLEAVED])
def test_attention_is_that_of_an_explicit_loop_of_two_softmaxes(name: str, gate: str) -> None:
    model = decoder(name)
    # the two that no plugin knows lay their modules out as LLaMA does
    adapter = attached(model, gate=gate, backbone="llama" if name in INTERLEAVED else None)
    perturb(adapter)
    piece, x = prompts_of(adapter)[-1], torch.randn(2, 5, 16, dtype=torch.float64)
    prompt, g = piece.adaption_prompt, piece.adaption_gate
    g = g if gate == "linear" else torch.tanh(g)

    def split(states: Tensor) -> Tensor:
        return states.unflatten(-1, (-1, 4))

    with torch.no_grad():
        if name == "gpt2":
            layer = model.transformer.h[-1].attn
            parts = [split(p) for p in layer.c_attn(x).split(16, -1)]
            _, key, value = (split(p) for p in layer.c_attn(prompt).split(16, -1))
            expected = (
                layer.c_proj.bias + two_softmaxes(*parts, key, value, g, 0.5) @ layer.c_proj.weight
            )
            out = layer(x)[0]
        else:
            layer, places = model.model.layers[-1].self_attn, torch.arange(5)[None]
            more = {"layer_type": model.config.layer_types[-1]} if name == "gemma3" else {}
            cos, sin = model.model.rotary_emb(x, position_ids=places, **more)
            q, k, v = (split(f(x)) for f in (layer.q_proj, layer.k_proj, layer.v_proj))
            key, value = split(layer.k_proj(prompt)), split(layer.v_proj(prompt))
            if hasattr(layer, "q_norm"):
                q, k, key = layer.q_norm(q), layer.k_norm(k), layer.k_norm(key)

            def turn(states: Tensor) -> Tensor:
                if name in INTERLEAVED:
                    return turned_in_pairs(states, cos, sin)
                half = states.unflatten(-1, (2, -1))
                turned = torch.stack([-half[..., 1, :], half[..., 0, :]], -2).flatten(-2)
                return states * cos[:, :, None] + turned * sin[:, :, None]

            scale = 7**-0.5 if name == "gemma3" else 0.5
            inner = two_softmaxes(turn(q), turn(k), v, key, value, g, scale)
            expected = inner @ layer.o_proj.weight.T
            out = layer(x, position_embeddings=(cos, sin), attention_mask=None)[0]
    torch.testing.assert_close(out, expected, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("name", DECODERS)
def test_closed_gates_give_the_base(name: str) -> None:
    model, tokens = decoder(name), ids()
    with torch.no_grad():
        bare = model(tokens).logits
        attached(model)
        torch.testing.assert_close(model(tokens).logits, bare, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_closed_gates_give_the_logits_of_llama_bit_for_bit(dtype: torch.dtype) -> None:
    model, tokens = decoder().to(dtype), ids()
    with torch.no_grad():
        bare = model(tokens).logits
        adapter = attached(model, adapter_layers=3)
        assert torch.equal(model(tokens).logits, bare)
        for piece in prompts_of(adapter):
            piece.adaption_gate.fill_(0.5)
        assert not torch.equal(model(tokens).logits, bare), "the prompts are there"


def test_prompts_pass_through_the_updates_of_other_methods() -> None:
    if "lora" not in installed().methods:
        pytest.skip("lora is not installed")
    model, tokens = decoder(), ids()
    lora = {"method": "lora", "rank": 2, "targets": ["attention.key", "attention.value"]}
    own = {"method": "llama_adapter", "adapter_len": K, "adapter_layers": 2}
    adapter = peftcore.attach(model, [lora, own])
    perturb(adapter)
    with torch.no_grad():
        together = model(tokens).logits
        layer, prompts = model.model.layers[-1].self_attn, prompts_of(adapter)[-1].adaption_prompt
        key = layer.k_proj(prompts)
        update = next(i.piece for i in adapter.placed if i.site.module is layer.k_proj)
        expected = prompts @ (layer.k_proj.weight + update.weight_delta()).T
        torch.testing.assert_close(key, expected)
        for item in adapter.placed:
            if item.label == "lora":
                item.site.module.weight.add_(item.piece.weight_delta())
                item.piece.requires_grad_(False)
                for parameter in item.piece.parameters():
                    parameter.zero_()
        torch.testing.assert_close(model(tokens).logits, together)


# --- Hugging Face PEFT -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_logits_and_gradients_equal_those_of_peft(name: str) -> None:
    """PEFT has one gate a layer, without tanh; it is compared with all gates of a layer equal."""
    peft = pytest.importorskip("peft")
    model = decoder(name, num_key_value_heads=4)
    config = peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=K, adapter_layers=2)
    theirs = peft.get_peft_model(copy.deepcopy(model), config).double()
    ours = attached(model, gate="linear")
    pairs = [
        (piece, theirs.base_model.model.model.layers[i].self_attn)
        for i, piece in zip((1, 2), prompts_of(ours), strict=True)
    ]
    with torch.no_grad():
        for i, (mine, other) in enumerate(pairs):
            mine.adaption_prompt.copy_(other.adaption_prompt[0])
            for gate in (mine.adaption_gate, other.adaption_gate):
                gate.fill_(0.7 + i)
    tokens, mask = ids(), torch.ones(2, 7, dtype=torch.long)
    mask[0, :2] = 0
    batch = {"attention_mask": mask, "position_ids": torch.arange(7)[None].expand(2, -1)}
    outs = [each(tokens, use_cache=False, **batch).logits for each in (model, theirs)]
    for out in outs:
        out.square().mean().backward()
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-5)
    for mine, other in pairs:
        grads = mine.adaption_prompt.grad, other.adaption_prompt.grad[0]
        assert grads[0].any()
        torch.testing.assert_close(*grads, atol=1e-5, rtol=1e-5)
        gates = mine.adaption_gate.grad.sum()[None], other.adaption_gate.grad
        torch.testing.assert_close(*gates, atol=1e-5, rtol=1e-5)


# --- generation and training -------------------------------------------------------------------


@pytest.mark.parametrize("name", DECODERS)
def test_generation_with_a_cache_is_what_full_passes_say(name: str) -> None:
    model = decoder(name)
    perturb(attached(model))
    tokens = ids()
    made = greedy(model, tokens)
    whole = torch.cat([tokens, made], 1)
    with torch.no_grad():
        full = model(whole, use_cache=False).logits
        cached = model(whole[:, :5]).past_key_values
        torch.testing.assert_close(model(whole[:, 5:], past_key_values=cached).logits, full[:, 5:])
    logits = full[:, tokens.shape[1] - 1 : -1]
    logits[..., 2] = -torch.inf  # the end of the sequence is not allowed to come
    assert torch.equal(made, logits.argmax(-1))


@pytest.mark.parametrize("name", DECODERS)
def test_left_padding_changes_nothing(name: str) -> None:
    model = decoder(name)
    perturb(attached(model))
    tokens, mask = ids(), torch.ones(2, 7, dtype=torch.long)
    tokens[0, :3], mask[0, :3] = 0, 0
    both = greedy(model, tokens, mask)
    assert torch.equal(both[0], greedy(model, tokens[:1, 3:])[0])
    assert torch.equal(both[1], greedy(model, tokens[1:])[0])


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    model = decoder().train()
    adapter = attached(model)
    perturb(adapter)
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
    perturb(attached(model))
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        out = compiled(tokens, use_cache=False).logits
        torch.testing.assert_close(out, model(tokens, use_cache=False).logits)


def test_no_tensor_of_a_call_is_held_beyond_it() -> None:
    model = decoder()
    adapter = attached(model)
    model(ids())
    running = [piece.running for piece in prompts_of(adapter)]
    assert all(r.query is None and r.rotary is None for r in running)


# --- rows and threads --------------------------------------------------------------------------


def two_adapters() -> tuple[Any, Tensor, dict[str | None, Tensor]]:
    """Return a model with the adapters a and b, tokens, and the logits of each adapter alone."""
    model, tokens = decoder(), ids()
    alone: dict[str | None, Tensor] = {}
    with torch.no_grad():
        alone[None] = model(tokens).logits
        for name in ("a", "b"):
            perturb(attached(model, name=name, adapter_len=K + len(alone)))
            alone[name] = model(tokens).logits
    return model, tokens, alone


def routed(model: Any, tokens: Tensor, names: list[str | None]) -> Tensor:
    with peftcore.route(model, names), torch.no_grad():
        return model(tokens, use_cache=False).logits


def test_rows_can_have_their_own_prompts() -> None:
    model, tokens, alone = two_adapters()
    for names in (["a", "b"], ["b", None]):
        expected = torch.stack([alone[name][row] for row, name in enumerate(names)])
        torch.testing.assert_close(routed(model, tokens, names), expected)
    with peftcore.route(model, ["a", "b"]), pytest.raises(AttachError, match="use_cache=False"):
        model(tokens)


def test_two_threads_with_routed_batches_do_not_see_each_others_queries() -> None:
    model, tokens, _ = two_adapters()
    both = threading.Barrier(2, timeout=60)

    def meet(*_: Any) -> None:
        both.wait()  # queries are taken in both threads before either of them uses its own

    batches = (tokens, ids())
    expected = [routed(model, batch, ["a", "b"]) for batch in batches]
    for layer in model.model.layers:
        layer.self_attn.o_proj.register_forward_pre_hook(meet)
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(routed, model, batch, ["a", "b"]) for batch in batches]
        found = [job.result() for job in jobs]
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert not torch.equal(found[0], found[1])


def test_a_copy_is_in_no_call_and_tells_nothing_to_the_original() -> None:
    model = decoder()
    attached(model)
    twin = copy.deepcopy(model)
    for one in (twin, pickle.loads(pickle.dumps(model))):
        links = {id(m.running) for m in one.modules() if hasattr(m, "running")}
        own = {id(m.running) for m in model.modules() if hasattr(m, "running")}
        assert len(links) == len(own) == 2 and not links & own


# --- counts and mistakes -----------------------------------------------------------------------


def llama_7b() -> nn.Module:
    if "llama" not in installed().backbones:
        pytest.skip("no installed backbone has llama-7b")
    return peftcore.build_on_meta("llama-7b", head="causal-lm")


def test_llama_7b_has_the_published_count() -> None:
    model = llama_7b()
    plan = peftcore.plan(model, "llama_adapter")
    assert plan.trainable == 1_229_760 == 30 * (10 * 4096 + 32)
    assert round(plan.percent("of_base"), 5) == 0.01825
    blocks = [item.site.block for item in plan.placed if item.site.role == "attention"]
    assert blocks == list(range(2, 32))


def test_a_prompt_is_as_wide_as_the_model_with_grouped_queries_too() -> None:
    adapter = attached(decoder(), adapter_layers=1)
    assert sum(p.numel() for p in adapter.parameters()) == K * 16 + 4


class TurnedElsewhere(LlamaAttention):
    def forward(self, hidden_states: Tensor, position_embeddings: Any, **more: Any) -> Any:
        return super().forward(hidden_states, position_embeddings, **more)


def turned_elsewhere() -> nn.Module:
    model = decoder()
    for layer in model.model.layers:
        layer.self_attn.__class__ = TurnedElsewhere
    return model


def headless() -> nn.Module:
    model = decoder()
    for layer in model.model.layers:
        layer.self_attn.config = SimpleNamespace()
    return model


@pytest.mark.parametrize(
    "model, config, error, words",
    [
        (Toy, {}, TargetError, "does not say how many heads"),
        (nn.Sequential, {}, PeftcoreError, "'attention' matches nothing"),
        (lambda: nn.TransformerEncoderLayer(8, 2), {}, TargetError, "does not call one projection"),
        (decoder, {"adapter_layers": 4}, TargetError, "4 layers are more than the 3 whose"),
        (decoder, {"adapter_layers": 0}, ConfigError, "adapter_layers"),
        (decoder, {"adapter_len": 0}, ConfigError, "adapter_len"),
        (decoder, {"adapter_len": 33}, TargetError, "33 is more than the 32 positions"),
        (decoder, {"gate": "sigmoid"}, ConfigError, "gate: .*'tanh' or 'linear'"),
        (decoder, {"targets": ["mlp"]}, TargetError, "mlp.* does not call one projection"),
        (headless, {}, TargetError, "does not say how many heads"),
        (turned_elsewhere, {}, TargetError, "turns its queries in a way of its own"),
    ],
    ids=[
        "toy", "no attention", "torch's", "few layers", "no layer", "no prompt", "long", "gate",
        "mlp", "headless", "turned",
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_clear_error_before_any_change(
    model: Any, config: dict[str, Any], error: type[PeftcoreError], words: str
) -> None:
    bare = model()
    classes = [type(m) for m in bare.modules()]
    with pytest.raises(error, match=words):
        peftcore.attach(bare, "llama_adapter", **config)
    assert [type(m) for m in bare.modules()] == classes
