"""Metrics of generated texts, on torchmetrics and sacrebleu: ``update(prediction, reference)``.

Both are texts as :func:`peftcore_train.generation.as_tensor` writes them; values go from 0 to 1.
"""

from collections.abc import Sequence

import torch
from sacrebleu.metrics import BLEU, CHRF
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.text import ROUGEScore

from peftcore_train.generation import as_texts
from peftcore_train.metrics import MeanLoss


class ExactMatch(MeanLoss):
    """Share of the texts that are the reference, blanks at both ends aside."""

    higher_is_better = True

    def update(self, prediction: Tensor, reference: Tensor) -> None:
        """Add the rows of a batch."""
        found = zip(as_texts(prediction), as_texts(reference), strict=True)
        right = [float(text.strip() == wanted.strip()) for text, wanted in found]
        super().update(self.total.new_tensor(right), self.total.new_ones(len(right)))


class Rouge(ROUGEScore):
    """F1 of common n-grams (``rouge1``, ``rouge2``) or of the longest common part (``rougeL``).

    Lin 2004, with the normalisation of the package rouge-score: letters a to z and digits alone.
    """

    def __init__(self, key: str) -> None:
        super().__init__(rouge_keys=key)
        self.key = key

    def update(self, prediction: Tensor, reference: Tensor) -> None:
        """Add the rows of a batch."""
        super().update(as_texts(prediction), as_texts(reference))

    def compute(self) -> Tensor:  # type: ignore[override]
        """Return the mean over the rows."""
        return super().compute()[f"{self.key}_fmeasure"]


class _OfCorpus(Metric):
    """A score of sacrebleu, which is none of single texts: all of them are kept until the end."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self, score: BLEU | CHRF) -> None:
        super().__init__()
        self.score = score
        self.texts: list[tuple[str, str]] = []

    def update(self, prediction: Tensor, reference: Tensor) -> None:
        """Add the rows of a batch."""
        self.texts += zip(as_texts(prediction), as_texts(reference), strict=True)

    def compute(self) -> Tensor:
        """Return the score, from 0 to 1."""
        predictions, references = map(list, zip(*self.texts, strict=True))
        score = self.score.corpus_score(predictions, [references]).score
        return torch.tensor(score / 100, dtype=torch.float64)

    def reset(self) -> None:
        """Forget all texts."""
        super().reset()
        self.texts = []


class Bleu(_OfCorpus):
    """BLEU of the corpus (Papineni et al. 2002), tokens as sacrebleu's ``13a``."""

    def __init__(self) -> None:
        super().__init__(BLEU())


class ChrF(_OfCorpus):
    """F2 of n-grams of up to 6 characters (Popovic 2015), as sacrebleu's default."""

    def __init__(self) -> None:
        super().__init__(CHRF())


_MAKE = {
    "exact_match": ExactMatch,
    "rouge_1": lambda: Rouge("rouge1"),
    "rouge_2": lambda: Rouge("rouge2"),
    "rouge_l": lambda: Rouge("rougeL"),
    "bleu": Bleu,
    "chrf": ChrF,
}


def text_metrics(names: Sequence[str]) -> dict[str, Metric]:
    """Return fresh metrics by name."""
    return {name: _MAKE[name]() for name in names}
