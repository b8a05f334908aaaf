"""An scBERT of random weights over genes of one's own, to be pre-trained."""

from pathlib import Path

import numpy as np
import torch

from peftcore import ConfigError
from peftcore_singlecell.attention import feature_count
from peftcore_singlecell.genes import read_genes
from peftcore_singlecell.model import ScBert, ScBertConfig


def write_new(
    folder: Path, genes: Path, gene2vec: Path | None = None, *, seed: int = 0, dim: int = 200,
    depth: int = 6, heads: int = 10, head_width: int = 64, bins: int = 5,
) -> int:  # fmt: skip
    """Write a folder that the backbone loads; return how many parameters it has.

    Args:
        folder: a new one.
        genes: file of the genes in order.
        gene2vec: ``.npy`` of the vector of each gene, [genes, dim], as ``gene2vec_16906.npy``.
        seed: of the random weights.
        dim, depth, heads, head_width, bins: sizes, see :class:`ScBertConfig`.

    Raises:
        ConfigError: the folder exists, or the files do not fit each other.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not an empty folder; name a new one.")
    names = read_genes(genes.expanduser(), "--genes")
    config = ScBertConfig(
        genes=len(names), dim=dim, depth=depth, heads=heads, head_width=head_width,
        mlp_width=4 * dim, bins=bins, features=feature_count(head_width),
    )  # fmt: skip
    table = None if gene2vec is None else read_table(gene2vec, config)
    torch.manual_seed(seed)
    model = ScBert(config, "masked-lm")
    with torch.no_grad():
        if table is not None:
            model.pos_emb.emb.weight[:-1] = table
        model.pos_emb.emb.weight[-1] = 0
    model.save_pretrained(folder)
    names.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def read_table(path: Path, config: ScBertConfig) -> torch.Tensor:
    """Read the vector of each gene, [genes, dim]; nothing is unpickled.

    Raises:
        ConfigError: the file is no such table.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--gene2vec {path} cannot be read: {error}.") from error
    if found.shape != (config.genes, config.dim) or not np.isfinite(found).all():
        raise ConfigError(
            f"--gene2vec {path}: an array {found.shape}, not ({config.genes}, {config.dim}) finite"
            " numbers: a vector for each gene of --genes."
        )
    return torch.from_numpy(found).float()
