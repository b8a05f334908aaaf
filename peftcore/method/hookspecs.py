"""Hooks of a method. The docstrings are the contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftcore.registry.hookspecs import hookspec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peftcore.method.examples import Examples
    from peftcore.method.pieces import Piece
    from peftcore.method.placed import Placed
    from peftcore.model.sites import ParameterInfo, Site


class Adapting:
    """Hooks of a method instance, called while an adapter is made, trained, saved or loaded.

    The chosen methods of one adapter are plugins of one manager and are called in the order of
    the recipe. No hook is called in a forward pass.
    """

    @hookspec
    def peftcore_prepare(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        examples: Examples | None,
        tensors: Mapping[str, Tensor] | None,
        tokenizer: Any,
    ) -> None:
        """Look at the whole model, and at data, before the first piece is made.

        Called once, before the sites are offered. The model may be run, and gradients may be taken
        with respect to its parameters (``torch.autograd.grad``), but it must be left as it was.

        Args:
            model: the bare model.
            sites: every site of it, in model order; their layers are on the meta device where only
                a plan is made.
            examples: data to learn a start from; None where the method asks for none
                (``Method.examples``), in plans, and where a checkpoint is loaded.
            tensors: those of the checkpoint that is being loaded, by their names there; sizes of
                pieces may follow them. None where a new adapter is made.
            tokenizer: what turns text into the model's inputs; None where none was given.
        """

    @hookspec
    def peftcore_select_parameters(
        self, parameters: Sequence[ParameterInfo]
    ) -> Iterable[str] | None:
        """Return the names of the base parameters to train.

        Called once, after the sites have been offered to ``peftcore_rewrite_module``.

        Args:
            parameters: every parameter of the model, with its role, in model order.
        """

    @hookspec
    def peftcore_rewrite_module(self, site: Site) -> Piece | Mapping[str, Piece] | None:
        """Return the piece to put at this site (or several, by name), or None to leave it alone.

        Called once for each site of the model. The model must not be changed here.
        """

    @hookspec
    def peftcore_save_state(self, site: Site, piece: Piece) -> Mapping[str, Tensor] | None:
        """Return the tensors to store for a piece; None stores ``piece.state_dict()``."""

    @hookspec
    def peftcore_load_state(
        self, site: Site, piece: Piece, tensors: Mapping[str, Tensor]
    ) -> bool | None:
        """Put stored tensors into a piece and return True; None loads them as a state dict.

        Names and shapes have been checked against what saving this piece would store.
        """

    @hookspec
    def peftcore_learning_rates(self, site: Site, piece: Piece) -> Mapping[str, float] | None:
        """Return factors of the learning rate for tensors of a piece, by name; others have 1."""

    @hookspec
    def peftcore_before_run(self, placed: Sequence[Placed], steps: int) -> None:
        """Prepare for training, or refuse it, before the first step of a run or of its resumption.

        Args:
            placed: the method's pieces with their sites, in model order.
            steps: number of steps of the whole run.
        """

    @hookspec
    def peftcore_extra_loss(
        self, placed: Sequence[Placed], kept: Mapping[Piece, Sequence[Any]]
    ) -> Tensor | None:
        """Return a scalar to add to the loss of each step, such as a penalty.

        Args:
            placed: the method's pieces with their sites, in model order.
            kept: what these pieces kept with ``context.keep(piece, value)`` in the last call of
                the model, in the order of keeping; it is dropped when this hook returns.
        """

    @hookspec
    def peftcore_after_step(self, placed: Sequence[Placed], step: int, steps: int) -> None:
        """Act on the pieces after an optimiser step, while the gradients are still there.

        Args:
            placed: the method's pieces with their sites, in model order.
            step: number of the step that was taken, from 1.
            steps: number of steps of the whole run.
        """

    @hookspec
    def peftcore_after_run(self, placed: Sequence[Placed]) -> None:
        """Act on the pieces once, after the last step of a run and before they are stored.

        Args:
            placed: the method's pieces with their sites, in model order.
        """
