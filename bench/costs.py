"""Ratios of what peftcore costs to what the same costs by hand or in a peer, in one process.

    OMP_NUM_THREADS=1 python bench/costs.py > bench/costs.md

Absolute times depend on the machine; the ratios are what counts. Needs the development environment.
"""

import copy
import gc
import itertools
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import peftcore
from peftcore.testing import tiny


def seconds(*actions: Callable[[], Any], repeat: int = 7) -> list[float]:
    """Return the median time of each action; the actions take turns."""
    times: list[list[float]] = [[] for _ in actions]
    for action in actions:
        action()
    for _ in range(repeat):
        for i, action in enumerate(actions):
            start = time.perf_counter()
            action()
            times[i].append(time.perf_counter() - start)
    return [statistics.median(t) for t in times]


def row(what: str, ours: float, other: float, against: str, most: str = "") -> None:
    """Print one row of the table."""
    times = f"{1e3 * ours:.2f} ms | {1e3 * other:.2f} ms, {against}"
    print(f"| {what} | {times} | {ours / other:.2f} | {most} |", flush=True)


class ByHand(nn.Module):
    """A linear with a low-rank update, as one writes it by hand."""

    def __init__(self, base: nn.Linear, rank: int):
        super().__init__()
        device = base.weight.device
        self.base = base
        self.down = nn.Parameter(torch.empty(rank, base.in_features, device=device))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Return base(x) + x downᵀ upᵀ."""
        low = nn.functional.linear(nn.functional.linear(x, self.down), self.up)
        return self.base(x) + low  # type: ignore[no-any-return]


def wrap_by_hand(model: nn.Module, rank: int) -> nn.Module:
    """Freeze a model and replace its linears."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, ByHand(child, rank))
    return model


def many_linears(blocks: int = 400) -> nn.Module:
    """Return a model of 7 linears a block, on the meta device."""
    sizes = {"q": (512, 512), "k": (512, 512), "v": (512, 512), "o": (512, 512)}
    sizes |= {"gate": (512, 1024), "up": (512, 1024), "down": (1024, 512)}
    with torch.device("meta"):
        return nn.ModuleDict(
            {"layers": nn.ModuleList(
                nn.ModuleDict({n: nn.Linear(*s) for n, s in sizes.items()}) for _ in range(blocks)
            )}
        )  # fmt: skip


def attaching() -> None:
    """Attach to 2,800 linears; add, switch and remove the 100th adapter."""
    hand, ours = [], []
    for _ in range(5):
        model = many_linears()
        gc.collect()
        start = time.process_time()
        wrap_by_hand(model, 8)
        hand.append(time.process_time() - start)
        model = many_linears()
        gc.collect()
        start = time.process_time()
        peftcore.attach(model, "lora", rank=8, targets=["linear"])
        ours.append(time.process_time() - start)
    row("attach LoRA to 2,800 linears on meta", statistics.median(ours), statistics.median(hand),
        "a loop by hand", "1.5")  # fmt: skip
    _, model, _ = tiny("llama", "causal-lm")

    def one(name: str) -> list[float]:
        marks = [time.perf_counter()]
        peftcore.attach(model, "lora", rank=4, name=name)
        marks.append(time.perf_counter())
        peftcore.activate(model)
        peftcore.activate(model, name)
        marks.append(time.perf_counter())
        peftcore.detach(model, name)
        marks.append(time.perf_counter())
        return [b - a for a, b in itertools.pairwise(marks)]

    peftcore.attach(model, "lora", rank=4, name="stays")
    # the least of nine: a few milliseconds of the garbage collector would drown the rest
    first = [min(t) for t in zip(*(one(f"a{i}") for i in range(9)), strict=True)]
    for i in range(98):
        peftcore.attach(model, "lora", rank=4, name=f"n{i}")
    last = [min(t) for t in zip(*(one(f"b{i}") for i in range(9)), strict=True)]
    for action, early, late in zip(("add", "switch", "remove"), first, last, strict=True):
        row(f"{action} the 100th adapter", late, early, "the first", "about 1")


def forward_and_step() -> None:
    """LoRA's forward and training step against a loop by hand and against Hugging Face PEFT."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    base = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(8)))
    hand = wrap_by_hand(copy.deepcopy(base), 8)
    config = LoraConfig(r=8, lora_alpha=8, target_modules=[str(i) for i in range(8)])
    peer = get_peft_model(copy.deepcopy(base), config)
    peftcore.attach(base, "lora", rank=8, targets=["linear"])
    x, token = torch.randn(256, 1024), torch.randn(1, 1024)

    def step(model: nn.Module) -> Callable[[], None]:
        return lambda: model(x).square().mean().backward()

    def once(model: nn.Module) -> Callable[[], None]:
        def run() -> None:
            with torch.no_grad():
                model(token)

        return run

    for what, make in (("training step, 8 linears, d 1024", step), ("one token, same", once)):
        ours, by_hand, theirs = seconds(make(base), make(hand), make(peer), repeat=41)
        row(f"LoRA {what}", ours, by_hand, "by hand", "about 1")
        row(f"LoRA {what}", ours, theirs, "peft 0.21.2")


def routing() -> None:
    """A batch of 8 rows with 3 adapters against a plain one."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(8)))
    for name in "abc":
        peftcore.attach(model, "lora", rank=8, targets=["linear"], name=name)
    x = torch.randn(8, 64, 1024)
    with torch.no_grad():
        plain = seconds(lambda: model(x), repeat=41)[0]
        with peftcore.route(model, ["a", "b", None, "c", "a", "b", "c", None]):
            mixed = seconds(lambda: model(x), repeat=41)[0]
    row("8 rows of 64 tokens, 3 adapters and none", mixed, plain, "one adapter", "about 1")


def rotation() -> None:
    """LoReFT's rotation against torch's orthogonal parametrisation, d = 4096, r = 8."""
    from peftcore_loreft.rotation import Rotation

    ours = Rotation(8, 4096)
    ours.start()
    theirs = nn.Linear(8, 4096, bias=False)
    nn.utils.parametrizations.orthogonal(theirs)
    one, two = seconds(
        lambda: ours().sum().backward(), lambda: theirs.weight.sum().backward(), repeat=3
    )
    row("rotation, d 4096, r 8, forward and backward", one, two, "torch's", "under 5 ms")


def starting() -> None:
    """``peftcore list`` against importing click and pluggy."""
    quiet = {"stdout": subprocess.DEVNULL, "check": True}
    ours, other = seconds(
        lambda: subprocess.run([sys.executable, "-m", "peftcore", "list"], **quiet),
        lambda: subprocess.run([sys.executable, "-c", "import click, pluggy"], **quiet),
        repeat=15,
    )
    row("peftcore list, all plugins", ours, other, "import click, pluggy", "2.5")


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("Made by `OMP_NUM_THREADS=1 python bench/costs.py > bench/costs.md`; random weights.\n")
    print("| what | peftcore | other | ratio | wanted |\n|---|---|---|---|---|")
    for part in (starting, attaching, forward_and_step, routing, rotation):
        part()


if __name__ == "__main__":
    main()
