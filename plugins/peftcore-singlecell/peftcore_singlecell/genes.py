"""The genes of a backbone, and how those of a file lie among them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from peftcore import ConfigError, DataError
from peftcore_singlecell.annotated import frame_of
from peftcore_train.data import decoded

#: File of a backbone's folder that lists its genes in order, one a line.
GENES = "genes.txt"
#: Names that a sentence shows.
_SHOWN = 3


class Genes:
    """The genes of a backbone in the order of its places; the tokenizer of its kind.

    Args:
        names: their symbols.
        source: where they were read, for messages.
    """

    def __init__(self, names: Sequence[str], source: str):
        self.names = tuple(names)
        self.source = source
        self._places = {name: place for place, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def aligned(self, found: Sequence[str], where: str, *, capitals: bool = False) -> "Alignment":
        """Say where the genes of a file stand among those of the backbone.

        A gene that stands twice in the file counts where it stands first, as in the authors' code.

        Args:
            found: symbols of the file, in the order of its columns.
            where: the file, for messages.
            capitals: write the file's symbols in capitals, as those of a mouse's genes.

        Raises:
            DataError: none of them is known.
        """
        symbols = [name.upper() for name in found] if capitals else list(found)
        places = np.full(len(symbols), -1, dtype=np.int64)
        seen: set[str] = set()
        unknown, twice = [], []
        for column, symbol in enumerate(symbols):
            if symbol not in self._places:
                unknown.append(found[column])
            elif symbol in seen:
                twice.append(found[column])
            else:
                seen.add(symbol)
                places[column] = self._places[symbol]
        if not seen:
            raise DataError(self._none_known(found, where))
        return Alignment(places, tuple(unknown), tuple(twice), len(self) - len(seen))

    def _none_known(self, found: Sequence[str], where: str) -> str:
        known = {name.upper() for name in self.names}
        remedy = "Name the column of var that holds symbols as task.gene_column."
        if sum(name.upper() in known for name in found):
            remedy = "Symbols that differ by case alone match with task.capitals: true."
        return (
            f"{where}: none of its {len(found):,} genes, such as {shown(found)}, is among the"
            f" {len(self):,} of the backbone, such as {shown(self.names)}. {remedy}"
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the list into the folder of a backbone."""
        text = "".join(f"{name}\n" for name in self.names)
        Path(folder, GENES).write_text(text, "utf-8")


@dataclass(frozen=True)
class Alignment:
    """Where the genes of a file stand among those of a backbone.

    Attributes:
        places: place of each column, -1 of those that are dropped.
        unknown: genes that the backbone does not have.
        twice: genes that stand in the file a second time.
        missing: how many genes of the backbone the file does not have; their expression is 0.
    """

    places: NDArray[np.int64]
    unknown: tuple[str, ...]
    twice: tuple[str, ...]
    missing: int

    def told(self, file: str) -> dict[str, int]:
        """Return what is lost, as sentences with a number each."""
        out = {}
        if self.unknown:
            what = f"genes of {file} that the backbone does not have ({shown(self.unknown)})"
            out[f"{what} are dropped"] = len(self.unknown)
        if self.twice:
            out[
                f"genes that {file} has twice ({shown(self.twice)}) count where they stand first"
            ] = len(self.twice)
        if self.missing:
            out[f"genes of the backbone that {file} does not have count as not expressed"] = (
                self.missing
            )
        return out


def shown(names: Sequence[str]) -> str:
    """Return some names, and how many more there are."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def read_genes(path: Path, place: str) -> Genes:
    """Read genes in order: a text with one a line, or the variables of an .h5ad.

    Args:
        path: the file.
        place: what named it, for messages.

    Raises:
        ConfigError: there is no such file, or a gene stands in it twice.
    """
    if not path.is_file():
        raise ConfigError(f"{place}: {path}: no such file.")
    try:
        if path.suffix == ".h5ad":
            names = [str(name) for name in frame_of(path, "var").index]
        else:
            text = decoded(path.read_bytes(), path.name)
            names = [line.strip() for line in text.splitlines() if line.strip()]
    except DataError as error:
        raise ConfigError(f"{place}: {error}") from error
    if not names:
        raise ConfigError(f"{place}: {path} names no genes.")
    if len(set(names)) < len(names):
        again = next(name for i, name in enumerate(names) if name in names[:i])
        raise ConfigError(f"{place}: {path} names the gene {again} twice.")
    return Genes(names, str(path))
