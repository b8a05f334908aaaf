"""What discovery returns. Plain data: importing this module imports neither torch nor pydantic.

A reference is a string ``"package.module:Name"`` that is imported when it is first used. The specs
are named tuples because a dataclass takes several times as long to make, in every command.
"""

from typing import NamedTuple


class FeatureSpec(NamedTuple):
    """Something that a model may have and a method may need."""

    name: str
    """As specs and backbones name it: ``cache``."""
    summary: str
    """What it is, as the end of a sentence: a method needs ..."""
    found: str = ""
    """Reference to a function of a survey (:func:`peftcore.survey`) that tells whether the model
    has it; empty where it cannot be seen and a backbone declares it (``Backbone.has``)."""


#: The features of the core; a plugin may add its own with ``peftcore_register_features``.
FEATURES = (
    FeatureSpec("linear", "linear layers", "peftcore.model.features:linear"),
    FeatureSpec("attention", "attention", "peftcore.model.features:attention"),
    FeatureSpec("vocabulary", "a table of token embeddings", "peftcore.model.features:vocabulary"),
    FeatureSpec("convolutions", "convolutions", "peftcore.model.features:convolutions"),
    FeatureSpec(
        "further-tokens",
        "blocks that take more tokens than the input has",
        "peftcore.model.features:further_tokens",
    ),
    FeatureSpec("tokens", "hidden states that are sequences of vectors"),
    FeatureSpec("bidirectional", "blocks whose tokens see those after them"),
    FeatureSpec("cache", "attention that takes keys and values from a cache"),
    FeatureSpec("one-pass", "one pass of the whole network for a batch"),
    FeatureSpec("own-queries", "projections of queries that serve nothing else"),
)


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
    """Names of features (:data:`FEATURES`) that a model must have."""
    docs: str = ""
    """Where its documentation is, an address that ``peftcore show`` prints."""


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
    docs: str = ""
    """Where its documentation is, an address that ``peftcore show`` prints."""


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
    model: str = ""
    """Reference to what ``peftcore plan SOURCE --head TASK`` asks for the model of a task whose
    head is its own: a function of the task's name, the source and options of loading that returns
    a module on the meta device."""
    docs: str = ""
    """Where its documentation is, an address that ``peftcore show`` prints."""


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


class FormatSpec(NamedTuple):
    """A format of files of data, told by how their names end; it has a reader or a column."""

    ending: str
    """As files are named: ``.h5ad``."""
    summary: str
    """One line for ``peftcore list``."""
    reader: str = ""
    """Reference to a function of a ``pathlib.Path`` that yields the rows of a file, and an error in
    the place of what is none."""
    column: str = ""
    """Where a file is one row, as an image is, the column of its path; such files lie in folders
    that are named after their labels."""


class LayerSpec(NamedTuple):
    """A layer type that the core does not know: a transposed linear, a quantised one."""

    type: str
    """``"package.module:Class"`` of the layer, or a glob; it is never imported from here."""
    layer: str
    """Reference to a :class:`peftcore.Layer` or :class:`peftcore.Weights` that handles it."""


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
    """Reference to what ``peftcore plan FILE`` asks about such a file: a function of the file and
    of settings ``KEY=VALUE`` that returns the :class:`peftcore.Plan` of each arm by its name."""
    merges: str = ""
    """Reference to what ``peftcore merge DIRECTORY`` asks about a directory that the command wrote:
    a function of the directory, of a source instead of its own or None, and of whether another base
    is accepted. It returns :class:`peftcore.Loaded` with the adapter folded into its model, ready
    for ``save_pretrained``, or None where the directory is not its own."""

    function: str = ""
    """Reference to the same for Python: a function that is ``peftcore.NAME`` where the stub of the
    face declares it. It takes what the command takes and returns what the command prints."""
    section: bool = False
    """Whether a recipe may have a section of the command's name, which it reads and others skip."""


class ExecutorSpec(NamedTuple):
    """Where runs that do not wait for each other are computed: processes, a cluster."""

    name: str
    """As users type it: ``processes``."""
    summary: str
    """One line for ``peftcore list``."""
    executor: str
    """Reference to a function of the number of workers that returns a
    :class:`concurrent.futures.Executor`.

    What it is given to do is a function of a module and texts, and what comes back is JSON. A
    worker that dies ends the future of its own work with an error, and no other.
    """


Spec = (
    FeatureSpec
    | MethodSpec
    | BackboneSpec
    | TaskSpec
    | SourceSpec
    | FormatSpec
    | LayerSpec
    | CommandSpec
    | ExecutorSpec
)
