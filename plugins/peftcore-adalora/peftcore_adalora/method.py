"""The method: where the updates go, the penalty, and the budget of ranks over the steps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from peftcore import ConfigError, Placed, Site, Targeted, hookimpl
from peftcore_adalora.pieces import Svd


class AdaLora(Targeted):
    """Adaptive budget allocation for low-rank updates, Zhang et al. 2023."""

    def piece(self, site: Site, config: Any) -> Svd:
        """Return the update of a linear layer."""
        return Svd(site.layer, config)

    @hookimpl
    def peftcore_before_run(self, steps: int) -> None:
        """Check that the schedule has room.

        Raises:
            ConfigError: no step is left between ``tinit`` and ``tfinal``.
        """
        tinit, tfinal = self.config.tinit, self.config.tfinal
        if tinit + tfinal >= steps:
            raise ConfigError(
                f"{self.label}.tinit and tfinal: {tinit} + {tfinal} steps leave none of the {steps}"
                f" of this run to move ranks in. Write values whose sum is below {steps}, such as"
                f" tinit: {steps // 10} and tfinal: {3 * steps // 10}, or train longer."
            )

    @hookimpl
    def peftcore_extra_loss(self, placed: Sequence[Placed]) -> Tensor | None:
        """Return γ times the mean of ‖Q Qᵀ - I‖ and ‖Pᵀ P - I‖ over all P and Q.

        Frobenius norms and their mean, as in the authors' loralib and Hugging Face PEFT; the paper
        (section 3.1) writes the sum of squared norms.
        """
        if not self.config.orth_reg_weight:
            return None
        norms = [norm for piece in _pieces(placed) for norm in piece.penalties()]
        together = torch.stack([norm.to(norms[0].device) for norm in norms])
        return self.config.orth_reg_weight * together.mean()

    @hookimpl
    def peftcore_after_step(self, placed: Sequence[Placed], step: int, steps: int) -> None:
        """Smooth the importances, and prune the triplets that the budget has no place for.

        From step ``steps - tfinal`` on what is kept is fixed, and the other singular values are set
        to zero after each step: the optimiser's momentum would bring them back.
        """
        config, pieces = self.config, _pieces(placed)
        last = steps - config.tfinal
        if step < last:
            for piece in pieces:
                piece.observe(config.beta1, config.beta2)
        moving = step == last or (config.tinit < step < last and step % config.deltaT == 0)
        if moving:
            allocate(pieces, self.budget(step, steps, len(pieces)))
        if moving or step > last:
            for piece in pieces:
                piece.lora_E.masked_fill_(~piece.kept, 0)

    def budget(self, step: int, steps: int, layers: int) -> int:
        """Return how many triplets of all layers are kept after a step (section 3.3).

        Args:
            step: number of the step, from 1.
            steps: number of steps of the whole run.
            layers: number of updates that share the budget.
        """
        config = self.config
        first, last = config.init_r * layers, config.target_r * layers
        if step <= config.tinit:
            return first
        if step >= steps - config.tfinal:
            return last
        left = 1 - (step - config.tinit) / (steps - config.tfinal - config.tinit)
        return int((first - last) * left**3 + last)


def allocate(pieces: Sequence[Svd], budget: int) -> None:
    """Mark the most important triplets of all pieces as kept, ``budget`` of them.

    Of equally important ones the first are kept, so that the number is exact.
    """
    scores = torch.cat([piece.importance().to(pieces[0].kept.device) for piece in pieces])
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept[scores.argsort(descending=True, stable=True)[:budget]] = True
    for piece, part in zip(pieces, kept.view(len(pieces), -1, 1), strict=True):
        piece.kept.copy_(part)


def _pieces(placed: Sequence[Placed]) -> list[Any]:
    return [item.piece for item in placed]
