"""Sentences with human sentiment scores (Hutto and Gilbert, 2014, ICWSM: VADER)."""

import html
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from peftcore_samples.cache import cached
from peftcore_samples.fetch import Package, fetch
from peftcore_samples.splits import Row, write_splits

_ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"

VADER = Package(
    name="vaderSentiment",
    version="3.3.2",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    size="2.5 MB",
    licence="MIT",
    files={_ARCHIVE: "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"},
    sdist=True,
)

#: Sentences that score nearer to 0 are neither clearly negative nor clearly positive.
LEAST_SCORE = 1.0

_MEMBERS = {
    "movie": "movieReviewSnippets",
    "tweet": "tweets",
    "product": "amazonReviewSnippets",
    "news": "nytEditorialSnippets",
}


def movie() -> Path:
    """Return the folder of the film review sentences."""
    return _resolve("movie")


def movie_scores() -> Path:
    """Return the folder of all film review sentences with their scores."""
    return cached(f"sentiment-scores-{VADER.version}-r1", _build_scores)


def tweet() -> Path:
    """Return the folder of the tweets."""
    return _resolve("tweet")


def product() -> Path:
    """Return the folder of the product review sentences."""
    return _resolve("product")


def news() -> Path:
    """Return the folder of the editorial sentences."""
    return _resolve("news")


def _resolve(kind: str) -> Path:
    return cached(f"sentiment-{VADER.version}-r1", _build) / kind


def _build(target: Path, scratch: Path) -> None:
    """Make all four at once: they come in one archive."""
    for kind, table in _tables(scratch).items():
        folder = target / kind
        folder.mkdir()
        write_splits(labelled(table), folder)


def _build_scores(target: Path, scratch: Path) -> None:
    write_splits(scored(_tables(scratch)["movie"]), target)


def _tables(scratch: Path) -> dict[str, str]:
    tables = {}
    with tarfile.open(fetch(VADER, scratch) / _ARCHIVE) as tar:
        for kind, member in _MEMBERS.items():
            source = tar.extractfile(f"hutto_ICWSM_2014/{member}_GroundTruth.txt")
            assert source is not None, member
            tables[kind] = source.read().decode("utf-8")
    return tables


def labelled(table: str) -> Iterator[tuple[str, Row]]:
    """Yield document and row for every clear sentence of a table; of equal ones only the first.

    Args:
        table: lines of identifier, score and text, tab separated.
    """
    for document, text, score in _sentences(table, LEAST_SCORE):
        label = "positive" if score > 0 else "negative"
        yield document, {"text": text, "label": label, "score": round(score, 4)}


def scored(table: str) -> Iterator[tuple[str, Row]]:
    """Yield document and row for every sentence, clear or not."""
    for document, text, score in _sentences(table, -1):
        yield document, {"text": text, "score": round(score, 4)}


def _sentences(table: str, least: float) -> Iterator[tuple[str, str, float]]:
    """Yield document, text and score of sentences that score farther than ``least`` from 0."""
    seen = set()
    for line in table.splitlines():
        identifier, number, raw = line.split("\t")
        text, score = cleaned(raw), float(number)
        # Case, punctuation and spacing do not make another sentence.
        key = " ".join(re.findall(r"\w+", text.casefold())) or text
        if abs(score) > least and key not in seen:
            seen.add(key)
            # "12_3" is the third sentence of document 12, which stays in one split.
            yield identifier.split("_")[0], text, score


def cleaned(text: str) -> str:
    """Return a text without HTML entities, doubled apostrophes, stray quotes and extra spaces."""
    while (plain := html.unescape(text)) != text:
        text = plain
    text = text.replace("''", '"')
    if text.count('"') == 1:
        # Cutting into sentences has left half of a pair; an inch sign is never at an end.
        text = text.strip('"')
    return " ".join(text.split())
