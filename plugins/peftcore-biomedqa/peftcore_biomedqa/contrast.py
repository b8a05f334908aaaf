"""InfoNCE over the templates of the questions of a batch."""

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(
    states: Tensor, labels: Tensor, temperature: float, *, same_label: bool = True
) -> Tensor:
    """Return the mean over all states that have a positive, a scalar.

    A state is compared with all others of the batch by cosine. Its positives are the same question
    under other templates, and with ``same_label`` all questions of its label; the loss is the mean
    of -log softmax over them (Khosla et al. 2020, eq. 2).

    Args:
        states: [B, P, d] of B questions under P templates.
        labels: [B].
        temperature: divides the cosines.
        same_label: let questions of one label be positives.
    """
    rows, templates, _ = states.shape
    flat = F.normalize(states.float().flatten(0, 1), dim=-1)
    item = torch.arange(rows, device=states.device).repeat_interleave(templates)
    kind = labels.repeat_interleave(templates) if same_label else item
    own = torch.eye(len(flat), dtype=torch.bool, device=states.device)
    positive = (kind[:, None] == kind[None]) & ~own
    logs = (flat @ flat.T / temperature).masked_fill(own, -torch.inf).log_softmax(-1)
    count = positive.sum(-1)
    each = -logs.masked_fill(~positive, 0).sum(-1) / count.clamp(min=1)
    return each.sum() / (count > 0).sum().clamp(min=1)
