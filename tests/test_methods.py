"""Methods that break the rules of the hooks are refused with a sentence."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

import peftcore
from peftcore import Method, MethodConfig, MethodSpec
from peftcore.errors import PluginError
from peftcore.registry.hookspecs import hookimpl
from peftcore.registry.installed import PluginRecord, installed
from peftcore.testing import Toy


class Misspelt(Method):
    @hookimpl
    def peftcore_rewrite_modul(self, site: Any) -> None: ...


class Unmarked(Method):
    def peftcore_rewrite_module(self, site: Any) -> None: ...


class WrongArgument(Method):
    @hookimpl
    def peftcore_rewrite_module(self, place: Any) -> None: ...


class NoMethod:
    def __init__(self, config: MethodConfig):
        self.config = config


class NoPiece(Method):
    @hookimpl
    def peftcore_rewrite_module(self, site: Any) -> Any:
        return "a piece"


CASES = {
    "misspelt": (
        Misspelt,
        r"peftcore_rewrite_modul is not a hook.*Did you mean peftcore_rewrite_m",
    ),
    "unmarked": (Unmarked, "peftcore_rewrite_module lacks @hookimpl"),
    "wrong-argument": (WrongArgument, "place"),
    "no-method": (NoMethod, "is not a subclass of peftcore.Method"),
}


def register(monkeypatch: pytest.MonkeyPatch, name: str, method: type) -> None:
    module = f"bad_{name.replace('-', '_')}"
    monkeypatch.setitem(
        sys.modules,
        module,
        SimpleNamespace(Config=MethodConfig, Method=method),  # type: ignore
    )

    class Plugin:
        @hookimpl
        def peftcore_register_methods(self) -> MethodSpec:
            return MethodSpec(name, "Bad.", f"{module}:Config", f"{module}:Method")

    if name not in installed().methods:
        installed().add(PluginRecord(name, "strange", "1.0"), Plugin())


@pytest.fixture(autouse=True)
def _forget() -> Any:
    yield
    for name in [n for n in installed().methods if n in CASES or n == "no-piece"]:
        del installed()._specs["methods"][name]


@pytest.mark.parametrize("name", CASES)
def test_a_broken_method_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, sentence = CASES[name]
    register(monkeypatch, name, method)
    model = Toy()
    with pytest.raises(PluginError, match=sentence) as caught:
        peftcore.attach(model, name)
    assert name in str(caught.value)
    assert not peftcore.adapters(model)


def test_what_is_no_piece_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "no-piece", NoPiece)
    with pytest.raises(peftcore.PeftcoreError, match="returned a str for"):
        peftcore.attach(Toy(), "no-piece")
