"""``peftcore cells`` and ``peftcore scbert``."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--labels", type=click.Path(path_type=Path),
    help="Table of the type of each cell, .csv or .tsv; it becomes the column celltype.",
)  # fmt: skip
@click.option("--cell-column", help="Column of the name of a cell in that table.")
@click.option("--label-column", help="Column of the type of a cell in that table.")
@click.option("--layer", default="X", show_default=True, help="Matrix of an .h5ad to take.")
@click.option(
    "--min-genes",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    help="Leave cells out that express fewer genes.",
)
def cells(
    source: Path, output: Path, labels: Path | None, cell_column: str | None,
    label_column: str | None, layer: str, min_genes: int,
) -> None:  # fmt: skip
    """Write the counts of SOURCE as OUTPUT, an .h5ad that training reads cell by cell.

    SOURCE is a folder of 10x (matrix.mtx, barcodes.tsv, genes.tsv or features.tsv), one or a folder
    of tables of CSV with a row a cell, as of Baron et al. 2016, or an .h5ad. Memory does not grow
    with the cells, unless an .h5ad is stored by genes; that is read as a whole.
    """
    # pandas and anndata take seconds to import
    from peftcore_singlecell.converting import read_labels, write_cells
    from peftcore_singlecell.layouts import layout_of

    table = None if labels is None else read_labels(labels, cell_column, label_column)
    layout = layout_of(source, layer)
    with _told(f"reading {source}") as tick:
        written, left_out = write_cells(
            layout, output, min_genes=min_genes, labels=table, tick=tick
        )
    lost = (
        f"; {left_out:,} express fewer than {min_genes} genes and are left out" if left_out else ""
    )
    click.echo(f"{written:,} cells of {len(layout.genes):,} genes written to {output}{lost}")


@contextmanager
def _told(what: str) -> Iterator[Callable[[float], Any]]:
    """Say how far some work is: by a bar on a terminal, else by a line now and then."""
    from tqdm import tqdm

    from peftcore_train.progress import Progress

    if not sys.stderr.isatty():
        with Progress().doing(what):
            yield lambda done: None
        return
    with tqdm(total=100, desc=what, unit="%", file=sys.stderr) as bar:
        yield lambda done: bar.update(int(100 * done) - bar.n)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--genes", required=True, type=click.Path(path_type=Path),
    help="Genes in order: a text with one a line, or an .h5ad.",
)  # fmt: skip
@click.option(
    "--gene2vec", type=click.Path(path_type=Path),
    help="Vector of each gene, .npy of [genes, dim]; random ones otherwise.",
)  # fmt: skip
@click.option(
    "--dim",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Features of a gene's vector.",
)
@click.option(
    "--depth",
    type=click.IntRange(1),
    default=6,
    show_default=True,
    help="Number of layers.",
)
@click.option(
    "--heads",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Heads of attention in a layer.",
)
@click.option(
    "--head-width",
    type=click.IntRange(2),
    default=64,
    show_default=True,
    help="Features of a head.",
)
@click.option(
    "--bins",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Bins that expression is put into.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of the random weights.",
)
def scbert(
    folder: Path, genes: Path, gene2vec: Path | None, dim: int, depth: int, heads: int,
    head_width: int, bins: int, seed: int,
) -> None:  # fmt: skip
    """Write an scBERT of random weights into FOLDER, to pre-train it on cells of one's own.

    The sizes are those of the paper unless given. The hidden width of its feed-forward parts is
    four times DIM.
    """
    # torch takes seconds to import
    from peftcore_singlecell.scratch import write_new

    count = write_new(
        folder, genes, gene2vec, seed=seed, dim=dim, depth=depth, heads=heads,
        head_width=head_width, bins=bins,
    )  # fmt: skip
    click.echo(f"scBERT of {count:,} random parameters written to {folder}")
