"""Embedding: vectors, losses against their formulas, and how retrieval is scored."""

import json
import math

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.functional.retrieval import (
    retrieval_normalized_dcg,
    retrieval_recall,
    retrieval_reciprocal_rank,
)

from peftcore import DataError, backbone_named
from peftcore_train.data import Row
from peftcore_train.metrics import computed
from peftcore_train.retrieval import retrieval_metrics
from peftcore_train.tasks.embedding import (
    Embedding,
    EmbeddingConfig,
    cosent_loss,
    digest,
    ranking_loss,
)

TEXTS = ["the film was great", "a dull story", "fine", "two people and a weak film"]


def vectors(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def known(*columns):
    return torch.tensor([[digest(text) for text in row] for row in zip(*columns, strict=True)])


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_vector_is_pooled_over_the_tokens_of_its_text_alone(bert, pooling):
    loaded = backbone_named("bert").load(str(bert))
    task = Embedding(EmbeddingConfig(pooling=pooling))
    features = [task.encode(Row({"anchor": text}, "x:1"), loaded, labelled=False) for text in TEXTS]
    with torch.no_grad():
        found = task.predict(loaded.model, task.collate(features), loaded)
        for text, one in zip(TEXTS, found, strict=True):
            hidden = loaded.model(**loaded.tokenizer(text, return_tensors="pt")).last_hidden_state
            pooled = hidden[0].mean(0) if pooling == "mean" else hidden[0, 0]
            expected = pooled / pooled.norm()
            torch.testing.assert_close(torch.tensor(one["embedding"]), expected)


def test_the_ranking_loss_is_that_of_its_formula():
    torch.manual_seed(0)
    anchor, positive, negative = (vectors(3, 8) for _ in range(3))
    ids = known("abc", "def", "ghi")
    total = 0.0
    for i in range(3):
        wrong = [anchor[i] @ text for text in (*positive, *negative)]
        total -= math.log(
            math.exp(anchor[i] @ positive[i] / 0.1)
            / sum(math.exp(cosine / 0.1) for cosine in wrong)
        )
    found = ranking_loss([anchor, positive, negative], ids, 0.1)
    assert float(found) == pytest.approx(total / 3, rel=1e-5)


def test_equal_texts_are_no_negatives_of_one_another():
    torch.manual_seed(0)
    anchor, positive = vectors(3, 8), vectors(3, 8)
    # the first two share their positive, the last two their anchor
    found = ranking_loss([anchor, positive], known("abb", "xxy"), 0.1)
    logits = anchor @ positive.T / 0.1
    # x belongs to b, whatever row it stands in
    left = [[0, 2], [1], [2]]
    own = [0, 0, 0]
    expected = [
        F.cross_entropy(logits[i, cols][None], torch.tensor([own[i]]))
        for i, cols in enumerate(left)
    ]
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_cosent_is_that_of_its_formula():
    cosines, scores = torch.tensor([0.3, 0.9, -0.2]), torch.tensor([1.0, 0.0, 0.5])
    pairs = [(i, j) for i in range(3) for j in range(3) if scores[i] < scores[j]]
    total = 1 + sum(math.exp(float(cosines[i] - cosines[j]) / 0.05) for i, j in pairs)
    assert float(cosent_loss(cosines, scores, 0.05)) == pytest.approx(math.log(total), rel=1e-5)


def test_scores_are_compared_with_cosines(bert):
    loaded = backbone_named("bert").load(str(bert))
    given = [
        Row({"anchor": text, "positive": other, "score": score}, f"x:{score}")
        for text, other, score in zip(TEXTS, TEXTS[::-1], (0.1, "0.4", 0.9, 0.2), strict=True)
    ]
    task = Embedding(EmbeddingConfig(score_column="score", loss="cosine"))
    task.check(given)
    batch = task.collate([task.encode(row, loaded) for row in given])
    with torch.no_grad():
        scores = task.score(loaded.model, batch)
        loss = (scores["values"] - scores["target"]).square().mean()
        torch.testing.assert_close(task.loss(loaded.model, batch), loss)
        metrics = task.metrics()
        metrics.update(**scores)
    stats = pytest.importorskip("scipy.stats")
    expected = stats.spearmanr(scores["values"][:, 0], [0.1, 0.4, 0.9, 0.2]).statistic
    assert computed(metrics)["spearman"] == pytest.approx(expected)
    with pytest.raises(DataError, match="x:5: a score of 5 is no cosine"):
        task.check([Row({"anchor": "a", "positive": "b", "score": 5}, "x:5")])


@pytest.mark.parametrize("parts", [2, 3])
def test_retrieval_is_scored_as_torchmetrics_does(parts):
    torch.manual_seed(0)
    count = 30
    given = vectors(count, parts, 6)
    given[:, 1] = F.normalize(given[:, 1] + 0.6 * given[:, 0], dim=-1)
    ids = torch.arange(count * parts).view(count, parts)
    metrics = retrieval_metrics()
    for part in (slice(0, 7), slice(7, count)):
        metrics.update(vectors=given[part], known=ids[part])
    candidates = given[:, 1:].transpose(0, 1).flatten(0, 1)
    found = computed(metrics)
    # torchmetrics takes what scores 0 or less for not found
    rows = [
        (given[i, 0] @ candidates.T + 2, torch.arange(len(candidates)) == i) for i in range(count)
    ]

    def mean(function, **options):
        return float(torch.stack([function(*row, **options) for row in rows]).mean())

    assert found == pytest.approx(
        {
            "mrr": mean(retrieval_reciprocal_rank),
            "ndcg@10": mean(retrieval_normalized_dcg, top_k=10),
            **{f"recall@{k}": mean(retrieval_recall, top_k=k) for k in (1, 5, 10)},
        },
        abs=1e-6,
    )
    assert 0 < found["recall@1"] < found["recall@10"] < 1


def test_a_text_that_several_anchors_share_is_not_in_their_way():
    both = F.normalize(torch.tensor([[[1.0, 0.1], [1.0, 0.0]], [[1.0, -0.1], [1.0, 0.0]]]), dim=-1)
    metrics = retrieval_metrics()
    metrics.update(vectors=both, known=known("ab", "xx"))
    assert set(computed(metrics).values()) == {1.0}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"score_column": "s", "negative_column": "n"}, "do not go together"),
        ({"score_column": "s", "loss": "ranking"}, "ranking does not go with a score_column"),
        ({"loss": "cosent"}, "cosent needs a score_column"),
    ],
)
def test_a_loss_that_does_not_suit_the_columns_is_refused(given, expected):
    with pytest.raises(ValueError, match=expected):
        EmbeddingConfig(**given)


def test_a_plan_needs_no_data_and_has_no_head(peftcore):
    done = peftcore("plan", "bert-base-uncased", "-m", "lora", "--head", "embedding", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["base"] == 109_482_240
