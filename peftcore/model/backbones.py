"""What a backbone plugin provides, and the fallback for models that no plugin knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from peftcore.errors import ConfigError, PluginError, nearest
from peftcore.model.calls import arguments, padding_id, predicts_next, read_call, read_stack
from peftcore.model.context import Context
from peftcore.model.layers import LayerInfo, layer_of
from peftcore.model.loaded import Loaded
from peftcore.model.roles import check_role
from peftcore.model.walk import CONTAINER, argument_names
from peftcore.registry.installed import installed
from peftcore.registry.sources import resolve_source


class Backbone:
    """One family of pretrained models. Plugins subclass it; instances hold no state.

    Path globs: ``*`` is one part of a dotted path, ``**`` any number of parts, ``{a,b}`` a choice.
    """

    #: Name of the spec; filled in by the core.
    name: str = ""
    #: Role to globs over module paths.
    roles: ClassVar[Mapping[str, str | Sequence[str]]] = {}
    #: Role to globs over names of parameters that a module holds besides what its own role says.
    parameter_roles: ClassVar[Mapping[str, str | Sequence[str]]] = {}
    #: Globs of modules whose weight the model reads without calling them.
    direct_weights: ClassVar[Sequence[str]] = ()
    #: Methods of the model, other than ``forward``, that generate from a prompt.
    generating: ClassVar[Sequence[str]] = ("generate",)
    #: Features (:data:`FEATURES`) of every model of the family that cannot be found in its modules.
    has: ClassVar[Sequence[str]] = ("tokens", "bidirectional", "one-pass", "own-queries")
    #: Feature to why the family does not have it, where a sentence says more than its absence.
    lacks: ClassVar[Mapping[str, str]] = {}
    #: Role that the family lacks to the role that stands in for it in defaults of methods.
    stands_in: ClassVar[Mapping[str, str]] = {}
    #: Name of a stack of blocks to globs of its module, where the family has several.
    stacks: ClassVar[Mapping[str, str | Sequence[str]]] = {}
    #: Heads that the family has besides ``none``.
    heads: ClassVar[Sequence[str]] = ()
    #: The head that plans assume where none is named.
    default_head: ClassVar[str] = "none"
    #: Of several stacks, the one that contexts tell of, and that sequences and ``layers`` mean.
    main_stack: ClassVar[str] = ""
    #: Of several stacks, the one that writes after it has read what another one made of a prompt.
    writing_stack: ClassVar[str] = ""
    #: Named sizes for plans on the meta device: name to arguments of the model's configuration.
    configs: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def role_globs(self, model: nn.Module) -> Mapping[str, Sequence[str]]:
        """Return role to globs for this model."""
        return {r: (g,) if isinstance(g, str) else tuple(g) for r, g in self.roles.items()}

    def parameter_globs(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return role and globs over names, of parameters that have a role of their own."""
        given = self.parameter_roles.items()
        return tuple((r, (g,) if isinstance(g, str) else tuple(g)) for r, g in given)

    def stack_globs(self, model: nn.Module) -> Mapping[str, Sequence[str]]:
        """Return name of a stack to globs of its module, for this model."""
        return {s: (g,) if isinstance(g, str) else tuple(g) for s, g in self.stacks.items()}

    def width(self, model: nn.Module, path: str, module: nn.Module) -> int | None:
        """Return the width of the residual stream at a module that is no single layer."""
        raise NotImplementedError

    def slices(self, path: str, role: str, layer: LayerInfo) -> Mapping[str, tuple[int, int]]:
        """Return role to (start, stop) of the output features of a fused layer."""
        return {}

    def entry(self, model: nn.Module) -> str:
        """Return the path of the module whose ``forward`` takes the batch; ``""`` is the model."""
        return ""

    def context(
        self, entry: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Context:
        """Say what pieces may know of a call of the entry module with these arguments."""
        return Context()

    def entries(self, model: nn.Module) -> Mapping[str, str]:
        """Return name of a stack to the path of the module whose call takes in its tokens.

        Each of these stacks has a context of its own, which :meth:`stack_context` makes when the
        module is called, within a call of the entry or by itself; :meth:`context` is not asked.
        None by default.
        """
        return {}

    def stack_context(
        self, stack: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any],
        call: Context,
    ) -> Context:  # fmt: skip
        """Say what pieces may know of a call of a stack's module, by the usual names of arguments.

        Args:
            stack: name of the stack.
            module: what :meth:`entries` names.
            args, kwargs: what it is called with.
            call: what the labels of the entry's call tell of the stack that writes; empty outside
                of such a call.
        """
        return read_stack(module, args, kwargs, call, writes=stack == self.writing_stack)

    def recognises(self, source: str) -> bool:
        """Tell whether a folder or a hub's name holds a checkpoint of this family."""
        return False

    def load(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        """Load a real checkpoint.

        Args:
            source: a folder, or a name that the family's ``from_pretrained`` takes.
            head: ``none``, ``sequence-classification``, ``masked-lm`` or ``causal-lm``.
            options: ``num_labels`` for a classification head, ``dtype``.

        Raises:
            ConfigError: the source does not exist, or is not of this family.
        """
        raise NotImplementedError

    def load_on_meta(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        """Return what :meth:`load` would, on the meta device: no weights are read.

        ``fresh`` must be what :meth:`load` says. The default builds the model and takes every
        parameter to be in the checkpoint; a family whose heads start anew says which are not.

        Args:
            source: as in :meth:`load`, or a named size, which has no tokenizer.
            head: as in :meth:`load`.
            options: as in :meth:`load`.

        Raises:
            ConfigError: as in :meth:`load`.
        """
        with torch.device("meta"):
            model = self.build(source, head=head, **options)
        return Loaded(model, source=source)

    def configuration(self, source: str, *, head: str = "none", **options: Any) -> Any:
        """Return what the model of a source is configured as, without building it.

        It is what the model's ``config`` would be; None where a family has none, or does not say.

        Args:
            source: as in :meth:`load_on_meta`.
            head: as in :meth:`load`.
            options: as in :meth:`load`.

        Raises:
            ConfigError: as in :meth:`load`, as far as this tells.
        """
        return None

    def outline(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        """Return what encoding rows needs: a tokenizer, and a model for the sake of its ``config``.

        By default it is what :meth:`load_on_meta` returns; a family may leave the model's modules
        out, which take seconds to import.

        Args:
            source: as in :meth:`load_on_meta`, no named size.
            head: as in :meth:`load`.
            options: as in :meth:`load`.

        Raises:
            ConfigError: as in :meth:`load`, as far as this tells.
        """
        return self.load_on_meta(source, head=head, **options)

    def build(self, config: str, *, head: str = "none", **options: Any) -> nn.Module:
        """Build a model with random weights (under the current default device).

        Args:
            config: a named size, or a source as in :meth:`load`, whose weights are not read.
            head: as in :meth:`load`.
            options: as in :meth:`load`.

        Raises:
            ConfigError: the family has no such size.
        """
        raise NotImplementedError

    def is_size(self, source: str) -> bool:
        """Tell whether a source is a named size of the family; a folder of that name wins."""
        return source in self.configs and not Path(source).is_dir()

    def tiny(self, *, head: str = "none") -> nn.Module:
        """Return a random small member of the family, under 1 M parameters, for tests."""
        raise NotImplementedError

    def batch(self, model: nn.Module, rows: int = 2) -> dict[str, Any]:
        """Return valid random keyword arguments for ``model``, with unequal lengths."""
        raise NotImplementedError


#: How deep inside a wrapper a known model is looked for.
_DEPTH = 4


class Structural(Backbone):
    """The fallback for any ``nn.Module``: layers by their type, blocks by their lists."""

    name = "structural"
    writing_stack = "decoder"

    def role_globs(self, model: nn.Module) -> Mapping[str, Sequence[str]]:
        """Find blocks (items of a list of equal modules) and the projections of attention."""
        blocks: list[str] = []
        attention: list[str] = []
        outputs: list[str] = []
        from peftcore.model.walk import base_modules

        taken: tuple[str, ...] = ()
        for path, module, _ in base_modules(model):
            # the walk goes depth first, so only the list found last can enclose what comes
            inside = bool(taken) and path.startswith(taken)
            if isinstance(module, nn.ModuleList) and not inside and len(module) > 0:
                kinds = {type(child).__name__ for child in module}
                if len(kinds) == 1 and layer_of(module[0]) is None:
                    prefix = f"{path}." if path else ""
                    blocks.append(f"{prefix}*")
                    taken = (prefix,) if prefix else ()
            if isinstance(module, nn.MultiheadAttention):
                attention.append(path)
                outputs.append(f"{path}.out_proj" if path else "out_proj")
        found = {"block": blocks, "attention": attention, "attention.output": outputs}
        return {role: tuple(paths) for role, paths in found.items() if paths}

    def context(
        self, entry: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Context:
        """Read what arguments of the usual names say; of two sequences, an encoder's and a
        decoder's, nothing is said.
        """
        call = arguments(entry, args, kwargs)
        if "decoder_input_ids" in argument_names(entry):
            return Context()
        causal = call.get("labels") is None or predicts_next(entry)
        return read_call(call, causal=causal, padding=padding_id(entry))

    def entries(self, model: nn.Module) -> Mapping[str, str]:
        """Return the paths of an encoder and a decoder, where those are the sides of a model."""
        if "decoder_input_ids" not in argument_names(model):
            return {}
        sides = {stack: globs[0] for stack, globs in self.stack_globs(model).items()}
        return sides if set(sides) == {"encoder", "decoder"} else {}

    def stack_globs(self, model: nn.Module) -> Mapping[str, Sequence[str]]:
        """Name the modules that hold the lists of blocks, where there are several: ``encoder``."""
        lists = [path.split(".")[:-1] for path in self.role_globs(model).get("block", ())]
        depth = 0
        while lists and all(
            len(p) > depth and p[: depth + 1] == lists[0][: depth + 1] for p in lists
        ):
            depth += 1
        names = [path[depth] if len(path) > depth else "" for path in lists]
        told_apart = len(set(names)) == len(names) > 1 and all(map(str.isidentifier, names))
        prefix = lists[0][:depth] if lists else []
        return {name: (".".join([*prefix, name]),) for name in names} if told_apart else {}

    def width(self, model: nn.Module, path: str, module: nn.Module) -> int | None:
        """Return the width of the first norm inside the module."""
        from peftcore.model.walk import base_modules

        for _, child, _ in base_modules(module):
            layer = layer_of(child)
            if layer is not None and (info := layer.info(child)).kind == "norm":
                return info.out_features
        return None


def query_key_value(layer: LayerInfo) -> dict[str, tuple[int, int]]:
    """Return the slices of a layer that is query, key and value in equal parts, by role."""
    width = layer.out_features // 3
    parts = ("attention.query", "attention.key", "attention.value")
    return {part: (i * width, (i + 1) * width) for i, part in enumerate(parts)}


def backbone_named(name: str) -> Backbone:
    """Return the backbone of a spec name; ``structural`` is the fallback.

    Raises:
        UnknownName: no installed plugin provides it.
    """
    if name == Structural.name:
        return Structural()
    spec = installed().find("backbones", name)
    backbone: Backbone = installed().resolve("backbones", name, "backbone")()
    backbone.name = spec.name
    for role in backbone.roles:
        check_role(role)
    return backbone


def backbone_of(model: nn.Module) -> Backbone:
    """Return the backbone plugin that knows a model or a part of it, else the fallback."""
    seen: set[type] = set()
    level = [model]
    for _ in range(_DEPTH):
        for module in level:
            if type(module) in seen:
                continue
            seen.add(type(module))
            for cls in type(module).__mro__:
                reference = f"{cls.__module__}:{cls.__qualname__}"
                for spec in installed().backbones.values():
                    if any(fnmatchcase(reference, glob) for glob in spec.matches):
                        return backbone_named(spec.name)
        level = [
            child
            for module in level
            for name, child in module._modules.items()
            if child is not None and name != CONTAINER
        ]
    return Structural()


def backbone_for_config(config: str) -> Backbone:
    """Return the backbone that has a named size, such as ``llama-7b``.

    Raises:
        ConfigError: no installed backbone has it.
    """
    known = _sizes()
    if config not in known:
        raise ConfigError(
            f"{config!r} is neither a path nor a named size.{nearest(config, known)}"
            f" Named sizes: {', '.join(sorted(known)) or 'none'}."
        )
    return backbone_named(known[config])


def _sizes() -> dict[str, str]:
    """Return every named size with the backbone that has it."""
    return {size: spec.name for spec in installed().backbones.values() for size in spec.configs}


def backbone_for_plan(source: str, name: str | None = None) -> Backbone:
    """Return the backbone that can build a source without weights.

    Args:
        source: a named size, or a source as in :func:`backbone_for_source`.
        name: the backbone's name, where the user gave one.

    Raises:
        ConfigError: it is no named size, and no installed backbone knows what it holds.
        UnknownName: no installed plugin provides the named backbone or source.
    """
    if name is None and source in _sizes() and not Path(source).is_dir():
        return backbone_for_config(source)
    return backbone_for_source(source, name)


def backbone_for_source(source: str, name: str | None = None) -> Backbone:
    """Return the backbone that can load a source.

    Args:
        source: a folder, a hub's name, or a named source such as ``samples/minilm``.
        name: the backbone's name, where the user gave one.

    Raises:
        ConfigError: the source does not exist, or no installed backbone knows what it holds.
        UnknownName: no installed plugin provides the named backbone or source.
    """
    if name is not None:
        return backbone_named(name)
    place = str(resolve_source(source, "model") or source)
    for known in sorted(installed().backbones):
        try:
            backbone = backbone_named(known)
        except PluginError:
            continue  # another family's plugin that is broken is no matter here
        if backbone.recognises(place):
            return backbone
    known = ", ".join(sorted(installed().backbones)) or "none"
    if not Path(place).exists() and place.startswith((".", "/", "~")):
        raise ConfigError(f"{source} does not exist.")
    sizes = _sizes()
    hint = " It is a named size, which can only be planned." if source in sizes else ""
    raise ConfigError(
        f"no installed backbone knows what {source} holds (installed: {known})."
        f"{hint or nearest(source, sizes)} Check the path, name the backbone (backbone.name of a"
        " recipe), or install the plugin of its family."
    )


def build_on_meta(config: str, *, head: str = "none", **options: Any) -> nn.Module:
    """Build a named size on the meta device: no memory, no weights."""
    with torch.device("meta"):
        return backbone_for_config(config).build(config, head=head, **options)
