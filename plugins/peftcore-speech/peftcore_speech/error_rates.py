"""Word and character error rates, by jiwer: errors over what was said, summed over all rows."""

from typing import NamedTuple

import jiwer
from torch import Tensor

from peftcore_train.metrics import MeanLoss


class Errors(NamedTuple):
    """Errors of one transcript: substitutions, deletions and insertions, and what was said."""

    word_errors: int
    words: int
    character_errors: int
    characters: int


def errors_of(reference: str, transcript: str) -> Errors:
    """Return the errors of a transcript; the reference is not empty, both are normalised."""
    words = jiwer.process_words(reference, transcript)
    letters = jiwer.process_characters(reference, transcript)
    return Errors(
        words.substitutions + words.deletions + words.insertions,
        words.hits + words.substitutions + words.deletions,
        letters.substitutions + letters.deletions + letters.insertions,
        letters.hits + letters.substitutions + letters.deletions,
    )


class WordErrorRate(MeanLoss):
    """Word errors over the words that were said: ``update(word_errors, words)``, [B] each."""

    def update(self, word_errors: Tensor, words: Tensor) -> None:
        """Add the rows of a batch."""
        super().update(word_errors, words)


class CharacterErrorRate(MeanLoss):
    """Character errors over the characters that were said, blanks included."""

    def update(self, character_errors: Tensor, characters: Tensor) -> None:
        """Add the rows of a batch."""
        super().update(character_errors, characters)
