"""Small speech models on disk that several tests share."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
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
