"""One run of transformers' Trainer with peft, as its guides write it: the peer of bench/peer.py.

    python bench/peer_trainer.py MODEL ROWS sequence-classification|regression SEED SCRATCH

Prints one line of JSON: the scores of the test rows by the best of the epochs.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from datasets import load_dataset
from peft import LoraConfig, TaskType, get_peft_model
from scipy.stats import spearmanr
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)


def accuracy(outputs: Any) -> dict[str, float]:
    """Return the share of rows whose greatest logit is the label's."""
    logits, labels = outputs
    return {"accuracy": float((logits.argmax(-1) == labels).mean())}


def spearman(outputs: Any) -> dict[str, float]:
    """Return the rank correlation of outputs and targets."""
    logits, targets = outputs
    return {"spearman": float(spearmanr(logits.squeeze(-1), targets).statistic)}


def main(source: str, rows: Path, task: str, seed: int, scratch: Path) -> None:
    """Train, keep the best epoch, and score the test rows once."""
    set_seed(seed)
    classes = task == "sequence-classification"
    data = load_dataset(
        "json",
        data_files={
            split: str(rows / f"{split}.jsonl") for split in ("train", "validation", "test")
        },
        cache_dir=str(scratch / "cache"),
    )
    tokenizer = AutoTokenizer.from_pretrained(source)
    names = sorted(set(data["train"]["label"])) if classes else []
    scores = np.array(data["train"]["score"])

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = dict(tokenizer(batch["text"], truncation=True))
        if classes:
            encoded["labels"] = [names.index(label) for label in batch["label"]]
        else:
            targets = (np.array(batch["score"]) - scores.mean()) / scores.std()
            encoded["labels"] = targets.astype("float32").tolist()
        return encoded

    data = data.map(encode, batched=True, remove_columns=data["train"].column_names)
    model = get_peft_model(
        AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=max(1, len(names)), problem_type=None if classes else "regression"
        ),
        LoraConfig(
            task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=["query", "value"]
        ),
    )
    metric = "accuracy" if classes else "spearman"
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(scratch / "out"),
            num_train_epochs=2,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=32,
            learning_rate=2e-3,
            warmup_steps=0.1,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model=metric,
            logging_steps=10,
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        ),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=accuracy if classes else spearman,
    )
    trainer.train()
    print(json.dumps({"score": trainer.evaluate(data["test"])[f"eval_{metric}"]}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))
