"""What would be trained: one answer of `plan`, of `train --dry-run` and of training itself."""

import json
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

import peftcore as core
from peftcore_train import building
from peftcore_train.schema import load_jobs

ROWS = "rows: 64 train, 24 validation, 24 test"


def shown(done) -> str:
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return done.stdout


def both(peftcore, path: Path, *options: str) -> tuple[str, str]:
    """Return what the two commands print."""
    return shown(peftcore("plan", path, *options)), shown(
        peftcore("train", path, "--dry-run", *options)
    )


def edited(path: Path, **sections) -> Path:
    content = {**yaml.safe_load(path.read_text()), **sections}
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return path


def three_labels(data: Path) -> None:
    for split in ("train", "validation", "test"):
        file = data / f"{split}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for i, row in enumerate(rows):
            row["label"] = ("bad", "good", "so so")[i % 3]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_two_commands_print_one_table(recipe, data, peftcore):
    three_labels(data)
    plan, rehearsal = both(peftcore, recipe())
    *table, rows, longest = rehearsal.splitlines()
    assert plan.splitlines() == table
    assert rows == ROWS and longest.startswith("longest row: ")
    lora, *_, saved, total, reach, memory = table[1:]
    assert lora.split() == ["lora", "attention.query", "2", "256"]
    assert saved.split() == ["modules_to_save", "pooler", "2", f"{32 * 33:,}"]
    assert total.startswith("trainable 512 of ")
    assert total.endswith(f"; head {3 * 33 + 32 * 33:,} besides")
    assert reach.startswith("targets can reach ")
    assert memory.startswith("memory: base ") and memory.endswith("activations come on top")


def test_the_two_commands_give_one_structure(recipe, peftcore):
    plan, rehearsal = (json.loads(text) for text in both(peftcore, recipe(), "--json"))
    assert {name: rehearsal.pop(name) for name in plan} == plan
    assert rehearsal == {"rows": {"train": 64, "validation": 24, "test": 24}, "longest_row": 12}
    assert plan["trainable"] == 2 * 2 * (2 * 2 * 32)
    assert sum(line["trainable"] for line in plan["lines"]) == plan["trainable"] + plan["head"]
    assert plan["bytes"]["trained"] == 16 * (plan["trainable"] + plan["head"])


def test_arms_are_planned_one_by_one(recipe, peftcore):
    arms = {"lora": ["lora"], "frozen": [], "wide": [{"method": "lora", "rank": 16}]}
    path = edited(recipe(), methods=None, compare=arms)
    plan, rehearsal = both(peftcore, path)
    lines = rehearsal.splitlines()
    assert [line for line in lines if line.endswith(":")] == ["frozen:", "lora:", "wide:"]
    assert plan.splitlines() == [line for line in lines if not line.startswith(("rows", "longest"))]
    plan, rehearsal = (json.loads(text)["arms"] for text in both(peftcore, path, "--json"))
    assert plan["frozen"]["trainable"] == 0 and plan["frozen"]["head"] == plan["lora"]["head"]
    assert rehearsal["wide"]["trainable"] == 2 * plan["lora"]["trainable"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"modules_to_save": ["head"]},
        {"modules_to_save": ["embeddings", "pooler"]},
        {"methods": []},
        {"task": {"type": "masked-lm"}},
        {"methods": ["bitfit", {"method": "lora", "rank": 2}]},
        {"backbone_options": {"dtype": "bfloat16"}},
    ],
)
def test_the_plan_is_what_a_run_trains_and_stores(changes, recipe, bert, peftcore, tmp_path):
    options = changes.pop("backbone_options", {})
    path = recipe(backbone={"source": str(bert), "options": options}, **changes)
    text, _ = both(peftcore, path, "--json")
    plan = json.loads(text)
    done = peftcore("train", path, "--set", "train.max_steps=1", "--json", "-q")
    counts = json.loads(shown(done))["parameters"]
    assert {k: plan[k] for k in ("trainable", "head", "base")} == {
        k: counts[k] for k in ("trainable", "head", "base")
    }
    assert plan["percent"]["of_total"] == counts["percent_of_total"]
    (run,) = (tmp_path / "runs").iterdir()
    (job,) = load_jobs(path)
    task = building.make_task(job)
    if task.needs_rows:
        task.learn(task.read(job.recipe.data, "train"))
    whole = building.whole_modules(job, task, *building.load_model(job, task, on_meta=True))
    found = core.inspect(run / "adapter")
    stored = (tuple(found["modules_to_save"]), tuple(found["save_frozen"]))
    assert whole == stored


def test_no_weight_is_read(recipe, bert, peftcore, tmp_path):
    """The weights are NaN, of which a model that had them would say something."""
    base = tmp_path / "base"
    base.mkdir()
    for file in bert.iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    with safe_open(base / "model.safetensors", "pt") as weights:
        nothing = {k: weights.get_tensor(k) * float("nan") for k in weights.keys()}  # noqa: SIM118
    save_file(nothing, base / "model.safetensors", {"format": "pt"})
    path = recipe(backbone={"source": str(base)})
    plan, _ = both(peftcore, path)
    assert plan == shown(peftcore("plan", recipe("same.yaml")))
    assert peftcore("train", path, "-q").exit_code == 1


def test_rows_are_read_only_where_the_head_depends_on_them(recipe, data, peftcore):
    for file in data.iterdir():
        file.unlink()
    labelled = {"type": "sequence-classification", "labels": ["bad", "good"]}
    for task in (labelled, {"type": "masked-lm"}):
        assert "trainable 512 of " in shown(peftcore("plan", recipe(task=task)))
    done = peftcore("plan", recipe())
    assert done.exit_code == 2 and "has no train.jsonl" in done.stderr


def test_a_named_size_is_planned_and_rehearsed_without_its_weights(recipe, peftcore):
    plan, rehearsal = both(peftcore, recipe(backbone={"source": "bert-base-cased"}))
    assert "of 108,311,810 = " in plan and "memory: base 433.25 MB in float32" in plan
    assert rehearsal == f"{plan}{ROWS}\n"
    done = peftcore("train", recipe(backbone={"source": "esm2-8m"}), "-q")
    assert done.exit_code == 2
    assert "esm2-8m holds" in done.stderr and "can only be planned" in done.stderr


def test_a_folder_wins_over_a_size_of_its_name(recipe, bert, peftcore, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert-base-cased").symlink_to(bert)
    plan, _ = both(peftcore, recipe(backbone={"source": "bert-base-cased"}))
    assert plan == shown(peftcore("plan", recipe("same.yaml")))


def test_a_damaged_checkpoint_is_found_without_reading_it(recipe, bert, peftcore, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    for file in bert.iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    path = recipe(backbone={"source": str(base)})
    for command in (("plan", path), ("train", path, "--dry-run"), ("train", path, "-q")):
        done = peftcore(*command)
        assert done.exit_code == 2 and "the weights cannot be read" in done.stderr


def test_a_dry_run_checks_every_row_and_metric(recipe, data, peftcore):
    done = peftcore("train", recipe(train={"metric_for_best": "acuracy"}), "--dry-run")
    assert done.exit_code == 2 and "Did you mean accuracy?" in done.stderr
    (data / "test.jsonl").write_text('{"text": "' + "film " * 40 + '", "label": "good"}')
    done = peftcore("train", recipe(), "--dry-run")
    assert done.exit_code == 2 and "test.jsonl:1: 42 tokens" in done.stderr
    assert done.stdout == ""


def test_a_setting_of_no_section_says_how_to_set_a_methods_field(recipe, peftcore):
    for command in ("plan", "train", "check"):
        done = peftcore(command, recipe(), "--set", "rank=4")
        assert (done.exit_code, done.stdout) == (2, "")
        assert "--set rank=4: a recipe has no section 'rank'." in done.stderr
        assert "Write methods[0].rank=4." in done.stderr


def test_an_outline_encodes_rows_as_the_whole_model_does(bert, llama):
    for name, source in (("bert", bert), ("llama", llama)):
        knows = core.backbone_named(name)
        outline, whole = knows.outline(str(source)), knows.load(str(source))
        assert outline.model.config.to_dict() == whole.model.config.to_dict()
        assert not list(outline.model.parameters())
        texts = ["the film was great"]
        assert outline.tokenizer(texts).data == whole.tokenizer(texts).data
        assert outline.tokenizer.pad_token == whole.tokenizer.pad_token
