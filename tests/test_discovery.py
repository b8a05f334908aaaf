"""Discovery: every plugin gets a status, and none can hurt another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from peftcore import installed
from peftcore.errors import UnknownName
from peftcore.registry.installed import Registry
from peftcore.testing import make_plugin

ROOT = Path(__file__).resolve().parent.parent
#: Foundations, which bring classes only and register nothing.
SILENT = {"peftcore-transformers"}

if TYPE_CHECKING:
    from conftest import Strangers

METHOD = """
from peftcore import MethodSpec, hookimpl

@hookimpl
def peftcore_register_methods():
    return MethodSpec(name="{name}", summary="A test.", config="{ref}", method="{ref}")
"""


def method_source(name: str, reference: str = "collections:OrderedDict") -> str:
    """Return the source of a plugin that provides one method."""
    return METHOD.format(name=name, ref=reference)


GOOD = method_source("good")


def names(entries: list[dict[str, str]]) -> list[str]:
    return [entry["name"] for entry in entries]


def test_a_plugin_on_the_path_is_found(strangers: Strangers) -> None:
    strangers.add("good", GOOD, version="1.2.3")
    found = strangers.listed()
    assert found["plugins"]["peftcore-good"] == {
        "name": "good", "distribution": "peftcore-good", "version": "1.2.3", "status": "ok",
        "problem": "", "provides": {"methods": ["good"]},
    }  # fmt: skip
    assert {
        "name": "good", "summary": "A test.", "distribution": "peftcore-good", "version": "1.2.3",
    } in found["methods"]  # fmt: skip


BROKEN = {
    "raises": ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
    "exits": ("raise SystemExit(0)", "SystemExit: 0"),
    "panics": ("raise type('Panic', (BaseException,), {})('in Rust')", "Panic: in Rust"),
    "unspeakable": (
        "class Mute(Exception):\n    def __str__(self): raise ValueError\nraise Mute",
        "<exception str() failed>",
    ),
    "syntax": ("def (:", "SyntaxError: invalid syntax"),
    "missing": ("import not_installed_anywhere", "No module named 'not_installed_anywhere'"),
    "empty": ("", "it has no peftcore_register_... hook"),
    "unknown-hook": (
        GOOD + "\n@hookimpl\ndef peftcore_register_method(): return []",
        "peftcore_register_method is not a discovery hook of peftcore.v1."
        " Did you mean peftcore_register_methods?",
    ),
    "misspelt-hook": (
        GOOD + "\n@hookimpl\ndef peftcore_registr_tasks(): return []",
        "Did you mean peftcore_register_tasks?",
    ),
    "unmarked": (GOOD.replace("@hookimpl", ""), "peftcore_register_methods lacks @hookimpl"),
    "hook-options": (
        GOOD.replace("@hookimpl", "@hookimpl(tryfirst=True)"),
        "peftcore_register_methods is marked with tryfirst",
    ),
    "hook-raises": (
        "from peftcore import hookimpl\n@hookimpl\ndef peftcore_register_methods(): return 1 / 0",
        "ZeroDivisionError: division by zero",
    ),
    "hook-exits": (
        "from peftcore import hookimpl\n@hookimpl\ndef peftcore_register_methods(): exit(3)",
        "SystemExit: 3",
    ),
    "hook-arguments": (
        GOOD.replace("methods():", "methods(model):"),
        "'model'",
    ),
    "no-return": (GOOD.replace("return MethodSpec", "MethodSpec"), "returned None"),
    "not-a-spec": (
        "from peftcore import hookimpl\n@hookimpl\ndef peftcore_register_methods(): return 'lora'",
        "returned 'lora', not a MethodSpec",
    ),
    "other-spec": (
        GOOD.replace("register_methods", "register_backbones"),
        "not a BackboneSpec",
    ),
    "twice": (
        GOOD.replace("return MethodSpec(", "return 2 * (MethodSpec(").rstrip() + ",)",
        "method 'good' is registered twice",
    ),
    "bad-reference": (
        method_source("x", "collections.OrderedDict"),
        "config='collections.OrderedDict' of MethodSpec is not 'package.module:Name'",
    ),
    "bad-name": (method_source("My Method"), "'My Method' is not a name"),
    "no-name": (method_source("x").replace('"x"', "None"), "name=None of MethodSpec is not a str"),
    "forgotten-comma": (
        "from peftcore import BackboneSpec, hookimpl\n@hookimpl\n"
        "def peftcore_register_backbones():\n"
        "    return BackboneSpec('x', 'X.', 'a:B', matches=('a:*'))",
        "matches='a:*' of BackboneSpec is not a tuple of strings",
    ),
    "no-feature": (
        GOOD.replace('summary="A test."', 'summary="A test.", needs=("cahce",)'),
        "needs the feature 'cahce', which nobody defines. Did you mean cache?",
    ),
    "kind-of-source": (
        "from peftcore import SourceSpec, hookimpl\n@hookimpl\n"
        "def peftcore_register_sources():\n"
        "    return SourceSpec('x/y', 'weights', 'X.', 'MIT', 'a:b')",
        "kind='weights' of SourceSpec is neither 'model' nor 'data'",
    ),
    "reader-and-column": (
        "from peftcore import FormatSpec, hookimpl\n@hookimpl\n"
        "def peftcore_register_formats():\n    return FormatSpec('.x', 'X.', 'a:b', column='c')",
        ".x of FormatSpec has a reader or a column, one of them",
    ),
    "no-ending": (
        "from peftcore import FormatSpec, hookimpl\n@hookimpl\n"
        "def peftcore_register_formats():\n    return FormatSpec('h5ad', 'X.', 'a:b')",
        "ending='h5ad' of FormatSpec is not like '.h5ad'",
    ),
}  # fmt: skip


def test_broken_plugins_are_named_with_the_reason_and_hurt_no_other(strangers: Strangers) -> None:
    strangers.add("a-good", method_source("first"))
    for name, (source, _) in BROKEN.items():
        strangers.add(f"m-{name}", source)
    strangers.add("z-good", method_source("last"))
    found = strangers.listed()
    for name, (_, problem) in BROKEN.items():
        record = found["plugins"][f"peftcore-m-{name}"]
        assert record["status"] == "broken", name
        assert problem in record["problem"], name
        assert record["provides"] == {}, name
    assert {"first", "last"} <= set(names(found["methods"]))


def test_list_succeeds_unless_it_is_strict(strangers: Strangers) -> None:
    strangers.add("good", GOOD)
    assert strangers.run("list", "--strict").returncode == 0
    strangers.add("bad", "1 / 0")
    done = strangers.run("list")
    assert done.returncode == 0
    assert "broken: peftcore-bad 0.1.0: ZeroDivisionError: division by zero" in done.stdout
    assert "See peftcore doctor." in done.stdout
    assert strangers.run("list", "--strict").returncode == 1
    assert strangers.run("list", "methods", "--json", "--strict").returncode == 1


@pytest.mark.parametrize("by", ["off", "peftcore-off", "lora, off", "all"])
def test_a_disabled_plugin_is_not_imported(strangers: Strangers, by: str) -> None:
    strangers.add("off", f"open({str(strangers.folder / 'imported')!r}, 'w')\n" + GOOD)
    status, problem = strangers.status("off", PEFTCORE_DISABLE_PLUGINS=by)
    assert (status, problem) == ("disabled", "named in PEFTCORE_DISABLE_PLUGINS")
    assert not (strangers.folder / "imported").exists()
    assert strangers.run(
        "list", "--strict", env={"PEFTCORE_DISABLE_PLUGINS": by}
    ).returncode == 0  # fmt: skip
    assert strangers.status("off")[0] == "ok"
    assert (strangers.folder / "imported").exists()


@pytest.mark.parametrize(
    ("requires", "problem"),
    [
        (("peftcore>=0.2,<0.3",), "needs peftcore>=0.2,<0.3, installed is 0.1.0"),
        (("peftcore<0.1,>=0.0.1",), "needs peftcore<0.1,>=0.0.1, installed is 0.1.0"),
        (("peftcore~=0.2",), "needs peftcore~=0.2"),
        (("torch", "peftcore (==9)"), "needs peftcore(==9)"),
        (("Peftcore>1",), "needs peftcore>1"),
        (("peftcore", "peftcore[test]>=3"), "needs peftcore[test]>=3"),
        (("peftcore>>1",), "its requirement peftcore>>1 is not readable"),
    ],
)
def test_a_plugin_for_another_core_is_never_imported(
    strangers: Strangers, requires: tuple[str, ...], problem: str
) -> None:
    strangers.add("other", f"open({str(strangers.folder / 'imported')!r}, 'w')", requires=requires)
    strangers.add("good", GOOD)
    status, why = strangers.status("other")
    assert status == "incompatible"
    assert problem.replace(" ", "") in why.replace(" ", "")
    assert not (strangers.folder / "imported").exists()
    assert strangers.status("good")[0] == "ok"


@pytest.mark.parametrize(
    "requires",
    [
        (), ("peftcore",), ("peftcore~=0.1.0",), ("peftcore>=0.1.0.dev1",), ("peftcore!=0.0.9",),
        ("peftcore-lora>=7", "peftcore_lora>=7"), ("peftcore>=3; python_version<'3'",),
        ("peftcore>=3; extra=='next'",), ("peftcore>=0.1",), ("peftcore[test] >=0.1, <0.2",),
    ],
)  # fmt: skip
def test_requirements_that_this_core_meets(strangers: Strangers, requires: tuple[str, ...]) -> None:
    strangers.add("good", GOOD, requires=requires)
    assert strangers.status("good") == ("ok", "")


def test_another_version_of_the_hooks_is_never_imported(strangers: Strangers) -> None:
    source = f"open({str(strangers.folder / 'imported')!r}, 'w')"
    strangers.add("next", source, group="peftcore.v2")
    status, problem = strangers.status("next")
    assert status == "incompatible"
    assert problem == "made for the hooks peftcore.v2, this peftcore has peftcore.v1"
    assert not (strangers.folder / "imported").exists()
    assert strangers.run("list", "--strict").returncode == 1


def test_groups_of_other_programs_are_left_alone(strangers: Strangers) -> None:
    strangers.add("tool", "1 / 0", group="peftcore.views")
    assert "peftcore-tool" not in strangers.listed()["plugins"]


def test_of_two_plugins_with_one_name_neither_serves_until_one_is_chosen(
    strangers: Strangers,
) -> None:
    both = (
        method_source("same")
        + """
@hookimpl
def peftcore_register_tasks():
    from peftcore import TaskSpec
    return TaskSpec("own", "A test.", "a:B", "a:B")
"""
    )
    strangers.add("aaa", method_source("same"))
    strangers.add("bbb", both)
    found = strangers.listed()
    problem = "method 'same' is provided by peftcore-aaa and peftcore-bbb; neither serves until you"
    for name in ("peftcore-aaa", "peftcore-bbb"):
        assert found["plugins"][name]["status"] == "conflict"
        assert found["plugins"][name]["problem"].startswith(problem)
    assert "same" not in names(found["methods"]) and "own" in names(found["tasks"])
    done = strangers.run("plan", "bert-base-cased", "-m", "same")
    assert done.returncode == 3 and problem in done.stderr and "unknown" not in done.stderr
    for winner in ("peftcore-aaa", "peftcore-bbb"):
        chosen = strangers.listed(PEFTCORE_PREFER=winner)
        owners = {m["name"]: m["distribution"] for m in chosen["methods"]}
        assert owners["same"] == winner and chosen["plugins"][winner]["status"] == "ok"


def test_the_names_of_the_core_are_taken(strangers: Strangers) -> None:
    strangers.add(
        "shadow",
        "from peftcore import CommandSpec, hookimpl\n@hookimpl\n"
        "def peftcore_register_commands(): return CommandSpec('list', 'Mine.', 'a:b')",
    )
    status = strangers.status("shadow")
    assert status == ("conflict", "command 'list' is already provided by peftcore")


def test_damaged_metadata_hurts_no_other_plugin(strangers: Strangers) -> None:
    strangers.add("good", GOOD)
    for name in ("lines", "bytes", "foreign"):
        strangers.add(name, GOOD)
    info = {p.name.split("-")[0]: p for p in strangers.folder.glob("*.dist-info")}
    (info["peftcore_lines"] / "entry_points.txt").write_text("[peftcore.v1]\ngarbage\n")
    (info["peftcore_bytes"] / "METADATA").write_bytes(b"Name: \xff\nVersion: 1\n")
    (info["peftcore_foreign"] / "entry_points.txt").write_bytes(b"\xff\xfe")
    found = strangers.listed()["plugins"]
    assert found["peftcore-good"]["status"] == "ok"
    assert "entry_points.txt cannot be read" in found["peftcore-lines"]["problem"]
    assert "METADATA cannot be read" in found["unknown"]["problem"]


def test_what_a_plugin_prints_does_not_stand_among_results(strangers: Strangers) -> None:
    strangers.add("loud", "print('hello')\n" + GOOD)
    done = strangers.run("list", "--json")
    assert "hello" in done.stderr
    assert json.loads(done.stdout)


def test_the_first_of_two_copies_on_the_path_counts(strangers: Strangers) -> None:
    for folder, version in (("one", "1.0"), ("two", "2.0")):
        place = strangers.folder / folder
        place.mkdir()
        make_plugin(place, "copy", GOOD, version=version)
    path = f"{strangers.folder}/one:{strangers.folder}/two"
    found = [p for p in json.loads(strangers.run("list", "--json", env={"PYTHONPATH": path}).stdout)
             ["plugins"] if p["distribution"] == "peftcore-copy"]  # fmt: skip
    assert [(p["version"], p["status"]) for p in found] == [("1.0", "ok")]


def test_the_json_of_list_is_the_same_each_time(strangers: Strangers) -> None:
    for name in "cab":
        strangers.add(name, method_source(f"m-{name}"))
    one, two = strangers.run("list", "--json").stdout, strangers.run("list", "--json").stdout
    assert one == two
    found = json.loads(one)
    assert list(found) == [
        "methods", "backbones", "tasks", "sources", "formats", "commands", "executors", "plugins",
    ]  # fmt: skip
    for kind in list(found)[:-1]:
        assert names(found[kind]) == sorted(names(found[kind]))


def test_doctor_shows_the_traceback_of_what_is_broken(strangers: Strangers) -> None:
    strangers.add("bad", "def inner():\n    raise RuntimeError('deep inside')\ninner()")
    done = strangers.alone("doctor")
    assert done.returncode == 1
    assert "peftcore_bad.py" in done.stdout and "line 2, in inner" in done.stdout
    found = json.loads(strangers.alone("doctor", "--json").stdout)
    record = next(p for p in found["plugins"] if p["name"] == "bad")
    assert "deep inside" in record["trace"]


def test_doctor_resolves_every_reference(strangers: Strangers) -> None:
    source = method_source("dead", "peftcore_dead_inside.method:Config").replace(
        'method="peftcore_dead_inside.method:Config"', 'method="collections:NotThere"'
    )
    strangers.add("dead", source)
    assert strangers.status("dead")[0] == "ok"
    done = strangers.alone("doctor")
    assert done.returncode == 1
    assert "peftcore-dead: config of method 'dead'" in done.stdout
    assert "ModuleNotFoundError" in done.stdout and "Traceback" in done.stdout
    assert "peftcore-dead: method of method 'dead'" in done.stdout
    assert "collections:NotThere cannot be imported: AttributeError" in done.stdout
    found = json.loads(strangers.alone("doctor", "--json").stdout)
    assert [(r["name"], r["field"]) for r in found["references"]] == [
        ("dead", "config"), ("dead", "method"),
    ]  # fmt: skip
    used = strangers.run("show", "dead")
    assert used.returncode == 3
    assert "peftcore_dead_inside.method:Config cannot be imported" in used.stderr
    assert "Traceback" not in used.stderr


def test_doctor_is_content_with_good_plugins(strangers: Strangers) -> None:
    strangers.add("good", GOOD)
    done = strangers.alone("doctor")
    assert done.returncode == 0, done.stdout
    assert "Everything that the plugins name can be imported." in done.stdout


def test_doctor_names_a_disabled_plugin_that_does_not_exist(strangers: Strangers) -> None:
    done = strangers.run("doctor", env={"PEFTCORE_DISABLE_PLUGINS": "all,lroa,peftcore-lor"})
    assert done.returncode == 1
    assert "PEFTCORE_DISABLE_PLUGINS names 'lroa', which is no installed plugin." in done.stdout


def test_a_plugin_can_bring_a_command_a_layer_and_a_source(strangers: Strangers) -> None:
    strangers.add(
        "many",
        """
import pathlib
from peftcore import CommandSpec, LayerSpec, SourceSpec, hookimpl

@hookimpl
def peftcore_register_commands():
    yield CommandSpec("greet", "Say hello.", "peftcore_many:command")

@hookimpl
def peftcore_register_layers():
    return LayerSpec("strange.layers:Linear", "peftcore_many:Handler")

@hookimpl
def peftcore_register_sources():
    return (SourceSpec("many/data", "data", "Nothing.", "CC0-1.0", "peftcore_many:folder"),)

class Handler: ...

def folder():
    return pathlib.Path(__file__).parent

def __getattr__(name):
    if name != "command":
        raise AttributeError(name)
    import click
    return click.Command("greet", callback=lambda: click.echo("hello"))
""",
    )
    found = strangers.listed()
    assert found["plugins"]["peftcore-many"]["provides"] == {
        "commands": ["greet"], "layers": ["strange.layers:Linear"], "sources": ["many/data"],
    }  # fmt: skip
    assert strangers.run("greet").stdout == "hello\n"
    assert "greet" in strangers.run("-h").stdout and "Say hello." in strangers.run("-h").stdout
    assert "CC0-1.0" in strangers.run("show", "many/data").stdout
    assert strangers.alone("doctor").returncode == 0


def test_an_unknown_name_says_what_is_installed_and_what_is_broken(strangers: Strangers) -> None:
    strangers.add("good", GOOD)
    strangers.add("bad", "1 / 0")
    done = strangers.run("plan", "bert-base-cased", "-m", "goood")
    assert done.returncode == 3
    for part in ("Did you mean good?", "Not usable: bad"):
        assert part in done.stderr
    # what was typed is never made into the name of a package
    assert "pip install" not in done.stderr
    with pytest.raises(UnknownName, match="It is part of peftcore-lora: pip install peftcore-l"):
        Registry().find("methods", "lora")


def test_the_index_of_names_is_that_of_this_repository() -> None:
    index = json.loads((ROOT / "peftcore" / "registry" / "index.json").read_text())
    ours = {p.parent.name for p in ROOT.glob("plugins/*/pyproject.toml")}
    for kind, names_ in index.items():
        specs = getattr(installed(), kind)
        own = {n: installed().owner(kind, n).distribution for n in specs}
        assert names_ == {n: home for n, home in own.items() if home in ours}


def test_every_plugin_of_this_repository_is_usable(strangers: Strangers) -> None:
    found = strangers.listed()["plugins"]
    ours = {p.parent.name for p in ROOT.glob("plugins/*/pyproject.toml")} - SILENT
    assert {n for n in ours if found[n]["status"] == "ok"} == ours


def test_an_interrupt_while_importing_is_not_taken_for_a_broken_plugin(
    strangers: Strangers,
) -> None:
    strangers.add("slow", "raise KeyboardInterrupt")
    done = strangers.run("list")
    assert done.returncode == 130
    assert "interrupted" in done.stderr
