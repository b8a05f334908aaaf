"""Scores of written reviews, each from 0 to 1."""

from torch import Tensor
from torchmetrics import Metric, MetricCollection

from peftcore_train.metrics import EntityF1, EntityPrecision, EntityRecall, MeanLoss, token_metrics
from peftcore_train.text_metrics import Bleu


class MeanBleu4(MeanLoss):
    """Mean of CodeReviewer's BLEU-4: ``update(bleu4, texts)``, [B] each."""

    higher_is_better = True

    def update(self, bleu4: Tensor, texts: Tensor) -> None:
        """Add the rows of a batch."""
        super().update(bleu4, texts)


class MeanBleu4WithoutStopWords(MeanLoss):
    """The same with stop words left out of both texts."""

    higher_is_better = True

    def update(self, bleu4_without_stop_words: Tensor, texts: Tensor) -> None:
        """Add the rows of a batch."""
        super().update(bleu4_without_stop_words, texts)


class MeanExact(MeanLoss):
    """Share of the texts that are the reference, however their blanks are."""

    higher_is_better = True

    def update(self, exact_match: Tensor, texts: Tensor) -> None:
        """Add the rows of a batch."""
        super().update(exact_match, texts)


class MeanUnparsable(MeanLoss):
    """Share of the answers that are neither yes nor no."""

    def update(self, unparsable: Tensor, texts: Tensor) -> None:
        """Add the rows of a batch."""
        super().update(unparsable, texts)


def review_metrics(action: str, *, generate: bool) -> MetricCollection:
    """Return the metrics of tokens, and those of the texts of an action."""
    metrics = token_metrics()
    if not generate:
        return metrics
    found: dict[str, Metric | MetricCollection]
    if action == "necessity":
        found = {
            "f1": EntityF1(), "precision": EntityPrecision(), "recall": EntityRecall(),
            "unparsable": MeanUnparsable(),
        }  # fmt: skip
    else:
        found = {
            "bleu4": MeanBleu4(), "bleu4_without_stop_words": MeanBleu4WithoutStopWords(),
            "exact_match": MeanExact(), "bleu": Bleu(),
        }  # fmt: skip
    metrics.add_metrics(found)
    return metrics
