"""Writing train, validation and test files that every machine makes alike."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

#: Split, and the share of all rows at which it ends.
_ENDS = {"train": 0.7, "validation": 0.8, "test": 1.0}


def write_splits(rows: Iterable[tuple[str, Row]], folder: Path) -> None:
    """Write 70 % of the rows to train.jsonl, 10 % to validation.jsonl and 20 % to test.jsonl.

    The order is that of the groups' digests, so that neither a seed nor a version of Python
    matters, and rows come mixed.

    Args:
        rows: pairs of a group and a row; a group is never divided between splits.
        folder: where to write.
    """
    groups: dict[str, list[Row]] = {}
    for group, row in rows:
        groups.setdefault(group, []).append(row)
    total = sum(map(len, groups.values()))
    parts: dict[str, list[Row]] = {split: [] for split in _ENDS}
    done = 0
    for group in sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest()):
        split = next(split for split, end in _ENDS.items() if done < end * total)
        parts[split] += groups[group]
        done += len(groups[group])
    for split, part in parts.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in part]
        (folder / f"{split}.jsonl").write_bytes("".join(lines).encode())
