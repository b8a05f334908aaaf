"""700 blood cells of Zheng et al. 2017, as scanpy ships them."""

import shutil
from pathlib import Path

from peftcore_samples.cache import cached
from peftcore_samples.fetch import Package, fetch

_NAME = "10x_pbmc68k_reduced.h5ad"
_FILE = f"scanpy/datasets/{_NAME}"

SCANPY = Package(
    name="scanpy",
    version="1.11.5",
    sha256="fcd383ddcf7acbf7c0ca232c25ad51b00aec9f8d2f7c8954b8c6ee0962257166",
    size="2.1 MB",
    licence="BSD-3-Clause",
    files={_FILE: "e71d41e737c941559b7c57c9243bdb3d2c889c2adfdf00e3422ac6b46783676f"},
)


def pbmc68k_reduced() -> Path:
    """Return the file of the cells; it has no splits, which a recipe makes with ``data.split``."""
    return cached(f"pbmc68k-reduced-{SCANPY.version}-r1", _build) / _NAME


def _build(target: Path, scratch: Path) -> None:
    shutil.copyfile(fetch(SCANPY, scratch) / _FILE, target / _NAME)
