"""Miniatures of the published layouts: Zheng et al. 2017 and Baron et al. 2016."""

import gzip
from pathlib import Path

import anndata
import numpy as np
import pytest

from peftcore import DataError
from peftcore.testing import refused, run_in_process
from peftcore_singlecell import layouts
from peftcore_singlecell.layouts import layout_of

GENES = "ENSG0001\tMIR1302-10\nENSG0002\tCD3D\nENSG0003\tMS4A1\n"
CELLS = ("AAACATACACCCAA-1", "AAACATACCCCTCA-1", "AAACATACCGGAGA-1")
ENTRIES = "1 1 2\n3 1 1\n2 3 7\n3 3 1\n"
HEAD = "%%MatrixMarket matrix coordinate integer general\n%\n3 3 4\n"
LABELS = (
    "TSNE.1\tTSNE.2\tbarcodes\tcelltype\n"
    "7.56\t0.44\tAAACATACACCCAA-1\tCD8+ Cytotoxic T\n"
    "2.55\t-25.78\tAAACATACCCCTCA-1\tCD19+ B\n"
    "-5.77\t14.9\tAAACATACCGGAGA-1\tCD19+ B\n"
)
BARON = (
    '"","barcode","assigned_cluster","A1BG","A1CF","INS"\n'
    '"human1_lib1.final_cell_0001","GATGACGGAC-GGTGGGAT","acinar",0,4,0\n'
    '"human1_lib1.final_cell_0002","GAGCGTTGCT-ACCTTCTT","beta",1,0,52\n'
)


@pytest.fixture
def zheng(tmp_path) -> Path:
    folder = tmp_path / "filtered_matrices_mex" / "hg19"
    folder.mkdir(parents=True)
    (folder / "genes.tsv").write_text(GENES)
    (folder / "barcodes.tsv").write_text("".join(f"{name}\n" for name in CELLS))
    (folder / "matrix.mtx").write_text(HEAD + ENTRIES)
    (tmp_path / "68k_pbmc_barcodes_annotation.tsv").write_text(LABELS)
    return folder


@pytest.mark.parametrize("lines", [1, 2, 1000])
def test_zheng68k_becomes_an_h5ad_with_its_types(zheng, tmp_path, lines, monkeypatch) -> None:
    monkeypatch.setattr(layouts, "_LINES", lines)
    monkeypatch.setattr(layouts, "_CELLS", 2)
    labels = tmp_path / "68k_pbmc_barcodes_annotation.tsv"
    done = run_in_process(
        "cells", zheng, tmp_path / "z.h5ad", "--labels", labels, "--min-genes", "0"
    )
    assert done.exit_code == 0 and "3 cells of 3 genes" in done.stdout, done.output
    found = anndata.read_h5ad(tmp_path / "z.h5ad")
    assert found.X.toarray().tolist() == [[2, 0, 1], [0, 0, 0], [0, 7, 1]]
    assert found.var_names.tolist() == ["MIR1302-10", "CD3D", "MS4A1"]
    assert found.obs_names.tolist() == list(CELLS)
    assert found.obs["celltype"].tolist() == ["CD8+ Cytotoxic T", "CD19+ B", "CD19+ B"]


def test_cells_with_few_genes_are_left_out_and_counted(zheng, tmp_path) -> None:
    done = run_in_process("cells", zheng, tmp_path / "z.h5ad", "--min-genes", "1")
    assert "2 cells of 3 genes" in done.stdout
    assert "1 express fewer than 1 genes and are left out" in done.stdout
    assert anndata.read_h5ad(tmp_path / "z.h5ad").obs_names.tolist() == [CELLS[0], CELLS[2]]


def test_donors_of_baron_become_one_h5ad(tmp_path) -> None:
    folder = tmp_path / "GSE84133"
    folder.mkdir()
    for donor in ("1", "2"):
        with gzip.open(folder / f"GSM223075{donor}_human{donor}_umifm_counts.csv.gz", "wt") as file:
            file.write(BARON.replace("human1", f"human{donor}"))
    done = run_in_process("cells", folder, tmp_path / "b.h5ad", "--min-genes", "0")
    assert done.exit_code == 0, done.output
    found = anndata.read_h5ad(tmp_path / "b.h5ad")
    assert found.X.toarray().tolist() == 2 * [[0, 4, 0], [1, 0, 52]]
    assert found.var_names.tolist() == ["A1BG", "A1CF", "INS"]
    assert found.obs["celltype"].tolist() == 2 * ["acinar", "beta"]
    assert found.obs["file"].nunique() == 2
    assert found.obs_names[2] == "human2_lib1.final_cell_0001"


def parts(place: Path) -> list:
    return list(layout_of(place).parts)


def test_damaged_counts_are_named_with_their_line_and_nothing_is_written(zheng, tmp_path) -> None:
    matrix = zheng / "matrix.mtx"
    for text, sentence in (
        (HEAD + "1 1 2\n9 1 1\n", "matrix.mtx:5: an entry of no gene or cell"),
        (HEAD + "1 1 2\n2 1 -4\n", "matrix.mtx:5: an entry of no gene or cell, or no count"),
        (HEAD + "1 3 2\n2 1 4\n", "its entries are not sorted by cells"),
        (HEAD + "1 1 2\n", "matrix.mtx: 1 entries of 4; the file is cut off"),
        (HEAD.replace("3 3 4", "3 5 4"), "a matrix of 3 genes and 5 cells, but 3 genes and 3"),
        ("nothing\n", "matrix.mtx:1: no matrix market file"),
        (HEAD + "1 1 x\n", "matrix.mtx: not readable: "),
    ):
        matrix.write_text(text)
        with refused(DataError, sentence):
            parts(zheng)
    matrix.unlink()
    (zheng / "matrix.mtx.gz").write_bytes(gzip.compress((HEAD + ENTRIES).encode())[:-12])
    with refused(DataError, "matrix.mtx.gz: not readable: "):
        parts(zheng)
    (zheng / "matrix.mtx.gz").unlink()
    matrix.write_text(HEAD + "1 1 2\n9 1 1\n")
    done = run_in_process("cells", zheng, tmp_path / "z.h5ad")
    assert done.exit_code == 2 and not list(tmp_path.glob("*z.h5ad*"))
    table = tmp_path / "b.csv"
    table.write_text(BARON.replace("0,4,0", "0,x,0"))
    with refused(DataError, "b.csv:2: a count is no number of 0 or more"):
        parts(table)
    matrix.write_text(HEAD + ENTRIES)
    labels = tmp_path / "labels.csv"
    labels.write_text("barcodes,celltype\n" + f"{CELLS[0]},B\n")
    done = run_in_process("cells", zheng, tmp_path / "z.h5ad", "--labels", labels)
    assert done.exit_code == 2 or "left out" in done.stdout
    done = run_in_process(
        "cells", zheng, tmp_path / "y.h5ad", "--labels", labels, "--min-genes", "0"
    )
    assert f"--labels has no cell '{CELLS[1]}'" in done.stderr and done.exit_code == 2
    with refused(DataError, "holds no cells that can be read"):
        parts(zheng.parent)
    assert np.array_equal(parts(zheng)[0].counts.toarray()[0], [2, 0, 1])
