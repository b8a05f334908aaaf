"""Prompt tuning: Hugging Face PEFT's numbers, generation, padding, positions, starts, mistakes."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftcore
from peftcore import (
    AttachError,
    ConfigError,
    PeftcoreError,
    TargetError,
    backbone_named,
    build_on_meta,
    installed,
)
from peftcore.testing import Toy, perturb

transformers = pytest.importorskip("transformers")

DECODERS = ("llama", "mistral", "qwen", "gemma", "gpt2")
ENCODERS = ("bert", "roberta", "deberta", "distilbert", "electra", "esm")
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def tiny(name: str, head: str = "none") -> nn.Module:
    if name not in installed().backbones:
        pytest.skip(f"no installed plugin provides {name}")
    torch.manual_seed(0)
    return backbone_named(name).tiny(head=head).double()


def prompted(name: str, head: str = "none", **config: Any) -> tuple[nn.Module, peftcore.Adapter]:
    model = tiny(name, head)
    adapter = peftcore.attach(model, "prompt", **{"num_virtual_tokens": 3, **config})
    return model, adapter


def rows(*lengths: int, left: bool, pad: int) -> dict[str, Tensor]:
    """Return rows of the same tokens whatever the side of the padding."""
    longest = max(lengths)
    ids = torch.full((len(lengths), longest), pad)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        tokens = torch.randint(5, 30, (length,), generator=torch.Generator().manual_seed(row))
        here = slice(longest - length, None) if left else slice(length)
        ids[row, here], mask[row, here] = tokens, 1
    return {"input_ids": ids, "attention_mask": mask}


def pad_of(model: Any) -> int:
    return model.config.pad_token_id or 0


# --- Hugging Face PEFT -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2"])
def test_logits_loss_and_gradients_equal_those_of_peft(name: str) -> None:
    peft = pytest.importorskip("peft")
    model = tiny(name, "causal-lm")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    theirs = peft.get_peft_model(copy.deepcopy(model), config).double()
    ours = peftcore.attach(model, "prompt", num_virtual_tokens=3)
    assert sum(p.numel() for p in ours.parameters()) == theirs.get_nb_trainable_parameters()[0]
    (mine,), (other,) = ours.parameters(), [p for p in theirs.parameters() if p.requires_grad]
    with torch.no_grad():
        other.copy_(mine)
    batch = rows(7, 4, left=False, pad=pad_of(model))
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    labels[:, 0] = -100  # in peft the last virtual token predicts it; here nothing does
    outs = [each(**batch, labels=labels) for each in (model, theirs)]
    torch.testing.assert_close(outs[0].logits, outs[1].logits[:, 3:], **CLOSE)
    torch.testing.assert_close(outs[0].loss, outs[1].loss, **CLOSE)
    for out in outs:
        out.loss.backward()
    assert mine.grad is not None and mine.grad.any()
    torch.testing.assert_close(mine.grad, other.grad, **CLOSE)


def test_an_encoder_with_the_prompt_before_its_tokens_equals_peft() -> None:
    peft = pytest.importorskip("peft")
    model = tiny("bert")
    config = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=3)
    theirs = peft.get_peft_model(copy.deepcopy(model), config)
    ours = peftcore.attach(model, "prompt", num_virtual_tokens=3, where="before")
    with torch.no_grad():
        other = next(p for p in theirs.parameters() if p.requires_grad)
        other.copy_(ours.parameters()[0])
    batch = rows(7, 4, left=False, pad=0)
    a, b = (each(**batch).last_hidden_state for each in (model, theirs))
    torch.testing.assert_close(a, b[:, 3:], **CLOSE)


# --- generation --------------------------------------------------------------------------------

GREEDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}


@pytest.mark.parametrize("name", DECODERS)
def test_left_padded_rows_generate_what_each_generates_alone(name: str) -> None:
    model, _ = prompted(name, "causal-lm")
    batch = rows(7, 4, 2, left=True, pad=pad_of(model))
    made = model.generate(**batch, **GREEDY)
    assert made.shape == (3, 7 + 6)
    for row, length in enumerate((7, 4, 2)):
        alone = model.generate(batch["input_ids"][row : row + 1, 7 - length :], **GREEDY)
        assert torch.equal(made[row, 7 - length :], alone[0])
    with peftcore.disabled(model):
        assert not torch.equal(model.generate(**batch, **GREEDY), made)


@pytest.mark.parametrize("name", DECODERS)
def test_decoding_with_a_cache_equals_whole_forwards(name: str) -> None:
    model, _ = prompted(name, "causal-lm")
    batch = rows(5, 3, left=True, pad=pad_of(model))
    options = {**GREEDY, "output_logits": True, "return_dict_in_generate": True}
    cached = model.generate(**batch, **options)
    whole = model.generate(**batch, **options, use_cache=False)
    assert torch.equal(cached.sequences, whole.sequences)
    for a, b in zip(cached.logits, whole.logits, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_beams_go_on_from_the_cached_prompt() -> None:
    model, _ = prompted("llama", "causal-lm")
    batch = rows(5, 3, left=True, pad=0)
    options = {**GREEDY, "num_beams": 3}
    cached = model.generate(**batch, **options)
    assert torch.equal(cached, model.generate(**batch, **options, use_cache=False))


def test_a_row_can_go_on_in_parts_on_a_cache() -> None:
    model, _ = prompted("llama", "causal-lm")
    ids = rows(8, left=False, pad=0)["input_ids"]
    whole = model(ids).logits
    first = model(ids[:, :5], use_cache=True)
    rest = model(ids[:, 5:], past_key_values=first.past_key_values)
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], 1), whole, **CLOSE)


def test_a_static_cache_is_refused_because_it_is_too_small() -> None:
    model, _ = prompted("llama", "causal-lm")
    ids = rows(5, left=False, pad=0)["input_ids"]
    with pytest.raises(AttachError, match="no room for the virtual ones"):
        model.generate(ids, **GREEDY, cache_implementation="static", disable_compile=True)


# --- what the network is given and gives -------------------------------------------------------


@pytest.mark.parametrize("where", ["before", "after_first"])
@pytest.mark.parametrize("name", ENCODERS)
def test_padding_changes_nothing(name: str, where: str) -> None:
    model, _ = prompted(name, where=where)
    batch = rows(8, 5, left=False, pad=pad_of(model))
    out = model(**batch).last_hidden_state
    assert out.shape[:2] == (2, 8)
    for row, length in enumerate((8, 5)):
        alone = {key: value[row : row + 1, :length] for key, value in batch.items()}
        torch.testing.assert_close(out[row, :length], model(**alone)[0][0], **CLOSE)


@pytest.mark.parametrize("name", ENCODERS + DECODERS)
def test_what_the_model_sees_is_the_embedded_rows_with_the_prompt_in_between(name: str) -> None:
    model, adapter = prompted(name)
    batch = rows(6, 6, left=False, pad=pad_of(model))
    table = model.get_input_embeddings()
    (prompt,) = adapter.parameters()
    at = 0 if name in DECODERS else 1
    before = model(**batch)
    adapter.detach()
    ids = batch["input_ids"]
    stand_in = torch.cat([ids[:, :at], ids[:, :1].expand(-1, 3), ids[:, at:]], dim=1)

    def fill(module: nn.Module, given: Any, out: Tensor) -> Tensor:
        return torch.cat([out[:, :at], prompt.expand(2, -1, -1), out[:, at + 3 :]], dim=1)

    handle = table.register_forward_hook(fill)
    expected = model(stand_in, torch.ones_like(stand_in)) if at else model(stand_in)
    handle.remove()
    kept = expected.last_hidden_state[:, [*range(at), *range(at + 3, 9)]]
    torch.testing.assert_close(before.last_hidden_state, kept, **CLOSE)
    if getattr(expected, "pooler_output", None) is not None:
        torch.testing.assert_close(before.pooler_output, expected.pooler_output, **CLOSE)


@pytest.mark.parametrize("name", ["bert", "deberta", "gpt2", "llama"])
def test_vectors_instead_of_ids_and_tuples_instead_of_outputs_are_fine(name: str) -> None:
    model, _ = prompted(name)
    batch = rows(6, 6, left=False, pad=pad_of(model))
    expected = model(**batch, output_hidden_states=True)
    with peftcore.disabled(model):
        vectors = model.get_input_embeddings()(batch.pop("input_ids"))
    out = model(inputs_embeds=vectors, **batch, output_hidden_states=True, return_dict=False)
    assert isinstance(out, tuple)
    torch.testing.assert_close(out[0], expected.last_hidden_state, **CLOSE)
    assert len(expected.hidden_states) == 3
    for hidden in expected.hidden_states:
        assert hidden.shape[:2] == (2, 6)


def test_given_positions_move_behind_the_prompt() -> None:
    for name, first in (("gpt2", 0), ("llama", 0), ("bert", 0), ("roberta", 2)):
        model, _ = prompted(name)
        pad = pad_of(model)
        ids = rows(6, 6, left=False, pad=pad)["input_ids"]
        places = (torch.arange(6) + first).expand(2, -1)
        if name == "roberta":
            places = places - 2 + pad + 1
        expected = model(ids).last_hidden_state
        torch.testing.assert_close(
            model(ids, position_ids=places).last_hidden_state, expected, **CLOSE
        )


def test_the_types_of_tokens_are_those_of_the_first_at_the_prompt() -> None:
    model, _ = prompted("bert")
    batch = rows(6, 6, left=False, pad=0)
    types = torch.tensor([[0, 0, 0, 1, 1, 1]]).expand(2, -1)
    same = model(**batch, token_type_ids=torch.zeros_like(types)).last_hidden_state
    torch.testing.assert_close(same, model(**batch).last_hidden_state, **CLOSE)
    other = model(**batch, token_type_ids=types).last_hidden_state
    assert other.shape == same.shape and not torch.equal(other, same)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    model, adapter = prompted(name)
    batch = rows(6, 4, left=False, pad=0)
    grads = []
    for checkpointing in (False, True):
        if checkpointing:
            model.train()
            model.gradient_checkpointing_enable()
        model(**batch).last_hidden_state.square().mean().backward()
        (prompt,) = adapter.parameters()
        grads.append(prompt.grad)
        prompt.grad = None
    torch.testing.assert_close(*grads, **CLOSE)


def test_a_classifier_reads_the_rows_as_if_there_were_no_prompt() -> None:
    for name in ("llama", "bert", "roberta"):
        model, adapter = prompted(name, "sequence-classification")
        batch = rows(6, 4, left=False, pad=pad_of(model))
        out = model(**batch, labels=torch.tensor([0, 1]))
        out.loss.backward()
        adapter.check_alive()
        alone = model(**{k: v[1:, :4] for k, v in batch.items()})
        torch.testing.assert_close(out.logits[1:], alone.logits, **CLOSE)


def test_edits_at_positions_count_the_tokens_of_the_row_only() -> None:
    if "loreft" not in installed().methods:
        pytest.skip("no installed plugin provides loreft")
    model = tiny("llama", "causal-lm")
    seen: list[Tensor] = []
    edit = {"method": "loreft", "rank": 2, "positions": "f1+l1"}
    edit["targets"] = {"roles": ["block"], "layers": "0"}
    peftcore.attach(model, [{"method": "prompt", "num_virtual_tokens": 3}], name="p")
    peftcore.attach(model, [edit], name="e")
    model.model.layers[0].register_forward_hook(lambda m, a, out: seen.append(out))
    batch = rows(7, 5, left=True, pad=0)
    for names in (("p",), ("p", "e")):
        peftcore.activate(model, *names)
        model(**batch)
    moved = (seen[0] != seen[1]).any(-1)
    assert moved.shape == (2, 10)
    assert moved.nonzero().tolist() == [[0, 3], [0, 9], [1, 5], [1, 9]]
    made = model.generate(**batch, **GREEDY)
    alone = model.generate(batch["input_ids"][1:, 2:], **GREEDY)
    assert torch.equal(made[1, 2:], alone[0])


# --- threads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("routed", [False, True])
def test_two_threads_with_one_prompt_do_not_take_each_others_vectors(routed: bool) -> None:
    model, adapter = prompted("bert")
    perturb(adapter)
    batches = [rows(6, 4, left=False, pad=0), rows(8, 7, left=False, pad=0)]
    expected = [model(**batch)[0].detach() for batch in batches]
    both = threading.Barrier(2, timeout=60)

    def meet(*_: Any) -> None:
        both.wait()  # both threads have left their prompts before either of them puts it in

    model.get_input_embeddings().register_forward_pre_hook(meet)

    def run(batch: dict[str, Tensor]) -> Tensor:
        route = peftcore.route(model, ["default"] * 2) if routed else nullcontext()
        with route, torch.no_grad():
            # rows can be put together in tuples
            return model(**batch, return_dict=False)[0]

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(run, batch) for batch in batches]
        found = [job.result() for job in jobs]
    for mine, alone in zip(found, expected, strict=True):
        assert torch.equal(mine, alone)


def test_a_copy_is_in_no_call_and_tells_nothing_to_the_original() -> None:
    model = Toy()
    peftcore.attach(model, "prompt")
    for one in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        links = {id(m.handover) for m in one.modules() if hasattr(m, "handover")}
        own = {id(m.handover) for m in model.modules() if hasattr(m, "handover")}
        assert len(links) == len(own) == 1 and not links & own


# --- starts and counts -------------------------------------------------------------------------


def test_a_prompt_starts_from_tokens_of_the_vocabulary() -> None:
    model, adapter = prompted("gemma", num_virtual_tokens=5)
    (prompt,) = adapter.parameters()
    with peftcore.disabled(model):
        known = model.get_input_embeddings()(torch.arange(96))
    assert all((row == known).all(1).any() for row in prompt.detach())


def test_a_prompt_starts_from_given_ids_again_and_again() -> None:
    model, adapter = prompted("bert", num_virtual_tokens=5, init="text", init_ids=[7, 9])
    table = model.get_input_embeddings().weight
    assert torch.equal(adapter.parameters()[0], table[[7, 9, 7, 9, 7]])


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """Return a folder with a tokenizer of seven tokens, good being 5 and bad 6."""
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ngood\nbad\n")
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    return tmp_path


TEXT = {"method": "prompt", "num_virtual_tokens": 3, "init": "text", "init_text": "good bad"}


def test_a_prompt_starts_from_a_text_that_the_field_or_the_given_tokenizer_reads(
    words: Path,
) -> None:
    known = transformers.AutoTokenizer.from_pretrained(words)
    given: list[Any] = [
        ({"tokenizer": str(words)}, {}),
        ({}, {"tokenizer": known}),
        ({}, {"tokenizer": str(words)}),
        # what is at hand comes before what is written down
        ({"tokenizer": "./nowhere"}, {"tokenizer": known}),
    ]
    model = tiny("bert")
    table = model.get_input_embeddings().weight
    for field, handed in given:
        adapter = peftcore.attach(model, [{**TEXT, **field}], **handed)
        assert torch.equal(adapter.parameters()[0], table[[5, 6, 5]])
        adapter.detach()
    sizes = {"vocab_size": 6, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    small = transformers.BertModel(transformers.BertConfig(**sizes, intermediate_size=8))
    with pytest.raises(ConfigError, match="tokenizer: the vocabulary has the ids 0 to 5, not 5 to"):
        peftcore.attach(small, [TEXT], tokenizer=known)


def test_a_plan_and_a_checkpoint_of_a_text_need_no_tokenizer(words: Path, tmp_path: Path) -> None:
    model = tiny("bert")
    known = transformers.AutoTokenizer.from_pretrained(words)
    adapter = peftcore.attach(model, [TEXT], tokenizer=known)
    (before,) = adapter.parameters()
    adapter.save(tmp_path / "adapter")
    adapter.detach()
    for field in ({}, {"tokenizer": "./nowhere"}):
        assert peftcore.plan(model, [{**TEXT, **field}]).trainable == 3 * 32
    (after,) = peftcore.load(model, tmp_path / "adapter").parameters()
    assert torch.equal(before, after)
    with pytest.raises(ConfigError, match=r"no tokenizer reads it\. Give attach"):
        peftcore.attach(model, [TEXT], name="other")
    with pytest.raises(ConfigError, match="cannot be read as a tokenizer"):
        peftcore.attach(model, [{**TEXT, "tokenizer": "./nowhere"}], name="other")
    with pytest.raises(ConfigError, match="init_text: ' ' holds no tokens"):
        peftcore.attach(model, [{**TEXT, "init_text": " "}], name="other", tokenizer=known)


def test_a_random_start_is_uniform() -> None:
    _, adapter = prompted("bert", num_virtual_tokens=30, init="random")
    (prompt,) = adapter.parameters()
    assert 0.4 < prompt.abs().max() <= 0.5 and abs(prompt.mean()) < 0.05


def test_llama_7b_has_p_vectors_of_the_width() -> None:
    if "llama" not in installed().backbones:
        pytest.skip("no installed plugin provides llama")
    plan = peftcore.plan(build_on_meta("llama-7b", head="causal-lm"), "prompt")
    assert plan.trainable == 20 * 4096 == 81_920


# --- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config, words",
    [
        ({"num_virtual_tokens": 38}, "38 virtual tokens leave no room in the 38 positions"),
        ({"init": "text", "init_ids": [4, 96]}, "the vocabulary has the ids 0 to 95, not 4 to 96"),
        ({"init": "text"}, "needs either init_text or init_ids"),
        ({"init": "text", "init_text": "a", "init_ids": [4]}, "needs either init_text or init_ids"),
        ({"init_ids": [4]}, "init_ids is for init: text"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_one_clear_error(config: dict[str, Any], words: str) -> None:
    model = tiny("roberta")
    keys = list(model.state_dict())
    for run in (peftcore.plan, peftcore.attach):
        with pytest.raises(ConfigError, match=words):
            run(model, "prompt", **config)
    assert list(model.state_dict()) == keys


def test_rows_that_become_too_long_are_refused() -> None:
    model, _ = prompted("gpt2", num_virtual_tokens=60)
    model(torch.ones(1, 4, dtype=torch.long))
    with pytest.raises(AttachError, match="65 tokens, 60 virtual ones among them, are more than"):
        model(torch.ones(1, 5, dtype=torch.long))


def test_a_mask_that_is_made_for_attention_is_refused() -> None:
    model, _ = prompted("llama")
    ids = torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(AttachError, match="needs an attention mask of tokens"):
        model(ids, attention_mask=torch.ones(1, 1, 4, 4, dtype=torch.bool))


def test_several_sequences_in_a_row_and_padding_that_no_mask_tells_are_refused() -> None:
    model, _ = prompted("llama")
    ids, places = torch.full((1, 6), 7), torch.tensor([[0, 1, 2, 0, 1, 2]])
    numbers = torch.tensor([[0, 0, 0, 1, 1, 1]])
    for told in (
        {"position_ids": places},
        {"seq_idx": numbers},
        {"cu_seqlens": torch.tensor([0, 3, 6])},
    ):
        with pytest.raises(AttachError, match="prompt needs one sequence in each row"):
            model(ids, **told)
    model, _ = prompted("bert")
    with pytest.raises(AttachError, match=r"prompt counts real tokens, .* Give the mask"):
        model(torch.tensor([[7, 8, 9], [7, 8, pad_of(model)]]))


def test_rows_longer_than_a_window_that_slides_in_every_layer_are_refused() -> None:
    if "mistral" not in installed().backbones:
        pytest.skip("no installed plugin provides mistral")
    model = tiny("mistral", "causal-lm")
    model.config.sliding_window = 8
    peftcore.attach(model, "prompt", num_virtual_tokens=5)
    model(torch.full((1, 3), 7))
    with pytest.raises(AttachError, match=r"9 tokens, 5 virtual ones .* the 8 over which"):
        model(torch.full((1, 4), 7))


def test_models_without_tokens_are_refused() -> None:
    with pytest.raises(TargetError, match=r"no network \(role model\) that takes tokens"):
        peftcore.plan(nn.Sequential(nn.Linear(2, 2)), "prompt", backbone="structural")
    for name in ("clip-vision", "wavlm"):
        if name in installed().backbones:
            with pytest.raises(AttachError, match=f"prompt cannot run on {name}"):
                peftcore.plan(tiny(name), "prompt")


def test_two_prompts_are_refused() -> None:
    with pytest.raises(ConfigError, match="prompt-2: an adapter has one prompt"):
        peftcore.plan(Toy(), ["prompt", "prompt"])
    model = Toy()
    for name in ("a", "b"):
        perturb(peftcore.attach(model, "prompt", name=name))
    peftcore.activate(model, "a", "b")
    with pytest.raises(PeftcoreError, match="one adapter with a prompt at a time"):
        model(torch.ones(1, 3, dtype=torch.long), torch.ones(1, 3))
