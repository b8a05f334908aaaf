"""Integrated gradients over tokens, of the tuned model, of the base, and of their difference.

Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365, by captum. They are linear in what is
explained, so that those of tuned minus base are the difference of both.
"""

from contextlib import nullcontext
from typing import Any

import torch
from captum.attr import LayerIntegratedGradients
from torch import Tensor

from peftcore import ConfigError
from peftcore_interpret.opened import Opened, Subject, logits_of
from peftcore_interpret.switching import base_under_head

#: How far the sum may be from the difference of outputs, and steps of the integral.
COMPLETE, STEPS, MOST = 1e-3, 32, 1024
_BATCH = 32


def integrated_gradients(run: Opened, one: Subject) -> dict[str, Any]:
    """Return what each token adds to an output, for the tuned model and the base.

    Steps are doubled until what all tokens add is the difference of the outputs to within 1e-3.

    Returns:
        ``tuned``, ``base`` and ``difference`` with the numbers of the tokens; of the first two
        ``steps`` and ``error``, how far their sum is off.
    """
    found: dict[str, Any] = {}
    for name in ("tuned", "base"):
        context = base_under_head(run.model, run.adapter) if name == "base" else nullcontext()
        with context:
            found[name] = _attributed(run, one)
    pairs = zip(found["tuned"]["tokens"], found["base"]["tokens"], strict=True)
    found["difference"] = {"tokens": [tuned - base for tuned, base in pairs]}
    return found


def baseline(run: Opened, one: Subject) -> Tensor:
    """Return the tokens that stand for nothing: the mask or the padding, special tokens kept."""
    tokenizer: Any = run.loaded.tokenizer
    nothing = tokenizer.pad_token_id
    if nothing is None:
        raise ConfigError(
            f"{run.place}: the tokenizer has no padding token, which stands for nothing in"
            " integrated gradients. Set one, tokenizer.pad_token = tokenizer.eos_token, and save it"
            " beside the weights."
        )
    ids: Tensor = one.inputs["input_ids"]
    special = torch.tensor([one.special])
    return torch.where(special, ids, torch.full_like(ids, nothing))


def _attributed(run: Opened, one: Subject) -> dict[str, Any]:
    names = list(one.inputs)
    names.remove("input_ids")

    def output(ids: Tensor, *others: Tensor) -> Tensor:
        inputs = {"input_ids": ids, **dict(zip(names, others, strict=True))}
        return one.output.of(logits_of(run.model, inputs))

    explained = LayerIntegratedGradients(output, run.model.get_input_embeddings())
    ids, nothing = one.inputs["input_ids"], baseline(run, one)
    others = tuple(one.inputs[name] for name in names)
    with torch.no_grad():
        change = float(output(ids, *others) - output(nothing, *others))
    steps = STEPS
    while True:
        found = explained.attribute(
            ids, nothing, additional_forward_args=others, n_steps=steps, internal_batch_size=_BATCH
        )
        tokens = found.detach().double().sum(-1)[0]
        error = abs(float(tokens.sum()) - change)
        if error < COMPLETE or steps >= MOST:
            return {"tokens": tokens.tolist(), "change": change, "error": error, "steps": steps}
        steps *= 2
