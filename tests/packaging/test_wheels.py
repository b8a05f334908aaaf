"""The wheels that are published: what is in them, and that they work outside of the repository."""

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from zipfile import ZipFile

import pytest

pytestmark = [pytest.mark.packaging, pytest.mark.xdist_group("packaging")]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "third_party_plugin"
PLUGINS = sorted(p for p in (ROOT / "plugins").iterdir() if (p / "pyproject.toml").exists())
LIGHT = ("click", "packaging", "pluggy", "pydantic", "PyYAML", "safetensors")


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr


def python(
    *arguments: str | Path, env: Mapping[str, str], cwd: Path, at: Path | str = sys.executable
) -> str:
    """Run Python outside of the repository and return what it printed."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    done = subprocess.run(
        [at, *arguments], capture_output=True, text=True, check=False, timeout=250, cwd=cwd,
        env={**clean, "OMP_NUM_THREADS": "1", **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def built(folder: Path, *sources: Path) -> Path:
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", folder, *sources)
    return folder


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheels of the core and of the example."""
    return built(tmp_path_factory.mktemp("wheels"), ROOT, EXAMPLE)


@pytest.fixture(scope="module")
def all_wheels(wheels: Path) -> Path:
    """Build those of the plugins besides."""
    return built(wheels, *PLUGINS)


@pytest.fixture(scope="module")
def target(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the core and the example into a folder."""
    folder = tmp_path_factory.mktemp("target")
    pip("install", "--no-deps", "--no-index", "--target", folder, *chosen(wheels))
    return folder


def chosen(wheels: Path) -> list[Path]:
    return [next(wheels.glob(f"{name}-*.whl")) for name in ("peftcore", "peftcore_tinylora")]


def contents(wheels: Path, module: str) -> set[str]:
    with ZipFile(next(wheels.glob(f"{module}-*.whl"))) as wheel:
        return set(wheel.namelist())


@pytest.mark.parametrize("folder", [ROOT, EXAMPLE, *PLUGINS], ids=lambda p: p.name)
def test_a_wheel_holds_its_module_and_nothing_else(all_wheels: Path, folder: Path) -> None:
    module = {ROOT: "peftcore", EXAMPLE: "peftcore_tinylora"}.get(
        folder, folder.name.replace("-", "_")
    )
    names = contents(all_wheels, module)
    assert {n.split("/")[0] for n in names} == {module, f"{module}-0.1.0.dist-info"}
    source = {
        f"{module}/{p.relative_to(folder / module)}" for p in (folder / module).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }  # fmt: skip
    assert {n for n in names if n.startswith(f"{module}/")} == source
    assert not [n for n in names if ("tests/" in n and "templates/" not in n) or n.endswith(".pyc")]
    entry_points = f"{module}-0.1.0.dist-info/entry_points.txt" in names
    assert entry_points == (
        folder.name != "peftcore-transformers"
    )  # a foundation registers nothing
    if folder != EXAMPLE:
        assert f"{module}/py.typed" in names
    if folder == ROOT:
        assert f"{module}-0.1.0.dist-info/licenses/LICENSE" in names
        assert {"peftcore/__init__.pyi", "peftcore/registry/index.json"} <= names
        for kind in ("method", "backbone", "task", "source", "layer", "command"):
            for file in ("pyproject.toml.txt", f"tests/test_{kind}.py.txt", "README.md.txt"):
                assert f"peftcore/cli/templates/{kind}/{file}" in names


def test_an_installed_plugin_is_found(target: Path, tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(target)}
    found = json.loads(python("-m", "peftcore", "list", "--json", env=env, cwd=tmp_path))
    assert "tinylora" in [m["name"] for m in found["methods"]]
    where = python("-c", "import peftcore; print(peftcore.__file__)", env=env, cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(target)
    python("-m", "peftcore", "new", "method", "other", env=env, cwd=tmp_path)
    assert (tmp_path / "peftcore-other" / "peftcore_other" / "method.py").exists()


def test_it_is_listed_in_an_environment_without_torch(wheels: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    interpreter = tmp_path / "venv" / "bin" / "python"
    pip("--python", interpreter, "install", *LIGHT)
    pip("--python", interpreter, "install", "--no-deps", "--no-index", *chosen(wheels))
    program = tmp_path / "venv" / "bin" / "peftcore"
    listed = python(program, "list", "--strict", env={}, cwd=tmp_path, at=interpreter)
    assert "tinylora" in listed
    missing = subprocess.run(
        [interpreter, "-c", "import torch"], capture_output=True, text=True, check=False
    )
    assert "No module named 'torch'" in missing.stderr
    doctor = subprocess.run(
        [program, "doctor"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert doctor.returncode == 1
    assert "torch not installed" in doctor.stdout and "No module named 'torch'" in doctor.stdout


TRAINING = """
import torch, peftcore
from peftcore import backbone_named

knows = backbone_named("bert")
torch.manual_seed(0)
model = knows.tiny(head="sequence-classification").eval()
batch = knows.batch(model, rows=8)
bare = model(**batch).logits.detach()
adapter = peftcore.attach(model, "tinylora", rank=4)
assert torch.equal(model(**batch).logits, bare)
optimiser = torch.optim.AdamW(adapter.parameters(), 1e-2)
losses = []
for _ in range(20):
    loss = model(**batch).loss
    optimiser.zero_grad(); loss.backward(); optimiser.step()
    losses.append(loss.item())
assert losses[-1] < losses[0], losses
tuned = model(**batch).logits.detach()
adapter.save("adapter")
adapter.detach()
assert torch.equal(model(**batch).logits, bare)
adapter = peftcore.load(model, "adapter")
assert torch.equal(model(**batch).logits, tuned)
second = peftcore.attach(model, "tinylora", name="second", rank=2)
with peftcore.route(model, ["default", None] * 4):
    mixed = model(**batch).logits
torch.testing.assert_close(mixed[0::2], tuned[0::2], atol=1e-5, rtol=1e-5)
torch.testing.assert_close(mixed[1::2], bare[1::2], atol=1e-5, rtol=1e-5)
second.detach()
peftcore.activate(model, "default")
adapter.merge()
torch.testing.assert_close(model(**batch).logits, tuned, atol=1e-5, rtol=1e-5)
adapter.unmerge()
assert torch.equal(model(**batch).logits, tuned)
print("done")
"""


@pytest.fixture
def outside(target: Path) -> dict[str, str]:
    """Return an environment with the installed wheels in front, and of our plugins only text."""
    ours = {d.name for d in distributions() if d.name.startswith("peftcore-")}
    off = ours - {"peftcore-text"}
    return {"PYTHONPATH": str(target), "PEFTCORE_DISABLE_PLUGINS": ",".join(sorted(off))}


def test_the_example_trains_merges_saves_and_loads(outside: dict[str, str], tmp_path: Path) -> None:
    assert python("-c", TRAINING, env=outside, cwd=tmp_path) == "done\n"
    program = ("-m", "peftcore")
    assert "tinylora" in python(*program, "inspect", "adapter", env=outside, cwd=tmp_path)
    planned = python(
        *program, "plan", "bert-base-cased", "-m", "tinylora", "--json", env=outside, cwd=tmp_path
    )
    assert json.loads(planned)["trainable"] == 12 * 2 * 8 * (768 + 768)


def test_the_example_passes_its_own_tests_outside_of_the_repository(
    outside: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "third_party_plugin"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", "peftcore_*"))
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", env=outside, cwd=folder)
    assert " passed" in done and "failed" not in done
