"""The classifier of PEFT-SER on the hidden states of a speech model."""

from typing import Any

import torch
from torch import Tensor, nn


class LayerSum(nn.Module):
    """Sum of the hidden states of all layers, with weights that are the softmax of trained ones."""

    def __init__(self, layers: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))

    def forward(self, layers: tuple[Tensor, ...]) -> Tensor:
        """Return [B, T, d], the weighted sum of as many hidden states."""
        shares = self.weights.softmax(-1)
        return torch.einsum("l,lbtd->btd", shares, torch.stack(layers).to(shares.dtype))


class LayersHead(nn.Module):
    """Layer sum, three convolutions of width 1, the mean of real frames, two linear layers.

    Feng and Narayanan 2023, https://arxiv.org/abs/2306.05350: 395,280 parameters for 12 layers of
    width 768 and 4 labels.
    """

    def __init__(self, layers: int, width: int, labels: int, hidden: int, dropout: float):
        super().__init__()
        self.sum = LayerSum(layers)
        self.frames = nn.Sequential(
            nn.Conv1d(width, hidden, 1), nn.ReLU(), nn.Dropout(dropout),
            nn.Conv1d(hidden, hidden, 1), nn.ReLU(), nn.Dropout(dropout),
            nn.Conv1d(hidden, hidden, 1),
        )  # fmt: skip
        self.out = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, labels))

    def forward(self, layers: tuple[Tensor, ...], frames: Tensor) -> Tensor:
        """Return logits, [B, C], for hidden states [B, T, d] of each layer.

        Args:
            layers: the hidden states.
            frames: [B] how many frames of each row are real, from its beginning on.
        """
        hidden = self.frames(self.sum(layers).transpose(1, 2))
        real = torch.arange(hidden.shape[-1], device=hidden.device) < frames[:, None]
        mean = (hidden * real[:, None]).sum(-1) / real.sum(-1, keepdim=True)
        logits: Tensor = self.out(mean)
        return logits


class LayersClassifier(nn.Module):
    """A speech model, or the encoder of one, under the classifier of PEFT-SER.

    Args:
        network: the model.
        labels: number of labels.
        hidden: width of the classifier.
        dropout: dropout of the classifier.
        embedded: sum the input of the first layer too, as the release does with its
            ``use_conv_output``.
    """

    def __init__(
        self, network: nn.Module, labels: int, hidden: int, dropout: float, *, embedded: bool
    ):
        super().__init__()
        config: Any = network.config
        self.network = network
        self.first = 0 if embedded else 1
        layers = config.num_hidden_layers + embedded
        self.head = LayersHead(layers, config.hidden_size, labels, hidden, dropout)

    def forward(self, frames: Tensor, **inputs: Tensor) -> Tensor:
        """Return logits, [B, C].

        Args:
            frames: [B] how many frames of each row are real.
            inputs: arguments of the model.
        """
        found = self.network(**inputs, output_hidden_states=True)
        logits: Tensor = self.head(tuple(found.hidden_states[self.first :]), frames)
        return logits
