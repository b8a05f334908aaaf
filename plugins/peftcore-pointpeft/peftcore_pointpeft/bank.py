"""The memory bank: features of all training clouds by the pre-trained encoder."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from peftcore import ConfigError, base_modules, disabled

#: Name of the tensor in a bank's file.
FEATURES = "features"
#: Under what name its file tells of it.
_TOLD = "point-bank"
#: Parameters of an encoder that features depend on; the class token and the head are none.
_ENCODER = ("encoder.", "reduce_dim.", "pos_embed.", "blocks.", "norm.")


class Memory(nn.Module):
    """Asks the bank about a cloud: [f; Σ wᵢ bᵢ; b₁ ... b_K], of the K = T - 2 nearest features.

    f is the feature of the cloud by the base's own encoder, without any adapter; w is the softmax
    of the cosines (Tang et al. 2024, section 3.2).

    Args:
        model: the tuned model, which ``disabled`` takes.
        network: the network in it, which has ``pooled_tokens``.
        features: [N, d], each of length 1.
        tokens: T.
    """

    def __init__(self, model: nn.Module, network: nn.Module, features: Tensor, tokens: int):
        super().__init__()
        self.model, self.network = (model,), (network,)  # no parts of this
        self.nearest = tokens - 2
        self.register_buffer(FEATURES, features)

    @torch.no_grad()
    def forward(self, points: Tensor) -> Tensor:
        """Return what the bank knows of clouds [B, N, 3], as [B, T, d]."""
        with disabled(self.model[0]):
            asked = feature_of(self.network[0], points)
        features: Tensor = self.get_buffer(FEATURES)
        cosines = torch.nn.functional.normalize(asked.float(), dim=-1) @ features.float().T
        best, index = cosines.topk(self.nearest)
        found = features[index].float()  # [B, K, d]
        mixed = best.softmax(-1)[:, None] @ found
        return torch.cat([asked.float()[:, None], mixed, found], 1)


@torch.no_grad()
def feature_of(network: Any, points: Tensor) -> Tensor:
    """Return the maximum over the tokens of the encoder in evaluation, [B, d], of [B, N, 3]."""
    with _evaluating(network):
        found: Tensor = network.pooled_tokens(points)
        return found


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = [module for _, module, _ in base_modules(network) if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of tensors by their names, types, shapes and values."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def encoder_digest(network: nn.Module) -> str:
    """Return the digest of what features depend on, running statistics included."""
    held = {
        f"{path}.{leaf}": tensor
        for path, module, _ in base_modules(network)
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None and tensor.dim() and f"{path}.{leaf}".startswith(_ENCODER)
    }
    return digest_of(held)


def write_bank(path: Path, features: Iterable[Tensor], encoder: str, source: str) -> int:
    """Write the bank and return of how many clouds it is.

    Args:
        path: the file.
        features: [B, d] each.
        encoder: digest of what made them.
        source: where the clouds are from.

    Raises:
        ConfigError: there are none, or some are no numbers.
    """
    from safetensors.torch import save_file

    rows = [part.cpu().float() for part in features]
    whole = torch.cat(rows) if rows else torch.zeros(0, 0)
    if not len(whole) or not bool(torch.isfinite(whole).all()):
        raise ConfigError(f"{source}: the encoder gives no features, or some that are no numbers.")
    kept = {FEATURES: torch.nn.functional.normalize(whole, dim=-1).contiguous()}
    told = {"digest": digest_of(kept), "encoder": encoder, "source": source}
    part = path.with_name(f"{path.name}.part")
    # under one name, since the order of several would be another one in each file
    save_file(kept, part, metadata={_TOLD: json.dumps(told)})
    part.replace(path)
    return len(whole)


def read_bank(path: str) -> tuple[Tensor, str]:
    """Return the features of a bank, [N, d], and the digest of the encoder that made them.

    Raises:
        ConfigError: it is missing or was changed.
    """
    from safetensors import safe_open

    make = "Make it with: peftcore point-bank RECIPE --output FILE"
    if not Path(path).is_file():
        raise ConfigError(f"bank: {path}: no such file. {make}")
    try:
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {}).get(_TOLD, "{}"))
            features = file.get_tensor(FEATURES)
    except Exception as error:
        raise ConfigError(f"bank: {path} is no memory bank: {error}. {make}") from error
    if told.get("digest") != digest_of({FEATURES: features}):
        raise ConfigError(f"bank: {path}: its digest is that of other features. {make}")
    return features, told.get("encoder", "")
