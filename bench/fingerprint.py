"""What the fingerprint of a 7B-shaped base costs, measured on one block and the embedding.

    python bench/fingerprint.py

One block of a model with width 4096, 11008 and 32 heads is made in bf16 and looked at; its time is
multiplied by the 32 blocks, the embedding's and the head's are measured. Next to it stands the time
in which the same tensors are read once, as the bound that a digest of all values would have.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from peftcore.store.fingerprint import fingerprint

WIDTH, INNER, VOCABULARY, BLOCKS = 4096, 11008, 32000, 32


def block() -> dict[str, torch.Tensor]:
    shapes = {f"attention.{n}": (WIDTH, WIDTH) for n in ("query", "key", "value", "output")}
    shapes |= {"mlp.gate": (INNER, WIDTH), "mlp.up": (INNER, WIDTH), "mlp.down": (WIDTH, INNER)}
    found = {n: torch.randn(s, dtype=torch.bfloat16) for n, s in shapes.items()}
    return found | {n: torch.ones(WIDTH, dtype=torch.bfloat16) for n in ("norm1", "norm2")}


def seconds(act: Callable[[], Any], times: int = 5) -> float:
    act()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        act()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def main() -> None:
    one = block()
    ends = {"embedding": torch.randn(VOCABULARY, WIDTH, dtype=torch.bfloat16)}
    number = BLOCKS * sum(t.numel() for t in one.values()) + 2 * ends["embedding"].numel()
    looked = BLOCKS * seconds(lambda: fingerprint(one)) + 2 * seconds(lambda: fingerprint(ends))

    def read() -> None:
        for tensor in (*one.values(), *ends.values()):
            tensor.view(torch.int16).max()

    share = sum(t.numel() for t in (*one.values(), *ends.values())) / number
    print(f"{number:,} parameters, {torch.get_num_threads()} thread(s), extrapolated:")
    print(f"fingerprint {looked:.2f} s; reading every value once {seconds(read) / share:.2f} s")


if __name__ == "__main__":
    main()
