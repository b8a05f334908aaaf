"""From matrices to tokens: by hand, in every layout on disk, and what is refused."""

import json
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import torch
import yaml
from scipy.sparse import csc_matrix, csr_matrix
from sklearn.metrics import accuracy_score, f1_score

from peftcore import DataError, backbone_named
from peftcore.testing import refused, run_in_process
from peftcore_singlecell.cell_type import CellType, CellTypeConfig
from peftcore_singlecell.cells import Cells, Expression
from peftcore_singlecell.converting import table
from peftcore_singlecell.expression import tokens_of
from peftcore_singlecell.genes import Genes
from peftcore_singlecell.masked import MaskedExpression, MaskedExpressionConfig
from peftcore_singlecell.testing import GENES, counts, write_cells, write_scbert
from peftcore_train.data import read_rows
from peftcore_train.testing import bars_of

FIVE = Genes(["A", "B", "C", "D", "E"], "five")


def tokens(cell: list[float], symbols: list[str], **how) -> list[int]:
    row = np.array(cell, float)
    columns = np.flatnonzero(row)
    given = {"values": "counts", "target_sum": 1e4, "min_genes": 1, "where": "x:1", **how}
    aligned = FIVE.aligned(symbols, "x", capitals=False)
    return tokens_of(Expression(columns, row[columns]), aligned, genes=5, bins=5, **given).tolist()


def test_five_genes_have_the_tokens_that_one_reckons_by_hand() -> None:
    # of 10,000: 10 is log2(11) = 3.46, 3 is 2, 1 is 1, 0.5 is 0.58, the rest far above 5
    total = 10_000
    cell = [10, 3, 1, 0, total - 14]
    assert tokens(cell, ["A", "B", "C", "D", "E"]) == [3, 2, 1, 0, 5, 0]
    # another order, an unknown gene that is no part of the sum, and D that the file lacks
    assert tokens([total - 14, 500, 1, 3, 10], ["E", "X", "C", "B", "A"]) == [3, 2, 1, 0, 5, 0]
    # a gene that stands twice counts where it stands first
    assert tokens([10, total - 10, 99], ["A", "E", "A"]) == [3, 0, 0, 0, 5, 0]
    assert tokens([2.99, 5, 7.5], ["A", "B", "C"], values="log2") == [2, 5, 5, 0, 0, 0]
    assert tokens([np.log(4), np.log(7.9)], ["A", "B"], values="log") == [2, 2, 0, 0, 0, 0]
    assert tokens([-1.2, 0.4, 2.6], ["A", "B", "C"], values="scaled") == [0, 0, 2, 0, 0, 0]


def test_expressions_that_cannot_be_are_named_with_what_to_do() -> None:
    for cell, how, sentence in (
        ([1, -2], {}, "which no counts can be. Of values that were scaled"),
        ([1, np.nan], {}, "x:1: an expression is nan, no number"),
        ([1, 0.5], {}, "an expression is 0.5, which is no count. Say what the values are"),
        ([1, 2], {"min_genes": 3}, "2 genes of the backbone are expressed, fewer than"),
    ):
        with refused(DataError, sentence):
            tokens(cell, ["A", "B"], **how)
    with refused(DataError, "none of its 2 genes, such as a, b", "task.capitals: true"):
        FIVE.aligned(["a", "b"], "mouse.h5ad")
    with refused(DataError, "none of its 1 genes", "Name the column of var"):
        FIVE.aligned(["ENSG000001"], "ids.h5ad")
    assert FIVE.aligned(["a", "b"], "mouse.h5ad", capitals=True).places.tolist() == [0, 1]


def written(path: Path, matrix, **more) -> Path:
    obs = table([f"c{i}" for i in range(matrix.shape[0])])
    data = anndata.AnnData(matrix, obs, table(GENES), **more)
    data.write_h5ad(path)
    return path


def dense(cells: Cells, order) -> np.ndarray:
    out = np.zeros((len(cells), len(cells.genes)))
    for number in order:
        row = cells.row(number)
        out[number, row.columns] = row.values
    return out


def test_every_way_of_storing_a_matrix_reads_the_same_rows(tmp_path) -> None:
    whole = counts(600, 12)
    plain = written(
        tmp_path / "a.h5ad", csr_matrix(whole), layers={"spliced": csr_matrix(2 * whole)}
    )
    full = written(tmp_path / "b.h5ad", whole)
    chance = np.random.default_rng(0).permutation(600)
    for path, layer, times in ((plain, "X", 1), (full, "X", 1), (plain, "spliced", 2)):
        for order in (range(600), chance, range(0, 600, 7)):
            found = dense(Cells(path, layer), order)
            assert np.array_equal(found[list(order)], times * whole[list(order)])
    by_genes = written(tmp_path / "c.h5ad", csc_matrix(whole))
    with refused(DataError, "stored by genes", f"peftcore cells {by_genes} NEW.h5ad --layer X"):
        Cells(by_genes)
    done = run_in_process("cells", by_genes, tmp_path / "d.h5ad", "--layer", "X", "--min-genes", 1)
    assert done.exit_code == 0, done.output
    assert np.array_equal(dense(Cells(tmp_path / "d.h5ad"), range(600)), whole)
    with refused(DataError, "no layer 'splice'. Did you mean spliced? It has: X, spliced"):
        Cells(plain, "splice")
    with refused(DataError, "var has no column 'symbol'"):
        Cells(plain, gene_column="symbol")


def test_a_damaged_file_is_one_sentence(tmp_path) -> None:
    path = write_cells(tmp_path / "x.h5ad")
    (tmp_path / "cut.h5ad").write_bytes(path.read_bytes()[:4000])
    with h5py.File(path, "a") as file:
        del file["obs"]
    for name, reason in (("cut", "not readable as .h5ad"), ("x", "it has no obs")):
        with refused(DataError, f"{name}.h5ad: not readable as .h5ad", reason):
            read_rows(tmp_path / f"{name}.h5ad")


def recipe_of(folder: Path, **sections) -> Path:
    content = {
        "name": "cells",
        "backbone": {"source": str(write_scbert(folder / "scbert"))},
        "methods": ["lora"],
        "task": {"type": "cell-type", "min_genes": 1, **sections.pop("task", {})},
        "data": {
            "source": str(folder / "cells.h5ad"),
            "split": {"validation": 0.2, "test": 0.2},
        },
        "train": {"device": "cpu", "max_steps": 2, "batch_size": 8},
        "output": str(folder / "runs"),
        **sections,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_one_file_is_divided_trained_merged_and_predicted(tmp_path) -> None:
    write_cells(tmp_path / "cells.h5ad", 40, [*GENES[2:], "LONELY"], quality=[0.5] * 40)
    recipe = recipe_of(tmp_path)
    found = run_in_process("check", recipe)
    assert (
        "genes of cells.h5ad that the backbone does not have (LONELY) are dropped" in found.stderr
    )
    assert "genes of the backbone that cells.h5ad does not have" in found.stderr
    done = run_in_process("train", recipe, "-q", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["reloaded_equal"] is True
    (run,) = (tmp_path / "runs").iterdir()
    done = run_in_process("predict", run, "--input", tmp_path / "cells.h5ad", "--probabilities")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 40 and rows[3]["cell"] == "c3" and rows[3]["quality"] == 0.5
    assert {row["label"] for row in rows} <= {"alpha", "beta"}
    done = run_in_process("merge", run, tmp_path / "whole")
    assert done.exit_code == 0, done.output
    whole = backbone_named("scbert").load(str(tmp_path / "whole"), head="cell-type")
    assert whole.fresh == () and whole.tokenizer.names == GENES
    assert whole.model.config.labels == ("alpha", "beta")
    first = rows[0]["probabilities"]
    task = CellType(CellTypeConfig(min_genes=1))
    (row, *_) = read_rows(tmp_path / "cells.h5ad")
    features = task.encode(row, whole, labelled=False)
    logits = whole.model(task.collate([features])["input_ids"])
    assert logits.softmax(-1)[0].tolist() == pytest.approx(
        [first["alpha"], first["beta"]], abs=1e-5
    )


def test_spoilt_cells_are_all_named_at_once(tmp_path) -> None:
    path = write_cells(tmp_path / "cells.h5ad", 40)
    with h5py.File(path, "a") as file:
        ends = file["X"]["indptr"]
        file["X"]["data"][ends[3]] = np.nan
        file["X"]["data"][ends[9]] = -1
    (tmp_path / "more").mkdir()
    done = run_in_process("check", recipe_of(tmp_path))
    assert done.exit_code == 2
    assert "cells.h5ad:4: an expression is nan, no number." in done.stderr
    assert "cells.h5ad:10: an expression is -1, which no counts can be." in done.stderr
    done = run_in_process("check", recipe_of(tmp_path / "more", data={
        "source": str(tmp_path / "cells.h5ad"), "split": {"validation": 0.2, "test": 0.2},
    }, task={"label_column": "celtype"}))  # fmt: skip
    assert "no column 'celtype'. Did you mean celltype?" in done.stderr


def test_a_backbone_that_does_not_name_its_genes_is_refused(tmp_path) -> None:
    write_cells(tmp_path / "cells.h5ad", 40)
    recipe = recipe_of(tmp_path)
    (tmp_path / "scbert" / "genes.txt").unlink()
    done = run_in_process("check", recipe)
    assert done.exit_code == 2 and "does not say which genes its places are" in done.stderr


def test_metrics_are_those_of_scikit_learn_and_novel_cells_a_class_of_their_own(tmp_path) -> None:
    config = CellTypeConfig(labels=("a", "b", "c"), novel_threshold=0.5, novel_types=("new",))
    task = CellType(config)
    given = ["a", "b", "b", "new", "c", "a", "new"]
    logits = torch.tensor(
        [[3, 0, 0], [0, 3, 0], [3, 0, 0], [0, 0, 0], [0.1, 0, 0], [2, 0, 0], [0, 2, 0]]
    )
    logits = logits.float()
    target = torch.tensor([3 if name == "new" else "abc".index(name) for name in given])
    found = task.kind.scores(logits, target)
    metrics = task.metrics()
    metrics.update(**found)
    values = {name: float(value) for name, value in metrics.compute().items()}
    # the likeliest types are a, b, a, none, none, a, b
    answered = [0, 1, 0, 3, 3, 0, 1]
    assert found["found"].tolist() == answered
    assert values["accuracy"] == pytest.approx(accuracy_score(target, answered))
    assert values["f1"] == pytest.approx(f1_score(target, answered, average="macro"))
    assert values["weighted_f1"] == pytest.approx(f1_score(target, answered, average="weighted"))
    assert values["assigned"] == pytest.approx(5 / 7)
    assert values["assigned_accuracy"] == pytest.approx(3 / 5)
    known = target < 3
    loss = torch.nn.functional.cross_entropy(logits[known], target[known])
    assert values["loss"] == pytest.approx(float(loss))
    assert [one["label"] for one in task.kind.predictions(logits)] == [
        "a", "b", "a", "Unassigned", "Unassigned", "a", "b",
    ]  # fmt: skip
    write_cells(tmp_path / "x.h5ad", 8)
    novel = CellType(CellTypeConfig(novel_types=("alpha",)))
    with refused(DataError, "x.h5ad:2: the type 'alpha' is one of task.novel_types"):
        novel.learn(read_rows(tmp_path / "x.h5ad"))


def test_the_next_whole_number_of_expressed_genes_is_masked(tmp_path) -> None:
    write_cells(tmp_path / "x.h5ad", 8)
    loaded = backbone_named("scbert").load(str(write_scbert(tmp_path / "s")), head="masked-lm")
    task = MaskedExpression(MaskedExpressionConfig(min_genes=1, mask_probability=0.3))
    (row, *_) = read_rows(tmp_path / "x.h5ad")
    features = task.encode(row, loaded)
    plain = task.tokens(features)
    expressed = int((plain > 0).sum())
    kept = 0
    for seed in range(200):
        found = task.augment(features, torch.Generator().manual_seed(seed))
        chosen = found["labels"] >= 0
        assert int(chosen.sum()) == -(-expressed * 3 // 10)
        assert bool((plain[chosen] > 0).all()) and torch.equal(
            found["labels"][chosen], plain[chosen]
        )
        changed = found["tokens"] != plain
        assert bool((found["tokens"][changed] == 6).all()) and not bool((changed & ~chosen).any())
        kept += int((chosen & ~changed).sum())
    share = kept / (200 * -(-expressed * 3 // 10))
    assert 0.05 < share < 0.15


def test_reading_a_file_and_looking_up_its_cells_are_told(tmp_path) -> None:
    path = write_cells(tmp_path / "x.h5ad", 8)
    assert bars_of(lambda: read_rows(path)) == {"reading x.h5ad": "8 observations"}
    task = CellType(CellTypeConfig())
    rows = read_rows(path)
    task.learn(rows)
    assert bars_of(lambda: task.check(rows)) == {"looking up cells": "8 cells"}
