"""What tasks share that predict tokens at places that a batch names."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from peftcore_train.logits import token_loss, token_scores
from peftcore_train.task import Batch, Task

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class MaskedTokens(Task):
    """Cross-entropy on masked tokens; batches have what :func:`~.logits.targets_of` returns.

    A subclass says which tokens are masked, and gives the logits of their places.
    """

    head = "masked-lm"
    metric_names = {"loss": False, "perplexity": False, "accuracy": True}

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the logits of the masked places in single precision, [N, V]."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of the masked tokens."""
        return token_loss(self.logits(model, batch), batch)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the summed loss, the right answers and the masked tokens of each row."""
        return token_scores(self.logits(model, batch), batch, len(batch["input_ids"]))

    def metrics(self) -> "MetricCollection":
        """Return loss and perplexity of a token, and the share predicted right."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_train.metrics import token_metrics

        return token_metrics()
