"""What a recipe can say about soft prompts."""

from typing import Literal, Self

from pydantic import Field, model_validator

from peftcore import MethodConfig, Targets, Width

_TEXT = ["init_text", "tokenizer"]


class PromptConfig(MethodConfig):
    """Configuration of prompt tuning."""

    num_virtual_tokens: Width = Field(20, description="Number of learned vectors.")
    where: Literal["auto", "before", "after_first"] = Field(
        "auto",
        description="Place in the sequence: `before` the tokens, or `after_first`, behind the"
        " class token; `auto` is before in models that predict the next token, else after_first.",
    )
    init: Literal["vocabulary", "text", "random"] = Field(
        "vocabulary",
        description="Start: embeddings of random tokens of the `vocabulary`, those of a `text`,"
        " or `random` values between -0.5 and 0.5.",
    )
    init_text: str | None = Field(
        None, min_length=1, description="Text to start from; repeated or cut to the length."
    )
    tokenizer: str | None = Field(
        None,
        description="Folder, name, or named source of the tokenizer that reads `init_text`, where"
        " none is given to `attach`.",
    )
    init_ids: tuple[int, ...] | None = Field(
        None, min_length=1, description="Token ids to start from instead of a text."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        given = [n for n in ("init_text", "tokenizer", "init_ids") if getattr(self, n) is not None]
        if self.init != "text" and given:
            raise ValueError(f"{given[0]} is for init: text")
        if self.init == "text" and given not in (["init_ids"], ["init_text"], _TEXT):
            raise ValueError("init: text needs either init_text or init_ids; tokenizer reads text")
        return self


class BlockPromptConfig(MethodConfig):
    """What methods that put tokens into blocks have in common."""

    num_virtual_tokens: Width = Field(5, description="Number of learned tokens of a block.")
    targets: Targets = Field(
        Targets.model_validate(["block"]),
        description="Blocks of an encoder, all of them by default.",
    )


class VptConfig(BlockPromptConfig):
    """Configuration of visual prompt tuning."""

    deep: bool = Field(
        True,
        description="Every block has tokens of its own (VPT-deep); false puts tokens into the"
        " first block, and drops them after the last (VPT-shallow).",
    )
    after: int = Field(
        1,
        ge=0,
        description="How many tokens stay before the learned ones: the class token. It matters"
        " only where attention knows relative positions.",
    )
    project: Width | None = Field(
        None, description="Width of the learned tokens, if a shared layer shall widen them."
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout on the tokens as they go in.")


class EmbeddingPromptConfig(BlockPromptConfig):
    """Configuration of embedding prompts."""
