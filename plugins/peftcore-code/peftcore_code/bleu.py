"""BLEU-4 of single texts by the arithmetic of CodeReviewer's evaluator.

Li et al. 2022 score with a script that goes back to Moses and NIST's mteval-v11a. Beside the BLEU
of a corpus, which sacrebleu computes, it differs in all of this: precisions of two and more words
are smoothed by one, the brevity penalty adds one to both lengths, and the mean is over texts. An
empty prediction is not 0: all of its precisions are 1, and the penalty is all that is left.
"""

import math
import re
import sys
from collections import Counter
from functools import lru_cache
from importlib.resources import files

_MOST = 4
#: Words and runs of other characters, as NLTK's wordpunct_tokenize finds them.
_WORDS = re.compile(r"\w+|[^\w\s]+")
#: What the evaluator's three passes over a word leave of it: an underscore is a token too.
_TOKENS = re.compile(r"[^\W_]+|[^\w\s]|_")
#: Added to counts within logarithms.
_TINY = sys.float_info.min


def bleu4(prediction: str, reference: str, *, stop_words: bool = True) -> float:
    """Return the score of one text, from 0 to 1.

    Args:
        prediction: what was written.
        reference: what should have been.
        stop_words: keep them, as the evaluator does for code; without them it scores comments.
    """
    found, wanted = (tokens(text, stop_words=stop_words) for text in (prediction, reference))
    log = sum(_log_precision(found, wanted, n) for n in range(1, _MOST + 1)) / _MOST
    brevity = min(0.0, 1 - (len(wanted) + 1) / (len(found) + 1))
    return math.exp(log + brevity)


def tokens(text: str, *, stop_words: bool = True) -> list[str]:
    """Return the tokens that are compared, in lower case."""
    words = _WORDS.findall(text)
    if not stop_words:
        # before lower case, as there: The stays
        words = [word for word in words if word not in _stop_words()]
    return [token for word in words for token in _TOKENS.findall(word.lower())]


def _log_precision(found: list[str], wanted: list[str], n: int) -> float:
    """Return the logarithm of the share of runs of n tokens that the reference has too."""
    ours, theirs = _runs(found, n), _runs(wanted, n)
    smooth = 1 if n > 1 else 0
    right = (ours & theirs).total() + smooth
    return math.log(right + _TINY) - math.log(ours.total() + smooth + _TINY)


def _runs(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


@lru_cache(maxsize=1)
def _stop_words() -> frozenset[str]:
    text = files("peftcore_code").joinpath("stop_words.txt").read_text("utf-8")
    return frozenset(
        word for line in text.splitlines() if not line.startswith("#") for word in line.split()
    )
