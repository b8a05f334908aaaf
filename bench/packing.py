"""What a step of causal-lm costs packed, padded, and padded with rows of similar length together.

    OMP_NUM_THREADS=1 python bench/packing.py > bench/packing.md

Absolute times depend on the machine; the ratios are what counts. Needs the development environment.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import peftcore
from peftcore_train.batches import TrainingBatches
from peftcore_train.schema import TrainSection
from peftcore_train.task import Batch, Features
from peftcore_train.tasks.causal_lm import CausalLM, CausalLMConfig

VOCABULARY, ROWS, BATCH = 16_000, 64, 8


def rows() -> list[Features]:
    """Return rows as those of instructions are: most are short, some long, a third is answer."""
    chance = torch.Generator().manual_seed(0)
    out = []
    for _ in range(ROWS):
        length = int(torch.randn(1, generator=chance).mul(0.7).add(4).exp().clamp(8, 384))
        ids = torch.randint(3, VOCABULARY, (length,), generator=chance).tolist()
        begins = 2 * length // 3
        out.append(
            {
                "input_ids": ids,
                "attention_mask": [1] * length,
                "labels": [-100] * begins + ids[begins:],
                "prompt_length": begins,
                "length": length,
            }
        )
    return out


def batches(given: Sequence[Features], *, packing: bool, grouped: bool) -> list[Batch]:
    """Return the batches of an epoch, as training makes them."""
    task = CausalLM(CausalLMConfig(packing=packing))
    task._tokenizer = SimpleNamespace(pad_token_id=0, pad_token_type_id=0)
    section = TrainSection(batch_size=BATCH, group_by_length=grouped)
    order = TrainingBatches([row["length"] for row in given], section, 0)
    return [task.collate([given[index] for index, _ in picks]) for picks in order]


def epoch(model: Any, given: Sequence[Batch], loss: Callable[[Any, Batch], Tensor]) -> float:
    """Return the processor's seconds of forward and backward passes over all batches."""
    start = time.process_time()
    for batch in given:
        loss(model, batch).backward()
    return time.process_time() - start


def whole_logits(model: Any, batch: Batch) -> Tensor:
    """Return the loss with the logits of all places, as it was computed before."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits = model(**inputs).logits[:, :-1].float()
    return F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=768, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=4,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    peftcore.attach(model, "lora", targets="all-linear")
    loss = {packing: CausalLM(CausalLMConfig(packing=packing)).loss for packing in (False, True)}
    given = rows()
    padded = batches(given, packing=False, grouped=False)
    packed = batches(given, packing=True, grouped=False)
    ways = {
        "padded, logits of all places": (padded, whole_logits),
        "padded": (padded, loss[False]),
        "padded, rows grouped by length": (
            batches(given, packing=False, grouped=True), loss[False],
        ),
        "packed": (packed, loss[True]),
    }  # fmt: skip
    with torch.no_grad():
        apart = max(
            abs(float(loss[False](model, a) - loss[True](model, b)))
            for a, b in zip(padded, packed, strict=True)
        )
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(3):  # the ways take turns
        for name, (some, how) in ways.items():
            times[name].append(epoch(model, some, how))
    tokens = sum(row["length"] for row in given)
    base = statistics.median(times["padded"])
    print("| a batch of 8 rows is | places of an epoch | tokens a second | to padded |")
    print("|---|---|---|---|")
    for name, (some, _) in ways.items():
        places = sum(batch["input_ids"].numel() for batch in some)
        took = statistics.median(times[name])
        print(f"| {name} | {places:,} | {tokens / took:,.0f} | {base / took:.2f} |")
    print(f"\nLosses of a batch, packed and padded, differ by at most {apart:.1e}.")


if __name__ == "__main__":
    main()
