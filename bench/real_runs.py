"""A short real run of every installed method: does the loss fall on real weights and real data?

    OMP_NUM_THREADS=1 python bench/real_runs.py > bench/real_runs.md

The head is random and frozen, so that whatever falls is the method's doing. The first backbone of
the list on which a method can run is taken. Exit code 1 where a validation loss does not fall.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import peftcore
from peftcore import Examples, PeftcoreError, backbone_for_source, installed, resolve_source
from peftcore.testing import reason_against

STEPS, ROWS, WARMUP = 40, 16, 4
#: Peak learning rates; those of the papers where the number of steps allows.
RATES = {
    "full": 1e-4, "freeze": 1e-4, "attention_tuning": 1e-4, "sparse": 1e-3, "tsa": 1e-3,
    "prompt": 3e-2, "vpt": 1e-2, "embedding_prompt": 1e-2, "prefix": 1e-2, "llama_adapter": 1e-2,
    "svdiff": 1e-2, "fourierft": 1e-2, "vera": 1e-2, "ia3": 1e-2, "ssf": 1e-2, "hra": 1e-3,
    "oft": 1e-3, "boft": 1e-3, "kadaptation": 1e-4, "s2lora": 1e-2,
}  # fmt: skip
DEFAULT_RATE = 2e-3


@dataclass
class Setting:
    """Weights with data: batches of training, and one of validation.

    Attributes:
        source: name of the weights.
        backbone: name of the backbone.
        load: returns the model, its random head frozen.
        train: yields training batches without end.
        valid: batches to validate on.
    """

    source: str
    backbone: str
    load: Callable[[], nn.Module]
    train: Callable[[], Iterator[dict[str, Any]]]
    valid: list[dict[str, Any]]


def sentences(split: str) -> list[dict[str, Any]]:
    """Return the movie sentences of a split."""
    folder = resolve_source("samples/movie-sentiment", "data")
    lines = (Path(str(folder)) / f"{split}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def forever(batches: list[dict[str, Any]]) -> Callable[[], Iterator[dict[str, Any]]]:
    """Return what yields the batches again and again."""

    def again() -> Iterator[dict[str, Any]]:
        while True:
            yield from batches

    return again


def text(source: str) -> Setting:
    """Return a text encoder as a classifier of sentences."""
    knows = backbone_for_source(source)
    options = {"head": "sequence-classification", "num_labels": 2}
    tokenizer = knows.load(source, **options).tokenizer

    def load() -> nn.Module:
        torch.manual_seed(0)
        model = knows.load(source, dtype="float32", **options).model
        # transformers starts heads so small that a frozen one would hide what is learned
        nn.init.normal_(model.classifier.weight, std=0.5)
        return model

    def batches(split: str, count: int) -> list[dict[str, Any]]:
        rows = sentences(split)[: count * ROWS]
        made = []
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            batch = tokenizer(
                [row["text"] for row in part],
                padding=True,
                truncation=True,
                max_length=48,
                return_tensors="pt",
            )
            labels = torch.tensor([int(row["label"] == "positive") for row in part])
            mask = batch["attention_mask"]
            made.append({"input_ids": batch["input_ids"], "attention_mask": mask, "labels": labels})
        return made

    return Setting(
        source, knows.name, load, forever(batches("train", STEPS)), batches("validation", 16)
    )


class Pictures(nn.Module):
    """A vision model and a random frozen head on its features; the loss as transformers has it."""

    def __init__(self, model: nn.Module, width: int):
        super().__init__()
        self.model = model
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        """Return an object with the loss and the logits."""
        logits = self.head(nn.functional.normalize(self.model(x), dim=-1) * 10)
        return Scored(nn.functional.cross_entropy(logits, labels), logits)


@dataclass
class Scored:
    """What a classifier returns."""

    loss: Tensor
    logits: Tensor


def pictures(source: str, size: int) -> Setting:
    """Return a vision model on scikit-learn's handwritten digits, enlarged."""
    from sklearn.datasets import load_digits

    knows = backbone_for_source(source)
    raw, target = load_digits(return_X_y=True)
    images = torch.tensor(raw, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    images = nn.functional.interpolate(images.expand(-1, 3, 8, 8), size=size, mode="bilinear")
    labels = torch.tensor(target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))

    def load() -> nn.Module:
        torch.manual_seed(0)
        options = {"img_size": size} if knows.name == "timm-vit" else {}
        model = knows.load(source, **options).model
        width = model(images[:2]).shape[-1]
        return Pictures(model, width)

    def batches(first: int, count: int) -> list[dict[str, Any]]:
        parts = order[first : first + count * ROWS].split(ROWS)
        return [{"x": images[part], "labels": labels[part]} for part in parts]

    return Setting(source, knows.name, load, forever(batches(0, STEPS)), batches(STEPS * ROWS, 8))


SETTINGS: list[Callable[[], Setting]] = [
    lambda: text("samples/minilm"),
    lambda: pictures("samples/vit-s14", 56),
    lambda: pictures("samples/efficientnet-lite0", 64),
]


@torch.no_grad()
def validation_loss(model: nn.Module, batches: list[dict[str, Any]]) -> float:
    """Return the mean loss in evaluation mode."""
    model.eval()
    return sum(float(model(**batch).loss) for batch in batches) / len(batches)


def short_run(method: str, setting: Setting) -> tuple[int, float, float, float]:
    """Train a few steps; return trainable parameters, validation losses around, and seconds."""
    model = setting.load()
    batches = setting.train()
    config: dict[str, Any] = {}
    if method == "tsa":
        # convolutions that pad by themselves are more than plain ones, and refused
        padded = [n for n, m in model.named_modules() if type(m).__name__ == "Conv2dSame"]
        config["targets"] = {"roles": ["conv"], "exclude": [f"path:{name}" for name in padded]}
    rows = setting.train()
    single = ({k: v[:1] for k, v in next(rows).items()} for _ in range(STEPS))
    adapter = peftcore.attach(
        model, method, backbone=setting.backbone, examples=Examples(single), **config
    )
    before = validation_loss(model, setting.valid)
    adapter.before_run(STEPS)
    rate = RATES.get(method, DEFAULT_RATE)
    optimiser = torch.optim.AdamW(adapter.parameter_groups(rate), weight_decay=0.0)
    peaks = [group["lr"] for group in optimiser.param_groups]
    model.train()
    start = time.perf_counter()
    for step in range(1, STEPS + 1):
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = peak * min(1, step / WARMUP) * (1 - (step - 1) / STEPS)
        loss = model(**next(batches)).loss + adapter.extra_loss()
        loss.backward()
        if step == 1:
            adapter.check_alive()
        nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
        optimiser.step()
        adapter.after_step(step, STEPS)
        optimiser.zero_grad()
    adapter.after_run()
    took = time.perf_counter() - start
    after = validation_loss(model, setting.valid)
    return adapter.plan.trainable, before, after, took


def main() -> int:
    """Print the table."""
    print("Made by `OMP_NUM_THREADS=1 python bench/real_runs.py > bench/real_runs.md`.\n")
    print(
        f"Every method, {STEPS} steps of {ROWS} rows on real weights and data, with a random frozen"
        " head.\nA check that learning works, no comparison: rates are not tuned, runs are short."
        "\nOne seed, validation loss.\n"
    )
    print("| method | weights | trainable | before | after | seconds |\n|---|---|---|---|---|---|")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    made: list[Setting] = []
    failed = 0
    wanted = sys.argv[1:] or sorted(m for m in installed().methods if m != "probe")
    for method in wanted:
        for i in range(len(SETTINGS)):
            if len(made) == i:
                made.append(SETTINGS[i]())
            setting = made[i]
            if reason_against(method, setting.backbone):
                continue
            try:
                k, before, after, took = short_run(method, setting)
            except PeftcoreError as error:
                print(f"{method} on {setting.source}: {error}", file=sys.stderr)
                continue
            failed += not after < before
            mark = "" if after < before else " **did not fall**"
            print(
                f"| {method} | {setting.source} | {k:,} | {before:.4f} | {after:.4f}{mark}"
                f" | {took:.1f} |",
                flush=True,
            )
            break
        else:
            failed += 1
            print(f"| {method} | none | | | **no backbone** | |", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
