"""Tables 1 and 2 of the survey as it prints them, and the plan of each row. Imports no torch.

Balne et al. 2024, https://arxiv.org/abs/2404.13506, reprints both tables from LoReFT (Wu et al.
2024), which took the rows of LoRA, the prefix and the adapters from LLM-Adapters (Hu et al. 2023)
and those of DoRA from its paper (Liu et al. 2024). Scores of LLM-Adapters' rows and of DoRA (half)
on 7B were compared with the tables in the authors' repositories, where the average of the parallel
adapter on 7B, 72.25, is rounded up; the other rows are from memory, and the mean of each is the
average that is printed.
"""

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any, Literal, NamedTuple

from peftcore import Plan, backbone_for_plan

Convention = Literal["of_total", "of_base"]

_QKV_UP_DOWN = ["attention.query", "attention.key", "attention.value", "mlp.up", "mlp.down"]
_LOW_RANK = {"alpha": 64, "rank": 32, "dropout": 0.05, "targets": _QKV_UP_DOWN}
#: The columns of the two tables.
SETS: dict[int, tuple[str, ...]] = {
    1: (
        "boolq", "piqa", "social_i_qa", "hellaswag", "winogrande", "ARC-Easy", "ARC-Challenge",
        "openbookqa",
    ),
    2: ("AQuA", "gsm8k", "mawps", "SVAMP"),
}  # fmt: skip
#: What the rows are called, and the methods that they stand for; the prefix depends on the size.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "prefix": ("PrefT", {"method": "prefix"}),
    "series": ("Adapter S", {"method": "adapter", "bottleneck": 256}),
    "parallel": ("Adapter P", {"method": "parallel_adapter", "bottleneck": 256}),
    "lora": ("LoRA", {"method": "lora", **_LOW_RANK}),
    "dora-half": ("DoRA (half)", {"method": "dora", **_LOW_RANK, "rank": 16, "alpha": 32}),
    "dora": ("DoRA", {"method": "dora", **_LOW_RANK}),
    "loreft": ("LoReFT", {"method": "loreft", "rank": 8, "positions": "f7+l7"}),
}
#: Tokens of the prefix that explain the per cent of each size best.
PREFIX = {"llama-7b": 30, "llama-13b": 10}
#: Per cent as it is printed, by size and row.
PRINTED: dict[str, dict[str, str]] = {
    "llama-7b": {
        "prefix": "0.110", "series": "0.990", "parallel": "3.540", "lora": "0.830",
        "dora-half": "0.430", "dora": "0.840", "loreft": "0.031",
    },
    "llama-13b": {
        "prefix": "0.030", "series": "0.800", "parallel": "2.890", "lora": "0.670",
        "dora-half": "0.350", "dora": "0.680", "loreft": "0.025",
    },
}  # fmt: skip
#: Where a table prints another per cent than the other one does.
ELSEWHERE = {(2, "llama-13b", "prefix"): "0.300"}
#: Scores by table, size and row, and the average that is printed.
SCORES: dict[tuple[int, str], dict[str, tuple[tuple[float, ...], float]]] = {
    (1, "llama-7b"): {
        "prefix": ((64.3, 76.8, 73.9, 42.1, 72.1, 72.9, 54.0, 60.6), 64.6),
        "series": ((63.0, 79.2, 76.3, 67.9, 75.7, 74.5, 57.1, 72.4), 70.8),
        "parallel": ((67.9, 76.4, 78.8, 69.8, 78.9, 73.7, 57.3, 75.2), 72.2),
        "lora": ((68.9, 80.7, 77.4, 78.1, 78.8, 77.8, 61.3, 74.8), 74.7),
        "dora-half": ((70.0, 82.6, 79.7, 83.2, 80.6, 80.6, 65.4, 77.6), 77.5),
        "dora": ((68.5, 82.9, 79.6, 84.8, 80.8, 81.4, 65.8, 81.0), 78.1),
        "loreft": ((69.3, 84.4, 80.3, 93.1, 84.2, 83.2, 68.2, 78.9), 80.2),
    },
    (1, "llama-13b"): {
        "prefix": ((65.3, 75.4, 72.1, 55.2, 68.6, 79.5, 62.9, 68.0), 68.4),
        "series": ((71.8, 83.0, 79.2, 88.1, 82.4, 82.5, 67.3, 81.8), 79.5),
        "parallel": ((72.5, 84.8, 79.8, 92.1, 84.7, 84.2, 71.2, 82.4), 81.5),
        "lora": ((72.1, 83.5, 80.5, 90.5, 83.7, 82.8, 68.3, 82.4), 80.5),
        "dora-half": ((72.5, 85.3, 79.9, 90.1, 82.9, 82.7, 69.7, 83.6), 80.8),
        "dora": ((72.4, 84.9, 81.5, 92.4, 84.2, 84.2, 69.6, 82.8), 81.5),
        "loreft": ((72.1, 86.3, 81.8, 95.1, 87.2, 86.2, 73.7, 84.2), 83.3),
    },
    (2, "llama-7b"): {
        "prefix": ((14.2, 24.4, 63.4, 38.1), 35.0),
        "series": ((15.0, 33.3, 77.7, 52.3), 44.6),
        "parallel": ((18.1, 35.3, 82.4, 49.6), 46.4),
        "lora": ((18.9, 37.5, 79.0, 52.1), 46.9),
        "loreft": ((21.4, 26.0, 76.2, 46.8), 42.6),
    },
    (2, "llama-13b"): {
        "prefix": ((15.7, 31.1, 66.8, 41.4), 38.8),
        "series": ((22.0, 44.0, 78.6, 50.8), 48.9),
        "parallel": ((20.5, 43.3, 81.1, 55.7), 50.2),
        "lora": ((18.5, 47.5, 83.6, 54.6), 51.1),
        "loreft": ((23.6, 38.1, 82.4, 54.2), 49.6),
    },
}


class Line(NamedTuple):
    """One row of a table, with our plan of it.

    Attributes:
        table: 1 or 2.
        size: named size of the backbone.
        arm: name of the row in the recipe of its table.
        label: name of the row in the table.
        printed: per cent as the survey prints it.
        trainable: what our plan counts.
        percent: that as per cent, under the convention of the row's source.
        convention: ``of_base`` for pyreft's rows, else ``of_total``.
        scores, average: as printed.
        verdict: what to say of the printed per cent; empty where it is right.
    """

    table: int
    size: str
    arm: str
    label: str
    printed: str
    trainable: int
    percent: float
    convention: Convention
    scores: tuple[float, ...]
    average: float
    verdict: str


def method_of(arm: str, size: str) -> dict[str, Any]:
    """Return the method of a row with its configuration."""
    config = METHODS[arm][1]
    return {**config, "num_virtual_tokens": PREFIX[size]} if arm == "prefix" else dict(config)


def lines(tables: Sequence[int] = (1, 2)) -> Iterator[Line]:
    """Yield the rows of tables, each planned on the meta device."""
    import torch  # the plans need it; the tables alone do not

    import peftcore

    plans: dict[tuple[str, str], Plan] = {}
    for size in PRINTED:
        with torch.device("meta"):
            model = backbone_for_plan(size).build(size, head="causal-lm")
        for arm in PRINTED[size]:
            plans[size, arm] = peftcore.plan(model, method_of(arm, size))
    for table in tables:
        for size in PRINTED:
            for arm, (scores, average) in SCORES[table, size].items():
                yield _line(table, size, arm, plans[size, arm], scores, average)


def _line(
    table: int, size: str, arm: str, plan: Plan, scores: tuple[float, ...], average: float
) -> Line:
    printed = ELSEWHERE.get((table, size, arm), PRINTED[size][arm])
    convention: Convention = "of_base" if arm == "loreft" else "of_total"
    percent = plan.percent(convention)
    verdict = verdict_of(printed, percent)
    return Line(
        table, size, arm, METHODS[arm][0], printed, plan.trainable, percent, convention, scores,
        average, verdict,
    )  # fmt: skip


def verdict_of(printed: str, percent: float) -> str:
    """Say how a printed per cent differs; all but LoReFT's have two digits and a nought."""
    digits = len(printed.rstrip("0").partition(".")[2])
    if round(percent, digits) == float(printed):
        return ""
    step = 10**-digits
    if int(percent / step) * step == float(printed) or abs(percent - float(printed)) < step:
        return "cut off, not rounded"
    return f"wrong: {percent / float(printed):.2f} of what is printed"


def mean_is_printed(scores: Sequence[float], average: float) -> bool:
    """Tell whether an average is the mean of its scores, halves rounded either way."""
    return abs(fmean(scores) - average) <= 0.05 + 1e-9
