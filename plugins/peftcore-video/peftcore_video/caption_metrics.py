"""Metrics of captions by pycocoevalcap's own scorers: ``update(prediction, references)``.

Both are texts as :func:`peftcore_train.generation.as_tensor` writes them, references a JSON list.
"""

import json
import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from peftcore_train.generation import as_texts
from peftcore_video.captioning import CaptionMetric, Tokenisation

#: A text of each row by its number.
Texts = dict[int, list[str]]


def words(texts: Texts) -> Texts:
    """Return texts in lower case without punctuation, words with one blank between them.

    A word is of letters and digits, with hyphens and apostrophes inside.
    """
    return {
        i: [" ".join(re.findall(r"\w+(?:[-']\w+)*", text.lower())) for text in several]
        for i, several in texts.items()
    }


def ptb(texts: Texts) -> Texts:
    """Return texts as the Penn Treebank's tokenizer writes them, by the program in Java."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    given = {i: [{"caption": text} for text in several] for i, several in texts.items()}
    found: Texts = PTBTokenizer().tokenize(given)
    return found


def score(name: str, references: Texts, predictions: Texts) -> float:
    """Return what pycocoevalcap's scorer of a metric says of tokenised texts, over all rows."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.spice.spice import Spice

    make: dict[str, Callable[[], Any]] = {
        "rouge_l": Rouge, "cider": Cider, "meteor": Meteor, "spice": Spice,
    }  # fmt: skip
    scorer = make.get(name, lambda: Bleu(4))()
    with redirect_stdout(StringIO()):  # what it prints is no result
        found, _ = scorer.compute_score(references, predictions)
    return float(found[int(name[-1]) - 1] if name.startswith("bleu") else found)


class CaptionScore(Metric):
    """One metric of all captions of a split; of the corpus as a whole, so that all are kept.

    Args:
        name: of the metric.
        tokenisation: what is done to the texts first.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self, name: CaptionMetric, tokenisation: Tokenisation):
        super().__init__()
        self.name = name
        self.tokenise = ptb if tokenisation == "ptb" else words
        self.texts: list[tuple[str, str]] = []

    def update(self, prediction: Tensor, references: Tensor) -> None:
        """Add the rows of a batch."""
        self.texts += zip(as_texts(prediction), as_texts(references), strict=True)

    def compute(self) -> Tensor:
        """Return the score, as pycocoevalcap gives it: CIDEr goes up to 10, others to 1."""
        references = {i: json.loads(several) for i, (_, several) in enumerate(self.texts)}
        predictions = {i: [text] for i, (text, _) in enumerate(self.texts)}
        found = score(self.name, self.tokenise(references), self.tokenise(predictions))
        return torch.tensor(found, dtype=torch.float64)

    def reset(self) -> None:
        """Forget all texts."""
        super().reset()
        self.texts = []


def caption_metrics(
    names: Sequence[CaptionMetric], tokenisation: Tokenisation
) -> dict[str, Metric]:
    """Return fresh metrics by name."""
    return {name: CaptionScore(name, tokenisation) for name in names}
