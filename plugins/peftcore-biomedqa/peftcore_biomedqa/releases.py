"""Which questions of a release train, validate and test."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from peftcore import DataError, nearest
from peftcore_biomedqa.corpora import Found, bioasq, pubmedqa
from peftcore_biomedqa.folds import artificial_training, labelled_folds
from peftcore_train.data import Columns, Row, drawn, read_rows
from peftcore_train.data.splits import divided
from peftcore_train.schema import DataSection, Split

Problems = list[DataError]
_LABELLED, _TEST = "ori_pqal.json", "test_ground_truth.json"
_COLUMNS = Columns(("question", "context"), ("label",), "label")


class Pseudo(NamedTuple):
    """Labels that a model of a stage before gave: a file of predictions, and from when on."""

    file: str
    confidence: float


def pubmedqa_split(
    root: Path, split: Split, data: DataSection, part: str, fold: int, pseudo: Pseudo | None,
    problems: Problems,
) -> list[Row]:  # fmt: skip
    """Return a split of PubMedQA for a stage.

    Raises:
        DataError: a file is missing or does not belong to another one, or the recipe divides what
            is divided already.
    """
    if given := [name for name in ("split", "files", "labels") if getattr(data, name)]:
        raise DataError(
            f"data.{given[0]} does not go with task.corpus: pubmedqa has splits of its own. Leave"
            " one of the two out."
        )
    if part == "artificial":
        return artificial(root, split, data, problems)
    if pseudo is not None:
        return pseudo_labelled(root, split, fold, pseudo, problems)
    return labelled(root, split, fold, problems)


def labelled(root: Path, split: Split, fold: int, problems: Problems) -> list[Row]:
    """Return a split of PQA-L: the test of 500, or a part of ten of the others.

    Raises:
        DataError: a file is missing, or the test names questions that are not there.
    """
    path = _file(root, _LABELLED)
    rows = {row.values["id"]: row for row in _parted(pubmedqa(path), problems)}
    labels = {name: row.values.get("label", "") for name, row in rows.items()}
    folds, test = labelled_folds(labels)
    truth = answers_of(_file(root, _TEST))
    _check_ids(truth, rows, _TEST, path.name)
    if set(truth) != test and len(rows) == 1000:
        raise DataError(f"{root}: {_TEST} is not the test of {path.name}; fetch both anew.")
    chosen = set(truth)
    if split != "test":
        validation = folds[fold] - chosen
        chosen = validation if split == "validation" else set(labels) - chosen - validation
    return [row for name, row in rows.items() if name in chosen]


def artificial(root: Path, split: Split, data: DataSection, problems: Problems) -> list[Row]:
    """Return a split of PQA-A: 200,000 questions train, the others validate; PQA-L's test tests.

    The file is read twice, so that what ``data.limits`` leaves out is never kept.
    """
    if split == "test":
        return labelled(root, split, 0, problems)
    path = _file(root, "ori_pqaa.json")
    names = [row.values["id"] for row in _parted(pubmedqa(path), problems)]
    most = min(200_000, round(0.95 * len(names)))  # of a part of the file there are fewer
    training = artificial_training(names, most)
    light = [Row({"id": n}, "") for n in names if (n in training) == (split == "train")]
    kept = {row.values["id"] for row in drawn(light, data, split)}
    found = pubmedqa(path)
    return [row for row in found if isinstance(row, Row) and row.values["id"] in kept]


def pseudo_labelled(
    root: Path, split: Split, fold: int, pseudo: Pseudo, problems: Problems
) -> list[Row]:
    """Return PQA-U with labels that are sure enough; PQA-L's splits validate and test."""
    if split != "train":
        return labelled(root, split, fold, problems)
    path = _file(root, "ori_pqau.json")
    sure = _sure(read_rows(Path(pseudo.file).expanduser()), pseudo)
    rows, seen = [], set()
    for row in _parted(pubmedqa(path), problems):
        name = row.values["id"]
        seen.add(name)
        if sure.get(name) is not None:
            rows.append(Row({**row.values, "label": sure[name]}, row.where))
    _check_ids(dict.fromkeys(seen), sure, path.name, pseudo.file)
    if not rows:
        raise DataError(
            f"{pseudo.file}: no answer is as sure as task.confidence {pseudo.confidence}. Lower it."
        )
    return rows


def questions(root: Path, split: Split, data: DataSection, problems: Problems) -> list[Row]:
    """Return a split of BioASQ: one file that ``data.split`` divides, or a file of each split."""
    if root.is_file():
        rows = _parted(bioasq(root), problems)
        if data.split is None:
            raise DataError(
                f"data.source {root}: one file has no splits. Divide it with data.split:"
                " {validation: 0.1, test: 0.1}, or name a folder and data.files."
            )
        return divided(rows, data.split, _COLUMNS, data.seed)[split]
    return _parted(bioasq(_file(root, data.files.get(split, f"{split}.json"))), problems)


def answers_of(path: Path) -> dict[str, str]:
    """Return answers by id, of ``{id: answer}`` or of a file of rows.

    Raises:
        DataError: it is neither, or an id stands there twice.
    """
    if path.suffix == ".json":
        try:
            found = json.loads(path.read_text("utf-8-sig"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not readable as JSON: {error}.") from None
        if isinstance(found, dict) and all(isinstance(v, str) for v in found.values()):
            return found
        raise DataError(f"{path.name}: answers are written {{id: answer, ...}}.")
    answers: dict[str, str] = {}
    for row in read_rows(path):
        name = str(row.column("id"))
        if name in answers:
            raise DataError(f"{row.where}: the id {name!r} stands there twice.")
        answers[name] = row.text("label")
    return answers


def _sure(rows: Iterable[Row], pseudo: Pseudo) -> dict[str, str | None]:
    """Return the label of each id; None where its probability is too low."""
    found: dict[str, str | None] = {}
    for row in rows:
        label, shares = row.text("label"), row.column("probabilities")
        share: Any = shares.get(label) if isinstance(shares, dict) else None
        if not isinstance(share, int | float):
            raise DataError(
                f"{row.where}: no probability of the label {label!r}. Predict with"
                " peftcore predict --probabilities."
            )
        found[str(row.column("id"))] = label if share >= pseudo.confidence else None
    return found


def _check_ids(
    wanted: Mapping[str, Any], there: Mapping[str, Any], first: str, second: str
) -> None:
    """Raise DataError where ids of one file are missing in another one."""
    if missing := [name for name in wanted if name not in there]:
        raise DataError(
            f"{second} lacks {len(missing)} of the {len(wanted)} ids of {first}, such as"
            f" {missing[0]!r}. Take two files that belong together."
        )


def _parted(found: Found, problems: Problems) -> list[Row]:
    rows = []
    for one in found:
        if isinstance(one, Row):
            rows.append(one)
        else:
            problems.append(one)
    return rows


def _file(root: Path, name: str) -> Path:
    """Return a file of a release, in its folder or in the folder ``data`` in it."""
    for folder in (root, root / "data"):
        if (folder / name).is_file():
            return folder / name
    if not root.is_dir():
        beside = [p.name for p in root.parent.glob("*")] if root.parent.is_dir() else []
        raise DataError(f"data.source {root}: no such folder.{nearest(root.name, beside)}")
    has = ", ".join(sorted(p.name for p in root.iterdir())[:20]) or "nothing"
    raise DataError(
        f"data.source {root} has no {name}.{nearest(name, has.split(', '))} It holds: {has}."
    )


#: What reads a file of each corpus.
READERS: dict[str, Callable[[Path], Found]] = {"pubmedqa": pubmedqa, "bioasq": bioasq}
