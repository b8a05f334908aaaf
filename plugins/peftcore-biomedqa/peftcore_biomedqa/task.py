"""Biomedical questions: templates that learn together, are contrasted, and vote.

A reconstruction of Wang et al. 2023 (BIBM), of whom the abstract alone is known.
"""

import hashlib
import re
from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftcore import ConfigError, DataError, Loaded, nearest, resolve_source
from peftcore_biomedqa import releases
from peftcore_biomedqa.config import BiomedicalQAConfig
from peftcore_biomedqa.contrast import info_nce
from peftcore_biomedqa.prompted import Prompted
from peftcore_biomedqa.votes import Vote, vote
from peftcore_train.data import Columns, Row, drawn, report
from peftcore_train.schema import DataSection, Split
from peftcore_train.task import Batch, Features, Task, inner
from peftcore_train.text import check_length, fills, most_tokens, padded, tokenizer_of

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

_SLOT = re.compile(r"\{(question|context)\}")


class BiomedicalQA(Task):
    """Cross-entropy of the answer's word under every template, and a contrast of questions.

    The decoder's first step is read, among the words of the labels alone.
    """

    head = "seq2seq-lm"
    default_metric = "accuracy"
    metric_names = {"loss": False, "accuracy": True, "f1": True}

    def __init__(self, config: BiomedicalQAConfig):
        super().__init__(config)
        self.labels = list(config.words)
        each = {f"f1_of.{label}": True for label in self.labels}
        self.metric_names = {**self.metric_names, **each}
        self.modules_to_save = ("path:prompt",) if config.soft_prompt else ()
        self._tokenizer: Any = None
        self._words: list[int] = []

    def columns(self) -> Columns:
        """Return the columns of question and context, and of the label."""
        return Columns(("question", "context"), ("label",), "label")

    def read(
        self, data: DataSection, split: Split, problems: list[DataError] | None = None
    ) -> list[Row]:
        """Return the questions of a split of a release, or of any table."""
        config = self.config
        if config.corpus is None:
            return super().read(data, split, problems)
        root = Path(resolve_source(data.source, "data") or data.source).expanduser()
        found: list[DataError] = []
        if config.corpus == "bioasq":
            rows = releases.questions(root, split, data, found)
        else:
            rows = releases.pubmedqa_split(
                root, split, data, config.part, config.fold, config.pseudo, found
            )
        if not rows and not found:
            found.append(DataError(f"{data.source} has no question of the split {split}."))
        report(found, problems)
        return drawn(rows, data, split)

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has a question, a context and one of the labels."""
        for row in rows:
            self._texts(row)
            self._answer(row)

    def build(self, loaded: Loaded) -> nn.Module:
        """Return the model, with a soft prompt in front where one is asked for.

        Raises:
            ConfigError: the model has no decoder that reads what an encoder has read.
        """
        config: Any = getattr(loaded.model, "config", None)
        if not getattr(config, "is_encoder_decoder", False) or not hasattr(config, "d_model"):
            raise ConfigError(
                f"backbone.source {loaded.source}: {type(loaded.model).__name__} is no encoder with"
                " a decoder. Take T5, FLAN-T5 or BART."
            )
        count = self.config.soft_prompt
        return Prompted(loaded.model, count) if count else super().build(loaded)

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the tokens of each template, and the label's number."""
        self._learn_model(loaded)
        texts = self._texts(row)
        limit = most_tokens(self.config.max_length, loaded)
        rows, cut = [], False
        for template in self.config.templates:
            words = self._kept(template, texts, limit)
            cut = cut or words < len(texts["context"].split())
            ids = self._tokens(self._written(template, texts, words))
            check_length(len(ids), limit, row)
            rows.append({"input_ids": ids, "attention_mask": [1] * len(ids)})
        features: Features = {
            "templates": rows, "length": max(len(one["input_ids"]) for one in rows),
        }  # fmt: skip
        if cut:
            features["cut"] = True
        if self.config.samples:
            features["chance"] = self._chance(texts)
        if labelled:
            features["answer"] = self._answer(row)
        return features

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Pad the templates of all rows on the right, [B P, L]; the labels become ``target``."""
        flat = [one for row in rows for one in row["templates"]]
        batch: Batch = dict(padded(flat, fills(self._tokenizer, flat)))
        if "chance" in rows[0]:
            batch["chance"] = torch.stack([row["chance"] for row in rows])
        if "answer" in rows[0]:
            batch["target"] = torch.tensor([row["answer"] for row in rows])
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy averaged over templates, and the weighted contrast."""
        logits, states = self._read(model, batch)
        config, target = self.config, batch["target"]
        loss = _cross_entropy(logits, target).mean()
        if config.contrast:
            loss = loss + config.contrast * info_nce(
                states, target, config.contrast_temperature,
                same_label=config.contrast_same_label,
            )  # fmt: skip
        return loss

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return what the templates vote for, the targets, and the plain cross-entropy."""
        logits, _ = self._read(model, batch)
        target = batch["target"]
        return {
            "preds": self._vote(logits, batch).winner,
            "target": target,
            "loss": _cross_entropy(logits, target),
            "count": torch.ones_like(target),
        }

    def metrics(self) -> "MetricCollection":
        """Return loss, accuracy, macro F1, and the F1 of each label."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_biomedqa.metrics import answer_metrics

        return answer_metrics(self.labels)

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return the label, the votes of each, and the mean of its probabilities."""
        found = self._vote(self._read(model, batch)[0], batch)
        return [
            {
                "label": self.labels[winner],
                "votes": dict(zip(self.labels, counts, strict=True)),
                "probabilities": dict(zip(self.labels, shares, strict=True)),
            }
            for winner, counts, shares in zip(*(part.tolist() for part in found), strict=True)
        ]

    def _read(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the logits of the labels' words, [B, P, C], and what is contrasted, [B, P, d]."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        start = inner(model).config.decoder_start_token_id  # type: ignore[union-attr]
        out = model(
            input_ids=ids,
            attention_mask=mask,
            decoder_input_ids=ids.new_full((len(ids), 1), start),
            output_hidden_states=self.config.contrast_state == "decoder",
            use_cache=False,
        )
        each = (-1, len(self.config.templates))
        words = torch.tensor(self._words, device=ids.device)
        logits = out.logits[:, 0].index_select(-1, words).float().unflatten(0, each)
        if self.config.contrast_state == "decoder":
            return logits, out.decoder_hidden_states[-1][:, 0].unflatten(0, each)
        # a soft prompt stands in front of the tokens
        states = out.encoder_last_hidden_state[:, -ids.shape[1] :].float()
        weights = mask[..., None].to(states.dtype)
        return logits, ((states * weights).sum(1) / weights.sum(1)).unflatten(0, each)

    def _vote(self, logits: Tensor, batch: Batch) -> Vote:
        return vote(logits, batch.get("chance"), self.config.sample_temperature)

    def _texts(self, row: Row) -> dict[str, str]:
        return {name: row.text(name) for name in ("question", "context")}

    def _answer(self, row: Row) -> int:
        label = row.text("label")
        if label not in self.labels:
            raise DataError(
                f"{row.where}: label {label!r} is none of {', '.join(self.labels)}."
                f"{nearest(label, self.labels)} Name it in task.labels."
            )
        return self.labels.index(label)

    def _learn_model(self, loaded: Loaded) -> None:
        """Find the token of each label's word.

        Raises:
            ConfigError: a word is several tokens, or two words are the same one.
        """
        tokenizer = tokenizer_of(loaded)
        if tokenizer is self._tokenizer:
            return
        found: dict[int, str] = {}
        for label, word in self.config.words.items():
            ids = tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"]
            if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
                parts = " ".join(tokenizer.convert_ids_to_tokens(ids)) or "no token"
                raise ConfigError(
                    f"task.labels: {word!r}, the word of {label}, is not one token of"
                    f" {loaded.source} but {parts!r}, and one step of the decoder is read. Name"
                    f" another word: task.labels: {{{label}: ...}}."
                )
            if ids[0] in found:
                raise ConfigError(f"task.labels: {label} and {found[ids[0]]} have the same word.")
            found[ids[0]] = label
        self._words, self._tokenizer = list(found), tokenizer

    def _tokens(self, text: str) -> list[int]:
        return list(self._tokenizer(text, verbose=False)["input_ids"])

    @staticmethod
    def _written(template: str, texts: dict[str, str], words: int) -> str:
        """Return a question in a template, with the first words of its context."""
        context = " ".join(texts["context"].split()[:words])
        return _SLOT.sub(lambda slot: {**texts, "context": context}[slot[1]], template)

    def _kept(self, template: str, texts: dict[str, str], limit: int | None) -> int:
        """Return how many words of the context there is room for; all where nothing may be cut."""
        count = len(texts["context"].split())
        if not self.config.truncation or limit is None:
            return count
        write = partial(self._written, template, texts)

        def too_long(words: int) -> bool:
            return len(self._tokens(write(words))) > limit

        if not too_long(count):
            return count
        return bisect_left(range(1, count + 1), True, key=too_long)

    def _chance(self, texts: dict[str, str]) -> Tensor:
        """Return the numbers of a question's draws, [P, n], whatever batch it is in."""
        digest = hashlib.sha256("\n".join(texts.values()).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        size = (len(self.config.templates), self.config.samples)
        return torch.rand(size, generator=generator)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean over the templates, [B], of logits [B, P, C]."""
    each = F.cross_entropy(
        logits.flatten(0, 1), target.repeat_interleave(logits.shape[1]), reduction="none"
    )
    return each.unflatten(0, logits.shape[:2]).mean(1)
