"""What every named source of weights or data must do."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import pytest

from peftcore.errors import ConfigError
from peftcore.model.backbones import backbone_named
from peftcore.registry.installed import installed
from peftcore.registry.sources import resolve_source
from peftcore.testing.refusals import refused


class SourceContract:
    """Subclass it, set ``source``, and pytest runs the contract.

    The source is resolved once with whatever network there is, and once more without any.

    Attributes:
        source: name of the source.
    """

    source: ClassVar[str]

    def resolved(self) -> Path:
        """Return where the source is."""
        spec = installed().sources[self.source]
        return Path(resolve_source(self.source, spec.kind))

    def test_it_says_what_it_is_and_under_which_licence(self) -> None:
        spec = installed().sources[self.source]
        assert spec.kind in ("model", "data")
        assert spec.summary.strip().endswith("."), "the summary is no sentence"
        assert spec.licence.strip(), "no licence is named"
        assert "/" in self.source, "a source is named PREFIX/NAME, so that it is told from a path"

    def test_it_resolves_to_the_files_of_its_kind(self) -> None:
        place = self.resolved()
        assert place.exists(), f"{place} does not exist"
        if installed().sources[self.source].kind == "data":
            check_data(place)
            return
        assert place.is_dir(), f"{place} is no folder"
        knowing = [
            b for name in sorted(installed().backbones)
            if (b := backbone_named(name)).recognises(str(place))
        ]  # fmt: skip
        if not knowing:
            pytest.skip("no installed backbone knows this family")
        assert next(knowing[0].load(str(place)).model.parameters(), None) is not None

    def test_it_is_the_same_a_second_time_and_without_a_network(self) -> None:
        first = self.resolved()
        before = contents(first)
        with offline():
            second = self.resolved()
        assert first == second, "it resolves to another place each time"
        assert contents(second) == before, "its files are others the second time"

    def test_it_is_refused_as_what_it_is_not(self) -> None:
        kind = installed().sources[self.source].kind
        other = "data" if kind == "model" else "model"
        with refused(ConfigError, self.source, f"is {kind}, not {other}"):
            resolve_source(self.source, other)


@contextmanager
def offline() -> Iterator[None]:
    """Let nothing be fetched for a while."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("the contract allows no network here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


def check_data(place: Path) -> None:
    """Check the splits of a folder of data; what only its task can read is taken as it is.

    Raises:
        AssertionError: nothing is there, a split is missing, or a line is no JSON object.
    """
    files = [place] if place.is_file() else [p for p in sorted(place.iterdir()) if p.is_file()]
    assert any(f.stat().st_size for f in files), f"{place} holds no data"
    lines = {f.name: f for f in files if f.suffix == ".jsonl"}
    if not lines:
        return
    wanted = {f"{split}.jsonl" for split in ("train", "validation", "test")}
    assert wanted <= set(lines), f"{place} lacks {', '.join(sorted(wanted - set(lines)))}"
    for name, file in lines.items():
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        assert rows and all(isinstance(row, dict) for row in rows), f"{name}: no JSON objects"
        keys = {frozenset(row) for row in rows}
        assert len(keys) == 1, f"{name}: rows with different fields"


def contents(place: Path) -> dict[str, str]:
    """Return the digests of all files of a place."""
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    return {str(f.relative_to(place)): sha256(f.read_bytes()).hexdigest() for f in files}
