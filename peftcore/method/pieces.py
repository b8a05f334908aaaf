"""The four kinds of pieces that a method can put at a site."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from peftcore.model.context import Context

#: What a piece may need: each row is one sequence, padding is known where there is some, and the
#: first axis is the rows.
NEEDS = ("one-sequence", "mask", "rows-first")


class Piece(nn.Module):
    """What a method puts at one site. Use one of the four kinds below.

    The trainable tensors of a piece are kept in fp32 unless the adapter is told otherwise. Where
    the activations have another dtype the piece runs under autocast to it, and so does what its
    ``batched`` returns; what comes out is cast back. A piece that casts its own tensors sets
    ``casts_itself`` and saves that cost. A ``forward`` that names an argument ``context`` gets the
    :class:`Context` of the call.

    The class variables below are worked out once for each class, from what it overrides.
    """

    #: The piece's forward copes with activations of any dtype by itself.
    casts_itself: ClassVar[bool] = False
    #: Its forward takes the context.
    uses_context: ClassVar[bool] = False
    #: It is exactly a change of the weight, of the bias.
    changes_weight: ClassVar[bool] = False
    changes_bias: ClassVar[bool] = False
    #: Of the bias it is a function, so that there is nothing to change where a layer has none.
    scales_bias: ClassVar[bool] = False
    #: It can act on a slice of a fused layer.
    sliceable: ClassVar[bool] = False
    #: It brings ``batched``, ``start``, ``through``, ``precompute``, ``inner``.
    serves_rows: ClassVar[bool] = False
    starts: ClassVar[bool] = False
    has_through: ClassVar[bool] = False
    precomputes: ClassVar[bool] = False
    widens: ClassVar[bool] = False
    #: What it needs of every call and of its place, of :data:`NEEDS`; refused where it is lacking.
    needs: tuple[str, ...] = ()
    #: Dtype of the tensors, known without looking for them in each forward.
    _dtype: torch.dtype = torch.float32

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.uses_context = cls._names_context("forward")
        cls.starts = cls._brings("start")

    @classmethod
    def _brings(cls, name: str) -> bool:
        """Tell whether a class overrides a method of the kind that it belongs to."""
        bringing = [c for c in cls.__mro__ if name in vars(c)]
        return len(bringing) > 1

    @classmethod
    def _names_context(cls, method: str) -> bool:
        return "context" in inspect.signature(getattr(cls, method)).parameters

    @classmethod
    def is_change(cls) -> bool:
        """Tell whether such a piece is exactly a change of weight or bias."""
        return cls.changes_weight or cls.changes_bias

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Set the tensors to their start; called for a new adapter only, without gradients.

        In a plan and where a checkpoint is loaded it is not called, so that drawing random numbers
        or decomposing a weight belongs here and not into ``__init__``.

        Args:
            weight: gives the weight of the site as the base has it, [out, in, ...]; dequantised.
        """

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

    sliceable = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.changes_weight = cls._brings("weight_delta")
        cls.changes_bias = cls._brings("bias_delta")
        cls.serves_rows = cls._brings("batched")

    def weight_delta(self) -> Tensor:
        """Return the change of the weight, [out, in, ...] as in the layer."""
        raise NotImplementedError

    def bias_delta(self) -> Tensor:
        """Return the change of the bias, [out]."""
        raise NotImplementedError

    @classmethod
    def batched(cls, pieces: Sequence[Self], index: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Return one function that serves every row with its own piece, or None.

        It is called with x and returns the summand of every row.

        Args:
            pieces: pieces of this class at the same site, of several adapters.
            index: [B] which piece serves each row; ``-1`` where none does.
        """
        return None


class Reparam(Piece):
    """Weight to weight: ``y = layer(x; reparam(W))``; ``forward(W)`` returns the new weight.

    ``new_bias`` is optional, for a piece that changes the bias as well. ``precompute`` and
    ``through`` are optional too: a faster way to the same output, without making the new weight.
    """

    sliceable = True
    changes_weight = True
    #: Its ``through`` takes the context.
    through_uses_context: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.changes_bias = cls.scales_bias = cls._brings("new_bias")
        cls.has_through = cls._brings("through")
        cls.precomputes = cls._brings("precompute")
        cls.through_uses_context = cls._names_context("through")
        cls.serves_rows = cls._brings("batched")

    def new_bias(self, bias: Tensor) -> Tensor:
        """Return the new bias, [out]."""
        return bias

    def precompute(self, weight: Callable[[], Tensor]) -> Any:
        """Return what ``through`` needs beside the input.

        In evaluation without gradients the core keeps it for the tokens of a sequence that is
        generated with a cache, so that it costs nothing for each of them.

        Args:
            weight: gives the weight as it stands before this piece, [out, in]; dequantised.
        """
        return None

    def through(
        self, call: Callable[[Tensor], Tensor], x: Tensor, precomputed: Any, bias: Tensor | None
    ) -> Tensor:
        """Return the layer's output with the new weight, bias included, [..., out].

        The piece casts its tensors to the dtype of x by itself. Dropout on the input belongs here;
        it is left out where another reparametrisation of the same layer has no ``through``. An
        argument ``context`` is given where the method names one.

        Args:
            call: runs the layer as it stands before this piece, bias included.
            x: [..., in].
            precomputed: what ``precompute`` returned.
            bias: the bias as it stands before this piece, or None.
        """
        raise NotImplementedError

    @classmethod
    def batched(
        cls, pieces: Sequence[Self], index: Tensor
    ) -> Callable[[Callable[[Tensor], Tensor], Tensor], Tensor] | None:
        """Return one function that serves every row with its own piece, or None.

        It is called with what runs the base's layer, bias included, and x; it returns the output,
        and casts tensors to the dtype of x by itself, as ``through`` does.

        Args:
            pieces: pieces of this class at the same site, of several adapters.
            index: [B] which piece serves each row; ``-1`` where none does.
        """
        return None

    def precomputed(
        self, weight: Callable[[], Tensor], read: Iterable[Tensor | None] | None, sequence: int
    ) -> Any:
        """Return what ``precompute`` returns, from the last call where nothing has changed since.

        Args:
            weight: as for ``precompute``.
            read: the layer's tensors; None where the weight is not the layer's own.
            sequence: number of the sequence that is being computed; see :func:`state_of_tensors`.
        """
        if torch.compiler.is_compiling():
            return self.precompute(weight)
        if read is None or self.training or torch.is_grad_enabled():
            self.__dict__.pop("_kept", None)
            return self.precompute(weight)
        tensors = [t for t in (*self._parameters.values(), *read) if t is not None]
        state = state_of_tensors(tensors, sequence)
        kept = self.__dict__.get("_kept")
        if kept is None or state is None or kept[0] != state:
            # the tensors are held so that no other one can take their place in memory
            kept = self.__dict__["_kept"] = (state, self.precompute(weight), tensors)
        return kept[1]

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; what was kept is forgotten."""
        self.__dict__.pop("_kept", None)
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}


#: Tensors that have an address; quantised kinds may have none.
_PLAIN = (Tensor, nn.Parameter)


def state_of_tensors(tensors: Iterable[Tensor], sequence: int) -> tuple[Any, ...] | None:
    """Return what changes when one of the tensors does; None where that cannot be known.

    What is written through ``.data`` changes nothing that could be seen without reading all values.
    Such writes happen between sequences, not between the tokens of one, so the number of the
    sequence is a part of the state.
    """
    try:
        return sequence, *(
            (id(t), t._version, t.data_ptr() if type(t) in _PLAIN else 0) for t in tensors
        )
    except RuntimeError:  # inference tensors and those inside torch.func have no version or address
        return None


class Transform(Piece):
    """Applied to the output or the input of the site: ``h = transform(h, context)``.

    Where the module returns a tuple, h is its first element. Set ``where`` to ``"input"`` to act
    on the first argument instead.
    """

    where: str = "output"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.uses_context = True
        cls.serves_rows = cls._brings("batched")

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return the edited hidden states, shaped as they came."""
        raise NotImplementedError

    @classmethod
    def batched(
        cls, pieces: Sequence[Self], index: Tensor
    ) -> Callable[[Tensor, Context], Tensor] | None:
        """Return one function that edits every row with its own piece, or None.

        It is called with the hidden states and the context, and returns those of every row.

        Args:
            pieces: pieces of this class at the same site, of several adapters.
            index: [B] which piece serves each row; ``-1`` where none does.
        """
        return None


class Around(Piece):
    """Around the whole call: ``forward(call, *args, **kwargs)`` calls ``call`` and returns.

    A piece that does not call ``call`` skips the module, and one that calls it twice runs it twice;
    a module that writes to a cache of keys and values must then run exactly once for each token.
    The module inside runs as it would without the piece, under no autocast of the piece's.
    ``inner`` is optional, for a piece that adds tokens to the sequence.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.widens = cls._brings("inner")

    def inner(self, context: Context) -> Context:
        """Return the context of what runs inside the call."""
        return context

    def forward(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the module through ``call`` and return what it should return."""
        raise NotImplementedError


def trainable_dtype(layer_dtype: torch.dtype) -> torch.dtype:
    """Return the dtype for trainable tensors at a layer: at least fp32."""
    return torch.promote_types(layer_dtype, torch.float32)
