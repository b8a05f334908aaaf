"""What discovery returns. Plain data: importing this module imports neither torch nor pydantic.

A reference is a string ``"package.module:Name"`` that is imported when it is first used. The specs
are named tuples because a dataclass takes several times as long to make, in every command.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

#: What a method may need and a backbone may have, in words.
FEATURES = {
    "linear": "linear layers",
    "attention": "attention",
    "tokens": "hidden states that are sequences of vectors",
    "vocabulary": "a table of token embeddings",
    "bidirectional": "blocks whose tokens see those after them",
    "cache": "attention that takes keys and values from a cache",
    "convolutions": "convolutions of kernel 3",
}


class MethodSpec(NamedTuple):
    """One PEFT method."""

    name: str
    """As users type it: ``lora``."""
    summary: str
    """One line for ``peftcore list``."""
    config: str
    """Reference to a :class:`peftcore.MethodConfig`."""
    method: str
    """Reference to a :class:`peftcore.Method`."""
    paper: str = ""
    """Authors, year and link of the paper."""
    identity_at_start: bool = True
    """Whether a freshly attached adapter leaves the model's outputs as they were."""
    needs: tuple[str, ...] = ()
    """Keys of :data:`FEATURES` that a backbone must have."""
    impossible: Mapping[str, str] = MappingProxyType({})
    """Backbone name (or ``"*"``) to any other reason why the method cannot run on it."""
    config_for: Mapping[str, Mapping[str, object]] = MappingProxyType({})
    """Backbone name (or ``"*"``) to the configuration that suits it, where the defaults do not."""


class BackboneSpec(NamedTuple):
    """One family of pretrained models."""

    name: str
    """As users type it: ``bert``, ``llama``, ``esm``."""
    summary: str
    """One line for ``peftcore list``."""
    backbone: str
    """Reference to a :class:`peftcore.Backbone`."""
    matches: tuple[str, ...] = ()
    """Globs over ``module:Class`` of model classes that belong to this family."""
    configs: tuple[str, ...] = ()
    """Names of sizes that can be planned without weights: ``llama-7b``."""
    has: tuple[str, ...] = ("linear", "attention", "tokens", "vocabulary", "bidirectional")
    """Keys of :data:`FEATURES` that every model of the family has."""


class TaskSpec(NamedTuple):
    """One task: reader, head, loss and metrics."""

    name: str
    """As users type it: ``sequence-classification``."""
    summary: str
    """One line for ``peftcore list``."""
    config: str
    """Reference to the pydantic model of the recipe's ``task`` section."""
    task: str
    """Reference to the class that implements it."""


class SourceSpec(NamedTuple):
    """Weights or data that a recipe can name instead of a path: ``samples/minilm``."""

    name: str
    """As users type it, with the plugin's prefix: ``samples/minilm``."""
    kind: str
    """``"model"`` or ``"data"``."""
    summary: str
    """One line for ``peftcore list``."""
    licence: str
    """Licence of the weights or data."""
    resolve: str
    """Reference to a function without arguments that returns a local ``pathlib.Path``.

    A model resolves to a folder that its backbone can load, data to a folder of
    ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl`` (or other files that the task reads).
    """


class LayerSpec(NamedTuple):
    """A layer type that the core does not know: a transposed linear, a quantised one."""

    type: str
    """``"package.module:Class"`` of the layer; it is never imported from here."""
    layer: str
    """Reference to a :class:`peftcore.layers.Layer` that handles it."""


class CommandSpec(NamedTuple):
    """A subcommand that a plugin adds to ``peftcore``."""

    name: str
    """As users type it: ``train``."""
    summary: str
    """One line for ``peftcore --help``."""
    command: str
    """Reference to a ``click.Command``."""
    reads: tuple[str, ...] = ()
    """Endings of the files that the command works on, such as ``.yaml``."""
    plans: str = ""
    """Reference to what ``peftcore plan FILE`` asks about such a file: a function of the file and of
    settings ``KEY=VALUE`` that returns the :class:`peftcore.Plan` of each arm by its name."""


Spec = MethodSpec | BackboneSpec | TaskSpec | SourceSpec | LayerSpec | CommandSpec
