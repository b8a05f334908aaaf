"""Hooks by which a plugin says what it brings. The docstrings are the contract."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from peftcore.registry.specs import (
        BackboneSpec,
        CommandSpec,
        ExecutorSpec,
        FeatureSpec,
        FormatSpec,
        LayerSpec,
        MethodSpec,
        SourceSpec,
        TaskSpec,
    )

#: Entry-point group; the number is the major version of the hooks below.
GROUP = "peftcore.v1"

hookspec = pluggy.HookspecMarker("peftcore")
hookimpl = pluggy.HookimplMarker("peftcore")
#: Options of ``hookimpl`` that order or wrap implementations of several plugins; none is taken.
OPTIONS = ("wrapper", "hookwrapper", "tryfirst", "trylast", "optionalhook", "specname")


class Discovery:
    """Hooks of a plugin module, called once per process. None of them may import torch."""

    @hookspec
    def peftcore_register_features(self) -> FeatureSpec | Iterable[FeatureSpec]:
        """Return features that a model may have and that methods may need."""

    @hookspec
    def peftcore_register_methods(self) -> MethodSpec | Iterable[MethodSpec]:
        """Return the PEFT methods that this plugin provides."""

    @hookspec
    def peftcore_register_backbones(self) -> BackboneSpec | Iterable[BackboneSpec]:
        """Return the families of pretrained models that this plugin knows."""

    @hookspec
    def peftcore_register_tasks(self) -> TaskSpec | Iterable[TaskSpec]:
        """Return the tasks that this plugin provides."""

    @hookspec
    def peftcore_register_sources(self) -> SourceSpec | Iterable[SourceSpec]:
        """Return named weights and data that a recipe can use as ``source`` or ``data``."""

    @hookspec
    def peftcore_register_formats(self) -> FormatSpec | Iterable[FormatSpec]:
        """Return formats of files that hold rows of data, or are rows themselves."""

    @hookspec
    def peftcore_register_layers(self) -> LayerSpec | Iterable[LayerSpec]:
        """Return handlers of layer types that the core does not know."""

    @hookspec
    def peftcore_register_commands(self) -> CommandSpec | Iterable[CommandSpec]:
        """Return subcommands for the ``peftcore`` program."""

    @hookspec
    def peftcore_register_executors(self) -> ExecutorSpec | Iterable[ExecutorSpec]:
        """Return where runs that do not wait for each other can be computed."""
