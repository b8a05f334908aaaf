import hashlib
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pluggy
import pytest

from peftcore import PeftcoreError
from peftcore_samples.cache import cached
from peftcore_samples.fetch import Package, fetch

Python = Callable[..., "subprocess.CompletedProcess[str]"]

FILE = "peftcore_toy/weights.bin"

TOY = """
from pathlib import Path
from peftcore import PeftcoreError
from peftcore_samples.cache import cached
from peftcore_samples.fetch import Package, fetch
package = {package!r}
def build(target, scratch):
    (target / "weights.bin").write_bytes((fetch(package, scratch) / {file!r}).read_bytes())
try:
    cached("toy", build)
except PeftcoreError as error:
    print(error)
"""


def install(package: Package, folder: Path, content: bytes, version: str = "1.0") -> None:
    """Put a package into a folder of ``sys.path`` as pip would."""
    file = folder / FILE
    file.parent.mkdir(parents=True)
    (file.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    file.write_bytes(content)
    info = folder / f"peftcore_toy-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: peftcore-toy\nVersion: {version}")


def test_a_download_is_announced_on_stderr_only(
    package: Package, index: Path, scratch: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    root = fetch(package, scratch)
    assert (root / FILE).read_bytes() == content
    assert [path for path in root.rglob("*") if path.is_file()] == [root / FILE]
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "peftcore-samples: fetching peftcore-toy==1.0 (0.3 MB), licence CC0-1.0\n"


def test_a_source_archive_is_unpacked(
    tmp_path: Path, package: Package, index: Path, scratch: Path, content: bytes
) -> None:
    (tmp_path / "weights.bin").write_bytes(content)
    # A backend of its own inside the archive, so that pip needs nothing from elsewhere.
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (tmp_path / "backend.py").write_text(
        "import os\n"
        "def prepare_metadata_for_build_wheel(folder, settings=None):\n"
        "    os.mkdir(os.path.join(folder, 'peftcore_toy-1.0.dist-info'))\n"
        "    with open(os.path.join(folder, 'peftcore_toy-1.0.dist-info', 'METADATA'), 'w') as f:\n"
        "        f.write('Metadata-Version: 2.1\\nName: peftcore-toy\\nVersion: 1.0\\n')\n"
        "    return 'peftcore_toy-1.0.dist-info'\n"
        "def build_wheel(*_): raise RuntimeError('built')\n"
    )
    archive = index / "peftcore-toy-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "weights.bin", f"peftcore-toy-1.0/{FILE}")
        for name in ("pyproject.toml", "backend.py"):
            tar.add(tmp_path / name, f"peftcore-toy-1.0/{name}")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    root = fetch(replace(package, sdist=True, sha256=sha256), scratch)
    assert (root / FILE).read_bytes() == content


def test_an_installed_package_is_used_without_importing_it(
    tmp_path: Path,
    package: Package,
    scratch: Path,
    content: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    install(package, tmp_path / "site", content)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert fetch(package, scratch) == tmp_path / "site"
    assert "using the installed peftcore-toy==1.0" in capfd.readouterr().err
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("difference", ["version", "file"])
def test_an_installed_package_that_differs_is_not_used(
    tmp_path: Path,
    package: Package,
    index: Path,
    scratch: Path,
    content: bytes,
    difference: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if difference == "version":
        install(package, tmp_path / "site", content, version="1.1")
    else:
        install(package, tmp_path / "site", content[:-1] + b"x")
    monkeypatch.syspath_prepend(tmp_path / "site")
    root = fetch(package, scratch)
    assert root == scratch / "files"
    assert (root / FILE).read_bytes() == content


def test_another_checksum_is_refused(package: Package, index: Path, cache: Path) -> None:
    wrong = replace(package, sha256="0" * 64)
    with pytest.raises(PeftcoreError, match=r"does not have the pinned sha256 0{64}\.") as caught:
        cached("toy", lambda target, scratch: fetch(wrong, scratch) and None)
    assert "\n" not in str(caught.value)
    assert not list((cache / "samples").iterdir())


def test_no_network_is_one_sentence(
    package: Package, index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(index / "nowhere"))
    monkeypatch.setenv("PIP_INDEX_URL", "file:///nonexistent")
    with pytest.raises(PeftcoreError, match="No matching distribution found") as caught:
        cached("toy", lambda target, scratch: fetch(package, scratch) and None)
    message = str(caught.value)
    assert "\n" not in message
    assert "`pip download --no-deps peftcore-toy==1.0` elsewhere" in message
    assert not list((cache / "samples").iterdir())


def test_a_refused_connection_is_one_sentence(
    package: Package, index: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(PeftcoreError, match=r"cannot be downloaded.*Check the network"):
        fetch(package, scratch)


def test_a_python_without_pip_is_told_what_to_do(
    tmp_path: Path, package: Package, python: Python, python_path: str, cache: Path
) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "pluggy").symlink_to(Path(pluggy.__file__).parent)
    path = os.pathsep.join([python_path, str(tmp_path / "bare")])
    # Without the site module nothing that is installed can be seen, pip included.
    done = python(TOY.format(package=package, file=FILE), "-S", PYTHONPATH=path)
    assert "this Python has no pip. Run `" in done.stdout, done.stderr
    assert not list((cache / "samples").iterdir())


@pytest.mark.parametrize("largest_file", [100_000, 300_000])
def test_a_full_disk_leaves_nothing(
    package: Package, index: Path, python: Python, cache: Path, largest_file: int
) -> None:
    done = python(TOY.format(package=package, file=FILE), largest_file=largest_file)
    assert "File too large" in done.stdout, done.stderr
    assert "the space on the disk" in done.stdout
    assert "Traceback" not in done.stderr
    assert not list((cache / "samples").iterdir())


def test_a_disk_that_fills_after_the_download_leaves_nothing(
    package: Package, index: Path, python: Python, cache: Path, wheel: Path
) -> None:
    # Compressed, the archive fits under the limit and its content does not.
    with zipfile.ZipFile(wheel) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    small = replace(package, sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    done = python(TOY.format(package=small, file=FILE), largest_file=100_000)
    assert "toy cannot be written to the cache" in done.stdout, done.stderr
    assert "File too large" in done.stdout
    assert not list((cache / "samples").iterdir())
