"""``peftcore train`` beside transformers' Trainer with peft: same model, rows, LoRA and schedule.

    OMP_NUM_THREADS=1 python bench/peer.py > bench/peer.md      (20 runs; most of an hour)

Each run is a process of its own, from its start to the score of the test rows; the two take turns,
so that what else the machine does falls on both. Beside the wall time stands the processor's, which
other work disturbs less. Needs the development environment.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

import peftcore

TASKS: dict[str, dict[str, Any]] = {
    "sequence-classification": {
        "rows": "samples/movie-sentiment",
        "metric": "accuracy",
        "task": {"type": "sequence-classification"},
    },
    "regression": {
        "rows": "samples/movie-scores",
        "metric": "spearman",
        "task": {"type": "regression", "target_columns": ["score"]},
    },
}
LIMITS = {"train": 1500, "validation": 600, "test": 1804}
MODEL = "samples/minilm"
HEADING = """# `peftcore train` beside transformers' Trainer with peft

`OMP_NUM_THREADS=1 python bench/peer.py --seeds {seeds}`: LoRA of rank 8 on query and value of a
sentence encoder of 22.7 M parameters, 1,500 rows, 2 epochs, batches of 32, the best epoch by 600
rows, scored on 1,804 rows. ± is half of the 95 % confidence interval over seeds (Student's t)."""


@dataclass
class Run:
    """Test score, and seconds by the wall and of the processor."""

    score: float
    wall: float
    processor: float


def take(command: Sequence[str]) -> tuple[str, float, float]:
    """Run a program; return what it printed, and its seconds by the wall and of the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return done.stdout, wall, user + system


def ours(task: str, rows: Path, seed: int, scratch: Path) -> Run:
    """Train with a recipe."""
    recipe = {
        "name": "ours",
        "seed": seed,
        "output": str(scratch / "runs"),
        "backbone": {"source": MODEL},
        "methods": [{"method": "lora", "rank": 8, "alpha": 16}],
        "task": TASKS[task]["task"],
        "data": {"source": str(rows)},
        "train": {
            "epochs": 2,
            "batch_size": 32,
            "learning_rate": 2e-3,
            "warmup_ratio": 0.1,
            "metric_for_best": TASKS[task]["metric"],
        },
    }
    file = scratch / "recipe.yaml"
    file.write_text(json.dumps(recipe), "utf-8")
    command = [sys.executable, "-m", "peftcore", "train", str(file), "--json", "--quiet"]
    printed, wall, processor = take(command)
    return Run(json.loads(printed)["test"][TASKS[task]["metric"]], wall, processor)


def theirs(task: str, rows: Path, seed: int, scratch: Path) -> Run:
    """Train with transformers' Trainer and peft."""
    script = str(Path(__file__).with_name("peer_trainer.py"))
    model = str(peftcore.resolve_source(MODEL, "model"))
    command = [sys.executable, script, model, str(rows), task, str(seed), str(scratch)]
    printed, wall, processor = take(command)
    return Run(json.loads(printed.strip().splitlines()[-1])["score"], wall, processor)


def interval(values: Sequence[float]) -> str:
    """Return mean and half of the 95 % confidence interval (Student's t)."""
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    mean = statistics.mean(values)
    digits = 4 if mean < 1 else 1
    return f"{mean:.{digits}f} ±{half:.{digits}f}"


def write_rows(source: str, folder: Path) -> None:
    """Write as many rows of each split as the comparison takes, the same for every seed."""
    place = Path(peftcore.resolve_source(source, "data"))
    for split, count in LIMITS.items():
        lines = (place / f"{split}.jsonl").read_text("utf-8").splitlines()
        picked = random.Random(0).sample(lines, min(count, len(lines)))
        (folder / f"{split}.jsonl").write_text("\n".join(picked) + "\n", "utf-8")


def compare(task: str, seeds: int) -> None:
    """Run both on one task and print a table and what the numbers say."""
    metric = TASKS[task]["metric"]
    runs: dict[str, list[Run]] = {"peftcore train": [], "Trainer + peft": []}
    with tempfile.TemporaryDirectory() as name:
        rows = Path(name, "rows")
        rows.mkdir()
        write_rows(TASKS[task]["rows"], rows)
        for seed in range(seeds):
            for arm, run in zip(runs, (ours, theirs), strict=True):
                scratch = Path(name, f"{arm}-{seed}")
                scratch.mkdir()
                runs[arm].append(run(task, rows, seed, scratch))
                print(arm, seed, runs[arm][-1], file=sys.stderr, flush=True)
    print(f"\n## {task}: {TASKS[task]['rows']}\n")
    print(f"| | test {metric} | each seed | wall, s | processor, s |\n|---|---|---|---|---|")
    for arm, done in runs.items():
        each = " ".join(f"{run.score:.4f}" for run in done)
        wall, processor = (
            interval([getattr(run, n) for run in done]) for n in ("wall", "processor")
        )
        print(f"| {arm} | {interval([r.score for r in done])} | {each} | {wall} | {processor} |")
    mine, peers = runs.values()
    test = stats.ttest_ind([r.score for r in mine], [r.score for r in peers], equal_var=False)
    low, high = test.confidence_interval(0.95)
    for name in ("wall", "processor"):
        both = zip(mine, peers, strict=True)
        ratios = [getattr(a, name) / getattr(b, name) for a, b in both]
        print(f"\nSeconds by {name}, ours over the peer's: {interval(ratios)}")
    print(f"\nDifference of mean {metric}s: 95 % from {low:+.4f} to {high:+.4f} (Welch),", end=" ")
    print(f"p {test.pvalue:.2f}")


def main() -> None:
    """Compare on every task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--task", choices=sorted(TASKS), action="append")
    given = parser.parse_args()
    print(HEADING.format(seeds=given.seeds))
    for task in given.task or TASKS:
        compare(task, given.seeds)


if __name__ == "__main__":
    main()
