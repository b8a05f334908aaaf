"""The contracts of layers, sources and commands, and what expects a refusal, let none through."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import torch
from torch import Tensor, nn

import peftcore
from peftcore import (
    BackboneSpec,
    CommandSpec,
    Layer,
    LayerInfo,
    LayerSpec,
    SourceSpec,
)
from peftcore.errors import AttachError, ConfigError, DeadPieceError, TargetError
from peftcore.testing import (
    CommandContract,
    LayerContract,
    SourceContract,
    Toy,
    refused,
)

Have = Callable[..., Any]


# --- layers ----------------------------------------------------------------------------------


class Handler(Layer):
    def info(self, module: Any) -> LayerInfo:
        out, in_ = module.weight.shape
        weight = module.weight
        return LayerInfo("linear", in_, out, True, weight.dtype, weight.device, (out, in_))

    def call(self, module: Any, weight: Tensor, x: Tensor) -> Tensor:
        return nn.functional.linear(x, weight, module._parameters["bias"])


class WrongWidth(Handler):
    def info(self, module: Any) -> LayerInfo:
        out, in_ = module.weight.shape
        return LayerInfo("linear", out, in_, True, weight_shape=(in_, out))


class NoBias(Handler):
    def info(self, module: Any) -> LayerInfo:
        out, in_ = module.weight.shape
        return LayerInfo("linear", in_, out, False, weight_shape=(out, in_))


class IgnoresWeight(Handler):
    def call(self, module: Any, weight: Tensor, x: Tensor) -> Tensor:
        return nn.functional.linear(x, module._parameters["weight"], module._parameters["bias"])


class ForgetsBias(Handler):
    def call(self, module: Any, weight: Tensor, x: Tensor) -> Tensor:
        return nn.functional.linear(x, weight)


class StoresOtherwise(Handler):
    def stored(self, weight: Tensor) -> Tensor:
        return weight.flip(0)


class Copies(Handler):
    """Gives a weight that is not the one which is stored."""

    def weight(self, module: Any) -> Tensor:
        return 2 * super().weight(module)

    def stored(self, weight: Tensor) -> Tensor:
        return weight / 2


class LooksAtValues(Handler):
    """Cannot say anything of a layer without weights."""

    def info(self, module: Any) -> LayerInfo:
        return super().info(module)._replace(bias=bool(module.weight.sum() != 0))


class OneDevice(Handler):
    """Says that every layer is on the CPU."""

    def info(self, module: Any) -> LayerInfo:
        return super().info(module)._replace(device=torch.device("cpu"))


LAYERS: dict[str, tuple[type[Layer], str, tuple[Any, ...], str]] = {
    "sizes": (WrongWidth, "the_sizes_are_those_of_the_layer", (), "the layer takes no"),
    "bias": (NoBias, "the_sizes_are_those_of_the_layer", (), "bias is told wrongly"),
    "ignored": (IgnoresWeight, "a_call_with_another_weight_runs_with_it", (), "is not used"),
    "ignored by a probe": (
        IgnoresWeight, "a_probe_trains_and_leaves_it_bit_for_bit", ("weight",),
        "got no gradient",
    ),
    "no bias added": (ForgetsBias, "a_call_with_its_own_weight_is_the_layer", (), "not close"),
    "layout": (StoresOtherwise, "the_stored_layout_is_the_one_of_the_parameter", (), "stored"),
    "written": (StoresOtherwise, "a_written_weight_is_the_one_that_is_read", (), "assert"),
    "scaled": (Copies, "a_call_with_its_own_weight_is_the_layer", (), "not close"),
    "meta": (LooksAtValues, "on_the_meta_device_it_says_the_same", (), "meta"),
    "device": (OneDevice, "on_the_meta_device_it_says_the_same", (), "device"),
    "merged": (StoresOtherwise, "a_probe_is_merged_exactly_or_refused", ("output",), "not close"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_a_fault_of_a_layer_handler_is_found(
    name: str, module: SimpleNamespace, with_plugin: Have
) -> None:
    handler, test, arguments, sentence = LAYERS[name]
    odd = type("Odd", (nn.Linear,), {"__module__": "faulty"})  # handlers are kept by class
    module.Handler = handler
    with_plugin(LayerSpec("faulty:Odd", "faulty:Handler"))

    class Contract(LayerContract):
        layer = "faulty:Odd"

        def make(self) -> nn.Module:
            return odd(6, 4)

    with pytest.raises((AssertionError, RuntimeError, DeadPieceError), match=sentence):
        getattr(Contract(), f"test_{test}")(*arguments)


def test_a_layer_without_a_fault_passes_all_of_these(
    module: SimpleNamespace, with_plugin: Have
) -> None:
    odd = type("Odd", (nn.Linear,), {"__module__": "faulty"})
    module.Handler = Handler
    with_plugin(LayerSpec("faulty:Odd", "faulty:Handler"))

    class Contract(LayerContract):
        layer = "faulty:Odd"

        def make(self) -> nn.Module:
            return odd(6, 4)

    for _, test, arguments, _ in LAYERS.values():
        getattr(Contract(), f"test_{test}")(*arguments)


# --- sources ---------------------------------------------------------------------------------


def good(folder: Path) -> Path:
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text('{"text": "a", "label": 1}\n')
    return folder


def half(folder: Path) -> Path:
    (folder / "train.jsonl").write_text('{"text": "a"}\n')
    return folder


def uneven(folder: Path) -> Path:
    (good(folder) / "test.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b"}\n')
    return folder


def restless(folder: Path) -> Path:
    count = len(list(folder.glob("*.count")))
    (folder / f"{count}.count").write_text("")
    return good(folder)


def fetched(folder: Path) -> Path:
    import socket

    socket.getaddrinfo("localhost", 80)
    return good(folder)


SOURCES: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "nothing": (lambda folder: folder, "it_resolves_to_the_files_of_its_kind", "holds no data"),
    "nowhere": (lambda f: f / "no", "it_resolves_to_the_files_of_its_kind", "does not exist"),
    "half": (half, "it_resolves_to_the_files_of_its_kind", "lacks test.jsonl, validation.jsonl"),
    "uneven": (uneven, "it_resolves_to_the_files_of_its_kind", "rows with different fields"),
    "restless": (restless, "it_is_the_same_a_second_time_and_without_a_network", "others"),
    "fetched": (fetched, "it_is_the_same_a_second_time_and_without_a_network", "no network here"),
    "no licence": (good, "it_says_what_it_is_and_under_which_licence", "no licence"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_fault_of_a_source_is_found(
    name: str, module: SimpleNamespace, with_plugin: Have, tmp_path: Path
) -> None:
    make, test, sentence = SOURCES[name]
    module.folder = lambda: make(tmp_path)
    licence = " " if name == "no licence" else "CC0-1.0"
    with_plugin(SourceSpec("faulty/data", "data", "Some rows.", licence, "faulty:folder"))

    class Contract(SourceContract):
        source = "faulty/data"

    with pytest.raises((AssertionError, OSError), match=sentence):
        getattr(Contract(), f"test_{test}")()


def test_a_source_without_a_fault_passes(
    module: SimpleNamespace, with_plugin: Have, tmp_path: Path
) -> None:
    module.folder = lambda: good(tmp_path)
    with_plugin(SourceSpec("faulty/data", "data", "Some rows.", "CC0-1.0", "faulty:folder"))

    class Contract(SourceContract):
        source = "faulty/data"

    for name in (n for n in dir(Contract) if n.startswith("test_")):
        getattr(Contract(), name)()


# --- commands --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "test", "sentence"),
    [
        (len, "the_name_is_free_and_the_command_can_be_imported", "no click.Command"),
        (click.Command("x", help="X.", params=[click.Option(["--bare"])]),
         "every_option_says_what_it_does", "without help: --bare"),
        (click.Command("x"), "every_option_says_what_it_does", "says not what it does"),
    ],
)  # fmt: skip
def test_a_fault_of_a_command_is_found(
    command: Any, test: str, sentence: str, module: SimpleNamespace, with_plugin: Have
) -> None:
    module.command = command
    with_plugin(CommandSpec("faulty", "Do nothing.", "faulty:command"))

    class Contract(CommandContract):
        command = "faulty"

    with pytest.raises(AssertionError, match=sentence):
        getattr(Contract(), f"test_{test}")()


@pytest.mark.parametrize(
    ("source", "test", "sentence"),
    [
        ("import torch, click\ncommand = click.Command('heavy', help='X.')\n",
         "help_is_printed_without_torch", r"imports \['numpy', 'torch'\]|imports \['torch'\]"),
        ("import click\ncommand = click.Command('heavy', help='X.',"
         " context_settings={'ignore_unknown_options': True, 'allow_extra_args': True})\n",
         "an_unknown_option_ends_with_2_and_a_word_on_stderr", "exit code 0, not 2"),
    ],
)  # fmt: skip
def test_a_fault_of_a_command_is_found_in_a_process_of_its_own(
    source: str, test: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    with_plugin: Have,
) -> None:  # fmt: skip
    (tmp_path / "heavy_command.py").write_text(
        "from peftcore import CommandSpec, hookimpl\n@hookimpl\n"
        "def peftcore_register_commands():\n"
        "    return CommandSpec('heavy', 'Do nothing.', 'heavy_inside:command')\n"
    )
    (tmp_path / "heavy_inside.py").write_text(source)
    monkeypatch.setenv("PEFTCORE_PLUGINS", "heavy_command")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(filter(None, sys.path))}")

    class Contract(CommandContract):
        command = "heavy"

    with pytest.raises(AssertionError, match=sentence):
        getattr(Contract(), f"test_{test}")()


# --- refusals --------------------------------------------------------------------------------


def test_a_refusal_is_one_sentence_with_its_parts_and_nothing_changed(toy: nn.Module) -> None:
    with refused(TargetError, "nothing", "lora.targets", model=toy):
        peftcore.attach(toy, "lora", targets=["nothing"])


def raising(error: BaseException) -> Callable[[nn.Module], None]:
    def do(model: nn.Module) -> None:
        raise error

    return do


def changing(model: nn.Module) -> None:
    model.head.weight.data.add_(1)  # type: ignore
    raise AttachError("the head of this model cannot be used.")


def unfreezing(model: nn.Module) -> None:
    model.head.weight.requires_grad_(False)  # type: ignore
    raise AttachError("the head of this model cannot be used.")


@pytest.mark.parametrize(
    ("do", "sentence"),
    [
        (lambda model: None, "nothing was refused; expected a AttachError"),
        (raising(ConfigError("the head of this cannot be used.")), "a ConfigError, not a AttachE"),
        (raising(AttachError("the tail of this cannot be used.")), "'head' is not in the sentence"),
        (raising(AttachError("head")), "no clear sentence"),
        (raising(AttachError("the head\nof this cannot be used")), "no clear sentence"),
        (raising(AttachError("the head at <Toy object at 0x7f> is bad")), "no clear sentence"),
        (changing, "refused, but head.weight has other values"),
        (unfreezing, "requires_grad of head.weight was changed"),
    ],
)
def test_a_bad_refusal_is_found(
    do: Callable[[nn.Module], None], sentence: str, toy: nn.Module
) -> None:
    with pytest.raises(AssertionError, match=re.escape(sentence)), refused(
        AttachError, "head", model=toy
    ):  # fmt: skip
        do(toy)


def test_several_problems_are_no_one_sentence(toy: nn.Module) -> None:
    with pytest.raises(AssertionError, match="2 problems, not one"), refused(ConfigError):
        raise ConfigError(["one thing is wrong here.", "another thing is wrong here."])


def test_other_errors_pass_through_a_refusal(toy: nn.Module) -> None:
    with pytest.raises(ZeroDivisionError), refused(AttachError, "head", model=toy):
        1 / 0  # noqa: B018


def test_a_plugin_of_a_test_is_gone_after_it(with_plugin: Have) -> None:
    record = with_plugin(BackboneSpec("gone", "A.", "faulty:Backbone"))
    assert record.provides == {"backbones": ["gone"]}
    assert "gone" in peftcore.installed().backbones and Toy


def test_the_plugin_of_the_test_before_is_gone() -> None:
    assert "gone" not in peftcore.installed().backbones
