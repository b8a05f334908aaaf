"""The small methods of examples/: their own tests, run as a stranger would run them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from peftcore import installed

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "small_methods"
MODULE = "peftcore_small_methods"
#: What the tests of the example use besides the core and the kit: other methods, some backbones.
WITH = {"peftcore-bitfit", "peftcore-lora", "peftcore-text"}


def test_the_example_passes_its_own_tests() -> None:
    ours = {r.distribution for r in installed().records}
    if not ours >= WITH:
        pytest.skip("without these plugins there is nothing to try the example on")
    off = {d for d in ours if d.startswith("peftcore-")} - WITH
    path = filter(None, (str(EXAMPLE), os.environ.get("PYTHONPATH")))
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "PEFTCORE_PLUGINS": MODULE,
        "PEFTCORE_DISABLE_PLUGINS": ",".join(sorted(off)),
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not backbones",
         EXAMPLE / "tests"],
        cwd=EXAMPLE, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_method_of_the_example_is_tested_against_the_contract() -> None:
    module = EXAMPLE / MODULE / "__init__.py"
    names = [
        line.split('"')[1] for line in module.read_text("utf-8").splitlines() if "name=" in line
    ]
    contract = (EXAMPLE / "tests" / "test_contract.py").read_text("utf-8")
    assert len(names) >= 7
    assert [n for n in names if f'method = "{n}"' not in contract] == []
    for name in names:
        assert (EXAMPLE / MODULE / f"{name}.py").exists()
        assert (EXAMPLE / "tests" / f"test_{name}.py").exists()
