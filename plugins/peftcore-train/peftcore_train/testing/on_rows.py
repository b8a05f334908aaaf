"""What the parts of the contract share: a task, its rows, a recipe, and a run of it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from peftcore import Strict, installed, resolve
from peftcore.testing import perturb, register_kit, run_in_process
from peftcore_train import building, running
from peftcore_train.schema import Split, load_jobs
from peftcore_train.task import Batch

Columns = dict[str, Any]


class OnRows:
    """One task with rows; what can be said of it stands at :class:`TaskContract`."""

    task: ClassVar[str]
    config: ClassVar[Mapping[str, Any]] = {}
    rows: ClassVar[Mapping[Split, Sequence[Columns]]]
    answers: ClassVar[tuple[str, ...]] = ()
    empty: ClassVar[tuple[str, ...]] = ()
    predicts: ClassVar[bool] = True
    weighted: ClassVar[bool] = False
    compares: ClassVar[bool] = False
    methods: ClassVar[Sequence[Any]] = ("probe",)
    epochs: ClassVar[int] = 6
    learning_rate: ClassVar[float] = 3e-3
    remembered: ClassVar[float] = 0.5

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _with_the_kit(cls) -> None:
        register_kit()

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, tmp_path_factory: Any) -> Path:
        """Return a folder with a small backbone, as ``backbone.source`` names it."""
        raise NotImplementedError("give a class method `source`, a fixture of the scope class")

    def write(self, folder: Path, split: Split, rows: Sequence[Columns]) -> None:
        """Write the rows of a split as the task reads them; JSON lines by default."""
        lines = (json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text("".join(lines), "utf-8")

    def terms(self, batch: Batch, rows: int) -> float:
        """Return of how many terms the loss of a batch is the mean; one a row by default."""
        return rows

    def recipe(self, folder: Path, source: Path, *, times: int = 1, **train: Any) -> Path:
        """Write the data, its training rows several times, and a recipe; return the recipe."""
        data = folder / "data"
        data.mkdir(parents=True)
        for split, rows in self.rows.items():
            self.write(data, split, [*rows] * (times if split == "train" else 1))
        content = {
            "name": "contract",
            "seed": 1,
            "backbone": {"source": str(source)},
            "methods": list(self.methods),
            "task": {"type": self.task, **self.config},
            "data": {"source": str(data)},
            "train": {"batch_size": 4, "learning_rate": 1e-2, "device": "cpu", **train},
            "output": str(folder / "runs"),
        }
        path = folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
        return path

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, tmp_path_factory: Any, source: Path) -> Path:
        """Return the directory of a run of two steps; its recipe lies two folders above."""
        folder = tmp_path_factory.mktemp("trained")
        recipe = cls().recipe(folder, source, max_steps=2)
        done = run_in_process("train", recipe, "-q")
        assert done.exit_code == 0, f"{done.output}{done.exception!r}"
        (run,) = (folder / "runs").iterdir()
        return run

    @pytest.fixture(scope="class")
    @classmethod
    def tuned(cls, tmp_path_factory: Any, source: Path) -> running.Prepared:
        """Return the task with encoded rows, and the model with an adapter that does something."""
        return cls.prepared(tmp_path_factory.mktemp("tuned"), source)

    @classmethod
    def prepared(cls, folder: Path, source: Path) -> running.Prepared:
        """Read the data, load the model, and attach an adapter that does something."""
        (job,) = load_jobs(cls().recipe(folder, source))
        prepared = running.prepare(job)
        adapter = building.attach(
            job, prepared.task, prepared.model, prepared.loaded, prepared.features["train"]
        )
        perturb(adapter)
        prepared.model.eval()
        return prepared

    @property
    def configuration(self) -> type[Strict]:
        """Return the class of the ``task`` section."""
        found: type[Strict] = resolve(installed().find("tasks", self.task).config)
        return found

    def unanswered(self, row: Columns) -> Columns:
        """Return a row without its answers."""
        return {name: value for name, value in row.items() if name not in self.answers}
