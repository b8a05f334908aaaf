"""Rows of an .h5ad."""

import anndata
import h5py
import pandas
import pytest

from peftcore import DataError
from peftcore_train.data import read_rows


def test_observations_of_an_h5ad_are_rows_and_its_matrix_is_not_read(tmp_path):
    index = pandas.Index(["c0", "c1"], dtype=object)
    kinds = pandas.CategoricalDtype(pandas.Index(["a", "b"], dtype=object))
    obs = pandas.DataFrame(
        {"kind": pandas.Categorical(["b", None], dtype=kinds), "n": [3, 4], "x": [0.5, None]},
        index=index,
    )
    path = tmp_path / "cells.h5ad"
    genes = pandas.DataFrame(index=pandas.Index(["g"], dtype=object))
    anndata.AnnData(pandas.DataFrame([[1.0], [2.0]]).to_numpy(), obs, genes).write_h5ad(path)
    first, second = read_rows(path)
    at = {"cells": "cells.h5ad", "folder": str(tmp_path)}
    assert dict(first.values) == {"cells": at["cells"], "cell": "c0", "kind": "b", "n": 3, "x": 0.5}
    assert dict(second.values) == {
        **dict(first.values),
        "cell": "c1",
        "kind": None,
        "n": 4,
        "x": None,
    }
    assert (second.where, second.folder) == ("cells.h5ad:2", at["folder"])
    with h5py.File(path, "a") as file:
        del file["obs"]
    with pytest.raises(DataError, match=r"cells\.h5ad: not readable as \.h5ad: it has no obs"):
        read_rows(path)
