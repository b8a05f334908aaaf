"""Following instructions: Alpaca, UltraFeedback, and outputs that AlpacaEval judges."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field
from torch import nn

from peftcore import Loaded
from peftcore_reasoning.instructed import Instructed, InstructedConfig
from peftcore_train.data import Columns, Row
from peftcore_train.task import Batch

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class InstructionConfig(InstructedConfig):
    """The ``task`` section of instructions."""

    generator: str | None = Field(
        None, description="Name of the model in predictions, as AlpacaEval wants it beside outputs."
    )


class Instruction(Instructed):
    """Learns outputs; what they are worth is judged elsewhere (AlpacaEval, offline)."""

    def __init__(self, config: InstructionConfig):
        super().__init__(config)
        self.metric_names = {"loss": False, "perplexity": False, "accuracy": True}

    def columns(self) -> Columns:
        """Return the columns of the prompt and of the output."""
        return Columns(self.inputs, (self.config.output_column,), optional=self.inputs[1:])

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has an instruction and an output."""
        for row in rows:
            self.prompt(row)
            self.completion(row)

    def metrics(self) -> "MetricCollection":
        """Return loss and perplexity of a token, and the share of tokens predicted right."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_train.metrics import token_metrics

        return token_metrics()

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return the output of each row, and who wrote it."""
        found = super().predict(model, batch, loaded)
        name = self.config.generator
        return [{**one, "generator": name} for one in found] if name else found
