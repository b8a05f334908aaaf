"""What tasks share that write an instruction into a prompt and learn what follows it."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from peftcore import DataError, Loaded
from peftcore_reasoning.prompts import Style, prompt_of
from peftcore_train.data import Row
from peftcore_train.generation import GenerationConfig, generated, room_for_prompt
from peftcore_train.task import Batch, Features, Task, inner
from peftcore_train.tasks.causal_lm import CausalLM, CausalLMConfig
from peftcore_train.text import LengthConfig, fills, ids_of, most_tokens, padded, tokenizer_of


class InstructedConfig(GenerationConfig, LengthConfig):
    """Fields of both tasks; ``max_length`` is that of rows that are learned."""

    instruction_column: str = Field("instruction", description="Column of the instruction.")
    input_column: str | None = Field(
        "input", description="Column of what the instruction is about, often empty; null for none."
    )
    output_column: str = Field("output", description="Column of what is learned.")
    prompt_style: Style = Field(
        "clean",
        description="`clean`: Alpaca's template. `llm_adapters_verbatim`: the same with the blanks"
        " that LLM-Adapters and DoRA trained with. `plain`: the instruction and a line break, as"
        " LoReFT has it for commonsense.",
    )
    train_on_inputs: bool = Field(
        False, description="Put the loss on the prompt as well, as LLM-Adapters does."
    )
    draw_when_scoring: bool = Field(
        False,
        description="With do_sample, draw tokens when scoring too, as published; scores then depend"
        " on the size of batches.",
    )


class Instructed(Task):
    """Next-token cross-entropy of the answer, by the task ``causal-lm`` on the written prompts."""

    head = "causal-lm"

    def __init__(self, config: InstructedConfig):
        super().__init__(config)
        shared = {*LengthConfig.model_fields, "train_on_inputs"}
        self.lm = CausalLM(CausalLMConfig(**{name: getattr(config, name) for name in shared}))
        self._tokenizer: Any = None

    @property
    def writes(self) -> bool:
        """Whether an answer is written for every row that is scored."""
        return False

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that a prompt is made of."""
        given = self.config.input_column
        return (self.config.instruction_column, *([given] if given else []))

    def completion(self, row: Row) -> str:
        """Return what is to be learned of a row.

        Raises:
            DataError: there is nothing.
        """
        return row.text(self.config.output_column)

    def prompt(self, row: Row, *, training: bool = False) -> str:
        """Return what the answer of a row follows.

        Raises:
            DataError: there is no instruction.
        """
        given = self.config.input_column
        about = row.column(given) if given else ""
        if not isinstance(about, str):
            raise DataError(f"{row.where}: column {given!r} holds {about!r}, which is no text.")
        instruction = row.text(self.config.instruction_column)
        return prompt_of(instruction, about, self.config.prompt_style, training=training)

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the tokens and labels of a row; the prompt alone where an answer is written."""
        self._tokenizer = tokenizer_of(loaded)
        if not labelled:
            return self._asked(row, loaded)
        said = {"prompt": self.prompt(row, training=True), "completion": self.completion(row)}
        features = self.lm.encode(Row(said, row.where), loaded)
        if self.writes:
            features["asked"] = self._asked(row, loaded)
        return features

    def collate(self, rows: list[Features]) -> Batch:  # type: ignore[override]
        """Pad on the right what is learned, on the left what is to be answered."""
        if "labels" not in rows[0]:
            return dict(padded(rows, fills(self._tokenizer, rows), left=True))
        batch = self.lm.collate(rows)
        if self.writes:
            asked = [row["asked"] for row in rows]
            found = padded(asked, fills(self._tokenizer, asked), left=True)
            batch |= {f"asked_{name}": value for name, value in found.items()}
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of the learned tokens."""
        return self.lm.loss(model, batch)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the summed loss, the right tokens and the learned tokens of each row."""
        return self.lm.score(model, batch)

    def written(self, model: nn.Module, batch: Batch) -> list[str]:
        """Return what the model writes for each row that is scored."""
        asked = {name: batch[f"asked_{name}"] for name in ("input_ids", "attention_mask")}
        draw = self.config.draw_when_scoring
        devices = [p.device for p in inner(model).parameters() if p.is_cuda][:1] if draw else []
        with torch.random.fork_rng(devices, enabled=draw):
            if draw:
                torch.manual_seed(0)
            return generated(model, asked, self.config, self._tokenizer, draw=draw)

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return what the model writes for each row."""
        texts = generated(model, batch, self.config, self._tokenizer, draw=True)
        return [{"output": text} for text in texts]

    def _asked(self, row: Row, loaded: Loaded) -> Features:
        ids = ids_of(self._tokenizer, self.prompt(row))
        limit = most_tokens(None, loaded)
        room = room_for_prompt(self.config, limit)
        if room is not None and len(ids) > room:
            raise DataError(
                f"{row.where}: the prompt has {len(ids)} tokens; the model takes {limit}, of which"
                f" task.max_new_tokens keeps {self.config.max_new_tokens} for the answer, so that"
                f" {room} fit. Lower it, or leave the row out."
            )
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "length": len(ids)}
