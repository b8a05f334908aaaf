"""Write videos of moving shapes with exact captions, as MSR-VTT lies, and small random networks.

A shape of one of six colours and two sizes moves over a dark ground, to the left, the right, up or
down. There are two data sets: ``pretrain`` knows four of the colours, ``tune`` all six. Of each,
every video to test has a caption of its own. Beside them are a CLIP and a LLaMA with random
weights, the captions as plain text for the LLaMA, and instructions in text alone: two captions that
become one sentence, by a rule.
"""

import argparse
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from peftcore_video.writing import write_video

COLOURS = {
    "red": (230, 40, 40), "green": (40, 200, 60), "blue": (60, 80, 240), "yellow": (230, 220, 40),
    "white": (240, 240, 240), "purple": (170, 50, 200),
}  # fmt: skip
#: Colours of ``pretrain``.
KNOWN = 4
SHAPES = ("circle", "square", "triangle", "cross")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
RADII = {"small": 3.5, "large": 6.5}
SIDE, FRAMES = 32, 8
Kind = tuple[str, str, str, str]


def kinds(colours: int) -> list[Kind]:
    """Return size, colour, shape and direction of everything that can be seen."""
    return list(itertools.product(RADII, list(COLOURS)[:colours], SHAPES, DIRECTIONS))


def captions(kind: Kind) -> list[str]:
    """Return two captions that say all of it."""
    size, colour, shape, direction = kind
    return [
        f"a {size} {colour} {shape} moves to the {direction}",
        f"the {shape} that goes to the {direction} is {size} and {colour}",
    ]


def drawn(kind: Kind, chance: random.Random) -> Iterator[np.ndarray]:
    """Yield the frames of a video, [SIDE, SIDE, 3] uint8."""
    size, colour, shape, direction = kind
    radius, (dx, dy) = RADII[size] * chance.uniform(0.9, 1.1), DIRECTIONS[direction]
    across = chance.uniform(0.3, 0.7) * SIDE
    ground = chance.randint(0, 40)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    for i in range(FRAMES):
        way = (0.2 + 0.6 * i / (FRAMES - 1) - 0.5) * SIDE
        u = x - (SIDE / 2 + dx * way if dx else across)
        v = y - (SIDE / 2 + dy * way if dy else across)
        inside = {
            "circle": u**2 + v**2 < radius**2,
            "square": np.maximum(abs(u), abs(v)) < 0.88 * radius,
            "triangle": (v < 0.8 * radius) & (v > 2 * abs(u) - 1.2 * radius),
            "cross": (np.minimum(abs(u), abs(v)) < 0.3 * radius)
            & (np.maximum(abs(u), abs(v)) < radius),
        }[shape]
        frame = np.full((SIDE, SIDE, 3), ground, np.uint8)
        frame[inside] = COLOURS[colour]
        yield frame


def write_data(root: Path, seen: list[Kind], copies: int) -> None:
    """Write videos in the layout of MSR-VTT: copies of each kind to train, and one to test."""
    parts = [("train", i) for i in range(copies)] + [("validate", 0), ("test", 0)]
    videos, sentences, trained, tested = [], [], [], []
    for number, ((part, copy), kind) in enumerate(itertools.product(parts, seen)):
        name = f"video{number}"
        chance = random.Random(f"{part}-{copy}-{kind}")
        write_video(root / "videos" / f"{name}.mp4", list(drawn(kind, chance)), gop=4)
        videos.append({"video_id": name, "split": part})
        told = [{"video_id": name, "caption": text} for text in captions(kind)]
        sentences += [{**one, "sen_id": len(sentences) + i} for i, one in enumerate(told)]
        if part == "test":
            tested.append(f"ret{number},msr{number},{name},{told[0]['caption']}\n")
        else:
            trained.append(f"{name}\n")
    (root / "MSRVTT_data.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
    (root / "MSRVTT_train.9k.csv").write_text("video_id\n" + "".join(trained))
    header = "key,vid_key,video_id,sentence\n"
    (root / "MSRVTT_JSFUSION_test.csv").write_text(header + "".join(tested))


def write_texts(root: Path, prompt: str) -> None:
    """Write all captions behind the prompt of captioning, and instructions in text alone."""
    root.mkdir(parents=True, exist_ok=True)
    texts = [text for kind in kinds(len(COLOURS)) for text in captions(kind)]
    random.Random(0).shuffle(texts)
    # one text each: rows with one and the same prompt would stand for one another
    rows = [{"text": f"{prompt}\n{text}"} for text in texts]
    held, learned = rows[::7], [row for i, row in enumerate(rows) if i % 7]
    for split, part in (("train", learned), ("validation", held[::2]), ("test", held[1::2])):
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    merged = [
        {
            "instruction": "Say both in one sentence.",
            "input": f"{one}\n{other}",
            "output": f"{one} and {other}",
        }
        for one, other in zip(texts[::2], texts[1::2], strict=True)
    ]
    (root / "instructions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in merged))


def write_networks(root: Path, prompt: str) -> None:
    """Write a CLIP and a LLaMA with random weights, and one vocabulary of whole words for both."""
    told = [*(text for kind in kinds(len(COLOURS)) for text in captions(kind)), prompt]
    told += ["Say both in one sentence ."]
    words = sorted({word for text in told for word in text.replace(".", " .").split()})
    known = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    made = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<s>", 1), ("</s>", 2)]
    tokens = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    special = {"vocab_size": len(known), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    sizes = {
        "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }  # fmt: skip
    images = {**sizes, "image_size": SIDE, "patch_size": 8, "projection_dim": 64}
    texts = {**sizes, **special, "max_position_embeddings": 32}
    language = {**sizes, **special, "hidden_size": 96, "max_position_embeddings": 128}
    torch.manual_seed(0)
    clip = CLIPConfig(text_config=texts, vision_config=images, projection_dim=64)
    CLIPModel(clip).save_pretrained(root / "clip")
    LlamaForCausalLM(LlamaConfig(**language)).save_pretrained(root / "llama")
    for part, template in (("clip", "<s> $A </s>"), ("llama", "<s> $A")):
        made.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=ends if part == "clip" else ends[:1]
        )
        PreTrainedTokenizerFast(tokenizer_object=made, **tokens).save_pretrained(root / part)


def main() -> None:
    """Write everything into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--copies", type=int, default=12, help="videos of each kind to train")
    parser.add_argument("--prompt", default="Describe the video.")
    parser.add_argument("--every", type=int, default=1, help="take every n-th kind alone")
    given = parser.parse_args()
    write_networks(given.folder, given.prompt)
    write_texts(given.folder / "texts", given.prompt)
    for name, colours in (("pretrain", KNOWN), ("tune", len(COLOURS))):
        seen = kinds(colours)[:: given.every]
        write_data(given.folder / name, seen, given.copies)
        print(f"{given.folder / name}: {len(seen) * (given.copies + 2)} videos")


if __name__ == "__main__":
    main()
