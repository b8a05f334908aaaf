"""Antimicrobial peptides of APD3 against random peptides of UniProt, as modlAMP ships them."""

import csv
from collections.abc import Iterator
from pathlib import Path

from peftcore_samples.cache import cached
from peftcore_samples.fetch import Package, fetch
from peftcore_samples.splits import Row, write_splits

_TABLE = "modlamp/data/AMPvsUniProt.csv"

MODLAMP = Package(
    name="modlamp",
    version="4.3.3",
    sha256="6948bcbc4a9614d10b6b47a051d4576c42fe8e5487fbbeb3cfe0d8033eb27f91",
    size="0.2 MB",
    licence="BSD-3-Clause",
    files={_TABLE: "e1db3dd659179118dcfca63723385f2f0c95c49d27060a90f7a9d5848250eb48"},
)


def amp() -> Path:
    """Return the folder of the antimicrobial peptides and the others."""
    return cached(f"peptides-amp-{MODLAMP.version}-r1", _build)


def _build(target: Path, scratch: Path) -> None:
    table = (fetch(MODLAMP, scratch) / _TABLE).read_text("utf-8")
    write_splits(labelled(table), target)


def labelled(table: str) -> Iterator[tuple[str, Row]]:
    """Yield sequence and row for every sequence once; those with both labels are left out.

    Args:
        table: a first line ``count,columns,label of 0,label of 1``, then ``sequence,label``.
    """
    header, *lines = csv.reader(table.splitlines(), skipinitialspace=True)
    labels: dict[str, set[str]] = {}
    for sequence, label in lines:
        labels.setdefault(sequence, set()).add(label)
    for sequence, found in labels.items():
        if len(found) == 1:
            yield sequence, {"sequence": sequence, "label": header[2 + int(*found)]}
