"""Conversations: tokens and labels against references written by hand."""

import json
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from peftcore import ConfigError, DataError, validated
from peftcore_train.data import Row
from peftcore_train.schema import DataSection
from peftcore_train.tasks.causal_lm import CausalLM, CausalLMConfig

SPECIAL = ["<s>", "</s>", "<unk>", "<|user|>", "<|system|>", "<|tool|>", "<|assistant|>", "<|end|>"]
WORDS = "[INST] [/INST] <<SYS>> be kind hi there how are you fine and well call sun is out tools"

# of the kind of Llama 2: it writes its own BOS, and not how a turn begins
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}<<SYS>> {{ m.content }} "
    "{% elif m.role == 'assistant' %} {{ m.content }} {{ eos_token }}"
    "{% else %} [INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
# of the kind of ChatML: blanks follow the end of a turn, tools stand before all turns
MARKED_UP = (
    "{% if tools %}tools {{ tools[0].name }} {% endif %}{% for m in messages %}<|{{ m.role }}|>\n"
    "{% if m.content %}{{ m.content }}{% endif %}{% for c in m.tool_calls or [] %} call"
    " {{ c.function.arguments.what }}{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# it says itself what is generated
GENERATION = MARKED_UP.replace(
    "{% if m.content %}{{ m.content }}{% endif %}",
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}",
).replace("<|end|>\n{% endfor %}", "{% if m.role != 'assistant' %}<|end|>{% endif %}\n{% endfor %}")
# earlier turns lose a word, as those of templates that drop what was thought do
FORGETFUL = MARKED_UP.replace(
    "{{ m.content }}",
    "{{ m.content if loop.last or m.role == 'user' else m.content.split()[0] }}",
)

TALK = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "hi there"},
    {"role": "assistant", "content": "hi"},
    {"role": "user", "content": "how are you"},
    {"role": "assistant", "content": "fine and well"},
]
#: What a reader of the templates expects: what is learned stands between stars.
BY_HAND = {
    INST: "<s> <<SYS>> be kind [INST] hi there [/INST] * hi </s> * [INST] how are you [/INST]"
    " * fine and well </s> *",
    MARKED_UP: "<|system|> be kind <|end|> <|user|> hi there <|end|> <|assistant|> * hi <|end|> *"
    " <|user|> how are you <|end|> <|assistant|> * fine and well <|end|> *",
}
BY_HAND[GENERATION] = BY_HAND[MARKED_UP]


@pytest.fixture(scope="module")
def tokenizer():
    words = [*SPECIAL, *WORDS.split()]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="</s>", additional_special_tokens=SPECIAL[3:],
    )  # fmt: skip


@pytest.fixture
def encode(tokenizer):
    def encode(messages, template=None, *, labelled=True, columns=None, **config):
        tokenizer.chat_template = template
        task = CausalLM(CausalLMConfig(format="messages", **config))
        loaded = SimpleNamespace(
            tokenizer=tokenizer, model=SimpleNamespace(config=SimpleNamespace()), source="x"
        )
        row = Row({"messages": messages, **(columns or {})}, "x:1")
        if labelled:
            task.check([row])
        return task.encode(row, loaded, labelled=labelled)

    return encode


def by_hand(tokenizer, text):
    """Return tokens and labels of a text in which stars begin and end what is learned."""
    ids, labels, learned = [], [], False
    for word in text.split():
        if word == "*":
            learned = not learned
            continue
        ids.append(tokenizer.convert_tokens_to_ids(word))
        labels.append(ids[-1] if learned else -100)
    return ids, labels


@pytest.mark.parametrize("template", BY_HAND)
def test_every_turn_of_the_assistant_is_learned_and_nothing_else(encode, tokenizer, template):
    ids, labels = by_hand(tokenizer, BY_HAND[template])
    found = encode(TALK, template)
    assert (found["input_ids"], found["labels"]) == (ids, labels)
    assert ids == tokenizer.apply_chat_template(TALK)["input_ids"]
    assert found["prompt_length"] == labels.index(next(x for x in labels if x != -100))
    for limit in range(1, len(ids)):
        if all(label == -100 for label in labels[:limit]):
            with pytest.raises(DataError, match=f"{limit} fit; nothing of the completion is left"):
                encode(TALK, template, max_length=limit, truncation=True)
            continue
        cut = encode(TALK, template, max_length=limit, truncation=True)
        assert (cut["input_ids"], cut["labels"]) == (ids[:limit], labels[:limit])
    most = len(ids) - 1
    with pytest.raises(DataError, match=f"x:1: {len(ids)} tokens, but only {most} fit"):
        encode(TALK, template, max_length=most)


@pytest.mark.parametrize("template", BY_HAND)
def test_what_is_generated_begins_where_a_turn_was_learned(encode, template):
    whole, prompt = encode(TALK, template), encode(TALK, template, labelled=False)
    last = len(whole["labels"]) - whole["labels"][::-1].index(-100)
    assert prompt["input_ids"] == whole["input_ids"][:last]


@pytest.mark.parametrize("template", BY_HAND)
def test_a_conversation_may_begin_with_the_assistant(encode, tokenizer, template):
    found = encode(TALK[2:], template)
    ids, labels = by_hand(tokenizer, BY_HAND[template].replace("<<SYS>> be kind ", ""))
    begin = labels.index(tokenizer.convert_tokens_to_ids("hi"))
    assert [x for x in found["labels"] if x != -100] == [x for x in labels if x != -100]
    assert found["input_ids"][-len(ids[begin:]) :] == ids[begin:]


def test_tools_and_calls_are_kept(encode, tokenizer):
    call = {"function": {"name": "sun", "arguments": '{"what": "sun"}'}}
    talk = [
        TALK[1],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "sun is out"},
        TALK[2],
    ]
    wanted = by_hand(
        tokenizer,
        "tools sun <|user|> hi there <|end|> <|assistant|> * call sun <|end|> * <|tool|> sun is out"
        " <|end|> <|assistant|> * hi <|end|> *",
    )
    for tools in ([{"name": "sun"}], '[{"name": "sun"}]'):
        found = encode(talk, MARKED_UP, columns={"tools": tools})
        assert (found["input_ids"], found["labels"]) == wanted


def test_a_template_that_rewrites_turns_is_learned_turn_by_turn(encode, tokenizer, tmp_path):
    talk = [TALK[1], TALK[4], *TALK[3:]]
    with pytest.raises(DataError, match=r"x:1: .* turn 1 .* once other turns.* task.turns: each"):
        encode(talk, FORGETFUL)
    found = encode(talk, FORGETFUL, turns="each")
    assert (found["input_ids"], found["labels"]) == by_hand(
        tokenizer,
        "<|user|> hi there <|end|> <|assistant|> fine <|end|> <|user|> how are you <|end|>"
        " <|assistant|> * fine and well <|end|> *",
    )
    task = CausalLM(CausalLMConfig(format="messages", turns="each"))
    (tmp_path / "train.jsonl").write_text(json.dumps({"messages": TALK}) + "\n")
    rows = task.read(DataSection(source=str(tmp_path)), "train")
    assert [row.values["messages"] for row in rows] == [TALK[:3], TALK]


def test_the_text_of_a_template_gets_no_second_first_token(tokenizer):
    tokenizer.chat_template = INST
    text = tokenizer.apply_chat_template(TALK[1:2], tokenize=False)
    loaded = SimpleNamespace(
        tokenizer=tokenizer, model=SimpleNamespace(config=SimpleNamespace()), source="x"
    )
    row = Row({"prompt": text, "completion": "there", "text": text}, "x:1")
    plain = Row({"prompt": "hi there", "completion": "there", "text": "hi there"}, "x:1")
    for config in (CausalLMConfig(), CausalLMConfig(format="text")):
        for given in (row, plain):
            ids = CausalLM(config).encode(given, loaded)["input_ids"]
            assert (ids[0], ids.count(0)) == (0, 1)
            assert (ids[-1], ids.count(1)) == (1, 1)


def test_what_is_no_conversation_is_named(encode):
    def said(messages, **more):
        with pytest.raises((DataError, ConfigError)) as caught:
            encode(messages, more.pop("template", MARKED_UP), **more)
        return str(caught.value)

    assert "no turn of column 'messages' has the role assistant" in said(TALK[:2])
    assert "x:1: messages[0] has no role. It has: from, value." in said(
        [{"from": "a", "value": ""}]
    )
    assert "messages[0] has the content 3, which is no text" in said([{"role": "a", "content": 3}])
    assert "which is no list of turns" in said("hi")
    assert "no list of tools" in said(TALK, columns={"tools": None})
    assert "no chat template. Give one as task.chat_template" in said(TALK, template=None)
    refusing = "{{ raise_exception('turns alternate') }}"
    assert "x:1: the chat template refuses this conversation: turns alternate" in said(
        TALK, template=refusing
    )
    silent = [TALK[1], {"role": "assistant", "content": ""}]
    unmarked = GENERATION.replace("<|end|>{% endgeneration %}", "{% endgeneration %}")
    assert "x:1: the assistant says nothing" in said(silent, template=unmarked)
    assert "x:1: the assistant says nothing" in said(silent, template=unmarked, truncation=True)
    broken = MARKED_UP.replace("<|assistant|>\n{% endif %}", "<|assistant|>\nwell {% endif %}")
    assert "otherwise than it begins" in said(TALK, template=broken)


def test_a_template_is_read_from_a_file_and_kept(encode, tmp_path):
    (tmp_path / "chat.jinja").write_text(INST)
    config = CausalLMConfig(chat_template=str(tmp_path / "chat.jinja"))
    assert config.chat_template == INST
    assert encode(TALK, chat_template=INST) == encode(TALK, INST)
    with pytest.raises(ConfigError, match="neither a template nor a file"):
        validated(CausalLMConfig, {"chat_template": "no.jinja"}, where="task", label="causal-lm")
