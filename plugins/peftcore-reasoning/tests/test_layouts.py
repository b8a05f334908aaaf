"""Miniatures of what the authors released, read as they lie on disk, and damaged ones."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from peftcore import DataError
from peftcore.testing import run_in_process
from peftcore_reasoning.glue import Glue, GlueConfig, halved
from peftcore_reasoning.glue_files import TASKS
from peftcore_reasoning.reasoning import Reasoning, ReasoningConfig
from peftcore_reasoning.sets import INSIDE_MAWPS, SETS
from peftcore_train.data import Row
from peftcore_train.schema import DataSection

HERE = Path(__file__).parent
#: The first rows that the authors released of some sets, with shorter texts.
ROWS = {
    "boolq": ("is house tax and property tax are same?", "the correct answer is true", "true"),
    "ARC-Easy": ("What melts? Answer1: ice", "the correct answer is answer1", "answer1"),
    "mawps": ("If 6 is added to a number , what is it ?", "", "-15.0"),
    "AQuA": ("What is 1+1? (A) 2 (B) 3", "\nRationale: 2.The answer is (A).", "A"),
}  # fmt: skip


def write_sets(root: Path, **changed: Any) -> Path:
    """Write the layout of LLM-Adapters, as its files are indented."""
    mixture = []
    for name, (instruction, output, answer) in ROWS.items():
        row = {"instruction": instruction, "input": "", "output": output, "answer": answer}
        mixture += [{**row, "instruction": f"{instruction} {i}"} for i in range(5)]
        file = root / "dataset" / name / "test.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps([row, {**row, **changed}], indent=4))
    (root / "ft-training_set").mkdir()
    text = json.dumps(mixture, indent=4)
    (root / "ft-training_set" / "some_20.json").write_text(text)
    return root


def read(root: Path, split: Any, **config: Any) -> list[Row]:
    given = {"training": "some_20", "tests": tuple(ROWS), "validation_rows": 4, **config}
    task = Reasoning(ReasoningConfig(**given))
    rows = task.read(DataSection(source=str(root)), split)
    task.check(rows)
    return rows


def test_the_layout_of_llm_adapters_is_read_as_it_lies(tmp_path: Path) -> None:
    root = write_sets(tmp_path)
    parts = {split: read(root, split) for split in ("train", "validation", "test")}
    assert {split: len(rows) for split, rows in parts.items()} == {
        "train": 16, "validation": 4, "test": 8,
    }  # fmt: skip
    texts = {split: {row.text("instruction") for row in rows} for split, rows in parts.items()}
    assert not texts["train"] & texts["validation"]
    assert parts["validation"] == read(root, "validation")
    first = parts["test"][0]
    assert first.where == "boolq/test.json:2" and first.values["set"] == "boolq"
    # the set without outputs is learned by its answers
    task = Reasoning(ReasoningConfig())
    said = {row.values["set"]: task.completion(row) for row in parts["test"]}
    assert said["mawps"] == "-15.0" and said["boolq"] == "the correct answer is true"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"answer": "maybe"}, "boolq/test.json:8: the answer 'maybe' is none of boolq's: true"),
        ({"answer": None}, "boolq/test.json:8: column 'answer' holds None, which is no text."),
        ({"output": 3}, "boolq/test.json:8: column 'output' holds 3, which is no text."),
        ({"instruction": " "}, "boolq/test.json:8: column 'instruction' is empty."),
    ],
)  # fmt: skip
def test_a_row_that_is_none_of_its_set_is_named(
    tmp_path: Path, changed: dict, sentence: str
) -> None:
    with pytest.raises(DataError, match=r"boolq/test\.json") as caught:
        read(write_sets(tmp_path, **changed), "test")
    assert str(caught.value).startswith(sentence)


def test_a_missing_or_damaged_set_is_named(tmp_path: Path) -> None:
    root = write_sets(tmp_path)
    with pytest.raises(DataError, match=r"has none of .*piqa/test\.json"):
        read(root, "test", tests=("piqa",))
    with pytest.raises(DataError, match="Did you mean some_20"):
        read(root, "train", training="some_2")
    with pytest.raises(DataError, match=r"some_20 has 20 rows, .* holds back 20; lower it"):
        read(root, "train", validation_rows=20)
    file = root / "dataset" / "boolq" / "test.json"
    file.write_text(file.read_text()[:-30])
    with pytest.raises(DataError, match=r"^boolq/test\.json:8: not readable as JSON: "):
        read(root, "test")


def test_sets_inside_mawps_are_refused_after_math_10k(tmp_path: Path) -> None:
    recipe = HERE.parents[2] / "examples" / "arithmetic-llama.yaml"
    for name in INSIDE_MAWPS:
        done = run_in_process("check", recipe, "--set", f"task.tests=[AQuA, {name}]")
        assert done.exit_code == 2
        assert f"so that {name} would be scored on what was learned" in done.stderr
    for training in ("math_7k", "math_14k"):
        ReasoningConfig(training=training, tests=tuple(SETS))


def test_prompts_and_answers_that_do_not_fit_are_named(tmp_path: Path, llama: Path) -> None:
    root = write_sets(tmp_path / "sets")
    content = {
        "name": "long", "backbone": {"source": str(llama)}, "methods": ["lora"],
        "task": {"type": "reasoning", "training": "some_20", "tests": ["boolq"],
                 "validation_rows": 4, "max_new_tokens": 32},
        "data": {"source": str(root)},
    }  # fmt: skip
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    done = run_in_process("check", file, "--set", "task.max_new_tokens=9")
    assert (
        "the answer 'the correct answer is true' is 26 tokens, more than task.max_new"
        in done.stderr
    )
    done = run_in_process("check", file, "--set", "task.max_new_tokens=400")
    assert "the prompt has " in done.stderr and "so that 112 fit. Lower it, or" in done.stderr
    done = run_in_process("check", file)
    assert done.exit_code == 0, done.output


def test_answers_are_scored_from_files_of_others_and_by_id(tmp_path: Path) -> None:
    gold = [{"id": f"q{i}", "answer": "true"} for i in range(4)]
    told = [{"id": f"q{i}", "output_pred": "it is true" if i else "no"} for i in range(4)]
    (tmp_path / "gold.json").write_text(json.dumps(gold))

    def scored(rows: list[dict]) -> Any:
        (tmp_path / "told.json").write_text(json.dumps(rows))
        return run_in_process(
            "answers", tmp_path / "told.json", "--of", "boolq", "--gold", tmp_path / "gold.json",
            "--extraction", "llm_adapters", "--json",
        )  # fmt: skip

    found = json.loads(scored(told[::-1]).stdout)
    assert (found["right"], found["unanswered"], found["accuracy"]) == (3, 1, 0.75)
    for rows, sentence in (
        (told[1:3], "told.json has no answer for 2 of 4 ids: 'q0', 'q3'. Add them, empty where"),
        ([*told, told[0]], "told.json:1: the id 'q0' stands at told.json:1 already."),
        ([*told, {"id": "q9", "output_pred": ""}], "told.json:1: the set has no id 'q9'."),
        ([*told, {"output_pred": ""}], "told.json:1: no column 'id'."),
    ):
        done = scored(rows)
        assert done.exit_code == 2 and sentence in done.stderr, done.stderr


TABLES = {
    "cola": ["gj04\t1\t\tThe film ran.", "gj04\t0\t*\tFilm the ran."],
    "mrpc": ["Quality\t#1 ID\t#1 String\t#2 String", '1\t7\tIt "ran.\tIt', "0\t1\tA\tB"],
    "stsb": ["index\tsentence1\tsentence2\tscore", "0\tIt ran\tIt ran\t5.000", "1\tA\tB\t0.2"],
    "mnli": ["index\tsentence1\tsentence2\tgold_label", "0\tA\tB\tneutral", "1\tA\tC\tentailment"],
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_of_glue_are_read_as_they_lie(name: str, tmp_path: Path) -> None:
    folder = tmp_path / TASKS[name].folder
    folder.mkdir()
    (folder / "train.tsv").write_text("\n".join(TABLES[name]))
    shutil.copy(folder / "train.tsv", folder / f"dev{'_matched' * (name == 'mnli')}.tsv")
    task = Glue(GlueConfig(dataset=name))
    data = DataSection(source=str(tmp_path))
    rows = task.read(data, "train")
    task.check(rows)
    task.learn(rows)
    assert len(rows) == 2 and set(task.columns().inputs) <= rows[0].values.keys()
    assert [len(task.read(data, part)) for part in ("validation", "test")] == [1, 1]
    with (folder / "train.tsv").open("a") as file:
        file.write("\nonly one cell")
    with pytest.raises(DataError, match=rf"train\.tsv:{len(TABLES[name]) + 1}: 1 columns, where"):
        task.read(data, "train")
    lenient = Glue(GlueConfig(dataset=name, skip_damaged=True))
    assert len(lenient.read(data, "train")) == 2


def test_a_folder_that_datasets_saved_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=list(TASKS["sst2"].labels))
    features = datasets.Features({"sentence": datasets.Value("string"), "label": label})
    rows = {"sentence": ["fine", "dull", "a film"], "label": [1, 0, 1]}
    part = datasets.Dataset.from_dict(rows, features=features)
    saved = datasets.DatasetDict({"train": part, "validation": part})
    saved.save_to_disk(str(tmp_path / "sst2"))
    task = Glue(GlueConfig(dataset="sst2"))
    for root in (tmp_path, tmp_path / "sst2"):
        found = task.read(DataSection(source=str(root)), "train")
        task.check(found)
        assert [row.values["label"] for row in found] == ["positive", "negative", "positive"]
    secret = Row({"sentence": "a", "label": -1}, "test:1")
    with pytest.raises(DataError, match="Labels of test splits are secret"):
        task.check([secret])


def test_half_of_validation_chooses_and_a_thousand_of_a_large_one() -> None:
    """The protocol of LoReFT: MNLI, QNLI and QQP are large; of 1,043 CoLA has 521 to choose by."""
    for count, choosing in ((1043, 521), (5000, 2500), (5001, 1000), (9815, 1000)):
        rows = [Row({"n": i}, str(i)) for i in range(count)]
        parts = halved(rows, 42)
        assert len(parts["validation"]) == choosing and len(parts["test"]) == count - choosing
        assert sorted(r.values["n"] for p in parts.values() for r in p) == list(range(count))
