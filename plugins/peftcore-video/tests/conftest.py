"""Small videos, a small CLIP with a vocabulary of its own, and the layouts of releases."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from peftcore_video.captioner import ClipCaptioner
from peftcore_video.writing import write_video

WORDS = ["a", "red", "green", "blue", "white", "box", "on", "the", "left", "right", "very", "small"]
SIZES = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255,) * 3}


def coloured(colour: str, left: bool, count: int = 4) -> list[np.ndarray]:
    """Return frames with a box of a colour on one side."""
    frame = np.zeros((16, 16, 3), np.uint8)
    frame[4:12, slice(0, 8) if left else slice(8, 16)] = COLOURS[colour]
    return [frame] * count


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Return eight rows of a video and its caption."""
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for colour in COLOURS:
        for side in ("left", "right"):
            path = write_video(folder / f"{colour}-{side}.mp4", coloured(colour, side == "left"))
            small = "a very small" if side == "left" else "a"
            rows.append({"video": str(path), "caption": f"{small} {colour} box on the {side}"})
    return rows


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of words."""
    known = {w: i for i, w in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    made = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def clip_config() -> CLIPConfig:
    """Return the configuration of a small CLIP."""
    text = {**SIZES, "vocab_size": len(WORDS) + 4, "max_position_embeddings": 12}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return CLIPConfig(
        text_config={**text, **special},
        vision_config={**SIZES, "image_size": 16, "patch_size": 8, "projection_dim": 8},
        projection_dim=8,
    )


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small CLIP with random weights."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    CLIPModel(clip_config()).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def captioner(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small CLIP with a small LLaMA, with random weights."""
    folder = tmp_path_factory.mktemp("captioner")
    torch.manual_seed(0)
    sizes = {**SIZES, "vocab_size": len(WORDS) + 4, "max_position_embeddings": 64}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    language = LlamaForCausalLM(LlamaConfig(**sizes, **special))
    ClipCaptioner(CLIPModel.from_pretrained(clip), language).write(folder)
    for place in (folder, folder / "language_model"):
        tokenizer().save_pretrained(place)
    return folder
