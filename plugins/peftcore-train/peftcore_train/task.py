"""What a task is: reader, head, loss and metrics. Plugins subclass :class:`Task`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from peftcore import ConfigError, DataError, Loaded, Strict, nearest
from peftcore_train.data import Columns, Row, read_split
from peftcore_train.schema import DataSection, Split
from peftcore_train.text import check_max_length

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

Features = dict[str, Any]
Batch = dict[str, Any]


class Task:
    """One task with its configuration.

    The order of calls: :meth:`read` for every split, :meth:`learn` with the training rows,
    :meth:`check` for every split, :meth:`build`, :meth:`encode` for every row, :meth:`begin` before
    training; then, for every batch, :meth:`distort` in training, :meth:`augment`, :meth:`collate`,
    and :meth:`loss` or :meth:`score`.

    Attributes:
        config: the validated ``task`` section.
    """

    #: ``head`` argument of :meth:`peftcore.Backbone.load`.
    head: ClassVar[str] = "none"
    #: Roles or path globs that are trained in full unless the recipe says otherwise.
    modules_to_save: ClassVar[tuple[str, ...]] = ()
    #: Names of the metrics, with whether greater is better.
    metric_names: Mapping[str, bool] = {"loss": False}
    #: What ``length`` of the features counts.
    length_unit: ClassVar[str] = "tokens"
    #: Metric that chooses the best epoch unless the recipe names one.
    default_metric: str = "loss"

    def __init__(self, config: Strict):
        self.config: Any = config

    def columns(self) -> Columns:
        """Return what the columns are that the task reads; by them its data is looked at."""
        return Columns()

    def read(
        self, data: DataSection, split: Split, problems: list[DataError] | None = None
    ) -> list[Row]:
        """Return the rows of a split.

        Args:
            data: the ``data`` section.
            split: which.
            problems: where what is wrong is put, so that all of it is found; else the first is
                raised.

        Raises:
            DataError: the data is missing, empty or damaged.
        """
        return read_split(data, split, self.columns(), problems)

    def learn(self, rows: Sequence[Row]) -> None:
        """Take from the training rows what the task must know, such as its labels."""

    @property
    def needs_rows(self) -> bool:
        """Whether the model can be built only after :meth:`learn`; else a plan reads no rows."""
        return type(self).learn is not Task.learn

    def check(self, rows: Sequence[Row]) -> None:
        """Check the rows of one split.

        Raises:
            DataError: a row does not fit the task.
        """

    def check_model(self, config: Any) -> None:
        """Check what the configuration of the model tells before the model is built.

        Raises:
            ConfigError: the model cannot do what the task asks for.
        """
        check_max_length(getattr(self.config, "max_length", None), config)

    def learned(self) -> dict[str, Any]:
        """Return what was learned as values of the configuration, to be kept with the run."""
        return {}

    def load_options(self) -> dict[str, Any]:
        """Return further arguments of :meth:`peftcore.Backbone.load`, such as ``num_labels``."""
        return {}

    def model_config(self) -> dict[str, Any]:
        """Return what the ``config.json`` of a merged model says of the task.

        By default the names of what :meth:`learned` returns as ``labels``.
        """
        names = [str(label) for label in self.learned().get("labels", ())]
        if not names:
            return {}
        return {
            "id2label": dict(enumerate(names)),
            "label2id": {name: i for i, name in enumerate(names)},
        }

    def fold(self, model: nn.Module) -> None:
        """Change a merged model so that its outputs are answers, where the task computes on them.

        Args:
            model: the plain model, without the adapter.
        """

    def build(self, loaded: Loaded) -> nn.Module:
        """Return the model to tune; by default the loaded backbone with its head."""
        return loaded.model

    def whole_modules(self, fresh: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return what is trained in full, and what is stored with the adapter but not trained.

        Args:
            fresh: ``path:`` globs of modules that the checkpoint did not hold and that are
                therefore random; each must be in one of the two.
        """
        return (*self.modules_to_save, *fresh), ()

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Turn a row into features; ``length`` among them lets similar rows share a batch.

        Args:
            row: the row.
            loaded: the backbone, with its tokenizer.
            labelled: the row has its answer; False when predicting.

        Raises:
            DataError: the row does not fit the model, such as a text that is too long.
        """
        raise NotImplementedError

    def check_start(self, before: Mapping[str, Any]) -> None:
        """Check that training may start ``from:`` the adapter of a run.

        Args:
            before: the ``task`` section of that run; empty for an adapter of another origin.

        Raises:
            ConfigError: it may not; say what to do.
        """

    def begin(self, model: nn.Module, rows: Sequence[Features]) -> None:
        """Do what is to be done once before the first step, such as adding to the training rows.

        Whoever resumes a run calls it again, and it must then do the same.

        Args:
            model: the model with its adapter, where it runs; ``peftcore.disabled(inner(model))``
                switches the adapter off for a while.
            rows: the encoded training rows.
        """

    def distort(self, features: Features, generator: torch.Generator) -> Features:
        """Change the features of a row of training at random, before :meth:`augment`.

        It is called anew in every epoch, and never when scoring.
        """
        return features

    def augment(self, features: Features, generator: torch.Generator) -> Features:
        """Change the features of a row at random; called anew in every epoch of training.

        When scoring it is called with a generator that depends on the row alone.
        """
        return features

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Make one batch of tensors."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss to train on, a scalar."""
        raise NotImplementedError

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return what :meth:`metrics` needs of a batch; the first axis of each is the row."""
        raise NotImplementedError

    def metrics(self) -> "MetricCollection":
        """Return fresh metrics; each is updated with the tensors of :meth:`score` by name."""
        raise NotImplementedError

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return one JSON-serialisable object for each row of a batch.

        Raises:
            ConfigError: the task predicts nothing.
        """
        raise ConfigError(f"{type(self).__name__} has no predictions; evaluate it instead.")

    def chosen_metric(self, name: str | None) -> tuple[str, bool]:
        """Return the metric that chooses the best epoch, and whether greater is better.

        Raises:
            ConfigError: the task has no such metric.
        """
        name = name or self.default_metric
        if name not in self.metric_names:
            known = ", ".join(self.metric_names)
            hint = nearest(name, self.metric_names)
            raise ConfigError(
                f"train.metric_for_best: {name!r} is not a metric of this task.{hint} Its metrics:"
                f" {known}."
            )
        return name, self.metric_names[name]


def inner(model: nn.Module) -> nn.Module:
    """Return the model inside what accelerate wrapped around it."""
    module = getattr(model, "module", None)
    return module if isinstance(module, nn.Module) else model
