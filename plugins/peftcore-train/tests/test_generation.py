"""Generated texts: how they end, and what they are worth."""

import pytest
import torch

from peftcore import ConfigError, backbone_named, validated
from peftcore_train.data import Row
from peftcore_train.generation import ScoredConfig, as_tensor, as_texts
from peftcore_train.tasks.causal_lm import CausalLM, CausalLMConfig
from peftcore_train.text_metrics import text_metrics

PAIRS = [
    ("the cat sat on the mat", "the cat sat on the mat"),
    ("a cat sat on a mat", "the cat sat on the mat"),
    ("", "nothing"),
    ("größer", " größer "),
]


def test_texts_are_tensors_and_texts_again():
    texts = ["", "größer", "a\nb", "日本"]
    codes = as_tensor(texts)
    assert codes.shape == (4, 8) and codes[0].tolist() == [-1] * 8
    assert as_texts(codes) == texts
    wider = torch.nn.functional.pad(codes, (0, 3), value=-1)  # of another process
    assert as_texts(wider) == texts


def test_metrics_of_texts_are_those_of_the_papers_and_of_the_corpus():
    names = ("exact_match", "rouge_1", "rouge_l", "bleu", "chrf")
    metrics = text_metrics(names)
    for part in (PAIRS[:1], PAIRS[1:]):
        for metric in metrics.values():
            metric.update(*(as_tensor(texts) for texts in zip(*part, strict=True)))
    found = {name: float(metric.compute()) for name, metric in metrics.items()}
    assert found["exact_match"] == 2 / 4
    assert found["rouge_1"] == found["rouge_l"] == pytest.approx((1 + 4 / 6 + 0 + 1) / 4)
    # sacrebleu 2.6.0 on its own
    assert found["bleu"] == pytest.approx(0.6073542583)
    assert found["chrf"] == pytest.approx(0.6850508507)


def test_options_that_do_not_go_together_are_refused():
    for wrong, said in (
        ({"top_p": 0.9}, "temperature, top_p and top_k go with do_sample: true"),
        ({"stop": [""]}, "stop holds an empty text"),
        ({"generate_metrics": ["rouge"]}, "generate_metrics"),
    ):
        with pytest.raises(ConfigError, match=said):
            validated(ScoredConfig, wrong, where="task", label="causal-lm")
    with pytest.raises(ConfigError, match="plain text has none"):
        given = {"format": "text", "generate_metrics": ["bleu"]}
        validated(CausalLMConfig, given, where="task", label="causal-lm")


def predicted(llama, rows, **config):
    loaded = backbone_named("llama").load(str(llama), head="causal-lm")
    task = CausalLM(CausalLMConfig(max_new_tokens=12, **config))
    batch = task.collate([task.encode(row, loaded, labelled=False) for row in rows])
    torch.manual_seed(0)
    with torch.no_grad():
        return [one["completion"] for one in task.predict(loaded.model, batch, loaded)]


def test_generation_draws_searches_and_stops_as_it_is_told(llama):
    rows = [Row({"prompt": text}, "x:1") for text in ("the film", "it was a story of two")]
    greedy = predicted(llama, rows)
    assert greedy == predicted(llama, rows)
    assert predicted(llama, rows, do_sample=True, temperature=2.0, top_p=0.95) != greedy
    assert predicted(llama, rows, do_sample=True, temperature=2.0, top_k=1) == greedy
    assert predicted(llama, rows, num_beams=4) != greedy
    once = predicted(llama, rows, no_repeat_ngram_size=1)
    assert all(len(set(text.split())) == len(text.split()) for text in once) and once != greedy
    assert predicted(llama, rows, repetition_penalty=50.0) != greedy
    word = greedy[1].split()[2]
    ended = predicted(llama, rows, stop=[word])
    assert ended == [text.partition(word)[0] for text in greedy]
