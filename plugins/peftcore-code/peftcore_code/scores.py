"""What written reviews are worth, one value for each text."""

from collections.abc import Sequence

from peftcore_code.answers import says_yes
from peftcore_code.bleu import bleu4
from peftcore_code.diffs import untagged


def scores_of(action: str, written: Sequence[str], wanted: Sequence[str]) -> dict[str, list[float]]:
    """Return the scores of texts by name, as the metrics take them.

    Args:
        action: what was asked for.
        written: the texts.
        wanted: their references.
    """
    pairs = list(zip(written, wanted, strict=True))
    texts = {"texts": [1.0] * len(pairs)}
    if action == "necessity":
        return {**texts, **_necessity(pairs)}
    clean = [(untagged(text), untagged(reference)) for text, reference in pairs]
    return {
        **texts,
        "bleu4": [bleu4(*pair) for pair in clean],
        "bleu4_without_stop_words": [bleu4(*pair, stop_words=False) for pair in clean],
        "exact_match": [float(text.split() == reference.split()) for text, reference in clean],
    }


def _necessity(pairs: Sequence[tuple[str, str]]) -> dict[str, list[float]]:
    """Return what precision and recall of yes count; what is neither counts as no."""
    said = [says_yes(text) for text, _ in pairs]
    given = [reference == "yes" for _, reference in pairs]
    return {
        "right": [float(bool(s) and g) for s, g in zip(said, given, strict=True)],
        "predicted": [float(bool(s)) for s in said],
        "given": [float(g) for g in given],
        "unparsable": [float(s is None) for s in said],
    }
