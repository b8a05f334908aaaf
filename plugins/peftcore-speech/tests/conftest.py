"""Small speech models on disk that several tests share."""

from pathlib import Path

import pytest
import torch
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
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
