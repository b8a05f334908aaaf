"""How texts are written before they are compared; an error rate means little without its name."""

import re
from collections.abc import Callable
from typing import Any, Literal

Normalisation = Literal["none", "basic", "english"]


def normaliser(name: Normalisation, tokenizer: Any) -> Callable[[str], str]:
    """Return the function of a normalisation.

    Args:
        name: ``none``; ``basic``, Whisper's for any language: lower case, without punctuation,
            symbols and what stands in brackets; ``english``, Whisper's for English besides:
            contractions in full, numbers as digits, British spellings as American.
        tokenizer: of the model, which knows the spellings.
    """
    # a second of imports, which nothing but scoring needs
    from transformers.models.whisper.english_normalizer import (
        BasicTextNormalizer,
        EnglishTextNormalizer,
    )

    if name == "none":
        return _blanks
    made: Any = BasicTextNormalizer()
    if name == "english":
        made = EnglishTextNormalizer(getattr(tokenizer, "english_spelling_normalizer", None) or {})
    return lambda text: _blanks(made(text))


def _blanks(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
