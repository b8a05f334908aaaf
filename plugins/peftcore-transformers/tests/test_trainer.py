"""Training hooks in transformers' Trainer: what it trains is what a loop by hand trains."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Trainer, TrainerCallback, TrainingArguments

import peftcore
from peftcore import AttachError, Delta, Method, MethodConfig, MethodSpec, hookimpl, installed
from peftcore_transformers import add_training_hooks
from peftcore_transformers.backbone import TransformersBackbone

ROWS, EPOCHS, BATCH, RATE = 20, 3, 4, 0.05


class Scaled(Delta):
    """Adds the input times a vector, and keeps how much it added."""

    uses_context = True

    def __init__(self, width: int):
        super().__init__()
        self.factor = nn.Parameter(torch.full((width,), 0.1))
        self.slow = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, context: Any) -> Tensor:
        added = x * (self.factor + self.slow)
        context.keep(self, added.square().mean())
        return added


class Busy(Method):
    """Has every hook of training, and writes down how it was called."""

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        self.calls: list[Any] = []

    @hookimpl
    def peftcore_rewrite_module(self, site: Any) -> Any:
        return Scaled(site.layer.in_features) if site.role == "attention.query" else None

    @hookimpl
    def peftcore_learning_rates(self) -> dict[str, float]:
        return {"slow": 0.25}

    @hookimpl
    def peftcore_before_run(self, steps: int) -> None:
        self.calls.append(("before", steps))

    @hookimpl
    def peftcore_extra_loss(self, kept: Mapping[Any, Sequence[Tensor]]) -> Tensor:
        return 3 * torch.stack([value for values in kept.values() for value in values]).sum()

    @hookimpl
    def peftcore_after_step(self, placed: Sequence[Any], step: int, steps: int) -> None:
        self.calls.append((step, steps))
        for item in placed:
            item.piece.factor.sub_(0.01 * item.piece.factor.grad.sign())

    @hookimpl
    def peftcore_after_run(self, placed: Sequence[Any]) -> None:
        self.calls.append("after")
        for item in placed:
            item.piece.slow.mul_(0.5)


class Own(Trainer):
    """Computes its own loss, the mean of a batch."""

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], **_: Any) -> Tensor:
        self.loss_is_scaled_for_ga = False
        labels = inputs.pop("labels")
        return F.cross_entropy(model(**inputs).logits, labels)


@pytest.fixture(autouse=True)
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = SimpleNamespace(Config=MethodConfig, Method=Busy)
    monkeypatch.setitem(sys.modules, "busy_module", module)  # type: ignore[arg-type]
    spec = MethodSpec("busy", "Busy.", "busy_module:Config", "busy_module:Method")
    with installed().with_plugin(spec):
        yield


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    torch.manual_seed(1)
    return [
        {"input_ids": torch.randint(5, 96, (6,)), "labels": int(torch.randint(0, 2, ()))}
        for _ in range(ROWS)
    ]


def prepared(encoder: TransformersBackbone) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model: Any = encoder.tiny(head="sequence-classification")
    return model, peftcore.attach(model, "busy", modules_to_save=["head"])


def arguments(folder: Path, accumulated: int, **more: Any) -> TrainingArguments:
    given: dict[str, Any] = {"save_strategy": "no", **more}
    return TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=BATCH, num_train_epochs=EPOCHS,
        learning_rate=RATE, gradient_accumulation_steps=accumulated, max_grad_norm=0.5,
        weight_decay=0.1, train_sampling_strategy="sequential", report_to=[], use_cpu=True,
        disable_tqdm=True, **given,
    )  # fmt: skip


def by_hand(model: Any, adapter: Any, rows: list[dict[str, Any]], accumulated: int) -> None:
    """Train as docs/how-to/own-loop.md says."""
    # a Trainer does not decay what is called a bias
    plain = {p for name, p in adapter.named_parameters() if name.endswith("bias")}
    groups = [
        {"params": [p], "lr": group["lr"], "weight_decay": 0.0 if p in plain else 0.1}
        for group in adapter.parameter_groups(RATE)
        for p in group["params"]
    ]
    optimizer = torch.optim.AdamW(groups, fused=True)
    batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    steps = [batches[i : i + accumulated] for i in range(0, len(batches), accumulated)] * EPOCHS
    fall = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / len(steps))
    adapter.before_run(len(steps))
    model.train()
    for step, parts in enumerate(steps, 1):
        for part in parts:
            ids = torch.stack([row["input_ids"] for row in part])
            labels = torch.tensor([row["labels"] for row in part])
            loss = F.cross_entropy(model(input_ids=ids).logits, labels)
            ((loss + adapter.extra_loss()) / len(parts)).backward()
        nn.utils.clip_grad_norm_(adapter.parameters(), 0.5)
        optimizer.step()
        adapter.after_step(step, len(steps))
        fall.step()
        optimizer.zero_grad()
    adapter.after_run()


@pytest.mark.parametrize(
    "kind, accumulated, tolerance",
    [(Trainer, 1, 0.0), (Own, 2, 1e-6)],
    ids=["the model's loss", "a loss of its own, gathered unevenly"],
)
def test_a_trainer_with_hooks_trains_what_a_loop_by_hand_trains(
    encoder: Any, rows: Any, tmp_path: Path, kind: Any, accumulated: int, tolerance: float
) -> None:
    model, adapter = prepared(encoder)
    trainer = kind(model=model, args=arguments(tmp_path, accumulated), train_dataset=rows)
    add_training_hooks(trainer)
    trainer.train()
    other, expected = prepared(encoder)
    by_hand(other, expected, rows, accumulated)
    for (name, here), there in zip(
        adapter.named_parameters(), expected.parameters(), strict=True
    ):  # fmt: skip
        torch.testing.assert_close(here, there, rtol=0, atol=tolerance, msg=name)
    total = EPOCHS * -(-ROWS // BATCH // accumulated)
    steps = [(step, total) for step in range(1, total + 1)]
    assert adapter.methods[0].calls == [("before", total), *steps, "after"]
    assert adapter.methods[0].calls == expected.methods[0].calls


class Stop(TrainerCallback):
    """Ends a run where it is saved."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = True


def test_a_run_resumed_by_the_trainer_goes_on_with_hooks_and_rates(
    encoder: Any, rows: Any, tmp_path: Path
) -> None:
    ends = []
    for stops in ((), (Stop(),), ()):
        model, adapter = prepared(encoder)
        saves = {"save_strategy": "steps", "save_steps": 7} if ends else {}
        trainer = Trainer(
            model=model,
            args=arguments(tmp_path, 1, **saves),
            train_dataset=rows,
            callbacks=[*stops],
        )
        add_training_hooks(trainer)
        trainer.train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-7") if len(ends) == 2 else None
        )
        ends.append(adapter)
    whole, first, rest = (adapter.methods[0].calls for adapter in ends)
    assert first[-2:] == [(7, 15), "after"]
    assert rest == [whole[0], *whole[8:]]
    for here, there in zip(ends[0].parameters(), ends[2].parameters(), strict=True):
        torch.testing.assert_close(here, there)


def test_hooks_that_cannot_be_called_are_refused(encoder: Any, rows: Any, tmp_path: Path) -> None:
    class Apart(Trainer):
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
            loss = model(**inputs).loss
            loss.backward()
            return loss.detach()

    model, adapter = prepared(encoder)
    trainer = Apart(model=model, args=arguments(tmp_path, 1), train_dataset=rows)
    add_training_hooks(trainer)
    with pytest.raises(AttachError, match="Apart calls training hooks already"):
        add_training_hooks(trainer)
    with pytest.raises(AttachError, match="Apart computes gradients without its accelerator"):
        trainer.train()
    adapter.detach()
    bare = Trainer(model=model, args=arguments(tmp_path, 1), train_dataset=rows)
    with pytest.raises(AttachError, match="has no active adapter"):
        add_training_hooks(bare)
