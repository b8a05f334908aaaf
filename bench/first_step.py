"""From the start of a program to its first training step, beside a plain script with peft.

    OMP_NUM_THREADS=1 python bench/first_step.py > bench/first_step.md

Both load the same encoder and the same rows, tokenize them, put LoRA of rank 8 on query and value,
and say when they have taken a step with 32 rows. The seconds are the processor's, which other work
on the machine disturbs less than the wall's. Needs the development environment.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

import peftcore

TURNS = 5
PLAIN = """
import json, sys
from pathlib import Path

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model_folder, rows_folder = sys.argv[1:]
torch.manual_seed(0)
rows = {
    split: [json.loads(line) for line in Path(rows_folder, f"{split}.jsonl").open()]
    for split in ("train", "validation", "test")
}
tokenizer = AutoTokenizer.from_pretrained(model_folder)
encoded = {split: tokenizer([row["text"] for row in part]) for split, part in rows.items()}
model = AutoModelForSequenceClassification.from_pretrained(model_folder, num_labels=2)
lora = LoraConfig(
    task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=["query", "value"]
)
model = get_peft_model(model, lora)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
model.train()
picks = torch.randperm(len(rows["train"]))[:32].tolist()
batch = tokenizer([rows["train"][i]["text"] for i in picks], padding=True, return_tensors="pt")
labels = torch.tensor([int(rows["train"][i]["label"] == "positive") for i in picks])
model(**batch, labels=labels).loss.backward()
optimizer.step()
print("step 1/1", flush=True)
"""


def seconds_to(line: str, command: Sequence[str]) -> tuple[float, float]:
    """Return a program's seconds by the wall to its first line, and its processor's to a line."""
    start, first = time.perf_counter(), 0.0
    with subprocess.Popen(
        command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        for said in run.stdout:
            first = first or time.perf_counter() - start
            if line in said:
                spent = psutil.Process(run.pid).cpu_times()
                run.kill()
                return first, spent.user + spent.system
    raise RuntimeError(f"{command} never said {line!r}")


def main() -> None:
    """Let the two take turns, and print the ratio."""
    model = str(peftcore.resolve_source("samples/minilm", "model"))
    rows = str(peftcore.resolve_source("samples/movie-sentiment", "data"))
    with tempfile.TemporaryDirectory() as name:
        script = Path(name, "plain.py")
        script.write_text(PLAIN, "utf-8")
        recipe = Path(__file__).resolve().parent.parent / "examples" / "quickstart.yaml"
        ours = [sys.executable, "-m", "peftcore", "train", str(recipe), "--output", name]
        arm = 'compare={"lora": [{"method": "lora", "rank": 8, "alpha": 16}]}'
        ours += ["--set", arm, "--set", "train.log_steps=1", "--set", "data.limits={}"]
        theirs = [sys.executable, str(script), model, rows]
        pairs = [(seconds_to("step 1/", ours), seconds_to("step 1/", theirs)) for _ in range(TURNS)]
    print("# From the start to the first training step\n")
    print(f"`OMP_NUM_THREADS=1 python bench/first_step.py`, {TURNS} turns each, medians.\n")
    print("| | first line, s by the wall | first step, s of the processor |\n|---|---|---|")
    for place, who in enumerate(("peftcore train", "a plain script with peft")):
        first, step = (statistics.median(pair[place][n] for pair in pairs) for n in (0, 1))
        print(f"| {who} | {first:.2f} | {step:.1f} |")
    ratio = statistics.median(a[1] / b[1] for a, b in pairs)
    print(f"\nOurs over the plain script's: {ratio:.2f}")


if __name__ == "__main__":
    main()
