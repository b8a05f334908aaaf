"""On whole models: published counts, generation, padding, checkpointing, what is stored."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import peftcore
from peftcore import AttachError, ConfigError, TargetError, installed

transformers = pytest.importorskip("transformers")
needs_llama = pytest.mark.skipif(
    "llama" not in installed().backbones, reason="no backbone plugin for LLaMA is installed"
)

WIDTH, LAYERS = 16, 3


def llama(**sizes) -> nn.Module:
    torch.manual_seed(0)
    config = {
        "vocab_size": 40,
        "hidden_size": WIDTH,
        "intermediate_size": 24,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "pad_token_id": 0,
        "eos_token_id": None,
        "bos_token_id": 1,
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**config, **sizes})).eval()


def on_meta(kind: str) -> nn.Module:
    with torch.device("meta"):
        if kind == "roberta-base":
            config = transformers.RobertaConfig(vocab_size=50265, max_position_embeddings=514)
            return transformers.RobertaForSequenceClassification(config)
        sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
        return llama(vocab_size=32000, num_hidden_layers=32, **sizes)


def prompts(*lengths: int, side: str) -> dict[str, torch.Tensor]:
    """Return rows of the same tokens whatever the side of the padding."""
    longest = max(lengths)
    ids = torch.zeros(len(lengths), longest, dtype=torch.long)
    for row, length in enumerate(lengths):
        tokens = torch.randint(2, 40, (length,), generator=torch.Generator().manual_seed(row))
        ids[row, slice(longest - length, None) if side == "left" else slice(length)] = tokens
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


@pytest.mark.parametrize(
    ("kind", "config", "count"),
    [
        ("llama-7b", {"rank": 8}, 2_097_408),
        ("llama-7b", {"rank": 8, "share_weights": False}, 2 * 2_097_408),
        (
            "llama-7b",
            {
                "rank": 4,
                "positions": "f5+l5",
                "share_weights": False,
                "targets": {"roles": ["block"], "layers": "3;9;18;24"},
            },
            262_176,
        ),
        ("roberta-base", {"rank": 1, "positions": "f1", "share_weights": False}, 18_444),
    ],
)
def test_the_counts_are_the_published_ones(kind, config, count):
    plan = peftcore.plan(on_meta(kind), "loreft", **config)
    assert plan.trainable == count


@needs_llama
@pytest.mark.parametrize("share_weights", [True, False])
@pytest.mark.parametrize("name", ["loreft", "lobireft"])
def test_generation_edits_the_prompt_as_one_full_forward_does(name, share_weights):
    model = llama()
    peftcore.attach(model, name, rank=3, positions="f2+l3", share_weights=share_weights)
    batch = prompts(7, 4, 5, side="left")
    options = {"max_new_tokens": 5, "do_sample": False, "output_logits": True}
    options["return_dict_in_generate"] = True
    cached = model.generate(**batch, **options)
    whole = model.generate(**batch, **options, use_cache=False)
    assert cached.sequences.tolist() == whole.sequences.tolist()
    mask = torch.cat([batch["attention_mask"], torch.ones(3, 5, dtype=torch.long)], 1)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad(), peftcore.prompt(model, batch["attention_mask"].sum(1)):
        full = model(cached.sequences, attention_mask=mask, position_ids=positions)
    for step in range(5):
        torch.testing.assert_close(cached.logits[step], full.logits[:, 6 + step])
        torch.testing.assert_close(whole.logits[step], full.logits[:, 6 + step])


@needs_llama
def test_the_side_of_the_padding_changes_nothing():
    model = llama()
    peftcore.attach(model, "loreft", rank=3, positions="f2+l2")
    left, right = (prompts(7, 4, 5, side=side) for side in ("left", "right"))
    positions = (left["attention_mask"].cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        a = model(**left, position_ids=positions).logits[left["attention_mask"].bool()]
        b = model(**right).logits[right["attention_mask"].bool()]
    torch.testing.assert_close(a, b)


@needs_llama
def test_answers_are_not_edited_in_training():
    model = llama(num_hidden_layers=1)
    batch = prompts(8, 6, side="right")
    labels = batch["input_ids"].clone()
    labels[:, :4] = -100
    with torch.no_grad():
        bare = model.model(**batch).last_hidden_state
        adapter = peftcore.attach(model, "loreft", rank=2, positions="f1+l1")
        hidden = model(**batch, labels=labels, output_hidden_states=True).hidden_states[-1]
    changed = (hidden - bare).abs().amax(-1) > 1e-6
    assert changed.int().tolist() == [[1, 0, 0, 1, 0, 0, 0, 0]] * 2
    adapter.detach()


@needs_llama
@pytest.mark.parametrize("positions", ["f2+l2", "all"])
def test_each_sequence_of_a_packed_row_is_edited_as_it_is_alone(positions):
    model = llama()
    peftcore.attach(model, "loreft", rank=2, positions=positions)
    ids = torch.randint(2, 40, (1, 14), generator=torch.Generator().manual_seed(0))
    places = torch.cat([torch.arange(8), torch.arange(6)])[None]
    labels = ids.masked_fill(places < torch.tensor([4] * 8 + [3] * 6), -100)
    with torch.no_grad():
        packed = model(ids, position_ids=places, labels=labels, use_cache=False).logits
        for part in (slice(8), slice(8, 14)):
            alone = model(ids[:, part], labels=labels[:, part], use_cache=False).logits
            torch.testing.assert_close(packed[:, part], alone)


@needs_llama
def test_padding_that_no_mask_tells_is_refused_where_it_can_be_seen():
    model = llama()
    peftcore.attach(model, "loreft", rank=2)
    batch = prompts(7, 4, side="right")
    with pytest.raises(AttachError, match=r"loreft counts real tokens, .* no attention_mask"):
        model(batch["input_ids"])


@needs_llama
@pytest.mark.parametrize("name", ["loreft", "direft"])
def test_gradient_checkpointing_gives_the_same_gradients(name):
    model = llama().train()
    adapter = peftcore.attach(model, name, rank=2, positions="f2+l2")
    batch = prompts(7, 4, side="right")
    grads = []
    for _ in range(2):
        loss = model(**batch, labels=batch["input_ids"]).loss
        grads.append(torch.autograd.grad(loss, adapter.parameters()))
        model.gradient_checkpointing_enable({"use_reentrant": False})
    for plain, again in zip(*grads, strict=True):
        torch.testing.assert_close(plain, again)


def test_what_is_stored_is_r_itself_and_the_learned_source(tmp_path):
    model = llama()
    adapter = peftcore.attach(
        model, "loreft", rank=2, share_weights=False, targets={"roles": ["block"], "layers": [1]}
    )
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    adapter.save(tmp_path / "a")
    stored = load_file(tmp_path / "a" / "adapter.safetensors")
    tensors = ("learned_source.bias", "learned_source.weight", "rotation")
    assert [name.partition("loreft.")[2] for name in sorted(stored)] == [
        f"{part}.{tensor}" for part in ("prefix", "suffix") for tensor in tensors
    ]
    for name, tensor in stored.items():
        if name.endswith("rotation"):
            assert tensor.shape == (2, WIDTH)
            torch.testing.assert_close(tensor @ tensor.T, torch.eye(2), atol=1e-6, rtol=0)


def test_a_rank_above_the_width_is_refused():
    with pytest.raises(TargetError, match=r"rank 17 .* of model\.layers\.0 .*has 16 features"):
        peftcore.attach(llama(), "loreft", rank=17)


def test_a_convolution_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    with pytest.raises(TargetError, match="is of kind conv2d; loreft acts on linear layers"):
        peftcore.attach(model, "loreft", rank=2, targets=["conv"])


def test_a_mistyped_field_is_refused_with_the_nearest_one():
    with pytest.raises(ConfigError, match="Did you mean share_weights"):
        peftcore.attach(llama(), "loreft", share_weight=True)


@needs_llama
def test_rows_with_adapters_of_their_own_generate_as_they_do_alone():
    model, batch = llama(), prompts(6, 4, 6, side="left")
    names = ["a", None, "b"]
    for name, positions in (("a", "f2+l1"), ("b", "l3")):
        adapter = peftcore.attach(model, "loreft", rank=2, positions=positions, name=name)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(0.5)
    options = {"max_new_tokens": 4, "do_sample": False}
    alone = []
    for row, name in enumerate(names):
        peftcore.activate(model, *([name] if name else []))
        alone.append(model.generate(**batch, **options)[row])
    with peftcore.route(model, names):
        mixed = model.generate(**batch, **options)
    assert torch.equal(mixed, torch.stack(alone))
    assert len({tuple(row.tolist()[-4:]) for row in mixed}) > 1


@needs_llama
@pytest.mark.skipif(
    "adapter" not in installed().methods, reason="peftcore-adapter is not installed"
)
def test_rows_cannot_differ_where_a_block_with_other_pieces_writes_to_a_cache():
    model, batch = llama(), prompts(6, 4, side="left")
    for name in ("a", "b"):
        peftcore.attach(model, "adapter", targets=["block"], placement="before", name=name)
    with (
        peftcore.route(model, ["a", "b"]),
        pytest.raises(AttachError, match="at this LlamaDecoderLayer while it writes to a cache"),
    ):
        model(**batch, use_cache=True)
