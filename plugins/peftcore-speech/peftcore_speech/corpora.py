"""Corpora of emotional speech as they are released: where their labels and recordings lie.

Each reader yields rows with the columns ``id``, ``audio``, ``label``, ``speaker``, ``gender`` and
what its folds leave out, and a :class:`DataError` in the place of a line that is none. Recordings
are opened only when they are heard.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from peftcore import DataError, nearest
from peftcore_train.data import Row, decoded, read_all

Found = Iterator[Row | DataError]

_GENDERS = {"F": "female", "M": "male", "Female": "female", "Male": "male"}


@dataclass(frozen=True)
class Corpus:
    """A corpus.

    Attributes:
        read: yields the rows below its folder.
        labels: the emotions that PEFT-SER takes, in its order.
        folds: its number of folds; 0 where the corpus says itself which split a row is of.
        group: column that folds leave out.
        merged: labels that become another one, where they are not asked for by name.
    """

    read: Callable[[Path], Found]
    labels: tuple[str, ...] = ("N", "A", "S", "H")
    folds: int = 0
    group: str = ""
    merged: Mapping[str, str] | None = None


def iemocap(root: Path) -> Found:
    """Read IEMOCAP: ``Session1/dialog/EmoEvaluation/*.txt``, ``Session1/sentences/wav/*/*.wav``.

    The first letters of a turn's name say the dialogue, the last ones who of the two speaks.
    """
    for session in sorted(root.glob("Session*")):
        for file in sorted((session / "dialog" / "EmoEvaluation").glob("*.txt")):
            if not file.name.startswith("."):  # what macOS wrote beside them
                yield from _turns(root, session.name, file)


#: ``[6.2901 - 8.2357]`` tab ``Ses01F_impro01_F000`` tab ``neu`` tab ``[2.5000, 2.5000, 2.5000]``
_TURN = re.compile(r"\[[^\]\t]+\]\t(Ses\d+[FM]_\w+_([FM])\w*)\t(\w+)\t\[[^\]]+\]\s*$")


def _turns(root: Path, session: str, file: Path) -> Found:
    for where, line in _lines(root, file):
        if not line.startswith("[") or "\tSes" not in line:
            continue  # a header, or what one of the raters said
        found = _TURN.match(line)
        if found is None:
            yield DataError(f"{where}: {line!r} is no turn: [times], name, label, [ratings].")
            continue
        name, speaker, label = found.groups()
        dialogue = name.rpartition("_")[0]
        yield Row(
            {
                "id": name,
                "audio": f"{session}/sentences/wav/{dialogue}/{name}.wav",
                "label": label,
                "speaker": name.partition("_")[0][:-1] + speaker,
                "gender": _GENDERS[speaker],
                "session": session.removeprefix("Session"),
            },
            where,
            str(root),
        )


#: ``UTD-IMPROV-S01A-F01-P-FM01.avi; N; A:2.4; V:3.1; D:2.9; N:3.8;`` and lines of raters below
_IMPROV = re.compile(r"UTD-(IMPROV-(S\d+\w)-([FM])(\d+)-(\w+)-\w+)\.avi; ?(\w)")


def msp_improv(root: Path) -> Found:
    """Read MSP-Improv: ``Evalution.txt`` (as the release spells it), ``Audio/session1/S01A/P/``."""
    for where, line in _lines(root, root / "Evalution.txt"):
        if not line.startswith("UTD-"):
            continue  # ratings of one person, or nothing
        found = _IMPROV.match(line)
        if found is None:
            yield DataError(f"{where}: {line!r} is no turn: UTD-IMPROV-...avi; label; ratings.")
            continue
        name, sentence, gender, number, kind, label = found.groups()
        session = int(number)
        yield Row(
            {
                "id": f"MSP-{name}",
                "audio": f"Audio/session{session}/{sentence}/{kind[-1]}/MSP-{name}.wav",
                "label": label,
                "speaker": f"{gender}{number}",
                "gender": _GENDERS[gender],
                "session": str(session),
            },
            where,
            str(root),
        )


#: A recording of CREMA-D in which nothing is heard, as its authors say.
_SILENT = "1076_MTI_SAD_XX"


def crema_d(root: Path) -> Found:
    """Read CREMA-D: ``AudioWAV/*.wav``, ``VideoDemographics.csv``, ``summaryTable.csv``.

    The label is what most raters who heard and saw it chose, not what was acted; ``A:D`` is a tie.
    """
    actors, bad = _table(root, "VideoDemographics.csv", "ActorID")
    yield from bad
    votes, bad = _table(root, "processedResults/summaryTable.csv", "FileName")
    yield from bad
    for file in sorted((root / "AudioWAV").glob("*.wav")):
        name, where = file.stem, f"AudioWAV/{file.name}"
        actor = name.partition("_")[0]
        if name == _SILENT:
            continue
        if name not in votes or actor not in actors:
            table = "summaryTable.csv" if name not in votes else "VideoDemographics.csv"
            known = votes if name not in votes else actors
            missing = name if name not in votes else actor
            yield DataError(f"{where}: {table} has no {missing!r}.{nearest(missing, known)}")
            continue
        try:
            values = {
                "label": votes[name].text("MultiModalVote"),
                "gender": _gender(actors[actor], "Sex"),
            }
        except DataError as error:
            yield error
            continue
        yield Row({"id": name, "audio": where, **values, "speaker": actor}, where, str(root))


_SPLITS = {
    "Train": "train", "Development": "validation", "Validation": "validation", "Test1": "test",
}  # fmt: skip
_CONSENSUS = ("labels_concensus.csv", "labels_consensus.csv")


def msp_podcast(root: Path) -> Found:
    """Read MSP-Podcast: ``Labels/labels_concensus.csv`` (either spelling), ``Audios/*.wav``.

    As in PEFT-SER, rows whose speaker or gender is unknown are left out, and of the tests all but
    ``Test1``.
    """
    names = [name for name in _CONSENSUS if (root / "Labels" / name).is_file()] or [_CONSENSUS[0]]
    rows, bad = _read(root, f"Labels/{names[0]}")
    yield from bad
    for row in rows:
        try:
            name, speaker = row.text("FileName"), row.text("SpkrID")
            gender, split = row.text("Gender"), _SPLITS.get(row.text("Split_Set"))
            label = row.text("EmoClass")
            if split is None or "known" in speaker.lower() or "known" in gender.lower():
                continue
            gender = _gender(row, "Gender")
        except DataError as error:
            yield error
            continue
        yield Row(
            {
                "id": name,
                "audio": f"Audios/{name}",
                "label": label,
                "speaker": speaker,
                "gender": gender,
                "split": split,
            },
            row.where,
            str(root),
        )


CORPORA: Mapping[str, Corpus] = {
    "iemocap": Corpus(iemocap, ("neu", "sad", "ang", "hap"), 5, "session", merged={"exc": "hap"}),
    "msp-improv": Corpus(msp_improv, folds=6, group="session"),
    "crema-d": Corpus(crema_d, folds=5, group="speaker"),
    "msp-podcast": Corpus(msp_podcast),
}


def rows_of(corpus: Corpus, root: Path) -> tuple[list[Row], list[DataError]]:
    """Return the rows of a corpus, whatever their label, and all that is no row.

    Raises:
        DataError: the folder is not laid out as the corpus is released.
    """
    if not root.is_dir():
        beside = [p.name for p in root.parent.glob("*")] if root.parent.is_dir() else []
        raise DataError(f"data.source {root}: no such folder.{nearest(root.name, beside)}")
    rows, bad = [], []
    for found in corpus.read(root):
        if isinstance(found, Row):
            rows.append(found)
        else:
            bad.append(found)
    if not rows and not bad:
        layout = (corpus.read.__doc__ or "").partition("\n")[0].rstrip(".")
        has = ", ".join(sorted(p.name for p in root.iterdir())[:20]) or "nothing"
        raise DataError(f"{root} is not laid out as released ({layout}). It holds: {has}.")
    return rows, bad


def _gender(row: Row, column: str) -> str:
    value = row.text(column)
    if value not in _GENDERS:
        raise DataError(f"{row.where}: column {column!r} holds {value!r}, not Male or Female.")
    return _GENDERS[value]


def _lines(root: Path, file: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines of a file with their place; none where there is no such file."""
    if not file.is_file():
        return
    name = file.relative_to(root).as_posix()
    for number, line in enumerate(decoded(file.read_bytes(), name).split("\n"), 1):
        yield f"{name}:{number}", line.rstrip("\r")


def _read(root: Path, name: str) -> tuple[list[Row], list[DataError]]:
    if not (root / name).is_file():
        return [], [DataError(f"{root} has no {name}, which has the labels.")]
    return read_all(root / name)


def _table(root: Path, name: str, key: str) -> tuple[dict[str, Row], list[DataError]]:
    """Return the rows of a table by one of its columns."""
    rows, bad = _read(root, name)
    out: dict[str, Row] = {}
    for row in rows:
        try:
            out[row.text(key)] = row
        except DataError as error:
            bad.append(error)
    return out, bad
