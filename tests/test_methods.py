"""What an author's ordinary mistakes are answered: one sentence, with plugin, method and site."""

import sys
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftcore
from peftcore import (
    AttachError,
    DeadPieceError,
    Delta,
    Method,
    MethodConfig,
    MethodSpec,
    PluginError,
    Site,
    Targets,
    hookimpl,
    installed,
)
from peftcore.testing import Toy, loss_of, make_plugin, refused, run_cli, tiny

WHOSE = "method zz of this-process"
SITE = "blocks.0.attention.query (attention.query)"


class Config(MethodConfig):
    targets: Targets = Targets.model_validate(["attention.query"])


class Product(Delta):
    def __init__(self, site: Site):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(site.layer.out_features, site.layer.in_features))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w.T


class Good(Method):
    def make(self, site: Site) -> Any:
        return Product(site)

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Any:
        return self.make(site) if site.matches(self.config.targets) else None


def making(make: Callable[[Site], Any]) -> type[Method]:
    return type("Making", (Good,), {"make": lambda self, site: make(site)})


@pytest.fixture
def have(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return the function that has a method ``zz`` of this process until the test ends."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def given(method: Any, config: Any = Config, reference: str = "zz_impl:Made") -> None:
            made = SimpleNamespace(Config=config, Made=method)
            monkeypatch.setitem(sys.modules, "zz_impl", made)  # type: ignore[arg-type]
            spec = MethodSpec("zz", "A mistake.", "zz_impl:Config", reference)
            stack.enter_context(installed().with_plugin(spec, name="zz"))

        yield given


# --- the class ------------------------------------------------------------------------------


class Misspelt(Method):
    @hookimpl
    def peftcore_rewrite_modul(self, site: Site) -> None: ...


class WrongArgument(Method):
    @hookimpl
    def peftcore_rewrite_module(self, sites: Site) -> None: ...


class Unmarked(Method):
    def peftcore_rewrite_module(self, site: Site) -> None: ...


class Ordered(Method):
    @hookimpl(tryfirst=True)
    def peftcore_rewrite_module(self, site: Site) -> None: ...


class NoMethod:
    def __init__(self, config: MethodConfig):
        self.config = config


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        (Misspelt, ["peftcore_rewrite_modul is not a hook", "Did you mean peftcore_rewrite_m"]),
        (WrongArgument, ["is given no 'sites'. Did you mean site?", "It may take: site."]),
        (Unmarked, ["peftcore_rewrite_module lacks @hookimpl"]),
        (Ordered, ["marked with tryfirst", "Write @hookimpl alone"]),
        (NoMethod, ["zz_impl:Made is not a subclass of peftcore.Method"]),
    ],
)  # fmt: skip
def test_a_class_that_breaks_the_rules_of_hooks(
    method: type, parts: list[str], have: Callable[..., None]
) -> None:
    have(method)
    model = Toy()
    with refused(PluginError, WHOSE, *parts, model=model):
        peftcore.attach(model, "zz")


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("zz_impl:Mad", ["has no attribute 'Mad'. Did you mean Made?", "peftcore doctor"]),
        ("zz_imp:Made", ["No module named 'zz_imp'", "peftcore doctor"]),
    ],
)
def test_a_reference_that_leads_nowhere(
    reference: str, parts: list[str], have: Callable[..., None]
) -> None:
    have(Good, reference=reference)
    with refused(PluginError, WHOSE, f"{reference} cannot be imported", *parts):
        peftcore.plan(Toy(), "zz")


# --- the piece ------------------------------------------------------------------------------


class NoSuper(Delta):
    def __init__(self) -> None:
        self.w = nn.Parameter(torch.zeros(2))


def holding(site: Site) -> Delta:
    piece = Product(site)
    piece.base = site.module
    return piece


def owning(site: Site) -> Delta:
    piece = Product(site)
    piece.w = site.module.weight  # type: ignore
    return piece


def zeroing(site: Site) -> Delta:
    with torch.no_grad():
        site.module.weight.zero_()  # type: ignore
    return Product(site)


def dividing(site: Site) -> Delta:
    return 1 // (site.blocks - 2)  # type: ignore


ONE: list[Delta] = []


def sharing(site: Site) -> Delta:
    ONE[:] = ONE or [Product(site)]
    return ONE[0]


PIECES: dict[str, tuple[Callable[[Site], Any], list[str]]] = {
    "text": (lambda site: "a piece", ["returned a str for"]),
    "plain module": (lambda site: nn.Linear(2, 2), ["returned a Linear for", "Delta, Reparam"]),
    "class": (lambda site: Product, ["returned the class Product for", "an instance of"]),
    "no super": (
        lambda site: NoSuper(),
        ["failed at", "peftcore_rewrite_module", "before Module.__init__()", "test_methods.py:"],
    ),
    "any error": (dividing, ["failed at", "ZeroDivisionError", "test_methods.py:"]),
    "base module": (holding, ["holds the model's module blocks.0.attention.query as a part"]),
    "base weight": (owning, ["holds the model's parameter blocks.0.attention.query.weight"]),
}  # fmt: skip


@pytest.mark.parametrize("name", PIECES)
def test_what_is_no_piece_of_its_site(name: str, have: Callable[..., None]) -> None:
    make, parts = PIECES[name]
    have(making(make))
    model = Toy()
    with refused(PluginError, WHOSE, SITE, *parts, model=model):
        peftcore.attach(model, "zz")


def test_one_piece_at_two_sites(have: Callable[..., None]) -> None:
    have(making(sharing))
    model, other = Toy(), "blocks.1.attention.query (attention.query)"
    with refused(PluginError, WHOSE, "one and the same Product", SITE, other, model=model):
        peftcore.attach(model, "zz")


def test_a_model_that_is_changed_inside_a_hook(have: Callable[..., None]) -> None:
    have(making(zeroing))
    with refused(PluginError, WHOSE, "changed blocks.0.attention.query in peftcore_rewrite_module"):
        peftcore.attach(Toy(), "zz")


@pytest.mark.parametrize("width", [1, 3])
def test_an_output_of_another_width(width: int, have: Callable[..., None]) -> None:
    class Narrow(Product):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[..., :width]

    have(making(Narrow))
    _, model, batch = tiny("toy")
    peftcore.attach(model, "zz")
    with refused(AttachError, WHOSE, SITE, f"(2, 9, {width}) where (2, 9, 16) is needed"):
        model(**batch)


def test_a_tensor_that_nothing_uses(have: Callable[..., None]) -> None:
    class Spare(Product):
        def __init__(self, site: Site):
            super().__init__(site)
            self.spare = nn.Parameter(torch.zeros(2))

    have(making(Spare))
    _, model, batch = tiny("toy")
    adapter = peftcore.attach(model, "zz")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns by itself, whoever trains
        loss_of(model(**batch)).backward()
    with refused(
        DeadPieceError, "blocks.0.attention.query.zz.spare", "Spare ran and did not use it"
    ):
        adapter.check_alive()


# --- a plugin that cannot be used ---------------------------------------------------------------

PLUGIN = """
from peftcore import MethodSpec, hookimpl

@hookimpl
def peftcore_register_methods():
    return MethodSpec(name="zz", summary="A mistake.", config="zz_impl:Config", method="zz_impl:M")
"""
UNUSABLE = {
    "name of the core's command": (
        PLUGIN.replace("MethodSpec, ", "CommandSpec, MethodSpec, ")
        + "\n@hookimpl\ndef peftcore_register_commands():\n"
        "    return CommandSpec('list', 'Mine.', 'a:b')\n",
        "is in conflict: command 'list' is already provided by peftcore",
    ),
    "feature": (
        PLUGIN.replace("summary=", "needs=('tokenz',), summary="),
        "method 'zz' needs the feature 'tokenz', which nobody defines. Did you mean tokens?",
    ),
    "none in a list": (
        PLUGIN.replace("return MethodSpec(", "return [None, MethodSpec(").replace('M")', 'M")]'),
        "is broken: peftcore_register_methods returned None, not a MethodSpec",
    ),
    "argument": (
        PLUGIN.replace("methods():", "methods(model):"),
        "is broken: peftcore_register_methods takes no arguments, and has 'model'",
    ),
    "raises": (PLUGIN + "1 / 0", "is broken: ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_method_of_a_plugin_that_cannot_be_used_is_not_unknown(name: str, tmp_path: Any) -> None:
    source, why = UNUSABLE[name]
    # an entry point may be called otherwise than the method, where that is known at all
    entry = "zz" if name in ("none in a list", "argument", "raises") else "other"
    make_plugin(tmp_path, entry, source)
    path = ":".join([str(tmp_path), *filter(None, sys.path)])
    done = run_cli("plan", "bert-base-cased", "-m", "zz", env={"PYTHONPATH": path})
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert f"error: method 'zz' cannot be used: peftcore-{entry} 0.1.0 is" in done.stderr
    assert why in done.stderr and "(see peftcore doctor)" in done.stderr
    assert "unknown method" not in done.stderr and "Installed:" not in done.stderr


def test_a_disabled_plugin_is_named(tmp_path: Any) -> None:
    env = {"PEFTCORE_DISABLE_PLUGINS": "loreft"}
    done = run_cli("plan", "bert-base-cased", "-m", "direft", env=env)
    assert done.returncode == 3
    assert "method 'direft' cannot be used: peftcore-loreft" in done.stderr
    assert "is disabled: named in PEFTCORE_DISABLE_PLUGINS" in done.stderr


def test_a_field_without_a_type_is_one_sentence(tmp_path: Any) -> None:
    make_plugin(tmp_path, "zz", PLUGIN)
    (tmp_path / "zz_impl.py").write_text(
        "from peftcore import MethodConfig\nclass Config(MethodConfig):\n    size = 3\n"
    )
    path = ":".join([str(tmp_path), *filter(None, sys.path)])
    done = run_cli("plan", "bert-base-cased", "-m", "zz", env={"PYTHONPATH": path})
    assert done.returncode == 3
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error:")]
    for part in ("method zz of peftcore-zz: zz_impl:Config cannot be imported", "`size = 3`"):
        assert part in line
    assert "(zz_impl.py:2)" in line
