"""Bad recipes and bad data: one sentence that says what, where, and the nearest right thing."""

import json
import re
from pathlib import Path

import pytest
import yaml

from peftcore_train.data import read_rows


def refused(done, code: int = 2) -> str:
    """Return the sentences of an error; there is nothing else but warnings."""
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert lines, done.stderr
    # what was being done, and warnings, may stand above
    assert done.stderr.endswith("\n".join(lines) + "\n"), done.stderr
    return "\n".join(line.removeprefix("error: ") for line in lines)


def test_all_errors_of_a_recipe_are_listed_by_line(recipe, peftcore):
    path = recipe(
        seed="3",
        methods=[{"method": "lora", "rnak": 8, "alpha": True}],
        task={"type": "sequence-classification", "max_lenght": 12},
        train={"learning_rat": 0.1, "epochs": 0},
    )
    done = peftcore("check", path)
    assert done.exit_code == 2
    lines = [line.removeprefix(f"error: {path}:") for line in done.stderr.strip().splitlines()]
    numbers = [int(line.partition(":")[0]) for line in lines]
    text = "\n".join(line.partition(": ")[2] for line in lines)
    assert numbers == sorted(numbers)
    assert text == (
        "seed: input should be a valid integer (got '3').\n"
        "methods[0].rnak is not a field of lora. Did you mean rank?\n"
        "methods[0].alpha: input should be a valid number (got True).\n"
        "task.max_lenght is not a field of sequence-classification. Did you mean max_length?\n"
        "train.epochs: input should be greater than or equal to 1 (got 0).\n"
        "train.learning_rat is not a field of the recipe. Did you mean learning_rate?"
    )


@pytest.mark.parametrize(
    ("section", "value", "expected"),
    [
        ("methods", ["lroa"], r"unknown method 'lroa'. Did you mean lora\?"),
        ("task", {"type": "masked-ml"}, r"unknown task 'masked-ml'. Did you mean masked-lm\?"),
        (
            "backbone",
            {"source": "x", "name": "bret"},
            r"unknown backbone 'bret'. Did you mean bert\?",
        ),
    ],
)
def test_a_name_that_no_plugin_has_exits_3(section, value, expected, recipe, peftcore):
    assert re.search(expected, refused(peftcore("train", recipe(**{section: value})), code=3))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            ["train.metric_for_best=accuracyy"],
            r"'accuracyy' is not a metric.* Did you mean accuracy\?",
        ),
        (["task.text_column=texts"], r"train.jsonl:1: no column 'texts'. Did you mean text\?"),
        (["task.label_column=labell"], r"train.jsonl:1: no column 'labell'. Did you mean label\?"),
        (["task.labels=[good, bda]"], r"train.jsonl:\d+: label 'bad' is not among task.labels"),
        (["task.class_weights={good: 1.0}"], r"task.class_weights: give each label a weight"),
        (["backbone.source=/no/where"], r"backbone.source: /no/where does not exist"),
        (["task.max_length=100"], r"task.max_length is 100, but the model takes 24 tokens"),
        (["task.max_length=3"], r"train.jsonl:1: \d+ tokens, but only 3 fit. Cut it with"),
        (["train.restart_steps=3"], r"restart_steps and lr_scheduler: cosine_wi"),
        (["train.restart_decay=0.9"], r"restart_decay goes with lr_scheduler"),
        (
            [
                "train.lr_scheduler=cosine_with_restarts",
                "train.restart_steps=3",
                "train.restart_warmup_steps=3",
            ],
            r"restart_warmup_steps is less than restart_steps",
        ),
        (["data.limits={train: 0}"], r"limits.train is 0; at least one row is needed"),
        (["data.source=/no/data"], r"data.source /no/data: no such file or folder"),
        (["methods=[]", "modules_to_save=[]"], r"methods is empty .* modules_to_save"),
        (["modules_to_save=[haed]"], r"'haed' is no role and no module.* Did you mean head\?"),
        (
            ["methods[0].targets=[attention.queryy]"],
            r"attention.queryy.*Did you mean attention.query\?",
        ),
        (["methods[3].rank=2"], r"--set methods\[3\].rank=2: methods has 1 items"),
        (["train.trackers=[tensorbord]"], r"no tracker 'tensorbord'. Did you mean tensorboard\?"),
        (["train.trackers=[dvclive]"], r"dvclive is not installed: pip install dvclive"),
        (["train"], r"--set train: write KEY=VALUE"),
    ],
)
def test_a_setting_that_does_not_fit_is_one_sentence(settings, expected, recipe, peftcore):
    options = [part for setting in settings for part in ("--set", setting)]
    assert re.search(expected, refused(peftcore("train", recipe(), "-q", *options)))


@pytest.mark.parametrize(
    ("split", "content", "expected"),
    [
        ("train", "", r"train.jsonl is empty\."),
        ("train", "\n\n", r"train.jsonl is empty\."),
        ("train", '{"text": "a", "label": 1}\n{"text": ', r"train.jsonl:2: not readable as JSON"),
        ("train", '{"text": "a", "label": 1}\n[1]\n', r"train.jsonl:2: a row is a JSON object"),
        ("train", '{"text": "a", "label": 1}\n', r"train.jsonl: every row has the label 1"),
        ("train", '{"text": "a", "label": true}\n', r"train.jsonl:1: label True is neither"),
        ("test", '{"text": 7, "label": "good"}\n', r"test.jsonl:1: column 'text' holds 7, which"),
        ("validation", '{"text": "a", "label": "goood"}\n', r"validation.jsonl:1: label 'goood' .*"
         r"labels of training: bad, good. Did you mean good\?"),
        ("test", '{"text": " ", "label": "good"}\n', r"test.jsonl:1: column 'text' is empty"),
        ("test", '{"text": null, "label": "good"}\n', r"test.jsonl:1: column 'text' holds None"),
        ("test", '{"text": "' + "film " * 40 + '", "label": "good"}', r"test.jsonl:1: 42 tokens"),
    ],
)  # fmt: skip
def test_bad_rows_are_named_by_file_and_line(split, content, expected, recipe, data, peftcore):
    (data / f"{split}.jsonl").write_text(content)
    assert re.search(expected, refused(peftcore("train", recipe(), "-q")))


def test_a_file_that_is_not_utf_8_is_named_with_its_line(recipe, data, peftcore):
    good = b'{"text": "fine", "label": "good"}\n'
    (data / "validation.jsonl").write_bytes(good + b'{"text": "\xe9t\xe9", "label": "good"}\n')
    assert "validation.jsonl:2: not UTF-8 (byte 44" in refused(peftcore("check", recipe()))


def test_a_missing_split_lists_what_the_folder_holds(recipe, data, peftcore):
    (data / "test.jsonl").rename(data / "tests.jsonl")
    found = refused(peftcore("check", recipe()))
    assert (
        "has no test.jsonl, test.csv, or another file or folder of that name. It holds: t" in found
    )


def test_nothing_is_written_when_a_recipe_is_wrong(recipe, peftcore, tmp_path):
    for change in ({"seed": -1}, {"data": {"source": "/no/data"}}, {"modules_to_save": ["haed"]}):
        refused(peftcore("train", recipe(**change), "-q"))
        assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize("options", [(), ("--resume", "x", "--set", "seed=1")])
def test_usage_errors_exit_2(options, peftcore):
    refused(peftcore("train", *options))


def test_resume_of_something_else_is_refused(peftcore, tmp_path):
    assert "holds no config.yaml" in refused(peftcore("train", "--resume", tmp_path))
    assert "does not exist" in refused(peftcore("evaluate", tmp_path / "none"))


def test_truncation_cuts_what_is_too_long(recipe, data, peftcore):
    rows = [{"text": "the film was lovely " * 20, "label": "good"}, {"text": "a", "label": "bad"}]
    (data / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = peftcore("train", recipe(), "--set", "task.truncation=true", "--dry-run", "--json")
    assert json.loads(done.stdout)["longest_row"] == 24


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_tables_are_read_like_json_lines(suffix, tmp_path: Path):
    path = tmp_path / f"rows{suffix}"
    if suffix == ".csv":
        path.write_text('text,label\n"a, ""b""\nc",1\nd,0\n')
        expected = ['a, "b"\nc', "d"]
    else:
        path.write_text('text\tlabel\na "b\t1\nd\t0\n')
        expected = ['a "b', "d"]
    rows = read_rows(path)
    assert [row.text("text") for row in rows] == expected
    assert [row.column("label") for row in rows] == ["1", "0"]


def test_a_ragged_table_is_named_by_line(tmp_path: Path):
    path = tmp_path / "rows.tsv"
    path.write_text("text\tlabel\na\t1\nb\n")
    with pytest.raises(Exception, match=r"rows.tsv:3: 1 columns, but the header has 2"):
        read_rows(path)


def test_a_mistake_in_the_last_arm_is_found_before_the_first_one_trains(recipe, peftcore, tmp_path):
    path = recipe()
    content = yaml.safe_load(path.read_text())
    methods = content.pop("methods")
    content["compare"] = {"one": methods, "two": [{"method": "lora", "targets": ["mlp.upp"]}]}
    path.write_text(yaml.safe_dump(content))
    assert "Did you mean mlp.up?" in refused(peftcore("train", path, "-q"))
    assert not list((tmp_path / "runs").glob("*"))
