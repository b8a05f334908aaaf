"""A soft prompt in front of what an encoder reads."""

from typing import Any

import torch
from torch import Tensor, nn


class Prompted(nn.Module):
    """An encoder with a decoder that reads P trained vectors before its tokens.

    Lester et al. 2021: the decoder attends to the encoder's states of the prompt too.

    Args:
        network: the model.
        count: P.
    """

    def __init__(self, network: Any, count: int):
        super().__init__()
        table: nn.Module = network.get_input_embeddings()
        self.network = network
        self.prompt = nn.Embedding(count, network.config.d_model)
        with torch.no_grad():
            ids = torch.randint(network.config.vocab_size, (count,), device=table.weight.device)
            self.prompt.weight.copy_(table(ids))

    @property
    def config(self) -> Any:
        """Configuration of the model."""
        return self.network.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Any) -> Any:
        """Run the model; states of the encoder are those of the prompt, then those of the tokens.

        Args:
            input_ids: [B, L].
            attention_mask: [B, L].
            inputs: further arguments of the model.
        """
        tokens = self.network.get_input_embeddings()(input_ids)
        rows, count = len(tokens), self.prompt.num_embeddings
        prompt = self.prompt.weight.to(tokens.dtype).expand(rows, -1, -1)
        mask = torch.cat([attention_mask.new_ones(rows, count), attention_mask], 1)
        return self.network(
            inputs_embeds=torch.cat([prompt, tokens], 1), attention_mask=mask, **inputs
        )
