"""What scBERT costs: a training step beside performer-pytorch's, and memory as cells grow.

    OMP_NUM_THREADS=1 python bench/cells.py step [--layers 6] [--genes 16907] [--repeats 1]
    OMP_NUM_THREADS=1 python bench/cells.py memory [--cells 1000 100000]     (Linux alone)

Absolute numbers depend on the machine. ``step`` needs performer-pytorch 1.1.4 and, of six layers at
16,907 genes, about 12 GB; times are the processor's, so that what else runs does not count.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn


def step_seconds(model: nn.Module, x: torch.Tensor) -> float:
    """Return the processor's seconds of a forward and a backward pass and a step of Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    start = time.process_time()
    model(x).square().mean().backward()
    optimizer.step()
    return time.process_time() - start


def compare_steps(layers: int, genes: int, repeats: int) -> dict[str, Any]:
    """Measure both, turn by turn, with the same weights and projections."""
    from performer_pytorch import Performer as Theirs

    from peftcore_singlecell.model import Performer, ScBertConfig

    torch.manual_seed(0)
    theirs = Theirs(dim=200, depth=layers, heads=10, dim_head=64, qkv_bias=False).train()
    ours = Performer(ScBertConfig(depth=layers), released=False).train()
    ours.load_state_dict(theirs.state_dict(), strict=False)
    models = {"performer-pytorch": theirs, "peftcore": ours}
    short = torch.randn(1, 64, 200)
    with torch.no_grad():
        off = float((ours(short) - theirs(short)).abs().max())
    x = torch.randn(1, genes, 200)
    found: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        step_seconds(model, short)  # memory and kernels are there
    for turn in range(repeats):
        for name in sorted(models, reverse=bool(turn % 2)):
            found[name].append(step_seconds(models[name], x))
    seconds = {name: statistics.median(times) for name, times in found.items()}
    ratio = seconds["peftcore"] / seconds["performer-pytorch"]
    return {"seconds": seconds, "ratio": ratio, "greatest difference": off}


def write_sparse(path: Path, cells: int, genes: int, expressed: int) -> None:
    """Write random counts a thousand cells at a time, of so many genes each."""
    import numpy as np
    from scipy.sparse import csr_matrix

    from peftcore_singlecell.converting import write_cells
    from peftcore_singlecell.layouts import Layout, Part

    chance, names = np.random.default_rng(0), [f"GENE{i}" for i in range(genes)]

    def parts() -> Any:
        ends = np.arange(1001) * expressed
        for start in range(0, cells, 1000):
            columns = np.sort(chance.integers(0, genes, (1000, expressed))).ravel()
            counts = chance.integers(1, 20, len(columns)).astype(np.float64)
            rows = csr_matrix((counts, columns, ends), shape=(1000, genes))
            rows.sum_duplicates()
            about = {"celltype": [f"type{i % 11}" for i in range(1000)]}
            yield Part([f"cell{start + i}" for i in range(1000)], rows, about, 1.0)

    write_cells(Layout(names, parts()), path)


#: Reads every cell of a file as training does: rows, tokens of each in order, then 2,000 at random.
_READ = """
import anndata.io, json, random, sys, time
from pathlib import Path
from peftcore import Loaded
from peftcore_singlecell.cell_type import CellType, CellTypeConfig
from peftcore_singlecell.genes import Genes
from peftcore_singlecell.model import ScBert, ScBertConfig
from peftcore_train.data import read_rows
def peak():  # of this program alone, unlike what getrusage says of a child
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
genes = [f"GENE{i}" for i in range(int(sys.argv[2]))]
small = ScBertConfig(genes=len(genes), dim=8, depth=1, heads=1, head_width=8, features=8)
loaded = Loaded(ScBert(small), Genes(genes, "bench"))
task = CellType(CellTypeConfig(min_genes=1))
before = peak()
rows = read_rows(Path(sys.argv[1]))
after_rows = peak()
task.learn(rows)
task.check(rows)
start = time.process_time()
features = [task.encode(row, loaded) for row in rows]
in_order = time.process_time() - start
after_encoding = peak()
chosen = random.Random(0).choices(features, k=2000)
start = time.process_time()
for begin in range(0, 2000, 20):
    task.collate(chosen[begin : begin + 20])
at_random = time.process_time() - start
print(json.dumps({"imports MB": before, "rows MB": after_rows - before,
    "all MB": peak() - before, "ms a cell in order": 1000 * in_order / len(rows),
    "ms a cell at random": at_random / 2}))
"""


def measure_memory(cells: int, genes: int, expressed: int) -> dict[str, Any]:
    """Read a file of so many cells in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cells.h5ad")
        write_sparse(path, cells, genes, expressed)
        done = subprocess.run(
            [sys.executable, "-c", _READ, str(path), str(genes)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        size = path.stat().st_size / 1e6
        status = Path("/proc/self/status").read_text()
        written = int(status.split("VmHWM:")[1].split()[0]) / 1024
        return {"cells": cells, "file MB": size, "writing MB": written, **json.loads(done.stdout)}


def main() -> None:
    """Print what is asked for as JSON, a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("step", "memory"))
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--genes", type=int, default=16_907)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--expressed", type=int, default=500, help="genes of each cell")
    parser.add_argument("--cells", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    given = parser.parse_args()
    if given.what == "step":
        print(json.dumps(compare_steps(given.layers, given.genes, given.repeats)))
        return
    for cells in given.cells:
        found = measure_memory(cells, given.genes - 1, given.expressed)
        print(json.dumps({name: round(value, 2) for name, value in found.items()}), flush=True)


if __name__ == "__main__":
    main()
