"""Speech recognition: the text that is said in a recording, by a model of Whisper's kind."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from peftcore import ConfigError, DataError, Loaded
from peftcore_speech.hearing import Hearing, RecordingConfig, narrow
from peftcore_speech.normalisation import Normalisation, normaliser
from peftcore_train.data import Columns, Row
from peftcore_train.generation import as_tensor, as_texts
from peftcore_train.logits import IGNORED, logits_at, targets_of, token_loss, token_scores
from peftcore_train.progress import going_over
from peftcore_train.task import Batch, Features, Task, inner
from peftcore_train.text import padded, tokenizer_of

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

#: Smallest vocabulary of a Whisper of several languages; that of English alone has one token less.
_MULTILINGUAL = 51_865
#: Languages whose texts Whisper was trained on without a blank in front, as they have none.
_UNSPACED = ("zh", "ja", "th", "lo", "my", "yue")
_RATES = {"wer": False, "cer": False}


class SpeechRecognitionConfig(RecordingConfig):
    """The ``task`` section of speech recognition."""

    text_column: str = Field("text", description="Column of what is said.")
    language: str | None = Field(
        None,
        description="Language of the recordings as Whisper codes it, such as `zh`; a model of"
        " several languages needs it, one of English alone takes none.",
    )
    action: Literal["transcribe", "translate"] = Field(
        "transcribe", description="Write what is said, or its translation into English."
    )
    normalisation: Normalisation = Field(
        "basic",
        description="How texts are written before they are compared: `none`; `basic`, Whisper's for"
        " any language (lower case, no punctuation); `english`, Whisper's for English (numbers as"
        " digits, contractions in full). The model is trained on texts as they are.",
    )
    generate: bool = Field(
        True,
        description="Write a transcript of every row that is scored, for `wer` and `cer`; without,"
        " scoring is much faster.",
    )
    max_new_tokens: int = Field(
        128, ge=1, le=100_000, description="Most tokens of a transcript that is written."
    )
    num_beams: int = Field(1, ge=1, le=1024, description="Beams of the search; 1 is greedy.")


class SpeechRecognition(Task):
    """Cross-entropy of the text's tokens, each after those before it and Whisper's prompt.

    The decoder reads <|startoftranscript|>, of a model of several languages the language and the
    action, <|notimestamps|>, and the text; it learns the text and its end, not the prompt.
    """

    head = "speech-seq2seq"
    length_unit = "samples"

    def __init__(self, config: SpeechRecognitionConfig):
        super().__init__(config)
        self.hearing = Hearing(config)
        rates = _RATES if config.generate else {}
        self.metric_names = {"loss": False, "perplexity": False, "accuracy": True, **rates}
        self.default_metric = "wer" if config.generate else "loss"
        self._tokenizer: Any = None
        self._prompt: list[int] = []
        self._end = self._most = 0
        self._write: Callable[[str], str] = str

    def columns(self) -> Columns:
        """Return the columns of the recording and of its text."""
        return Columns((self.config.file_column,), (self.config.text_column,), files=True)

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has a text and a recording that can be heard."""
        for row in going_over(rows, "listening", unit="files"):
            row.text(self.config.text_column)
            self.hearing.look(row)

    def build(self, loaded: Loaded) -> nn.Module:
        """Return the model, whose encoder hears as many seconds as it is told.

        Raises:
            ConfigError: the model is not of Whisper's kind.
        """
        model: Any = loaded.model
        if not hasattr(model, "get_encoder") or not hasattr(model, "proj_out"):
            raise ConfigError(
                f"backbone.source {loaded.source}: {type(model).__name__} is no Whisper, whose"
                " prompt this task writes. Take a model of that family."
            )
        narrow(model.get_encoder(), self.config.window_seconds, loaded.source)
        return super().build(loaded)

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the recording's path and length, what the decoder reads, and the text."""
        self._learn_model(loaded)
        config = self.config
        path = row.path(config.file_column) if labelled else self.hearing.look(row)
        features: Features = {
            "file": str(path), "where": row.where, "length": self.hearing.length(path, row),
        }  # fmt: skip
        if labelled:
            text = row.text(config.text_column).strip()
            features |= self._tokens(text, row)
            features["text"] = self._write(text)
            if config.generate and not features["text"]:
                raise DataError(
                    f"{row.where}: nothing is left of the text {text!r} by normalisation"
                    f" {config.normalisation}, so that no error rate can be said. Leave it out."
                )
        return features

    def distort(self, features: Features, generator: torch.Generator) -> Features:
        """Return features with a seed of what happens to their recording in training."""
        return self.hearing.distort(features, generator)

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Return log-mel frames, and texts padded on the right."""
        batch: Batch = self.hearing.batch(rows)
        if "labels" not in rows[0]:
            return batch
        fill = {"decoder_input_ids": self._end, "labels": IGNORED}
        batch |= padded(rows, fill)
        batch |= targets_of(batch.pop("labels"), shift=0)
        if self.config.generate:
            batch["texts"] = as_tensor([row["text"] for row in rows])
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of the texts' tokens."""
        return token_loss(self._logits(model, batch), batch)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return of each row the summed loss, right tokens, their number, and errors by jiwer."""
        rows = len(batch["decoder_input_ids"])
        scores = token_scores(self._logits(model, batch), batch, rows)
        if self.config.generate:
            from peftcore_speech.error_rates import Errors, errors_of

            said = as_texts(batch["texts"])
            written = map(self._write, self._transcripts(model, batch))
            found = [errors_of(*pair) for pair in zip(said, written, strict=True)]
            columns = torch.tensor(found, device=scores["loss"].device).T
            scores |= dict(zip(Errors._fields, columns, strict=True))
        return scores

    def metrics(self) -> "MetricCollection":
        """Return loss and perplexity of a token, the share predicted right, and error rates."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_train.metrics import token_metrics

        metrics = token_metrics()
        if self.config.generate:
            from peftcore_speech.error_rates import CharacterErrorRate, WordErrorRate

            metrics.add_metrics({"wer": WordErrorRate(), "cer": CharacterErrorRate()})
        return metrics

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return what is said in each recording."""
        return [{"text": text.strip()} for text in self._transcripts(model, batch)]

    def _learn_model(self, loaded: Loaded) -> None:
        self.hearing.learn_model(loaded)
        tokenizer, config = tokenizer_of(loaded), loaded.model.config
        if tokenizer is self._tokenizer:
            return
        if self.config.generate and find_spec("jiwer") is None:
            raise ConfigError(
                "task.generate: error rates are jiwer's: pip install 'peftcore-speech[audio]', or"
                " write task.generate: false."
            )
        self._prompt = prompt_of(self.config, tokenizer, config, loaded.source)
        self._end = int(tokenizer.eos_token_id)
        self._most = int(config.max_target_positions)
        self._write = normaliser(self.config.normalisation, tokenizer)
        self._tokenizer = tokenizer

    def _tokens(self, text: str, row: Row) -> dict[str, list[int]]:
        """Return what the decoder reads and what it shall write after each token."""
        blank = "" if self.config.language in _UNSPACED else " "
        ids = self._tokenizer(blank + text, add_special_tokens=False, verbose=False)["input_ids"]
        ids = [*ids, self._end]
        read = [*self._prompt, *ids[:-1]]
        if len(read) > self._most:
            raise DataError(
                f"{row.where}: {len(read)} tokens with the prompt, but the decoder takes"
                f" {self._most}. Leave it out, or cut the recording and its text."
            )
        return {"decoder_input_ids": read, "labels": [IGNORED] * (len(self._prompt) - 1) + ids}

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the logits of the texts' tokens, [N, V]."""
        return logits_at(
            model,
            batch["places"],
            input_features=batch["input_features"],
            decoder_input_ids=batch["decoder_input_ids"],
        )

    def _transcripts(self, model: nn.Module, batch: Batch) -> list[str]:
        from transformers import GenerationMixin

        network, heard = inner(model), batch["input_features"]
        prompt = torch.tensor([self._prompt], device=heard.device).expand(len(heard), -1)
        # Whisper's own generate takes no prompt, and would cut long recordings into windows
        tokens = GenerationMixin.generate(
            network,  # type: ignore[arg-type]
            heard,
            decoder_input_ids=prompt,
            max_new_tokens=min(self.config.max_new_tokens, self._most - len(self._prompt)),
            max_length=None,
            num_beams=self.config.num_beams,
            do_sample=False,
            # a mask is not asked for where it is not the end that rows are filled up with
            pad_token_id=self._prompt[0],
        )
        return [self._text(ids) for ids in tokens[:, len(self._prompt) :].tolist()]

    def _text(self, ids: list[int]) -> str:
        """Return what tokens say up to the end of the text."""
        written = ids[: ids.index(self._end)] if self._end in ids else ids
        text: str = self._tokenizer.decode(written, skip_special_tokens=True)
        return text


def prompt_of(
    config: SpeechRecognitionConfig, tokenizer: Any, model: Any, source: str
) -> list[int]:
    """Return the tokens that Whisper's decoder reads before a text.

    Args:
        config: the ``task`` section.
        tokenizer: of the model.
        model: the model's configuration.
        source: where it is from, for messages.

    Raises:
        ConfigError: the language does not fit the model, or its tokenizer is not Whisper's.
    """
    several = model.vocab_size >= _MULTILINGUAL
    if several and config.language is None:
        raise ConfigError(
            f"task.language: {source} knows several languages, and its prompt names one. Write its"
            " code, such as en or zh."
        )
    if not several and (config.language not in (None, "en") or config.action != "transcribe"):
        raise ConfigError(
            f"task.language: {source} knows English alone, and writes what is said. Leave language"
            " and action out, or take a model of several languages."
        )
    middle = [f"<|{config.language}|>", f"<|{config.action}|>"] if several else []
    names = ["<|startoftranscript|>", *middle, "<|notimestamps|>"]
    known = tokenizer.get_vocab()
    if lacking := [name for name in names if name not in known]:
        raise ConfigError(
            f"backbone.source {source}: its tokenizer has no {lacking[0]}. Take a tokenizer of"
            " Whisper, and a language that it codes."
        )
    return [known[name] for name in names]
