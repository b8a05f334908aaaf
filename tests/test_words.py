"""No word twice: what a word was settled to mean it means everywhere, and nothing else means it."""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import peftcore
from peftcore.method.hookspecs import Adapting
from peftcore.registry.hookspecs import Discovery

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [*ROOT.glob("peftcore/**/*.py"), *ROOT.glob("plugins/*/peftcore_*/**/*.py")]

#: Names that were given up, where they stood, and the word that stands there now.
SETTLED = [
    ("Site", "rows", "features"),
    ("Plan", "rows", "lines"),
    ("Reparam", "prepare", "precompute"),
    ("Swap", "place", "put_in"),
]
#: What is said with another word of this project, wherever an argument or a field is named.
SYNONYMS = {
    "r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "drop": "dropout",
    "drop_rate": "dropout", "target_modules": "targets",
    "lr": "learning_rate", "ckpt": "path", "checkpoint_path": "path", "model_name": "source",
    "checkpoint": "source", "adapter_name": "name", "params": "parameters", "init_weights": "init",
    "weight_init": "init", "num_examples": "examples", "tok": "tokenizer", "dev": "device",
}  # fmt: skip
#: Words of the index that a public name must not be made of, since another stands for it.
INSIDE = {"switch": "activate", "placing": "offer", "wrap": "rewrite", "inject": "attach",
          "unload": "detach"}  # fmt: skip
#: ``merge_and_unload`` is a verb of Hugging Face PEFT that users look for.
KEPT = {"merge_and_unload"}


@cache
def classes() -> list[ast.ClassDef]:
    trees = [ast.parse(file.read_text("utf-8")) for file in SOURCES]
    return [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]


def members(cls: ast.ClassDef) -> set[str]:
    """Return the methods, fields and attributes of ``self`` of a class."""
    found = set()
    for node in ast.walk(cls):
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found |= {node.attr} if node.value.id == "self" else set()
    return found


@pytest.mark.parametrize(("cls", "was", "now"), SETTLED)
def test_a_word_that_was_given_up_does_not_come_back(cls: str, was: str, now: str) -> None:
    there = [members(node) for node in classes() if node.name == cls]
    assert there, f"there is no class {cls}"
    assert not any(was in names for names in there), f"{cls}.{was}: write {now}"
    assert any(now in names for names in there), f"{cls} has no {now}"


def test_tensors_of_a_checkpoint_are_called_tensors_in_every_hook() -> None:
    for group in (Adapting, Discovery):
        for name, hook in vars(group).items():
            given = set(inspect.signature(hook).parameters) if callable(hook) else set()
            assert not given & {"state", "state_dict"}, f"{name}: write tensors"


def arguments(thing: Any) -> set[str]:
    """Return the names of the arguments of a function, or of a class's methods, and fields."""
    found = set(getattr(thing, "model_fields", {}))
    functions = [thing] if inspect.isfunction(thing) else []
    if inspect.isclass(thing):
        own = thing.__module__.startswith("peftcore")
        functions = [f for f in vars(thing).values() if inspect.isfunction(f)] if own else []
    for function in functions:
        found |= set(inspect.signature(function).parameters)
    return found


def test_public_arguments_have_one_word_for_one_thing() -> None:
    for name in peftcore.__all__:
        for given in arguments(inspect.unwrap(getattr(peftcore, name))):
            assert given not in SYNONYMS, f"peftcore.{name}: {given} is {SYNONYMS.get(given)} here"


def test_fields_of_methods_and_tasks_have_one_word_for_one_thing() -> None:
    found = peftcore.installed()
    for kind in ("methods", "tasks"):
        for name in getattr(found, kind):
            fields = set(found.resolve(kind, name, "config").model_fields)
            wrong = sorted(fields & set(SYNONYMS))
            assert not wrong, f"{name}.{wrong[0]}: write {SYNONYMS[wrong[0]]}"


def test_public_names_are_made_of_the_words_of_the_index() -> None:
    for name in sorted({*peftcore.__all__} - KEPT):
        parts = re.findall(r"[A-Z]?[a-z]+", name)
        wrong = [part.lower() for part in parts if part.lower() in INSIDE]
        assert not wrong, f"peftcore.{name}: write {INSIDE[wrong[0]]}"


def test_every_word_of_the_index_stands_there_once() -> None:
    text = (ROOT / "docs" / "README.md").read_text("utf-8").partition("## The words")[2]
    words = re.findall(r"^\| (\w+) \|", text, re.M)[1:]
    assert len(words) > 5 and len(words) == len(set(words))
