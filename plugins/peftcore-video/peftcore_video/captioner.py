"""CLIP's two towers and a language model that writes of what they see."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

#: Files of a folder that :meth:`ClipCaptioner.write` wrote.
LANGUAGE, PROJECTION = "language_model", "projection.safetensors"


@dataclass
class Captioned(ModelOutput):
    """What a call returns.

    Attributes:
        logits: [B, T + L, V], behind each visual token and each token of the text.
        caption_loss: mean cross-entropy of the labels, where there are some.
        frames: [B, T, D], of length 1; zero where there is no frame.
        text_embeds: [B, D], of length 1, where texts for CLIP's text tower were given.
        scale: [], what cosines are multiplied with for a loss; CLIP's own, 100 at most.
    """

    logits: Tensor | None = None
    caption_loss: Tensor | None = None
    frames: Tensor | None = None
    text_embeds: Tensor | None = None
    scale: Tensor | None = None


class Configs:
    """The configurations of the parts; what is CLIP's is found here as it is in CLIP's own."""

    is_encoder_decoder = False

    def __init__(self, clip: Any, language: Any):
        self.clip = clip
        self.language = language
        self.vision_config = clip.vision_config
        self.text_config = clip.text_config


class ClipCaptioner(nn.Module):
    """Frames become visual tokens in front of a text: LM([P f_1, ..., P f_T, text]).

    f_t is CLIP's embedding of a frame, of length 1, and P a linear layer. A row without frames is a
    text alone. A reconstruction of what AGAdapter (Fang et al. 2023) feeds its language model with.

    Args:
        clip: the whole of CLIP.
        language_model: a decoder with its head.
    """

    def __init__(self, clip: Any, language_model: Any):
        super().__init__()
        self.clip = clip
        self.projection = nn.Linear(
            clip.config.projection_dim, language_model.config.hidden_size, dtype=clip.dtype
        )
        self.language_model = language_model
        self.config = Configs(clip.config, language_model.config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor,
        seen: Tensor | None = None,
        labels: Tensor | None = None,
        text_ids: Tensor | None = None,
        text_mask: Tensor | None = None,
    ) -> Captioned:
        """Return the logits of the language model, and the embeddings of CLIP.

        Args:
            input_ids: [B, L], of the language model.
            attention_mask: [B, L].
            pixel_values: [B, T, 3, S, S].
            seen: [B, T] which frames are there; all, if not given.
            labels: [B, L], -100 where nothing is predicted.
            text_ids: [B, M], of CLIP's text tower.
            text_mask: [B, M].
        """
        frames = self.embedded(pixel_values, seen)
        embeds, mask = self._prompted(input_ids, attention_mask, frames, seen)
        if labels is not None:
            labels = torch.cat([labels.new_full(frames.shape[:2], -100), labels], 1)
        out = self.language_model(inputs_embeds=embeds, attention_mask=mask, labels=labels)
        found = Captioned(out.logits, out.loss if labels is not None else None, frames)
        if text_ids is not None:
            texts = self.clip.get_text_features(text_ids, attention_mask=text_mask).pooler_output
            found["text_embeds"] = nn.functional.normalize(texts.float(), dim=-1)
            found["scale"] = self.clip.logit_scale.exp().clamp(max=100)
        return found

    def embedded(self, pixel_values: Tensor, seen: Tensor | None) -> Tensor:
        """Return CLIP's embeddings of frames, [B, T, D] of length 1; zero where there is none."""
        if seen is None:
            seen = torch.ones(pixel_values.shape[:2], dtype=torch.bool, device=pixel_values.device)
        frames = pixel_values.new_zeros(*seen.shape, self.clip.config.projection_dim)
        if not seen.any():
            return frames
        found = self.clip.get_image_features(pixel_values[seen]).pooler_output
        return frames.masked_scatter(
            seen[..., None], nn.functional.normalize(found.float(), dim=-1)
        )

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor | None = None,
        seen: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """Return the texts, with what the language model writes behind frames and them.

        Args:
            input_ids: [B, L], padded on the left.
            attention_mask: [B, L].
            pixel_values: [B, T, 3, S, S]; without it, texts alone are gone on with.
            seen: [B, T] which frames are there; all, if not given.
            options: of the language model's own ``generate``.
        """
        if pixel_values is None:
            embeds, mask = self.language_model.get_input_embeddings()(input_ids), attention_mask
        else:
            frames = self.embedded(pixel_values, seen)
            embeds, mask = self._prompted(input_ids, attention_mask, frames, seen)
        out = self.language_model.generate(inputs_embeds=embeds, attention_mask=mask, **options)
        # of embeddings it returns what is new alone
        return torch.cat([input_ids, out], 1) if isinstance(out, Tensor) else out

    def _prompted(
        self, input_ids: Tensor, attention_mask: Tensor, frames: Tensor, seen: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the embeddings of visual tokens and texts, and which of them are there."""
        words = self.language_model.get_input_embeddings()(input_ids)
        visual = self.projection(frames.to(self.projection.weight.dtype)).to(words.dtype)
        there = attention_mask.new_ones(frames.shape[:2]) if seen is None else seen
        mask = torch.cat([there.to(attention_mask.dtype), attention_mask], 1)
        return torch.cat([visual, words], 1), mask

    def write(self, folder: str | Path) -> None:
        """Write CLIP, the language model in a folder inside, and the projection."""
        from safetensors.torch import save_file

        self.clip.save_pretrained(folder)
        self.language_model.save_pretrained(Path(folder) / LANGUAGE)
        save_file(
            {name: p.detach().cpu().contiguous() for name, p in self.projection.named_parameters()},
            Path(folder) / PROJECTION,
        )
