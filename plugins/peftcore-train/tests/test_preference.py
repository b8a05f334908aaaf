"""Preference: the formula with a second copy of the model, and the adapter switched off."""

import copy

import pytest
import torch
from torch.nn import functional as F

from peftcore import ConfigError, DataError, Examples, attach, backbone_named
from peftcore.testing import perturb
from peftcore_train.batches import SingleRows
from peftcore_train.data import Row
from peftcore_train.tasks.causal_lm import CausalLM, CausalLMConfig
from peftcore_train.tasks.preference import Preference, PreferenceConfig

ROWS = [
    Row({"prompt": "the film was", "chosen": "great and bright", "rejected": "weak"}, "x:1"),
    Row({"prompt": "it", "chosen": "was fine", "rejected": "was of two people"}, "x:2"),
    Row({"prompt": "two people", "chosen": "and", "rejected": "awful story"}, "x:3"),
]


def log_probability(model, features) -> torch.Tensor:
    ids = torch.tensor([features["input_ids"]])
    found = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return found[features["prompt_length"] - 1 :]


def by_the_formula(model, base, rows, config) -> torch.Tensor:
    losses = []
    for row in rows:
        ratios = []
        for name in ("chosen", "rejected"):
            here, there = (log_probability(m, row[name]) for m in (model, base))
            ratios.append((here - there).mean() if config.loss == "ipo" else (here - there).sum())
        margin = ratios[0] - ratios[1]
        if config.loss == "ipo":
            losses.append((margin - 1 / (2 * config.beta)) ** 2)
        else:
            e = config.label_smoothing
            up, down = F.logsigmoid(config.beta * margin), F.logsigmoid(-config.beta * margin)
            losses.append(-(1 - e) * up - e * down)
    return torch.stack(losses).mean()


@pytest.fixture
def loaded(llama):
    return backbone_named("llama").load(str(llama), head="causal-lm")


@pytest.mark.parametrize(
    ("config", "saved"),
    [
        ({}, ()),
        ({"label_smoothing": 0.2, "packing": True}, ()),
        ({"loss": "ipo"}, ("norm",)),
        ({"precompute_reference": True}, ("norm",)),
    ],
)
def test_the_loss_is_the_formula_with_a_second_copy_of_the_model(loaded, config, saved):
    model, base = loaded.model, copy.deepcopy(loaded.model)
    task = Preference(PreferenceConfig(**config))
    rows = [task.encode(row, loaded) for row in ROWS]
    adapter = attach(model, [{"method": "lora", "dropout": 0.0}], modules_to_save=saved)
    perturb(adapter)
    model.train()
    task.begin(model, rows)
    assert ("reference" in rows[0]) == task.config.precompute_reference
    assert all(module.training for module in model.modules())
    loss = task.loss(model, task.collate(rows))
    wanted = by_the_formula(model, base, rows, task.config)
    torch.testing.assert_close(loss, wanted, atol=1e-6, rtol=1e-6)
    parameters = list(adapter.parameters())
    ours, theirs = (torch.autograd.grad(value, parameters) for value in (loss, wanted))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_the_base_has_no_dropout_and_the_scores_say_what_is_preferred(loaded):
    task = Preference(PreferenceConfig(beta=0.5))
    rows = [task.encode(row, loaded) for row in ROWS]
    perturb(attach(loaded.model, "lora", dropout=0.5))
    batch = task.collate(rows)
    loaded.model.train()
    once, again = (task._of_base(loaded.model, batch) for _ in range(2))
    assert torch.equal(once, again)
    loaded.model.eval()
    with torch.no_grad():
        scores = task.score(loaded.model, batch)
        torch.testing.assert_close(scores["loss"].mean(), task.loss(loaded.model, batch))
    assert scores["correct"].tolist() == (scores["margin"] > 0).long().tolist()


def test_a_method_may_look_at_the_loss_before_it_starts(loaded):
    method = {"method": "sparse", "score": "gradient", "samples": 2}
    columns = {"completion_column": "chosen"}
    for task in (Preference(PreferenceConfig()), CausalLM(CausalLMConfig(**columns))):
        rows = [task.encode(row, loaded) for row in ROWS]
        examples = Examples(SingleRows(task, rows, 0), task.loss)
        attach(loaded.model, method, examples=examples).detach()


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %} {{ m.content }}"
    "{% if m.role == 'assistant' %} {{ eos_token }}{% endif %}{% endfor %}"
)


def test_prompts_may_be_conversations(loaded):
    task = Preference(PreferenceConfig(format="messages", chat_template=TEMPLATE, max_new_tokens=8))
    talk = [
        {"role": "user", "content": "it"},
        {"role": "assistant", "content": "was"},
        {"role": "user", "content": "the film"},
    ]
    last = [{"role": "assistant", "content": "weak"}]
    row = Row({"prompt": talk, "chosen": "great", "rejected": last}, "x:1")
    task.check([row])
    found = task.encode(row, loaded)
    wanted = ["<s>", "it", "was", "</s>", "the", "film", "great", "</s>"]
    assert loaded.tokenizer.convert_ids_to_tokens(found["chosen"]["input_ids"]) == wanted
    assert found["chosen"]["prompt_length"] == found["rejected"]["prompt_length"] == 6
    prompt = task.encode(row, loaded, labelled=False)["input_ids"]
    assert prompt == found["chosen"]["input_ids"][:6]
    for column, value, said in (
        ("chosen", talk, "neither a text nor a list of one turn"),
        ("rejected", "great", "both answers are the same"),
        ("prompt", "it", "no list of turns"),
    ):
        with pytest.raises(DataError, match=f"x:1: .*{said}"):
            task.check([Row({**row.values, column: value}, "x:1")])


def test_an_adapter_of_another_task_is_no_start_for_preference() -> None:
    """The reference is the base with the adapter off: it would lack what that adapter learned."""
    task = Preference(PreferenceConfig())
    task.check_start({"type": "preference"})
    with pytest.raises(
        ConfigError, match=r"an adapter of causal-lm cannot start preference.*Merge"
    ):
        task.check_start({"type": "causal-lm"})
    with pytest.raises(ConfigError, match="peftcore merge RUN OUT"):
        task.check_start({})
