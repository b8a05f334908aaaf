"""Whisper: where its layers are, named sizes, a small member."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from peftcore import device_of
from peftcore_transformers.encoder_decoder import EncoderDecoder

_BLOCK = "**.layers.*"


def _whisper(width: int, layers: int, **more: Any) -> Mapping[str, Any]:
    sides = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in {
            "layers": layers,
            "attention_heads": width // 64,
            "ffn_dim": 4 * width,
        }.items()
    }
    return {"d_model": width, **sides, **more}


class Whisper(EncoderDecoder):
    """Whisper, Radford et al. 2023.

    Layers of the encoder and of the decoder are both blocks, the encoder's first: of whisper-small
    0 to 11 are the encoder's and 12 to 23 the decoder's. Every frame is real. Where the labels of
    a row tell its language and task too, they are no part of the decoder's prompt in training.
    """

    model_types = ("whisper",)
    heads = ("speech-seq2seq", "audio-classification")
    default_head = "speech-seq2seq"
    roles = {
        "conv": "**.conv{1,2}",
        "embeddings": "**.embed_tokens",
        "embeddings.position": "**.embed_positions",
        "block": _BLOCK,
        "attention": f"{_BLOCK}.self_attn",
        "attention.query": f"{_BLOCK}.self_attn.q_proj",
        "attention.key": f"{_BLOCK}.self_attn.k_proj",
        "attention.value": f"{_BLOCK}.self_attn.v_proj",
        "attention.output": f"{_BLOCK}.self_attn.out_proj",
        "cross_attention": f"{_BLOCK}.encoder_attn",
        "cross_attention.query": f"{_BLOCK}.encoder_attn.q_proj",
        "cross_attention.key": f"{_BLOCK}.encoder_attn.k_proj",
        "cross_attention.value": f"{_BLOCK}.encoder_attn.v_proj",
        "cross_attention.output": f"{_BLOCK}.encoder_attn.out_proj",
        "mlp.up": f"{_BLOCK}.fc1",
        "mlp.down": f"{_BLOCK}.fc2",
        "norm": ("**.layer_norm", f"{_BLOCK}.*_layer_norm"),
    }
    # the decoder's table looks up positions that are none of its arguments
    direct_weights = ("**.decoder.embed_positions",)
    small = {
        **_whisper(32, 2, encoder_attention_heads=4, decoder_attention_heads=4),
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "vocab_size": 96,
        "num_mel_bins": 8,
        "max_source_positions": 12,
        "max_target_positions": 24,
        "classifier_proj_size": 16,
        "num_labels": 3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    }
    configs = {
        "whisper-tiny": _whisper(384, 4),
        "whisper-base": _whisper(512, 6),
        "whisper-small": _whisper(768, 12),
        "whisper-medium": _whisper(1024, 24),
        "whisper-large-v2": _whisper(1280, 32),
    }

    def batch(self, model: nn.Module, rows: int = 2) -> dict[str, Any]:
        """Return random log-mel frames, and texts of unequal lengths where there is a decoder."""
        config: Any = model.get_submodule(self.entry(model)).config
        frames = 2 * config.max_source_positions
        batch = {"input_features": torch.randn(rows, config.num_mel_bins, frames)}
        name = type(model).__name__
        if name.endswith("ForAudioClassification"):
            batch["labels"] = torch.randint(0, config.num_labels, (rows,))
        elif not name.endswith("Encoder"):
            length = 8
            lengths = torch.tensor([length - 3 * (row % 2) for row in range(rows)])
            mask = torch.arange(length) < lengths[:, None]
            ids = torch.randint(5, config.vocab_size, (rows, length))
            batch["decoder_input_ids"] = ids.masked_fill(~mask, config.pad_token_id)
            batch["decoder_attention_mask"] = mask.long()
            if name.endswith("ForConditionalGeneration"):
                labels = ids.roll(-1, 1).masked_fill(~mask.roll(-1, 1), -100)
                labels[:, -1] = -100
                batch["labels"] = labels
        return {name: value.to(device_of(model)) for name, value in batch.items()}

    def _network(self, model: nn.Module) -> str:
        """Return the path of the network; the encoder's, under a classifier."""
        entry = self.entry(model)
        if type(model.get_submodule(entry)).__name__ != "WhisperForAudioClassification":
            return super()._network(model)
        return f"{entry}.encoder" if entry else "encoder"

    def _surplus_block(self, model: nn.Module, unexpected: Sequence[str]) -> str:
        """Return a block of the checkpoint that its side of this model lacks."""
        sides = {p.rpartition(".")[2] for p, m in model.named_modules() if hasattr(m, "layers")}
        here = {path for path, _ in model.named_modules()}
        for name in sorted(unexpected):
            found = re.match(r"(?:model\.)?((encoder|decoder)\.layers\.\d+)\.", name)
            if found and found[2] in sides and not {found[1], f"model.{found[1]}"} & here:
                return found[1]
        return ""
