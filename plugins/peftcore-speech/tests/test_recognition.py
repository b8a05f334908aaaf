"""Speech recognition: the contract of tasks, Whisper's prompt, error rates, normalisation."""

from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import jiwer
import numpy as np
import pytest
import soundfile
import torch

from peftcore import ConfigError, DataError, backbone_named
from peftcore_speech.error_rates import CharacterErrorRate, WordErrorRate, errors_of
from peftcore_speech.normalisation import normaliser
from peftcore_speech.recognition import SpeechRecognition, SpeechRecognitionConfig, prompt_of
from peftcore_train.data import Row
from peftcore_train.logits import IGNORED
from peftcore_train.task import Batch
from peftcore_train.testing import TaskContract

RATE = 16000
_FOLDER = TemporaryDirectory()
TEXTS = ("lo", "a high one")


def said(count: int) -> list[dict]:
    """Write tones of two heights and unequal lengths, and return rows with what they say."""
    rows = []
    for i in range(count):
        path = Path(_FOLDER.name, f"{i}.wav")
        sound = 0.5 * np.sin(2 * np.pi * (60, 600)[i % 2] * np.arange(1600 + 160 * i) / RATE)
        soundfile.write(path, sound + np.random.default_rng(i).normal(0, 0.05, len(sound)), RATE)
        rows.append({"audio": str(path), "text": TEXTS[i % 2]})
    return rows


class TestSpeechRecognition(TaskContract):
    task = "speech-recognition"
    config = {"min_seconds": 0.05, "window_seconds": 1, "max_new_tokens": 12}
    answers = ("text",)
    epochs = 2
    learning_rate = 1e-2

    @property
    def rows(self):
        rows = said(6)
        return {"train": rows, "validation": rows[:3], "test": rows[3:]}

    def terms(self, batch: Batch, rows: int) -> float:
        return len(batch["targets"])

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, listener: Path) -> Path:
        return listener


def test_the_decoder_reads_the_prompt_and_learns_the_text_and_its_end(listener: Path) -> None:
    loaded = backbone_named("whisper").load(str(listener), head="speech-seq2seq")
    task = SpeechRecognition(SpeechRecognitionConfig(min_seconds=0.05, window_seconds=2))
    (row,) = (Row(one, "x:1") for one in said(1))
    features = task.encode(row, loaded)
    letters = loaded.tokenizer(" lo", add_special_tokens=False)["input_ids"]
    assert features["decoder_input_ids"] == [257, 260, *letters]
    assert features["labels"] == [IGNORED, *letters, 256]
    model = task.build(loaded)
    assert model.config.max_source_positions == 10  # of 150 in 30 seconds
    batch = task.collate([features])
    assert batch["input_features"].shape == (1, 8, 20)
    with torch.no_grad():
        logits = model(batch["input_features"], decoder_input_ids=batch["decoder_input_ids"]).logits
    expected = torch.nn.functional.cross_entropy(logits[0], torch.tensor(features["labels"]))
    torch.testing.assert_close(task.loss(model, batch), expected)
    long = Row({**row.values, "text": "x" * 40}, "x:2")
    with pytest.raises(
        DataError, match=r"x:2: 43 tokens with the prompt, but the decoder takes 24"
    ):
        task.encode(long, loaded)
    whole = SpeechRecognition(SpeechRecognitionConfig(max_seconds=60))
    soundfile.write(path := Path(_FOLDER.name, "long.wav"), np.ones(31 * RATE), RATE)
    with pytest.raises(DataError, match=r"x:3: 31\.0 seconds, more than the 30 that .* hears"):
        whole.encode(Row({**row.values, "audio": str(path)}, "x:3"), loaded)
    with pytest.raises(DataError, match=r"x:2: nothing is left of the text '\(!\)' by"):
        task.encode(Row({**row.values, "text": "(!)"}, "x:2"), loaded)


def test_a_prompt_names_the_language_where_there_are_several() -> None:
    names = ("startoftranscript", "zh", "transcribe", "translate", "notimestamps")
    tokenizer = SimpleNamespace(get_vocab=lambda: {f"<|{n}|>": i for i, n in enumerate(names)})
    several, english = (SimpleNamespace(vocab_size=size) for size in (51_865, 51_864))

    def prompt(model: SimpleNamespace, **task: str) -> list[int]:
        config = SpeechRecognitionConfig.model_validate(task)
        return prompt_of(config, tokenizer, model, "some-whisper")

    assert prompt(several, language="zh") == [0, 1, 2, 4]
    assert prompt(several, language="zh", action="translate") == [0, 1, 3, 4]
    assert prompt(english) == prompt(english, language="en") == [0, 4]
    with pytest.raises(ConfigError, match=r"task\.language: some-whisper knows several languages"):
        prompt(several)
    with pytest.raises(ConfigError, match=r"task\.language: some-whisper knows English alone"):
        prompt(english, language="zh")
    with pytest.raises(ConfigError, match=r"its tokenizer has no <\|xx\|>"):
        prompt(several, language="xx")


def test_error_rates_are_those_of_jiwer() -> None:
    references = ["seven up", "two four nine", "你好吗", "a b"]
    transcripts = ["seven", "too four nine nine", "你好", ""]
    found = [errors_of(*pair) for pair in zip(references, transcripts, strict=True)]
    word, letter = WordErrorRate(), CharacterErrorRate()
    for part in (found[:1], found[1:]):
        columns = torch.tensor(part).T
        word.update(columns[0], columns[1])
        letter.update(columns[2], columns[3])
    assert float(word.compute()) == pytest.approx(jiwer.wer(references, transcripts), abs=1e-12)
    assert float(letter.compute()) == pytest.approx(jiwer.cer(references, transcripts), abs=1e-12)


def test_texts_are_normalised_by_name() -> None:
    text = " It's seven,  [noise] Colour! "
    assert normaliser("none", None)(text) == "It's seven, [noise] Colour!"
    assert normaliser("basic", None)(text) == "it s seven colour"
    spelling = SimpleNamespace(english_spelling_normalizer={"colour": "color"})
    assert normaliser("english", spelling)(text) == "it is 7 color"
