"""Data from which a method can learn its start."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from peftcore.errors import AttachError


def own_loss(model: nn.Module, batch: Any) -> Tensor:
    """Return the loss that the model itself computes from the labels of a batch.

    Raises:
        AttachError: it computes none.
    """
    loss = getattr(model(**batch), "loss", None)
    if not isinstance(loss, Tensor):
        raise AttachError(
            f"{type(model).__name__} returned no loss for an example: give examples with labels, or"
            " Examples(batches, loss) with a loss of your own."
        )
    return loss


@dataclass
class Examples:
    """Batches, best of one example each, and what the loss on them is.

    Attributes:
        batches: keyword arguments of the model, or whatever ``loss`` takes.
        loss: scalar loss of the model on one batch, the mean over its examples.
    """

    batches: Iterable[Any]
    loss: Callable[[nn.Module, Any], Tensor] = own_loss

    def first(self, count: int) -> Iterator[Any]:
        """Yield the first batches.

        Raises:
            AttachError: there are fewer.
        """
        given = 0
        for given, batch in enumerate(self.batches, 1):
            yield batch
            if given == count:
                return
        if given < count:
            raise AttachError(
                f"{count} examples were asked for and {given} are there: give more, or let the"
                " method look at fewer (its field for that is mostly called samples)."
            )
