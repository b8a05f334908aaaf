"""Answers in a file, scored by right ones in another."""

from pathlib import Path
from typing import Any

import torch

from peftcore import DataError
from peftcore_biomedqa.metrics import answer_metrics
from peftcore_biomedqa.releases import answers_of
from peftcore_train.metrics import computed


def score_files(answers: Path, references: Path) -> dict[str, Any]:
    """Return accuracy, macro F1 and the F1 of each label, and how many answers there are.

    Raises:
        DataError: an id is missing in one of the files, or an answer is none of the labels.
    """
    said, right = answers_of(answers), answers_of(references)
    for first, second, names in ((references, answers, right), (answers, references, said)):
        other = said if names is right else right
        if missing := [name for name in names if name not in other]:
            raise DataError(
                f"{second.name} lacks {len(missing)} of the {len(names)} ids of {first.name}, such"
                f" as {missing[0]!r}. Answer all questions and no others."
            )
    labels = list(dict.fromkeys(right.values()))
    if odd := [name for name in right if said[name] not in labels]:
        raise DataError(
            f"{answers.name}: the answer to {odd[0]!r} is {said[odd[0]]!r}, none of"
            f" {', '.join(labels)}."
        )
    numbers = (torch.tensor([labels.index(found[n]) for n in right]) for found in (said, right))
    metrics = answer_metrics(labels)
    del metrics["loss"]
    metrics.update(*numbers)
    return {"answers": len(right), **computed(metrics)}
