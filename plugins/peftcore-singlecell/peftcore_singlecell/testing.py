"""For tests: toy cells of two types, which express other genes, and a small scBERT over them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from peftcore_singlecell.converting import table
from peftcore_singlecell.genes import Genes
from peftcore_singlecell.model import ScBert, ScBertConfig

#: The genes of the toy's backbone; the file of cells has others too, in another order.
GENES = tuple(f"G{i}" for i in range(12))


def counts(rows: int, genes: int, seed: int = 0) -> NDArray[np.float32]:
    """Return counts of cells whose first half of genes is expressed in every second cell."""
    chance = np.random.default_rng(seed)
    found = chance.poisson(1, (rows, genes)).astype(np.float32)
    for i in range(rows):
        half = slice(0, genes // 2) if i % 2 else slice(genes // 2, genes)
        found[i, half] += chance.poisson(20, found[i, half].shape)
    return found


def write_cells(
    path: Path, rows: int = 8, genes: Sequence[str] = GENES, **columns: list[Any]
) -> Path:
    """Write counts of cells c0, c1, ... of two types."""
    types = [("beta", "alpha")[i % 2] for i in range(rows)]
    obs = table([f"c{i}" for i in range(rows)], {"celltype": types, **columns})
    data = anndata.AnnData(csr_matrix(counts(rows, len(genes))), obs, table(genes))
    data.write_h5ad(path)
    return path


def write_scbert(folder: Path, genes: Sequence[str] = GENES, head: str = "masked-lm") -> Path:
    """Write a small scBERT of random weights."""
    torch.manual_seed(0)
    config = ScBertConfig(
        genes=len(genes), dim=16, depth=2, heads=2, head_width=8, mlp_width=32, features=16,
        head_hidden=(16, 8),
    )  # fmt: skip
    ScBert(config, head).save_pretrained(folder)
    Genes(genes, "toy").save_pretrained(folder)
    return folder
