"""Write the 700 blood cells that come with scanpy as an .h5ad with types and splits."""

import hashlib
import sys
from pathlib import Path

import anndata

from peftcore import resolve_source
from peftcore_singlecell.converting import table

#: Split, and the share of the cells of a type at which it ends.
ENDS = {"train": 0.7, "validation": 0.8, "test": 1.0}


def write(path: Path) -> anndata.AnnData:
    """Write the logarithms of expression (``raw``), not the scaled values (``X``); return them.

    The order within a type is that of the names' digests, so that splits are the same everywhere.
    """
    whole = anndata.read_h5ad(resolve_source("samples/pbmc68k-reduced", "data"))
    types = whole.obs["bulk_labels"].astype(str)
    splits = {}
    for kind in sorted(set(types)):
        names = types.index[types == kind]
        names = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
        for place, name in enumerate(names):
            splits[name] = next(s for s, end in ENDS.items() if (place + 0.5) / len(names) < end)
    order = list(whole.obs_names)
    about = {"celltype": list(types), "split": [splits[name] for name in order]}
    cells = anndata.AnnData(whole.raw.X, table(order, about), table(list(whole.raw.var_names)))
    path.parent.mkdir(parents=True, exist_ok=True)
    cells.write_h5ad(path)
    return cells


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
