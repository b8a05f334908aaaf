"""What a checkpoint says of itself: one validated model, under one digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from peftcore.errors import CheckpointError
from peftcore.schema import Strict, problems
from peftcore.store.fingerprint import Fingerprint

FORMAT = 2


class MethodRecord(Strict):
    """One method of an adapter, and the plugin that computes it."""

    method: str
    config: dict[str, Any]
    distribution: str
    version: str


class BackboneRecord(Strict):
    """The base that an adapter was trained on."""

    name: str
    model: str
    fingerprint: Fingerprint


class Description(Strict):
    """All that a checkpoint says besides its tensors.

    Attributes:
        format: version of this format.
        peftcore: version of the core that wrote it.
        hooks: version of the hook interface.
        methods: the methods, in order.
        modules_to_save, save_frozen: as they were given.
        backbone: the base.
        trainable: number of trained parameters of the methods.
        digests: by tensor, the digest of its values, dtype and shape.
        extra: what whoever saved it added.
    """

    format: int
    peftcore: str
    hooks: str
    methods: list[MethodRecord]
    modules_to_save: list[str]
    save_frozen: list[str]
    backbone: BackboneRecord
    trainable: int
    digests: dict[str, str]
    extra: dict[str, Any] = {}

    def signed(self) -> str:
        """Return the description as JSON, with a digest over all of it."""
        data = self.model_dump(mode="json")
        return json.dumps({**data, "digest": _digest_of(data)}, indent=1)


def parsed(text: str, where: object) -> Description:
    """Return a description from its JSON.

    Args:
        text: the JSON.
        where: the file, for the sentence.

    Raises:
        CheckpointError: it is damaged, was changed, or is of another format.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the description inside {where} is damaged: {error}.") from error
    if not isinstance(data, dict) or "format" not in data:
        raise CheckpointError(f"the description inside {where} is damaged: it is none of peftcore.")
    if data["format"] != FORMAT:
        raise CheckpointError(
            f"{where} has format {data['format']!r}, this peftcore reads {FORMAT}."
            " Install the peftcore that wrote it, or a newer one."
        )
    signature = data.pop("digest", None)
    if signature != _digest_of(data):
        raise CheckpointError(
            f"the description inside {where} was changed after it was saved. Use another copy."
        )
    try:
        return Description.model_validate(data)
    except ValidationError as error:
        found = [m for _, m in problems(error, Description, "", "a description")]
        raise CheckpointError(f"the description inside {where} is damaged: {found[0]}") from error


def _digest_of(data: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(data, sort_keys=True)
    except (ValueError, RecursionError):
        return ""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def digest(tensor: Tensor) -> str:
    """Return a digest of a tensor's values, dtype and shape."""
    whole = tensor.detach().cpu().contiguous()
    found = hashlib.sha256(f"{whole.dtype}{tuple(whole.shape)}".encode())
    if whole.numel():
        raw: Any = whole.reshape(-1).view(torch.uint8).numpy()
        found.update(raw)
    return found.hexdigest()[:16]
