"""The training loop with DP-SGD in place of plain steps (Abadi et al. 2016, arXiv:1607.00133)."""

import secrets
from collections.abc import Sequence
from typing import Any

import torch
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.utils.data import DataLoader

from peftcore import Adapter, ConfigError
from peftcore_private.budget import Budget, budget_of
from peftcore_private.row_gradients import RowGradients, in_parts
from peftcore_private.sampling import PoissonBatches, derived
from peftcore_private.section import SECTION, PrivateSection
from peftcore_train.batches import EncodedRows
from peftcore_train.errors import TrainingError
from peftcore_train.loop import Loop, Session, total_steps, train_mode
from peftcore_train.schema import TrainSection
from peftcore_train.state import Position
from peftcore_train.task import Features, inner


class PrivateLoop(Loop):
    """A training run in which no row has more say than the budget allows.

    Every step draws rows by Poisson sampling, cuts the gradient of each, adds noise to the sum and
    divides by the rows that are drawn on average.

    Args:
        session: what the run works with.
        position: how far it is.
        section: the ``private`` section.
        epsilon: the budget; None where the section gives the noise.

    Attributes:
        budget: the guarantee.
    """

    def __init__(
        self, session: Session, position: Position, section: PrivateSection, epsilon: float | None
    ):
        check_adapter(session.adapter, inner(session.model))
        if session.accelerator.num_processes > 1:
            raise ConfigError("private training runs in one process; start it without accelerate.")
        self.private = section
        given = section.noise_seed
        self.noise_seed = secrets.randbits(63) if given is None else given
        self._sample(session)
        self._add_noise(session, epsilon)
        device = session.accelerator.device
        self.gradients = RowGradients(session.task, session.model, session.adapter, device)
        super().__init__(session, position)

    def _sample(self, session: Session) -> None:
        """Have rows drawn by Poisson sampling."""
        encoded = session.loader.dataset
        assert isinstance(encoded, EncodedRows)
        # the loader gives rows, not batches: a step may draw none, or more than fit at once
        session.batches = PoissonBatches(len(encoded), session.section, self.noise_seed)
        session.loader = DataLoader(
            encoded,
            batch_sampler=session.batches,
            collate_fn=list,
            num_workers=session.section.num_workers,
            generator=torch.Generator(),
        )

    def _add_noise(self, session: Session, epsilon: float | None) -> None:
        """Have the optimiser cut gradients and add as much noise as the budget asks for."""
        self.budget = budget_of(
            self.private,
            epsilon,
            rows=len(session.batches.lengths),
            batch_size=session.section.batch_size,
            steps=total_steps(session.section, len(session.batches), session.accelerator),
        )
        self.noise = torch.Generator(session.accelerator.device)
        session.optimizer = DPOptimizer(
            getattr(session.optimizer, "optimizer", session.optimizer),
            noise_multiplier=self.budget.noise_multiplier,
            max_grad_norm=self.budget.clip,
            expected_batch_size=session.section.batch_size,
            generator=self.noise,
        )

    def extra(self) -> dict[str, Any]:
        """Return what is stored with the adapter, its guarantee among it."""
        return {**super().extra(), SECTION: guarantee(self.budget, self.total)}

    def _batch(self, rows: Sequence[Features]) -> None:
        optimizer: Any = self.session.optimizer
        if rows and not self.checked:
            self._check(rows[: self.private.rows_at_once])
        self.noise.manual_seed(derived(self.noise_seed, "noise", self.position.step))
        parts = in_parts(rows, self.private.rows_at_once)
        losses = []
        for last, part in zip((*[False] * (len(parts) - 1), True), parts, strict=True):
            found, loss = self.gradients(part)
            for parameter, gradients in found.items():
                parameter.grad_sample = gradients  # type: ignore[attr-defined]
            losses.append(loss * (len(part) / max(1, len(rows))))
            if not last:
                optimizer.signal_skip_step(True)
                optimizer.step()
                optimizer.zero_grad()
        if rows:
            whole = torch.stack(losses).sum()
            self.losses.add(self.position.step + 1, whole, whole)
        self.position.batch += 1
        self._settle()  # before a loss that is not finite reaches what is trained
        self._step()
        self._after_batch()

    def _check(self, rows: Sequence[Features]) -> None:
        """Look at the first rows: is every tensor reached, and how can gradients be made?"""
        self.session.model.eval()
        self.gradients.check_alive(rows)
        why = self.gradients.choose(self.private.gradients, rows)
        if why and self.private.gradients == "batches":
            raise ConfigError(f"{SECTION}.gradients: batches: {why}. Write rows, or auto.")
        found, _ = self.gradients(rows)
        if not any(bool(grad.any()) for grad in found.values()):
            raise TrainingError(
                "no row alone has a gradient: the loss compares the rows of a batch, and what one"
                " row adds to it has no bound. Choose another loss, or train without privacy."
            )
        self.progress.say(
            f"gradients of single rows: {self.gradients.way}{f' ({why})' if why else ''}; noise"
            f" {self.budget.noise_multiplier:.3f} of clip {self.budget.clip:g}; epsilon"
            f" {self.budget.epsilon(self.total):.3f} at delta {self.budget.delta:.2g} for"
            f" {self.total} steps"
        )
        self.checked = True
        train_mode(self.session.model)


def guarantee(budget: Budget, steps: int) -> dict[str, Any]:
    """Return what a run of so many steps guarantees, as it is kept."""
    return {
        "epsilon": budget.epsilon(steps),
        "delta": budget.delta,
        "noise_multiplier": budget.noise_multiplier,
        "clip": budget.clip,
        "sample_rate": budget.sample_rate,
        "steps": steps,
        "accountant": budget.accountant,
    }


def check_section(section: TrainSection) -> None:
    """Refuse what private training does in another way, or cannot do.

    Raises:
        ConfigError: one of it is asked for.
    """
    refused = {
        "gradient_accumulation_steps": (1, "a step draws its rows at once; raise batch_size, which"
                                           " is computed in parts of private.rows_at_once"),
        "mixed_precision": ("no", "gradients of single rows are made in full precision"),
        "gradient_checkpointing": (False, "rows are few at once; lower private.rows_at_once"),
        "samples_per_epoch": (None, "a step draws from all rows"),
    }  # fmt: skip
    for name, (good, why) in refused.items():
        if getattr(section, name) != good:
            raise ConfigError(f"train.{name} is not for private training: {why}.")


def check_adapter(adapter: Adapter, model: nn.Module) -> None:
    """Refuse what looks at training rows without noise, or mixes rows.

    Raises:
        ConfigError: a method starts from examples, or a batch norm is trained.
    """
    for method in adapter.methods:
        if method.examples:
            raise ConfigError(
                f"{method.label} starts from {method.examples} training rows, to which no noise is"
                " added. Choose a start that looks at no rows, or another method."
            )
    for name, module in model.named_modules():
        trained = any(p.requires_grad for p in module.parameters(recurse=False))
        if trained and isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                f"{name} is a batch norm that would be trained: it mixes the rows of a batch, so"
                " that no row's part has a bound. Leave it out; frozen ones are no hindrance."
            )
