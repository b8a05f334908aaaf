"""Encoders of raw audio: where their layers are, named sizes, a small member each."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from peftcore import Context, device_of
from peftcore_transformers.backbone import TransformersBackbone

Count = TypeVar("Count", int, Tensor)

_BLOCK = "**.encoder.layers.*"
_CONV_POSITION = "**.encoder.pos_conv_embed.conv"

_SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16, 16],
    "conv_kernel": [10, 3],
    "conv_stride": [5, 2],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 16,
    "vocab_size": 12,
    "num_labels": 3,
    # a row shorter than its labels has no finite loss
    "ctc_zero_infinity": True,
    **dict.fromkeys(
        (
            "activation_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout",
            "hidden_dropout", "layerdrop", "mask_time_prob",
        ),
        0.0,
    ),
}  # fmt: skip


def frames_of(config: Any, samples: Count) -> Count:
    """Return the number of frames that a model's convolutions make of a number of samples."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples


class Wav2Vec2(TransformersBackbone):
    """wav2vec 2.0, Baevski et al. 2020; the other families here lay their modules out alike.

    The batch's mask is over samples, the one of the context over the frames that blocks see.
    """

    model_types = ("wav2vec2",)
    heads = ("ctc", "audio-classification")
    positional = ("input_values", "attention_mask")
    roles = {
        "conv": "**.feature_extractor.conv_layers.*.conv",
        "x-feature-projection": "**.feature_projection.projection",
        "embeddings.position": _CONV_POSITION,
        "block": _BLOCK,
        "attention": f"{_BLOCK}.attention",
        "attention.query": f"{_BLOCK}.attention.q_proj",
        "attention.key": f"{_BLOCK}.attention.k_proj",
        "attention.value": f"{_BLOCK}.attention.v_proj",
        "attention.output": f"{_BLOCK}.attention.out_proj",
        "mlp": f"{_BLOCK}.feed_forward",
        "mlp.up": f"{_BLOCK}.feed_forward.intermediate_dense",
        "mlp.down": f"{_BLOCK}.feed_forward.output_dense",
        "norm": (
            "**.feature_extractor.conv_layers.*.layer_norm",
            "**.feature_projection.layer_norm",
            "**.encoder.layer_norm",
            f"{_BLOCK}.{{layer_norm,final_layer_norm}}",
        ),
    }
    small = _SMALL
    configs = {"wav2vec2-base": {}}

    def _make(self, sizes: Mapping[str, Any], head: str, options: Mapping[str, Any]) -> nn.Module:
        # one parameter is made on the CPU, whatever the default device is
        return super()._make(sizes, head, options).to(torch.get_default_device())

    def context(
        self, entry: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Context:
        """Say which frames are real; without a mask over samples all of them are."""
        call = {**dict(zip(self.positional, args, strict=False)), **kwargs}
        samples, audio = call.get("attention_mask"), call.get("input_values")
        if audio is None or audio.dim() != 2:  # a part of a model, called by itself
            return Context()
        config = entry.config
        count = frames_of(config, audio.shape[-1])
        if samples is None:
            mask = audio.new_ones(len(audio), count, dtype=torch.bool)
        else:
            frame = torch.arange(count, device=samples.device)
            mask = frame < frames_of(config, samples.sum(-1))[:, None]
        return Context(mask, mask)

    def batch(self, model: nn.Module, rows: int = 2) -> dict[str, Any]:
        """Return random audio of unequal lengths, padded right; labels where there is a loss."""
        config: Any = model.get_submodule(self.entry(model)).config
        length = 240
        lengths = torch.tensor([length - 70 * (row % 3) for row in range(rows)])
        mask = torch.arange(length) < lengths[:, None]
        batch = {"input_values": torch.randn(rows, length) * mask, "attention_mask": mask.long()}
        name = type(model).__name__
        if name.endswith("ForCTC"):
            # 0 is the blank; short rows have fewer labels
            labels = torch.randint(1, config.vocab_size, (rows, 4))
            batch["labels"] = labels.masked_fill(torch.arange(4) > 1 + 2 * mask[:, -1:], -100)
        elif name.endswith("ForSequenceClassification"):
            batch["labels"] = torch.randint(0, config.num_labels, (rows,))
        return {name: value.to(device_of(model)) for name, value in batch.items()}


class Hubert(Wav2Vec2):
    """HuBERT, Hsu et al. 2021."""

    model_types = ("hubert",)
    configs = {"hubert-base": {}}


class WavLM(Wav2Vec2):
    """WavLM, Chen et al. 2022.

    Its attention hands the weights and biases of its four projections to a function of torch, so
    that only a change of a weight can act there. The first block owns the table of relative
    positions that all blocks use.
    """

    model_types = ("wavlm",)
    roles = {
        **Wav2Vec2.roles,
        "x-relative-position": f"{_BLOCK}.attention.rel_attn_embed",
        "x-position-gate": f"{_BLOCK}.attention.gru_rel_pos_linear",
    }
    direct_weights = (f"{_BLOCK}.attention.{{q,k,v,out}}_proj",)
    small = {**_SMALL, "num_buckets": 16, "max_bucket_distance": 20}
    configs = {"wavlm-base-plus": {}}
