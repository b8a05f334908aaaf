"""What uses up time, memory, disk or a directory ends in one sentence, and nothing is lost."""

import json
import resource
from pathlib import Path

import pytest

from peftcore_train.loop import Loop
from peftcore_train.rundir import locked

RECIPE = """\
name: t
backbone: {source: bert-base-cased}
methods: [lora]
task: {type: sequence-classification}
data: {source: data}
"""
COMPARE = "compare: {" + "".join(f"a{i}: [], " for i in range(500)) + "}"
ONES = f"methods: [{'1,' * 15_000}1]"
MANY = "[" + "1," * 30_000 + "1]"


def bomb(items: int, levels: int) -> str:
    """Return a recipe in which each line repeats the line before it."""
    lines = [f"a0: &a0 [{','.join('x' * items)}]"]
    lines += [f"a{i + 1}: &a{i + 1} [{','.join([f'*a{i}'] * items)}]" for i in range(levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: " + "[" * 100_000, "r.yaml:1: more than 32 levels, one inside another."),
        (bomb(9, 8), "r.yaml:1: more than 20,000 values, those of aliases among them."),
        (bomb(1, 300), "more than 32 levels"),
        (f"{RECIPE}modules_to_save: {MANY}", "r.yaml:6: more than 20,000 values"),
        ("x" * 2**21, "r.yaml: 2,097,152 characters; a recipe has at most 1,048,576."),
        (f"{RECIPE}seed: {'9' * 5000}", "r.yaml:6: an integer of 5,000 digits."),
        (RECIPE.replace("methods: [lora]", ONES), "methods: input should be a mapping (got 1)"),
        (RECIPE.replace("methods: [lora]", COMPARE), "compare: 500 arms; one recipe compares at"),
        (RECIPE.replace("data}", "x" * 5000 + "}"), "data.source: string should have at most"),
        (RECIPE.replace("bert-base-cased", "x" * 300), "backbone.source: a name of a file has"),
    ],
    ids=["nesting", "aliases", "deep aliases", "list", "size", "digits", "methods", "arms", "path",
         "name"],
)  # fmt: skip
def test_a_recipe_of_any_size_is_one_sentence(text, expected, peftcore, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(text)
    command = "plan" if "layers" in text else "check"
    if command == "plan":
        Path("r.yaml").write_text(
            text.replace("classification}", "classification, labels: [a, b]}")
        )
    done = peftcore(command, "r.yaml")
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.strip().splitlines()
    assert expected in line and len(line) < 400


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["backbone.source=bert-bse-cased"], "backbone.source: no installed backbone knows what"),
        (["backbone.source=/no/where"], "backbone.source: /no/where does not exist."),
        (["backbone.name=roberta"], "holds a model of type 'bert'; the backbone roberta knows"),
        (["backbone.source=gpt2"], "backbone gpt2 has no head 'masked-lm'. Its heads: none"),
        (["task.max_length=100"], "task.max_length is 100, but the model takes 24 tokens."),
        (["backbone.options={dtyp: float16}"], "'dtyp' is not an option of the backbone bert."),
    ],
)
def test_check_knows_the_model_without_building_it(
    settings, expected, recipe, peftcore, monkeypatch
):
    import transformers

    def built(*_, **__):
        raise AssertionError("a model was made")

    monkeypatch.setattr(transformers.PreTrainedModel, "__init__", built)
    task = {"type": "masked-lm"}
    options = [part for setting in settings for part in ("--set", setting)]
    done = peftcore("check", recipe(task=task), *options)
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.strip().splitlines()
    assert expected in line


def test_a_full_disk_ends_a_run_in_one_sentence_and_it_goes_on_from_what_was_saved(
    recipe, peftcore, tmp_path, monkeypatch
):
    limits = {"train": 24, "validation": 8, "test": 8}
    data = {"source": str(tmp_path / "data"), "limits": limits}
    whole = peftcore("train", recipe(data=data, output=str(tmp_path / "whole")), "-q", "--json")
    (expected,) = (tmp_path / "whole").iterdir()
    (state,) = expected.glob("state-*")
    # the adapter of an epoch fits, the state with its optimiser does not
    size = (state / "tensors.safetensors").stat().st_size - 1
    assert size > (expected / "adapter" / "adapter.safetensors").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    keep = Loop._keep

    def fill_in_the_second_epoch(self, scores):
        if self.position.epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        keep(self, scores)

    monkeypatch.setattr(Loop, "_keep", fill_in_the_second_epoch)
    try:
        done = peftcore("train", recipe(data=data), "-q")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    monkeypatch.undo()
    assert done.exit_code == 1, done.output
    (folder,) = (tmp_path / "runs").iterdir()
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: {folder} cannot be written: ")
    assert not list(folder.glob(".*"))

    with locked(folder):
        done = peftcore("train", "--resume", folder)
    assert done.exit_code == 1
    assert f"error: {folder} is being trained by another process." in done.stderr

    again = peftcore("train", "--resume", folder, "-q", "--json")
    assert again.exit_code == 0, again.output
    assert "resumed at step 3 from state-" in (folder / "log.txt").read_text()
    there, here = json.loads(whole.stdout), json.loads(again.stdout)
    kept = ("validation", "test", "best", "steps")
    assert {name: here[name] for name in kept} == {name: there[name] for name in kept}
    assert (folder / "metrics.jsonl").read_text() == (expected / "metrics.jsonl").read_text()


def test_predict_asks_for_the_folder_of_its_output_first(peftcore, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "fine"}')
    for output, expected in (("no/out.jsonl", "there is no folder"), (".", "is a folder; name")):
        done = peftcore(
            "predict", tmp_path / "no run", "--input", tmp_path / "rows.jsonl",
            "--output", tmp_path / output,
        )  # fmt: skip
        assert done.exit_code == 2
        assert expected in done.stderr and len(done.stderr.strip().splitlines()) == 1
