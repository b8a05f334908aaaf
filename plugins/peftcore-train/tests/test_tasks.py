"""The tasks on text: what they encode, mask, label and predict."""

import json

import pytest
import torch

from peftcore import ConfigError, DataError, attach, backbone_named
from peftcore_train.data import Row
from peftcore_train.logits import targets_of, token_scores
from peftcore_train.metrics import classification_metrics, computed
from peftcore_train.tasks.causal_lm import CausalLM, CausalLMConfig
from peftcore_train.tasks.classification import ClassificationConfig, SequenceClassification
from peftcore_train.tasks.masked_lm import MaskedLM, MaskedLMConfig

DOMAINS = ["the film was great", "a story of two people", "it was weak", "people and the film"]


def rows(texts, **columns):
    return [Row({"text": text, **columns}, f"x.jsonl:{i}") for i, text in enumerate(texts, 1)]


def classification(given, **config):
    task = SequenceClassification(ClassificationConfig(**config))
    found = [Row({"text": "a", "label": label}, f"x:{i}") for i, label in enumerate(given)]
    task.learn(found)
    return task


@pytest.mark.parametrize(
    ("given", "labels"),
    [([10, 9, 10], [9, 10]), (["b", "a"], ["a", "b"]), (["10", "9"], ["9", "10"])],
)
def test_labels_are_sorted_as_numbers_or_as_text(given, labels):
    assert classification(given).learned() == {"labels": labels}


def test_declared_labels_keep_their_order_and_match_as_text():
    task = classification(["0", "1"], labels=(1, 0))
    assert task.learned() == {"labels": [1, 0]}
    assert task.kind.weights is None


def test_class_weights_are_inverse_frequencies():
    task = classification(["a", "a", "a", "b"], class_weights="balanced")
    torch.testing.assert_close(task.kind.weights, torch.tensor([4 / 6, 4 / 2]))
    task = classification(["a", "b"], class_weights={"a": 2.0, "b": 1.0})
    torch.testing.assert_close(task.kind.weights, torch.tensor([2.0, 1.0]))
    with pytest.raises(DataError, match="no training row has the label c"):
        classification(["a", "b"], labels=("a", "b", "c"), class_weights="balanced")


def test_a_label_named_twice_is_refused():
    with pytest.raises(ConfigError, match="names a label twice"):
        SequenceClassification(ClassificationConfig(labels=("1", 1)))


def test_pairs_and_single_residues_are_encoded(bert):
    loaded = backbone_named("bert").load(str(bert), head="sequence-classification", num_labels=2)
    task = SequenceClassification(ClassificationConfig(text_column="a", pair_column="b"))
    row = Row({"a": "the film", "b": "a story"}, "x:1")
    features = task.encode(row, loaded, labelled=False)
    assert features["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]
    task = SequenceClassification(ClassificationConfig(text_column="a", spaced=True))
    features = task.encode(Row({"a": "aaa"}, "x:1"), loaded, labelled=False)
    assert loaded.tokenizer.decode(features["input_ids"]) == "[CLS] a a a [SEP]"


def test_metrics_agree_with_scikit_learn():
    sk = pytest.importorskip("sklearn.metrics")
    torch.manual_seed(0)
    logits, target = torch.randn(50, 2), torch.randint(0, 2, (50,))
    metrics = classification_metrics(2)
    for part in (slice(0, 20), slice(20, 50)):
        metrics.update(
            preds=logits[part],
            target=target[part],
            positive=logits.softmax(-1)[part, 1],
            loss=torch.ones(50)[part],
            count=torch.ones(50)[part],
        )
    found = computed(metrics)
    guess, chance = logits.argmax(-1), logits.softmax(-1)[:, 1]
    assert found == pytest.approx(
        {
            "accuracy": sk.accuracy_score(target, guess),
            "auroc": sk.roc_auc_score(target, chance),
            "average_precision": sk.average_precision_score(target, chance),
            "f1": sk.f1_score(target, guess, average="macro"),
            "loss": 1.0,
            "mcc": sk.matthews_corrcoef(target, guess),
        },
        abs=1e-6,
    )


def test_ranking_one_class_is_not_a_number():
    metrics = classification_metrics(2)
    ones = torch.ones(3)
    metrics.update(
        preds=torch.randn(3, 2), target=ones.long(), positive=ones / 2, loss=ones, count=ones
    )
    found = computed(metrics)
    assert found["auroc"] != found["auroc"]
    assert found["accuracy"] == found["accuracy"]


def test_masking_follows_the_paper_and_its_generator(bert):
    loaded = backbone_named("bert").load(str(bert), head="masked-lm")
    task = MaskedLM(MaskedLMConfig())
    features = [task.encode(row, loaded) for row in rows(DOMAINS * 500)]
    mask = loaded.tokenizer.mask_token_id
    chosen = masked = same = words = 0
    for draw, row in enumerate(features):
        out = task.augment(row, torch.Generator().manual_seed(draw))
        again = task.augment(row, torch.Generator().manual_seed(draw))
        assert out == again
        picked = [i for i, label in enumerate(out["labels"]) if label != -100]
        assert picked
        assert set(picked) <= set(row["places"])
        assert all(out["labels"][i] == row["input_ids"][i] for i in picked)
        words += len(row["places"])
        chosen += len(picked)
        masked += sum(out["input_ids"][i] == mask for i in picked)
        same += sum(out["input_ids"][i] == row["input_ids"][i] for i in picked)
    assert masked / chosen == pytest.approx(0.8, abs=0.03)
    assert same / chosen == pytest.approx(0.1, abs=0.03)
    # short rows have at least one, so a little more than 15 %
    assert 0.15 < chosen / words < 0.35


def test_token_scores_leave_out_what_is_not_labelled():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 7), torch.tensor([[1, -100, 2, -100], [-100, 3, 4, 5]])
    picked = labels != -100
    scores = token_scores(logits[picked], targets_of(labels, shift=0), 2)
    loss = torch.nn.functional.cross_entropy(logits[picked], labels[picked], reduction="sum")
    torch.testing.assert_close(scores["loss"].sum(), loss)
    assert scores["count"].tolist() == [2, 3]


def causal(llama, **config):
    loaded = backbone_named("llama").load(str(llama), head="causal-lm")
    task = CausalLM(CausalLMConfig(**config))
    row = Row({"prompt": "the film was", "completion": "great and bright"}, "x:1")
    return task, loaded, row


def test_the_loss_is_on_the_completion_only(llama):
    task, loaded, row = causal(llama)
    features = task.encode(row, loaded)
    end = loaded.tokenizer.eos_token_id
    assert features["prompt_length"] == 3
    assert features["labels"] == [-100] * 3 + features["input_ids"][3:]
    assert features["input_ids"][-1] == end
    task, _, _ = causal(llama, train_on_inputs=True, append_eos=False)
    features = task.encode(row, loaded)
    assert features["labels"] == features["input_ids"]
    assert len(features["input_ids"]) == 6
    task, _, _ = causal(llama, separator=" of two")
    assert task.encode(row, loaded)["prompt_length"] == 5


def test_training_pads_right_and_generation_pads_left(llama):
    task, loaded, row = causal(llama, max_new_tokens=9)
    short = Row({"prompt": "the", "completion": "film"}, "x:2")
    batch = task.collate([task.encode(r, loaded) for r in (row, short)])
    assert batch["attention_mask"][1].tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert batch["labels"][1].tolist()[3:] == [-100] * 4
    batch = task.collate([task.encode(r, loaded, labelled=False) for r in (row, short)])
    assert batch["attention_mask"][1].tolist() == [0, 0, 1]


def test_the_causal_loss_is_that_of_transformers(llama):
    task, loaded, row = causal(llama)
    attach(loaded.model, "lora", rank=2)
    short = Row({"prompt": "the", "completion": "film"}, "x:2")
    batch = task.collate([task.encode(r, loaded) for r in (row, short)])
    labels = {k: batch[k] for k in ("input_ids", "attention_mask", "labels")}
    torch.testing.assert_close(task.loss(loaded.model, batch), loaded.model(**labels).loss)


def test_a_prompt_that_leaves_no_room_is_an_error(llama):
    task, loaded, row = causal(llama, max_length=3, truncation=True)
    with pytest.raises(DataError, match="x:1: the prompt alone has 3 tokens and 3 fit"):
        task.encode(row, loaded)
    task, _, _ = causal(llama, max_new_tokens=64)
    with pytest.raises(
        ConfigError, match="max_new_tokens is 64, but the model takes 64 tokens, the"
    ):
        task.encode(row, loaded, labelled=False)
    task, _, _ = causal(llama, max_length=5)
    with pytest.raises(DataError, match="x:1: 7 tokens, but only 5 fit"):
        task.encode(row, loaded)


@pytest.fixture
def code(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        pairs = [{"prompt": t, "completion": "great fine"} for t in DOMAINS * 4]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    return folder


def test_a_language_model_is_trained_and_generates(llama, code, recipe, peftcore):
    path = recipe(
        backbone={"source": str(llama)},
        methods=["lora"],
        task={"type": "causal-lm", "max_new_tokens": 4},
        data={"source": str(code), "accept": ["leak"]},
        train={"epochs": 12, "learning_rate": 0.02},
    )
    done = peftcore("train", path)
    assert done.exit_code == 0, done.output
    folder = done.stderr.strip().splitlines()[-1].removeprefix("run directory: ")
    text = '{"prompt": "it was weak"}\n{"prompt": "two people and the film"}\n'
    done = peftcore("predict", folder, "--input", "-", input=text)
    assert done.exit_code == 0, done.output
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["completion"] for row in found] == ["great fine"] * 2


def test_masked_language_modelling_trains(bert, data, recipe, peftcore):
    done = peftcore("train", recipe(task={"type": "masked-lm"}), "--json", "-q")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["parameters"]["head"] == 0
    assert found["metric"] == "loss"
    assert found["reloaded_equal"] is True


def several(*given, **config):
    task = SequenceClassification(ClassificationConfig(multi_label=True, **config))
    found = [Row({"text": "a", "label": label}, f"x:{i}") for i, label in enumerate(given)]
    task.learn(found)
    return task, found


def test_several_labels_come_as_a_list_or_between_separators():
    task, found = several(["b", "a"], " a ;c", "", [], class_weights="balanced")
    assert task.learned() == {"labels": ["a", "b", "c"]}
    assert [task.answer(row) for row in found] == [[1, 1, 0], [1, 0, 1], [0, 0, 0], [0, 0, 0]]
    # rows without the label over rows with it
    assert task.kind.weights.tolist() == [1, 3, 3]
    task, found = several("a|b", "b", label_separator="|")
    assert task.answer(found[0]) == [1, 1]


@pytest.mark.parametrize(
    ("given", "config", "kind", "expected"),
    [
        ([["a", "b"], ["a", "a"]], {}, DataError, r"x:1: labels \['a', 'a'\] name one twice"),
        ([["a", "b"], 7], {}, DataError, r"x:1: labels 7 are neither a list nor a text"),
        ([["a"], []], {}, DataError, "the rows have 1 labels; at least two are needed"),
        ([["a", "b"]], {"threshold": {"c": 0.1}}, ConfigError, "task.threshold: 'c' is not a"),
        ([["a"]], {"labels": ("b", "c")}, DataError, "x:0: label 'a' is not among task.labels"),
    ],
)
def test_several_labels_that_do_not_fit_are_named(given, config, kind, expected):
    with pytest.raises(kind, match=expected):
        several(*given, **config)


def test_a_threshold_without_several_labels_is_refused():
    for given in ({"threshold": 0.4}, {"threshold": 1.0, "multi_label": True}):
        with pytest.raises(ValueError, match="threshold"):
            ClassificationConfig(**given)


def test_metrics_of_several_labels_agree_with_scikit_learn():
    sk = pytest.importorskip("sklearn.metrics")
    task, _ = several(["a", "b"], ["c"], ["d"], threshold={"a": 0.3})
    torch.manual_seed(0)
    logits, target = torch.randn(60, 4), (torch.rand(60, 4) < 0.4).float()
    target[:, 3] = 0  # no row has it
    metrics = task.metrics()
    for part in (slice(0, 20), slice(20, 60)):
        metrics.update(**task.kind.scores(logits[part], target[part]))
    chances = logits.sigmoid()
    chosen = chances >= torch.tensor([0.3, 0.5, 0.5, 0.5])
    seen = (target[:, :3], chances[:, :3])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    assert computed(metrics) == pytest.approx(
        {
            "auroc": sk.roc_auc_score(*seen, average="macro"),
            "average_precision": sk.average_precision_score(*seen, average="macro"),
            "f1": sk.f1_score(target, chosen, average="micro"),
            "f1_macro": sk.f1_score(target, chosen, average="macro", zero_division=0),
            "loss": float(loss),
            "subset_accuracy": sk.accuracy_score(target, chosen),
        },
        abs=1e-6,
    )
    ((guess,), names) = (task.kind.predictions(logits[:1]), "abcd")
    assert guess["labels"] == [names[i] for i in range(4) if chosen[0, i]]
