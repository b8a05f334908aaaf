"""The four kinds of pieces that a method can put at a site."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from peftcore.model.context import Context


class Piece(nn.Module):
    """What a method puts at one site. Use one of the four kinds below.

    The trainable tensors of a piece are kept in fp32 unless the adapter is told otherwise. Where
    the activations have another dtype the piece runs under autocast to it; a piece that casts its
    own tensors sets ``casts_itself`` and saves that cost.
    """

    #: The piece's forward copes with activations of any dtype by itself.
    casts_itself: ClassVar[bool] = False
    #: Dtype of the tensors, known without looking for them in each forward.
    _dtype: torch.dtype = torch.float32

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Piece":
        super()._apply(fn, recurse)
        for tensor in self.parameters():
            if tensor.is_floating_point():
                self.__dict__["_dtype"] = tensor.dtype
                break
        return self


class Delta(Piece):
    """Added to the output: ``y = base(x) + delta(x)``; ``forward(x)`` returns the summand.

    ``weight_delta`` and ``bias_delta`` are optional. A piece that has one of them, and whose
    effect in evaluation is exactly a change of weight and bias, can be merged and can act where
    the model reads the weight directly.
    """

    def weight_delta(self) -> Tensor:
        """Return the change of the weight, [out, in, ...] as in the layer."""
        raise NotImplementedError

    def bias_delta(self) -> Tensor:
        """Return the change of the bias, [out]."""
        raise NotImplementedError

    @classmethod
    def batched(cls, pieces: Sequence[Self], index: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Return one function that serves every row with its own piece, or None.

        Args:
            pieces: pieces of this class at the same site, of several adapters.
            index: [B] which piece serves each row; ``-1`` where none does.
        """
        return None


class Reparam(Piece):
    """Weight to weight: ``y = layer(x; reparam(W))``; ``forward(W)`` returns the new weight.

    ``new_bias`` is optional, for a piece that changes the bias as well. ``prepare`` and ``through``
    are optional too: a faster way to the same output, without making the new weight.
    """

    def new_bias(self, bias: Tensor) -> Tensor:
        """Return the new bias, [out]."""
        return bias

    def prepare(self, weight: Callable[[], Tensor]) -> Any:
        """Return what ``through`` needs beside the input.

        In evaluation without gradients the core keeps it until the layer's tensors or the piece's
        change, so that it costs nothing for each token that is generated.

        Args:
            weight: gives the weight as it stands before this piece, [out, in]; dequantised.
        """
        return None

    def through(
        self, call: Callable[[Tensor], Tensor], x: Tensor, prepared: Any, bias: Tensor | None
    ) -> Tensor:
        """Return the layer's output with the new weight, bias included, [..., out].

        The piece casts its tensors to the dtype of x by itself. Dropout on the input belongs here;
        it is left out where another reparametrisation of the same layer has no ``through``.

        Args:
            call: runs the layer as it stands before this piece, bias included.
            x: [..., in].
            prepared: what ``prepare`` returned.
            bias: the bias as it stands before this piece, or None.
        """
        raise NotImplementedError

    def prepared(self, weight: Callable[[], Tensor], read: Iterable[Tensor | None] | None) -> Any:
        """Return what ``prepare`` returns, from the last call where nothing has changed since.

        Args:
            weight: as for ``prepare``.
            read: the layer's tensors; None where the weight is not the layer's own.
        """
        if torch.compiler.is_compiling():
            return self.prepare(weight)
        if read is None or self.training or torch.is_grad_enabled():
            self.__dict__.pop("_kept", None)
            return self.prepare(weight)
        tensors = [t for t in (*self._parameters.values(), *read) if t is not None]
        state = _state_of(tensors)
        kept = self.__dict__.get("_kept")
        if kept is None or state is None or kept[0] != state:
            # the tensors are held so that no other one can take their place in memory
            kept = self.__dict__["_kept"] = (state, self.prepare(weight), tensors)
        return kept[1]

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; what was kept is forgotten."""
        self.__dict__.pop("_kept", None)
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}


#: Tensors that have an address; quantised kinds may have none.
_PLAIN = (Tensor, nn.Parameter)


def _state_of(tensors: Sequence[Tensor]) -> list[tuple[int, int, int]] | None:
    """Return what changes when one of the tensors does; None where that cannot be known."""
    try:
        return [(id(t), t._version, t.data_ptr() if type(t) in _PLAIN else 0) for t in tensors]
    except RuntimeError:  # inference tensors and those inside torch.func have no version or address
        return None


class Transform(Piece):
    """Applied to the output or the input of the site: ``h = transform(h, context)``.

    Where the module returns a tuple, h is its first element. Set ``where`` to ``"input"`` to act
    on the first argument instead.
    """

    where: str = "output"

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return the edited hidden states, shaped as they came."""
        raise NotImplementedError


class Around(Piece):
    """Around the whole call: ``forward(call, *args, **kwargs)`` calls ``call`` once and returns.

    ``inner`` is optional, for a piece that adds tokens to the sequence.
    """

    def inner(self, context: Context) -> Context:
        """Return the context of what runs inside the call."""
        return context

    def forward(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the module through ``call`` and return what it should return."""
        raise NotImplementedError


def overrides(piece: Delta | Reparam | Around, name: str) -> bool:
    """Tell whether a piece brings an optional method: ``weight_delta``, ``through``, ..."""
    kind = next(kind for kind in (Delta, Reparam, Around) if isinstance(piece, kind))
    return getattr(type(piece), name) is not getattr(kind, name)


def changes_bias(piece: Piece) -> bool:
    """Tell whether a piece changes the bias by its weight form."""
    if isinstance(piece, Delta):
        return overrides(piece, "bias_delta")
    return isinstance(piece, Reparam) and overrides(piece, "new_bias")


def has_weight_form(piece: Piece) -> bool:
    """Tell whether a piece is exactly a change of weight or bias."""
    if isinstance(piece, Delta):
        return overrides(piece, "weight_delta") or overrides(piece, "bias_delta")
    return isinstance(piece, Reparam)


def trainable_dtype(layer_dtype: torch.dtype) -> torch.dtype:
    """Return the dtype for trainable tensors at a layer: at least fp32."""
    return torch.promote_types(layer_dtype, torch.float32)
