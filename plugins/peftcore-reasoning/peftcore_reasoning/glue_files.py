"""The nine tasks of GLUE: their columns and labels, and their files in both releases.

Wang et al. 2019, https://arxiv.org/abs/1804.07461. Imports no torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from peftcore import DataError, nearest
from peftcore_train.data import Row, read_all

GlueName = Literal["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"]


class GlueTask(NamedTuple):
    """One of the tasks.

    Attributes:
        folder: of its files in the release of the benchmark, tables with tabs.
        texts: columns of one text, or two, as the library datasets names them.
        labels: in the order of their numbers; none where the label is a number from 0 to 5.
        renamed: what the tables call the columns that datasets names otherwise.
        header: columns of tables that have no header.
        metric: what chooses the best epoch.
    """

    folder: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    renamed: Mapping[str, str] = {}
    header: tuple[str, ...] = ()
    metric: str = "accuracy"


_ENTAILS = ("entailment", "not_entailment")
_PAIR = ("sentence1", "sentence2")
TASKS: Mapping[str, GlueTask] = {
    "cola": GlueTask(
        "CoLA", ("sentence",), ("unacceptable", "acceptable"),
        header=("source", "label", "star", "sentence"), metric="mcc",
    ),
    "sst2": GlueTask("SST-2", ("sentence",), ("negative", "positive")),
    "mrpc": GlueTask(
        "MRPC", _PAIR, ("not_equivalent", "equivalent"),
        {"#1 String": "sentence1", "#2 String": "sentence2", "Quality": "label"},
        metric="combined",
    ),
    "qqp": GlueTask(
        "QQP", ("question1", "question2"), ("not_duplicate", "duplicate"),
        {"is_duplicate": "label"}, metric="combined",
    ),
    "stsb": GlueTask("STS-B", _PAIR, (), {"score": "label"}, metric="combined"),
    "mnli": GlueTask(
        "MNLI", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"),
        {"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"},
    ),
    "qnli": GlueTask("QNLI", ("question", "sentence"), _ENTAILS),
    "rte": GlueTask("RTE", _PAIR, _ENTAILS),
    "wnli": GlueTask("WNLI", _PAIR, ("not_entailment", "entailment")),
}  # fmt: skip


def as_datasets(row: Row, task: GlueTask) -> Row:
    """Return a row with its columns named as the library datasets names them."""
    values = {
        task.renamed.get(name, name) if name not in ("label", *task.texts) else name: value
        for name, value in row.values.items()
    }
    return Row(values, row.where, row.folder)


def label_of(row: Row, task: GlueTask) -> str:
    """Return the name of a row's label; tables have numbers or names, datasets numbers.

    Raises:
        DataError: it is none of the task's; of a test split, which keeps its labels, -1.
    """
    value = str(row.column("label"))
    if value in task.labels:
        return value
    if value.isdecimal() and int(value) < len(task.labels):
        return task.labels[int(value)]
    secret = " Labels of test splits are secret; score on validation." if value == "-1" else ""
    raise DataError(
        f"{row.where}: label {value!r} is none of {', '.join(task.labels)}.{secret}"
        f"{nearest(value, task.labels)}"
    )


def has_own_splits(root: Path) -> bool:
    """Tell whether a folder has files of splits that are none of the two releases'."""
    names = {path.name.removesuffix(".gz") for path in root.glob("*.*") if path.is_file()}
    suffixes = (".jsonl", ".json", ".csv")
    return any(f"{split}{s}" in names for split in ("train", "validation") for s in suffixes)


def rows_of(
    root: Path, name: str, part: Literal["train", "dev"], matched: str, problems: list[DataError]
) -> list[Row]:
    """Return the rows of training or of validation, as released or as datasets saved them.

    Args:
        root: the folder of the task, or of all tasks.
        name: the task.
        part: which.
        matched: of mnli, which of the two validation sets.
        problems: where what is no row is put.

    Raises:
        DataError: neither lies there.
    """
    task = TASKS[name]
    rows = []
    for place in _places(root, name, part, matched if name == "mnli" else ""):
        if place.suffix == ".tsv":
            found: list[Row | DataError] = list(_table(place, task))
            problems += [one for one in found if isinstance(one, DataError)]
            rows += [one for one in found if isinstance(one, Row)]
        else:
            read, bad = read_all(place)
            problems += bad
            rows += read
        if not rows and not problems:
            problems.append(DataError(f"{place.name} is empty."))
    return [as_datasets(row, task) for row in rows]


def _places(root: Path, name: str, part: str, matched: str) -> list[Path]:
    """Return the table or folder of a part, or its files of parquet."""
    suffix = f"_{matched}" if matched and part == "dev" else ""
    saved = ("train" if part == "train" else "validation") + suffix
    for folder in (root / TASKS[name].folder, root / name, root):
        if (table := folder / f"{part}{suffix}.tsv").is_file():
            return [table]
        if (folder / saved / "state.json").is_file():
            return [folder / saved]
        if files := sorted({*folder.glob(f"{saved}-*.parquet"), *folder.glob(f"{saved}.parquet")}):
            return files
    has = ", ".join(sorted(p.name for p in root.glob("*"))[:20]) or "nothing"
    raise DataError(
        f"data.source {root} has no {TASKS[name].folder}/{part}{suffix}.tsv, and no"
        f" {name}/{saved} that datasets saved. It holds: {has}."
    )


def _table(file: Path, task: GlueTask) -> Iterator[Row | DataError]:
    """Read a table line by line: tabs, no quotes; of CoLA without a header."""
    header: Sequence[str] = task.header
    with file.open("rb") as lines:
        for number, raw in enumerate(lines, 1):
            where = f"{file.name}:{number}"
            try:
                cells = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                yield DataError(f"{where}: not UTF-8.")
                continue
            values = cells.split("\t")
            if not header:
                header = values
            elif len(values) != len(header):
                yield DataError(f"{where}: {len(values)} columns, where {len(header)} should be.")
            else:
                yield Row(dict(zip(header, values, strict=True)), where, str(file.parent))
