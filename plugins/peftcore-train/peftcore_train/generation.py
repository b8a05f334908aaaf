"""Generating text: what recipes say of it, and how texts become tensors that metrics take."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from peftcore import ConfigError, Strict
from peftcore_train.task import inner

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

TextMetric = Literal["exact_match", "rouge_1", "rouge_2", "rouge_l", "bleu", "chrf"]


class GenerationConfig(Strict):
    """Fields of tasks that generate."""

    max_new_tokens: int = Field(
        128, ge=1, le=1_000_000, description="Most tokens to generate for a row."
    )
    num_beams: int = Field(1, ge=1, le=1024, description="Beams of the search; 1 is greedy.")
    do_sample: bool = Field(
        False, description="Draw each token when predicting; scoring never draws."
    )
    temperature: float = Field(1.0, gt=0, le=100, description="Divides the logits of a draw.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Draw from the likeliest tokens that have this much together."
    )
    top_k: int = Field(
        50, ge=0, le=1_000_000, description="Draw from so many likeliest tokens; 0 from all."
    )
    repetition_penalty: float = Field(
        1.0, gt=0, le=100, description="Divides the logits of tokens that are there already."
    )
    no_repeat_ngram_size: int = Field(
        0, ge=0, le=1000, description="Let no run of so many tokens come twice; 0 lets all."
    )
    stop: tuple[str, ...] = Field(
        (), description="Texts at which a generated text ends; they are left out."
    )

    @model_validator(mode="after")
    def _draws_where_it_is_told_how(self) -> "GenerationConfig":
        if not self.do_sample and (self.temperature, self.top_p, self.top_k) != (1.0, 1.0, 50):
            raise ValueError("temperature, top_p and top_k go with do_sample: true")
        if not all(self.stop):
            raise ValueError("stop holds an empty text, at which every text would end")
        return self


class ScoredConfig(GenerationConfig):
    """Fields of tasks that score what they generate."""

    generate_metrics: tuple[TextMetric, ...] = Field(
        (),
        description="Metrics of texts that are generated for every row that is scored, each from 0"
        " to 1; `[]` generates none, which is much faster.",
    )

    @property
    def text_metrics(self) -> dict[str, bool]:
        """Names of the metrics of generated texts; of all of them greater is better."""
        return dict.fromkeys(self.generate_metrics, True)


def room_for_prompt(config: GenerationConfig, limit: int | None) -> int | None:
    """Return how many tokens a prompt may have when something is generated after it.

    Raises:
        ConfigError: none at all.
    """
    new = config.max_new_tokens
    if limit is not None and new >= limit:
        raise ConfigError(
            f"task.max_new_tokens is {new}, but the model takes {limit} tokens, the prompt's"
            " included."
        )
    return None if limit is None else limit - new


def generated(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    config: GenerationConfig,
    tokenizer: Any,
    *,
    draw: bool,
) -> list[str]:
    """Return what a model generates for each row.

    Args:
        model: a decoder, whose rows are padded on the left, or an encoder and decoder.
        inputs: arguments of ``generate``.
        config: how to generate.
        tokenizer: of the model.
        draw: draw tokens where the configuration says so; else the likeliest text is taken.
    """
    network: Any = inner(model)
    options: dict[str, Any] = {"do_sample": draw and config.do_sample}
    if options["do_sample"]:
        options |= {name: getattr(config, name) for name in ("temperature", "top_p", "top_k")}
    # others make a processor of logits, which need not run for nothing
    if config.repetition_penalty != 1:
        options["repetition_penalty"] = config.repetition_penalty
    if config.no_repeat_ngram_size:
        options["no_repeat_ngram_size"] = config.no_repeat_ngram_size
    begin = 1 if network.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    if config.stop:
        options["stopping_criteria"] = [_Stop(config.stop, tokenizer, begin)]
    tokens = network.generate(
        **inputs,
        max_new_tokens=config.max_new_tokens,
        num_beams=config.num_beams,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )
    texts = tokenizer.batch_decode(tokens[:, begin:], skip_special_tokens=True)
    return [_stopped(text, config.stop) for text in texts]


class _Stop:
    """Tell which rows have come to the end of their text.

    transformers' own needs to cut the pieces of a vocabulary, which not every tokenizer allows.
    """

    def __init__(self, ends: Sequence[str], tokenizer: Any, begin: int):
        self.ends = ends
        self.tokenizer = tokenizer
        self.begin = begin
        #: A text of n characters is of at most n tokens, but for those that stand for none.
        self.tail = 8 + max(map(len, ends))

    def __call__(self, tokens: Tensor, scores: Any, **_: Any) -> Tensor:
        new = tokens[:, self.begin :][:, -self.tail :]
        texts = self.tokenizer.batch_decode(new)
        found = [any(end in text for end in self.ends) for text in texts]
        return torch.tensor(found, device=tokens.device)


def _stopped(text: str, stop: Sequence[str]) -> str:
    ends = [at for end in stop if (at := text.find(end)) >= 0]
    return text[: min(ends)] if ends else text


def with_text_metrics(metrics: "MetricCollection", config: ScoredConfig) -> "MetricCollection":
    """Return metrics, and with them those of generated texts that a recipe asks for."""
    if config.generate_metrics:
        # what it is made of takes a second to import, and few recipes need it
        from peftcore_train.text_metrics import text_metrics

        metrics.add_metrics(text_metrics(config.generate_metrics))
    return metrics


def as_tensor(texts: Sequence[str]) -> Tensor:
    """Return texts as their bytes in UTF-8, [B, W], -1 behind the end of each.

    So they are gathered from several processes like all else that is scored.
    """
    coded = [list(text.encode()) for text in texts]
    width = max(1, *map(len, coded))
    return torch.tensor([[*codes, *[-1] * (width - len(codes))] for codes in coded])


def as_texts(codes: Tensor) -> list[str]:
    """Return the texts of :func:`as_tensor`."""
    return [bytes(code for code in row if code >= 0).decode() for row in codes.tolist()]
