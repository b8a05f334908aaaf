"""What a backbone plugin returns once it has loaded a model."""

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass
class Loaded:
    """A backbone that has been loaded from a checkpoint.

    Attributes:
        model: the model, in evaluation mode.
        tokenizer: what turns raw data into the model's inputs, or None.
        fresh: names of parameters that the checkpoint did not hold and that are therefore random.
        source: where it was loaded from, as the user named it.
    """

    model: nn.Module
    tokenizer: Any = None
    fresh: tuple[str, ...] = ()
    source: str = ""
