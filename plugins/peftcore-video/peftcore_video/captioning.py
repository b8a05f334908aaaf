"""Video captioning: a language model writes what is seen, from visual tokens in front of a prompt.

How frames reach the language model, and the mixture of instructions (LIcap), are reconstructions of
AGAdapter (Fang et al. 2023), of which only the abstract could be read.
"""

import json
import random
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from peftcore import ConfigError, DataError, Loaded
from peftcore_train.data import Columns, Row, read_rows
from peftcore_train.generation import GenerationConfig, as_tensor, generated
from peftcore_train.logits import IGNORED, targets_of, token_loss, token_scores
from peftcore_train.schema import DataSection, Split
from peftcore_train.task import Batch, Features
from peftcore_video.layouts import Protocol
from peftcore_video.videos import Videos, VideosConfig

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

CaptionMetric = Literal[
    "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider", "meteor", "spice"
]
Tokenisation = Literal["words", "ptb"]
#: Metrics of programs in Java.
_JAVA = ("meteor", "spice")
#: Columns of instructions in text alone.
INSTRUCTION, INPUT, OUTPUT = "instruction", "input", "output"


class VideoCaptioningConfig(VideosConfig, GenerationConfig):
    """The ``task`` section of video captioning."""

    protocol: Protocol = Field(
        "captioning",
        description="Of MSR-VTT: the official parts, `captioning`; or `9k` or `7k`, training on so"
        " many videos and the test 1k-A.",
    )
    prompt: str = Field(
        "Describe the video.", description="What the language model is told behind the frames."
    )
    caption_tokens: int = Field(
        32,
        ge=1,
        le=65_536,
        description="Most tokens of a caption in training; what is longer is cut. 32 for MSR-VTT,"
        " 64 for ActivityNet.",
    )
    max_new_tokens: int = Field(
        32, ge=1, le=1_000_000, description="Most tokens to write for a video."
    )
    caption_metrics: tuple[CaptionMetric, ...] = Field(
        ("bleu_4", "rouge_l", "cider"),
        description="Metrics of the captions that are written for every row that is scored, by"
        " pycocoevalcap; `meteor` and `spice` need Java. `[]` writes none, which is much faster.",
    )
    tokenisation: Tokenisation = Field(
        "words",
        description="What captions are before they are scored: `words` in lower case without"
        " punctuation; or as published tables have them, by the Penn Treebank's tokenizer (`ptb`),"
        " which needs Java.",
    )
    instructions: str | None = Field(
        None,
        description="A table of instructions in text alone (`input`, `output`, and perhaps"
        " `instruction`) to mix with the videos in training (LIcap); a path from where the command"
        " runs.",
    )
    instruction_ratio: float = Field(
        1.0, gt=0, le=1000, description="Instructions in text alone for each row of a video."
    )


class VideoCaptioning(Videos):
    """Cross-entropy of a caption's tokens; where a video has several, one is drawn each epoch."""

    def __init__(self, config: VideoCaptioningConfig):
        super().__init__(config)
        self.metric_names = {
            "loss": False, "perplexity": False, "accuracy": True,
            **dict.fromkeys(config.caption_metrics, True),
        }  # fmt: skip

    # --- reading -----------------------------------------------------------------------------

    def columns(self) -> Columns:
        """Return the columns of the video and of its captions."""
        return Columns((self.config.video_column,), (self.config.caption_column,))

    def read(
        self, data: DataSection, split: Split, problems: list[DataError] | None = None
    ) -> list[Row]:
        """Return the rows of a split; with training, instructions in text alone besides."""
        rows = super().read(data, split, problems)
        if split != "train" or self.config.instructions is None:
            return rows
        try:
            texts = read_rows(Path(self.config.instructions).expanduser())
        except DataError as error:
            if problems is None:
                raise
            problems.append(error)
            return rows
        count = round(self.config.instruction_ratio * len(rows))
        chance = random.Random(f"{data.seed}-instructions")
        # all of them as often as they go, and of the rest some
        drawn = texts * (count // len(texts)) + chance.sample(texts, count % len(texts))
        return [*rows, *drawn]

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has captions and a video, or an instruction in text alone."""
        self._check_metrics()
        for row in rows:
            if self._is_text(row):
                row.text(INPUT)
                row.text(OUTPUT)
            else:
                self.captions(row)
                self.look(row)

    def _check_metrics(self) -> None:
        """Raise ConfigError where metrics cannot be computed here; none stands in for them."""
        names = self.config.caption_metrics
        if not names:
            return
        if find_spec("pycocoevalcap") is None:
            raise ConfigError(
                "task.caption_metrics: captions are scored by pycocoevalcap: pip install"
                " 'peftcore-video[captions]', or write task.caption_metrics: []."
            )
        needs = [f"caption_metrics: {name}" for name in names if name in _JAVA]
        needs += ["tokenisation: ptb"] if self.config.tokenisation == "ptb" else []
        if needs and shutil.which("java") is None:
            raise ConfigError(
                f"task.{needs[0]} runs a program in Java, and there is no java here. Install a Java"
                " runtime, or leave it out; nothing else is what it computes."
            )

    def _is_text(self, row: Row) -> bool:
        return INPUT in row.values and self.config.video_column not in row.values

    # --- encoding ----------------------------------------------------------------------------

    def build(self, loaded: Loaded) -> nn.Module:
        """Return the model, which must be CLIP with a language model."""
        if not hasattr(loaded.model, "projection"):
            raise ConfigError(
                f"backbone.source {loaded.source}: {type(loaded.model).__name__} writes no"
                " captions. Write backbone.name: clip-captioner, and a LLaMA as"
                " backbone.options.language_model."
            )
        return super().build(loaded)

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return where the video is, the tokens of the prompt, and those of every caption."""
        tokenizer = self._language(loaded)
        if self._is_text(row):
            told = (row.values.get(INSTRUCTION), row.text(INPUT))
            prompt, answers = "\n".join(filter(None, told)), [row.text(OUTPUT)]
            size = loaded.model.config.vision_config.image_size  # type: ignore[union-attr]
            found: Features = {"size": size, "where": row.where}
        else:
            prompt, answers = self.config.prompt, self.captions(row) if labelled else []
            found = self.named(row, loaded)
        found["prompt"] = list(tokenizer(f"{prompt}\n")["input_ids"])
        self._check_length(found, row, loaded)
        if not labelled:
            return {**found, "length": len(found["prompt"])}
        most = self.config.caption_tokens
        given = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in answers]
        found["answers"] = [[*ids, tokenizer.eos_token_id][:most] for ids in given]
        found["references"] = answers
        return {**found, "length": len(found["prompt"]) + len(found["answers"][0])}

    def distort(self, features: Features, generator: torch.Generator) -> Features:
        """Draw one of the captions of a video."""
        count = len(features["answers"])
        return {**features, "drawn": int(torch.randint(count, (), generator=generator))}

    def decoded(self, features: Features) -> Tensor:
        """Return the frames of a video; of a text alone, none."""
        if "video" not in features:
            return torch.zeros(0, 3, features["size"], features["size"], dtype=torch.uint8)
        return super().decoded(features)

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Stack frames, [B, T, 3, S, S], and pad texts: prompts alone on the left, else right."""
        batch = self._frames(rows)
        prompts = [row["prompt"] for row in rows]
        if "answers" not in rows[0]:
            return {**batch, **_padded(prompts, self._pad, left=True)}
        answers = [row["answers"][row.get("drawn", 0)] for row in rows]
        whole = [[*p, *a] for p, a in zip(prompts, answers, strict=True)]
        batch |= _padded(whole, self._pad)
        labels = [[IGNORED] * len(p) + a for p, a in zip(prompts, answers, strict=True)]
        batch["labels"] = _padded(labels, IGNORED)["input_ids"]
        batch |= targets_of(batch["labels"], shift=1)
        if self.config.caption_metrics:
            left = _padded(prompts, self._pad, left=True)
            batch |= {f"prompt_{name}": value for name, value in left.items()}
            batch["references"] = as_tensor([json.dumps(row["references"]) for row in rows])
        return batch

    def _frames(self, rows: Sequence[Features]) -> Batch:
        """Return the frames of all rows, [B, T, 3, S, S], and which are there; others are zero."""
        found = self.pictures(rows)
        values, seen = found["pixel_values"], found["seen"]
        if not seen.shape[1]:  # texts alone
            seen = seen.new_zeros(len(rows), 1)
        out = values.new_zeros(*seen.shape, *values.shape[1:])
        out[seen] = values
        return {"pixel_values": out, "seen": seen}

    def _language(self, loaded: Loaded) -> Any:
        """Return the tokenizer of the language model.

        Raises:
            ConfigError: it was loaded without one, or it knows no end of a text.
        """
        tokenizer = getattr(loaded.tokenizer, "language", None)
        if tokenizer is None or tokenizer.eos_token_id is None:
            lacks = "no tokenizer there" if tokenizer is None else "its tokenizer has no eos_token"
            raise ConfigError(
                f"backbone.options.language_model of {loaded.source}: {lacks}. Save one beside the"
                " weights with tokenizer.save_pretrained."
            )
        self._writer, self._pad = tokenizer, tokenizer.pad_token_id or 0
        return tokenizer

    def _check_length(self, found: Features, row: Row, loaded: Loaded) -> None:
        config: Any = loaded.model.config
        most = getattr(config.language, "max_position_embeddings", None)
        longest = max(self.config.caption_tokens, self.config.max_new_tokens)
        count = self.config.frames * ("video" in found) + len(found["prompt"]) + longest
        if most is not None and count > most:
            raise DataError(
                f"{row.where}: frames, prompt and caption may be {count} tokens, but the language"
                f" model takes {most}. Lower task.frames, task.caption_tokens or"
                " task.max_new_tokens, or leave the row out."
            )

    # --- loss and scores ---------------------------------------------------------------------

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of the captions' tokens."""
        return self.caption_loss(self.run(model, batch), batch)

    @staticmethod
    def caption_loss(out: Any, batch: Batch) -> Tensor:
        """Return the mean loss of the captions' tokens, from what the model says."""
        return token_loss(_logits(out, batch), batch)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return of each row the summed loss, right tokens and their number, and its captions."""
        scores = self.scored(self.run(model, batch), batch)
        if "references" in batch:
            given = {
                "input_ids": batch["prompt_input_ids"],
                "attention_mask": batch["prompt_attention_mask"],
                "pixel_values": batch["pixel_values"],
                "seen": batch["seen"],
            }
            texts = generated(model, given, self.config, self._writer, draw=False)
            device = batch["references"].device
            scores["prediction"] = as_tensor([text.strip() for text in texts]).to(device)
            scores["references"] = batch["references"]
        return scores

    def scored(self, out: Any, batch: Batch) -> dict[str, Tensor]:
        """Return what each row is scored by, of what the model says without writing."""
        return token_scores(_logits(out, batch), batch, len(batch["labels"]))

    def run(self, model: nn.Module, batch: Batch) -> Any:
        """Return what the model says of a batch with labels."""
        names = ("input_ids", "attention_mask", "pixel_values", "seen", "labels")
        return model(**{name: batch[name] for name in names})

    def metrics(self) -> "MetricCollection":
        """Return loss and perplexity of a token, the share that is right, and those of captions."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_train.metrics import token_metrics
        from peftcore_video.caption_metrics import caption_metrics

        metrics = token_metrics()
        if self.config.caption_metrics:
            metrics.add_metrics(
                caption_metrics(self.config.caption_metrics, self.config.tokenisation)
            )
        return metrics

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return the caption of each video."""
        texts = generated(model, batch, self.config, self._writer, draw=True)
        return [{"caption": text.strip()} for text in texts]


def _logits(out: Any, batch: Batch) -> Tensor:
    """Return the logits of the captions' tokens, [N, V]."""
    behind = out.logits[:, batch["seen"].shape[1] :]
    return behind.flatten(0, 1)[batch["places"]].float()  # type: ignore[no-any-return]


def _padded(ids: Sequence[Sequence[int]], fill: int, *, left: bool = False) -> Batch:
    """Return ids and which of them are there, [B, L]."""
    width = max(map(len, ids))
    out = torch.full((len(ids), width), fill)
    there = torch.zeros_like(out)
    for i, row in enumerate(ids):
        place = slice(width - len(row), width) if left else slice(len(row))
        out[i, place] = torch.tensor(row, dtype=torch.long)
        there[i, place] = 1
    return {"input_ids": out, "attention_mask": there}
