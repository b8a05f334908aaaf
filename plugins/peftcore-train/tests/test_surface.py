"""What users see: help without torch, and a description of every field."""

import subprocess
import sys

import pytest

from peftcore import installed, resolve
from peftcore_train.schema import DataSection, TrainRecipe, TrainSection

COMMANDS = ["train", "evaluate", "predict", "push", "check"]


def test_help_imports_no_torch():
    script = (
        "import sys\n"
        "from peftcore.cli import main\n"
        f"for name in {COMMANDS}:\n"
        "    main([name, '--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'accelerate', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "model",
    [TrainRecipe, TrainSection, DataSection]
    + [resolve(spec.config) for spec in installed().tasks.values()],
)
def test_every_field_is_described(model):
    assert [name for name, field in model.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("name", sorted(installed().tasks))
def test_the_default_metric_is_one_of_the_task(name):
    task = resolve(installed().tasks[name].task)
    assert task.default_metric in task.metric_names
