"""Small speech models and recordings on disk that several tests share, and recipes in small."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from peftcore import backbone_named
from peftcore.testing import run_in_process
from peftcore_train.schema import jobs_of, read_recipe

EXAMPLES = Path(__file__).parents[3] / "examples"
SMOKE = {"max_steps": 2, "epochs": 1, "batch_size": 4, "device": "cpu", "warmup_ratio": 0.0}

#: Samples a second that these models hear.
RATE = 2000


@pytest.fixture(scope="session")
def wav2vec2(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wav2vec2")
    torch.manual_seed(0)
    small = {**backbone_named("wav2vec2").small, "num_labels": 2}
    # frames of a model whose norms are over groups depend on the padding
    config = Wav2Vec2Config(**small, feat_extract_norm="layer", do_stable_layer_norm=True)
    Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=True)
    extractor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def whisper(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whisper")
    torch.manual_seed(0)
    extractor = WhisperFeatureExtractor(feature_size=8, hop_length=1600, chunk_length=1)
    extractor.save_pretrained(folder)
    small = {**backbone_named("whisper").small, "max_source_positions": 5, "num_labels": 2}
    WhisperForAudioClassification(WhisperConfig(**small)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def listener(tmp_path_factory) -> Path:
    """Return a small Whisper of English that writes, with a token for each byte."""
    folder = tmp_path_factory.mktemp("listener")
    names = ("endoftext", "startoftranscript", "en", "transcribe", "notimestamps")
    special = {f"<|{name}|>": 256 + i for i, name in enumerate(names)}
    letters = {letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}
    WhisperTokenizer(vocab={**letters, **special}, merges=[]).save_pretrained(folder)
    extractor = WhisperFeatureExtractor(feature_size=8, hop_length=1600, chunk_length=30)
    extractor.save_pretrained(folder)
    end = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 256)
    small = {**backbone_named("whisper").small, "vocab_size": 261, "max_source_positions": 150}
    torch.manual_seed(0)
    config = WhisperConfig(**{**small, **end, "decoder_start_token_id": 257})
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    return folder


def tone(hertz: float, seconds: float, rate: int = RATE) -> np.ndarray:
    """Return samples of a tone."""
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


@pytest.fixture(scope="session")
def tones(tmp_path_factory) -> list[Path]:
    """Return files with tones of two heights by turns, of unequal lengths, with a little noise."""
    folder = tmp_path_factory.mktemp("tones")
    paths = [folder / f"{i}.{('wav', 'flac')[i // 4]}" for i in range(8)]
    for i, path in enumerate(paths):
        sound = tone((60, 600)[i % 2], 0.12 + 0.01 * i)
        soundfile.write(path, sound + np.random.default_rng(i).normal(0, 0.05, len(sound)), RATE)
    return paths


@pytest.fixture
def smoke(tmp_path) -> Callable[..., dict[str, Any]]:
    """Return what trains a recipe of examples/, or one arm of it, in a small size."""

    def trained(recipe: str, arm: str = "", **sections: Any) -> dict[str, Any]:
        content = yaml.safe_load((EXAMPLES / recipe).read_text())
        if arm:
            assert len(jobs_of(read_recipe(EXAMPLES / recipe))) == 5
            chosen = content.pop("compare")[arm]
            del content["seeds"]
            content["methods"] = chosen if isinstance(chosen, list) else chosen["methods"]
        content["output"] = str(tmp_path / "runs")
        for name, section in {"train": SMOKE, **sections}.items():
            content[name] = {**content[name], **section}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
        done = run_in_process("train", tmp_path / "recipe.yaml", "-q", "--json")
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        assert found["reloaded_equal"] and found["steps"] == 2
        return found

    return trained
