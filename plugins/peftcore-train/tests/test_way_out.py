"""What leaves a run: merged models that transformers reads, and files of predictions."""

import csv
import json

import pytest
import torch
import yaml
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizerFast,
    pipeline,
)

import peftcore as core
from peftcore_train.merging import splitting_letters
from peftcore_train.outputs import Output
from peftcore_train.testing.program import refused

TEXTS = ["the film was lovely", "a dull story", "two people and it", "fine"] * 10


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def rows(tmp_path):
    """Return a table of rows with columns that the task does not know."""
    path = tmp_path / "new.csv"
    table = [f"{i},{text},?" for i, text in enumerate(TEXTS)]
    path.write_text("\n".join(["id,text,label", *table]))
    return path


@pytest.fixture
def predicted(trained, peftcore, rows):
    """Return a function that predicts for the rows and returns what is printed."""

    def predict(*options):
        done = peftcore("predict", trained, "--input", rows, "-q", *options)
        assert done.exit_code == 0, f"{done.output}{done.exception!r}"
        return lines(done.stdout)

    return predict


def test_a_merged_run_answers_in_a_pipeline_as_predict_does(trained, peftcore, predicted, tmp_path):
    done = peftcore("merge", trained, tmp_path / "merged")
    assert done.exit_code == 0, done.output
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert model.config.label2id == {"bad": 0, "good": 1}
    assert model.config.problem_type == "single_label_classification"
    classify = pipeline("text-classification", str(tmp_path / "merged"), top_k=None)
    assert classify.tokenizer.model_max_length == 24
    for text, row in zip(TEXTS, predicted("--probabilities"), strict=True):
        (found,) = classify([text])
        assert found[0]["label"] == row["predicted_label"]
        there = {one["label"]: one["score"] for one in found}
        assert there == pytest.approx(row["probabilities"], rel=1e-5)


def test_a_run_is_merged_with_nothing_said_twice(trained, peftcore, bert, tmp_path):
    done = peftcore("merge", trained / "adapter", tmp_path / "one", "--head", "masked-lm")
    assert done.exit_code == 2
    assert "says itself what --head would; leave it out." in done.stderr
    moved = peftcore("merge", trained / "adapter", tmp_path / "one", "--source", bert)
    assert moved.exit_code == 0, moved.output
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_a_merged_language_model_writes_what_predict_does(peftcore, llama, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    row = {"prompt": "the film was", "completion": "great and lovely"}
    for split in ("train", "validation", "test"):
        (data / f"{split}.jsonl").write_text(f"{json.dumps(row)}\n" * 8)
    recipe = {
        "name": "writer",
        "backbone": {"source": str(llama)},
        "methods": [{"method": "lora", "targets": ["all-linear"]}],
        "task": {"type": "causal-lm", "max_new_tokens": 4},
        "data": {"source": str(data)},
        "train": {"epochs": 3, "batch_size": 2, "learning_rate": 0.01, "device": "cpu"},
        "output": str(tmp_path / "runs"),
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    assert peftcore("train", tmp_path / "r.yaml", "-q").exit_code == 0
    (run,) = (tmp_path / "runs").iterdir()
    line = json.dumps({"id": 7, "prompt": "the film was"})
    done = peftcore("predict", run, "--input", "-", input=line)
    assert done.exit_code == 0, done.output
    (found,) = lines(done.stdout)
    assert found["id"] == 7 and found["completion"]
    short = peftcore("predict", run, "--input", "-", "--set", "task.max_new_tokens=1", input=line)
    assert lines(short.stdout)[0]["completion"] == found["completion"].split()[0]

    assert peftcore("merge", run, tmp_path / "merged").exit_code == 0
    write = pipeline("text-generation", str(tmp_path / "merged"))
    (answer,) = write("the film was", max_new_tokens=4, do_sample=False, return_full_text=False)
    assert answer["generated_text"].strip() == found["completion"]


def test_a_tokenizer_learns_to_split_letters_itself(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACDEFGHIKLMNPQRSTVWY"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"), do_lower_case=False)
    splitting_letters(tokenizer).save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert dict(again("EVQ L")) == dict(tokenizer("E V Q L"))
    assert len(set(again("EVQL")["input_ids"])) == 6
    assert again.pad_token == "[PAD]"


def test_rows_keep_their_columns_beside_what_is_predicted(predicted):
    found = predicted()
    assert [row["id"] for row in found] == [str(i) for i in range(len(TEXTS))]
    assert {tuple(row) for row in found} == {("id", "text", "label", "predicted_label")}
    assert [row["predicted_label"] for row in found[:2]] == ["good", "bad"]


def test_predictions_are_written_in_the_format_of_the_suffix(predicted, tmp_path):
    expected = predicted("--probabilities")
    for suffix in ("csv", "tsv", "jsonl"):
        assert predicted("--probabilities", "--output", tmp_path / f"out.{suffix}") == []
    with (tmp_path / "out.csv").open() as file:
        table = list(csv.DictReader(file))
    assert lines((tmp_path / "out.jsonl").read_text()) == expected
    assert [row["predicted_label"] for row in table] == [r["predicted_label"] for r in expected]
    assert float(table[0]["probabilities.good"]) == expected[0]["probabilities"]["good"]
    cells = [line.split("\t") for line in (tmp_path / "out.tsv").read_text().splitlines()]
    assert [dict(zip(cells[0], row, strict=True)) for row in cells[1:]] == table
    assert not list(tmp_path.glob(".*"))


def test_parquet_holds_what_json_lines_do(predicted, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    predicted("--probabilities", "--output", tmp_path / "out.parquet")
    assert parquet.read_table(tmp_path / "out.parquet").to_pylist() == predicted("--probabilities")


def test_predicting_goes_on_where_it_was_killed(trained, predicted, peftcore, rows, tmp_path,
                                                monkeypatch):  # fmt: skip
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    settings = ("--set", "train.eval_batch_size=2")
    predicted("--output", whole, *settings)
    monkeypatch.setattr(Output, "finish", lambda self: None)  # as if killed before the last step
    predicted("--output", output, *settings)
    monkeypatch.undo()
    part = tmp_path / ".out.jsonl.part"
    begun = part.read_bytes().splitlines(keepends=True)
    assert len(begun) == 1 + len(TEXTS) and not output.exists()
    part.write_bytes(b"".join(begun[:20]) + begun[20][:7])  # killed while it wrote a line

    arguments = ("predict", trained, "--input", rows, "--output", output)
    for options, sentence in (
        ((), "was begun before: go on with --resume"),
        (("--resume",), "was begun for other rows, another adapter or"),
    ):
        done = peftcore(*arguments, *options)
        assert done.exit_code == 2 and sentence in done.stderr
    done = peftcore(*arguments, *settings, "--resume")
    assert done.exit_code == 0, done.output
    assert "19 of 40 rows are there already" in done.stderr
    there, here = lines(whole.read_text()), lines(output.read_text())
    assert [r["predicted_label"] for r in there] == [r["predicted_label"] for r in here]
    assert not part.exists()
    assert "is whole; nothing is left" in peftcore(*arguments, *settings, "--resume").stderr
    assert "exists; name a new file" in peftcore(*arguments).stderr


def test_embeddings_are_means_of_hidden_states_with_the_adapter(trained, predicted):
    recipe = core.inspect(trained / "adapter")["extra"]["recipe"]
    source = recipe["backbone"]["source"]
    model = AutoModelForSequenceClassification.from_pretrained(source)
    core.load(model, trained / "adapter")
    tokens = AutoTokenizer.from_pretrained(source)(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        hidden = model.eval()(**tokens, output_hidden_states=True).hidden_states[-1]
    found = predicted("--embeddings")
    assert len(found[0]["embedding"]) == 32
    torch.testing.assert_close(torch.tensor(found[0]["embedding"]), hidden[0].mean(0))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--output", "out.txt"], "the suffix is none of .jsonl, .csv, .tsv, .parquet"),
        (["--resume"], "--resume goes on with a file"),
        (["--set", "methods[0].rank=3"], "only backbone, task, train can be changed"),
        (["--set", "task.text_colum=a"], "Did you mean text_column?"),
    ],
)
def test_what_predict_cannot_do_it_says_first(options, sentence, trained, peftcore, rows, tmp_path):
    before = sorted(tmp_path.iterdir())
    if options[0] == "--output":
        options = ["--output", tmp_path / options[1]]
    done = peftcore("predict", trained, "--input", rows, *options)
    assert done.exit_code == 2
    assert sentence in done.stderr.splitlines()[-1]
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_recipe_and_a_directory_to_go_on_with_are_not_given_together(command) -> None:
    assert refused(command) == "name a recipe, or a directory with --resume."
    given = refused(command, "r.yaml", "--resume", "runs/x")
    assert given.startswith("--resume goes on with the recipe of its directory; ")
