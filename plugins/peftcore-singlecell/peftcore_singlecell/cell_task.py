"""What the tasks on cells share: finding a cell, and reading its tokens for each batch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from peftcore import ConfigError, DataError, Loaded, Strict
from peftcore_singlecell.cells import Cells
from peftcore_singlecell.expression import Values, tokens_of
from peftcore_singlecell.genes import Alignment, Genes
from peftcore_train.data import Columns, Row
from peftcore_train.progress import going_over
from peftcore_train.task import Features, Task

T = TypeVar("T")


class CellConfig(Strict):
    """Fields of every task on cells."""

    file_column: str = Field("cells", description="Column of the .h5ad that a cell is in.")
    cell_column: str = Field("cell", description="Column of the cell's name in that file.")
    layer: str = Field("X", description="Matrix to read: `X`, `raw`, or the name of a layer.")
    values: Values = Field(
        "counts",
        description="What the matrix holds: `counts`, which are normalised as scBERT does; `log2`,"
        " what its preprocessing writes; `log`, normalised with log1p to the base e; `scaled`,"
        " standard deviations above the mean of a gene.",
    )
    target_sum: float = Field(
        1e4, gt=0, le=1e9, description="Sum that the counts of each cell are brought to."
    )
    min_genes: int = Field(
        200,
        ge=1,
        le=1_000_000,
        description="A cell that expresses fewer genes of the backbone is an error.",
    )
    gene_column: str | None = Field(
        None, description="Column of `var` that holds symbols of genes; its index, if not given."
    )
    capitals: bool = Field(
        False, description="Write symbols of the file in capitals, as a mouse's for a human model."
    )


class CellTask(Task):
    """Reads tokens of a cell, [N], when a batch is made; what it keeps of a row is a few bytes."""

    length_unit = "places"

    def __init__(self, config: CellConfig):
        super().__init__(config)
        # what is wrong with a file is kept as well: each of its rows asks for it
        self._files: dict[Path, Cells | DataError] = {}
        self._alignments: dict[Path, Alignment | DataError] = {}
        self._told: set[Path] = set()
        self._genes: Genes | None = None
        self.bins = 0

    @property
    def place_columns(self) -> tuple[str, ...]:
        """The columns that say where a cell is."""
        return (self.config.file_column, self.config.cell_column)

    def columns(self) -> Columns:
        """Return the columns of the file and of the cell."""
        return Columns(self.place_columns)

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row names a cell that is there."""
        for row in going_over(rows, "looking up cells", unit="cells"):
            self._found(row)

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return where a cell is, having read it once; of a file's first row what is lost too."""
        self._know(loaded)
        cells, number = self._found(row)
        features: Features = {"file": cells.place, "number": number, "where": row.where}
        features["length"] = len(self.tokens(features))
        if cells.path not in self._told:
            self._told.add(cells.path)
            features["changed"] = self._aligned(cells).told(cells.path.name)
        return features

    def tokens(self, features: Features) -> Tensor:
        """Read the tokens of a cell, [N]."""
        assert self._genes is not None
        config, cells = self.config, self._opened(Path(features["file"]))
        found = tokens_of(
            cells.row(features["number"]),
            self._aligned(cells),
            genes=len(self._genes),
            bins=self.bins,
            values=config.values,
            target_sum=config.target_sum,
            min_genes=config.min_genes,
            where=features["where"],
        )
        return torch.from_numpy(found)

    def _found(self, row: Row) -> tuple[Cells, int]:
        name = row.text(self.config.cell_column)
        cells = self._opened(row.path(self.config.file_column))
        return cells, cells.number(name, row.where)

    def _opened(self, path: Path) -> Cells:
        if path not in self._files:
            try:
                self._files[path] = Cells(path, self.config.layer, self.config.gene_column)
            except DataError as error:
                self._files[path] = error
        return _or_raise(self._files[path])

    def _aligned(self, cells: Cells) -> Alignment:
        assert self._genes is not None
        if cells.path not in self._alignments:
            capitals = self.config.capitals
            try:
                found = self._genes.aligned(cells.genes, cells.path.name, capitals=capitals)
            except DataError as error:
                self._alignments[cells.path] = error
            else:
                self._alignments[cells.path] = found
        return _or_raise(self._alignments[cells.path])

    def _know(self, loaded: Loaded) -> None:
        """Take the genes and the bins of the backbone; another one begins anew."""
        if self._genes is loaded.tokenizer and self._genes is not None:
            return
        config: Any = getattr(loaded.model, "config", None)
        if not hasattr(config, "bins"):
            raise ConfigError(
                f"backbone.source {loaded.source}: a {type(loaded.model).__name__} reads no cells;"
                " take an scBERT."
            )
        if not isinstance(loaded.tokenizer, Genes):
            raise ConfigError(
                f"backbone.source {loaded.source} does not say which genes its places are: name a"
                " file as backbone.options.genes, a text with one gene a line, or an .h5ad that it"
                " was trained with."
            )
        self._genes, self.bins = loaded.tokenizer, config.bins
        self._alignments, self._told = {}, set()


def _or_raise(found: T | DataError) -> T:
    if isinstance(found, DataError):
        raise DataError(str(found))
    return found
