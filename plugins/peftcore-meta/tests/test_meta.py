"""Starts that are learned, and adapters that are added up."""

import json
import random
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import peftcore
from peftcore import ConfigError
from peftcore.testing import CommandContract, run_in_process
from peftcore_meta.arithmetic import Composition
from peftcore_meta.composing import fitted
from peftcore_meta.learning import Learner, mini_batches
from peftcore_meta.section import ComposeSection, MetaSection
from peftcore_train import building
from peftcore_train.progress import Progress
from peftcore_train.running import make_accelerator, prepare
from peftcore_train.schema import load_jobs

QUIET = Progress(quiet=True)
TASKS = {"a": {}, "b": {"data.seed": 1}}


class TestMeta(CommandContract):
    command = "meta"


class TestCompose(CommandContract):
    command = "compose"


@pytest.fixture
def learner(recipe):
    """Return a function that makes a learner on the toy, and its rows."""

    def make(**section):
        (job,) = load_jobs(
            recipe(train={"optimizer": "sgd", "momentum": 0.0, "max_grad_norm": None})
        )
        prepared = prepare(job)
        rows = prepared.features["train"]
        adapter = building.attach(job, prepared.task, prepared.model, prepared.loaded, rows)
        prepared.model.eval()  # no dropout, so that steps can be made again
        made = Learner(
            prepared.task, prepared.model, adapter, job.recipe.train,
            MetaSection(tasks=TASKS, **section), make_accelerator(job.recipe.train), 0,
        )  # fmt: skip
        return made, prepared, rows

    return make


def test_an_outer_step_of_reptile_is_the_mean_of_the_ends_by_hand(learner):
    settings = {"iterations": 2, "tasks_per_step": 2, "inner_steps": 3, "inner_batch_size": 24}
    made, prepared, rows = learner(step_size=0.5, inner_rows=24, **settings)
    theta = [p.detach().clone() for p in made.parameters]
    tasks = {"a": rows[:12], "b": rows[12:]}
    drawn = random.Random("0-meta")
    for i in range(2):
        ends = []
        for name in drawn.choices(["a", "b"], k=2):
            phi = [t.clone() for t in theta]
            part = drawn.sample(list(tasks[name]), 12)
            for batch in mini_batches(part, 24, 3, drawn):
                for p, value in zip(made.parameters, phi, strict=True):
                    p.data.copy_(value)
                loss = prepared.task.loss(prepared.model, prepared.task.collate(batch))
                grads = torch.autograd.grad(loss, made.parameters)
                phi = [v - 1e-3 * g for v, g in zip(phi, grads, strict=True)]
            ends.append(phi)
        eps = 0.5 * (1 - i / 2)
        means = [(a + b) / 2 for a, b in zip(*ends, strict=True)]
        theta = [t + eps * (m - t) for t, m in zip(theta, means, strict=True)]
    made, _, _ = learner(step_size=0.5, inner_rows=24, **settings)
    losses = made.reptile(tasks, QUIET)
    assert len(losses) == 2
    for p, expected in zip(made.parameters, theta, strict=True):
        torch.testing.assert_close(p.detach(), expected, rtol=1e-4, atol=1e-7)


def test_a_start_is_learned_tried_and_used_by_a_recipe(recipe):
    section = {"tasks": TASKS, "iterations": 20, "shots": 8, "draws": 1}
    path = recipe(meta=section)
    done = run_in_process("meta", path, "--json", "-q")
    assert done.exit_code == 0, done.output + str(done.exception)
    found = json.loads(done.stdout)
    assert [t["start"] for t in found["trials"]] == ["scratch", "joint", "reptile"]
    folder = Path(found["directory"])
    losses = {t["start"]: t["validation"]["loss"] for t in found["trials"]}
    assert losses["joint"] < losses["scratch"], "it has been trained on these tasks"
    trial = yaml.safe_load((folder / "trials" / "reptile-0" / "config.yaml").read_text())
    assert trial["from"].endswith("starts/reptile") and trial["data"]["limits"] == {"train": 8}
    assert peftcore.inspect(folder / "starts" / "reptile")["methods"][0]["method"] == "lora"
    assert run_in_process("check", path).exit_code == 0, "the section is no part of a run"
    before = (folder / "meta.json").read_text()
    done = run_in_process("meta", "--resume", folder)
    assert done.exit_code == 0 and "reptile" in done.stdout
    assert (folder / "meta.json").read_text() == before


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5))


@pytest.fixture
def stored(tmp_path):
    """Return a function that writes an adapter with random values, and gives its place."""

    def store(name, method="lora", **config) -> Path:
        model = small()
        adapter = peftcore.attach(model, method, **config)
        chance = torch.Generator().manual_seed(len(name))
        for p in adapter.parameters():
            p.data.normal_(generator=chance)
        adapter.save(tmp_path / name)
        return tmp_path / name

    return store


def test_tensors_add_up_as_in_lorahub_and_updates_as_they_change_the_weight(stored):
    config = {"rank": 2, "alpha": 6, "targets": ["linear"]}
    places = {"a": stored("a", **config), "bb": stored("bb", **config)}
    parts = {name: peftcore.read(place)[1] for name, place in places.items()}
    weights, x = [0.7, -1.2], torch.randn(4, 6)
    model = small()
    made = Composition(model, places, "tensors")
    made.set(weights)
    for item in made.adapter.placed:
        A, B = (
            sum(w * p[f"{item.name}.{n}"] for w, p in zip(weights, parts.values(), strict=True))
            for n in ("lora_A", "lora_B")
        )
        torch.testing.assert_close(item.piece.weight_delta(), 3 * B @ A)
    thin = {**config, "rank": 1}
    wrong = r"has lora\.rank 1, a 2; .* Write compose\.add: updates\."
    with pytest.raises(ConfigError, match=wrong):
        Composition(small(), {"a": places["a"], "thin": stored("thin", **thin)}, "tensors")
    places["thin"] = stored("thin", **thin)
    parts["thin"] = peftcore.read(places["thin"])[1]
    model = small()
    made = Composition(model, places, "updates")
    made.set([0.7, -1.2, 0.4])
    scales = (3, 3, 6)
    for item in made.adapter.placed:
        expected = sum(
            w * s * p[f"{item.name}.lora_B"] @ p[f"{item.name}.lora_A"]
            for w, s, p in zip([0.7, -1.2, 0.4], scales, parts.values(), strict=True)
        )
        torch.testing.assert_close(item.piece.weight_delta(), expected, rtol=1e-4, atol=1e-5)
    out = model(x)
    made.adapter.save(places["a"].parent / "sum")
    again = small()
    peftcore.load(again, places["a"].parent / "sum")
    torch.testing.assert_close(again(x), out, rtol=0, atol=0)


def test_what_is_trained_of_the_base_adds_up_from_the_base(stored):
    places = {"a": stored("a", "bitfit"), "bb": stored("bb", "bitfit")}
    model = small()
    base = {n: p.detach().clone() for n, p in model.named_parameters()}
    made = Composition(model, places, "tensors")
    parts = [peftcore.read(place)[1] for place in places.values()]
    made.set([0.3, 0.7])
    for swap in made.adapter.swaps:
        expected = 0.3 * parts[0][swap.name] + 0.7 * parts[1][swap.name]
        torch.testing.assert_close(swap.own.detach(), expected)
        assert not torch.equal(swap.own, base[swap.selected.info.name])
    with pytest.raises(ConfigError, match=r"weights add up to 1\.3; only LoRA's tensors may"):
        made.set([0.6, 0.7])
    with pytest.raises(ConfigError, match=r"updates adds plain LoRA alone"):
        Composition(small(), places, "updates")
    with pytest.raises(ConfigError, match=r"adapters\.l is of lora, a of bitfit; they cannot"):
        Composition(
            small(), {"a": places["a"], "l": stored("l", targets=["linear"], rank=1)}, "tensors"
        )


def test_weights_are_found_without_gradients():
    section = ComposeSection(adapters={"a": "a", "b": "b", "c": "c"}, steps=200, l1=0.0)
    aim = [1.0, -0.5, 0.2]

    def loss(w):
        return sum((a - b) ** 2 for a, b in zip(w, aim, strict=True))

    found = fitted(section, 3, loss, QUIET)
    assert loss(found) < 1e-3 and found == fitted(section, 3, loss, QUIET)
    pulled = fitted(section.model_copy(update={"l1": 50.0}), 3, loss, QUIET)
    assert sum(map(abs, pulled)) < 0.05, "the penalty is felt"


def test_adapters_of_runs_are_composed_for_another_split(recipe, tmp_path):
    runs = {}
    for seed, name in enumerate(("one", "two")):
        run = peftcore.train(recipe(seed=seed), quiet=True)
        runs[name] = str(run.folder)
    path = recipe(compose={"adapters": runs, "shots": 8, "steps": 6})
    done = run_in_process("compose", path, "--json", "-q")
    assert done.exit_code == 0, done.output + str(done.exception)
    found = json.loads(done.stdout)
    assert list(found["scores"]) == ["one", "two", "average", "composed"] and found["fitted"]
    # an adapter alone scores as its own run did, but for the head, which is the mean of all
    adapter = Path(found["directory"]) / "adapter"
    scored = run_in_process("evaluate", adapter, "--split", "test", "--json", "-q")
    assert scored.exit_code == 0, scored.output
    assert json.loads(scored.stdout) == {"split": "test", **found["scores"]["composed"]["test"]}
    assert peftcore.inspect(adapter)["extra"]["compose"]["weights"] == found["weights"]


@pytest.mark.parametrize(
    ("command", "changes", "sentence"),
    [
        ("meta", {}, "name the tasks to learn from, as meta.tasks."),
        ("meta", {"meta": {"tasks": {"a": {}}}}, "meta.tasks: name at least two"),
        (
            "meta",
            {"meta": {"tasks": {"a": {"task.labels": ["good", "bad"]}, "b": {}}}},
            "meta.tasks.a: its labels are ['good', 'bad'], those of the recipe ['bad', 'good']",
        ),
        ("meta", {"meta": {"tasks": TASKS}, "seeds": [0]}, "meta takes methods and one seed"),
        (
            "meta",
            {"meta": {"tasks": TASKS}, "methods": ["adalora"]},
            "adalora acts between the steps of a run, and a start is learned in many short ones",
        ),
        ("compose", {}, "name the adapters to add up, as compose.adapters."),
        (
            "compose",
            {"compose": {"adapters": {"a": "nowhere", "b": "nowhere"}}},
            "compose.adapters.a: nowhere is neither an adapter nor a run directory with one.",
        ),
        (
            "compose",
            {"compose": {"adapters": {"a": "x", "b": "y"}, "weights": {"a": 1}}},
            "weights: give one for each adapter; b is in one list only",
        ),
    ],
)
def test_what_cannot_be_learned_from_is_named_first(recipe, command, changes, sentence):
    path = recipe(**changes)
    done = run_in_process(command, path)
    assert done.exit_code == 2 and sentence in done.stderr, done.stderr
    assert not list(path.parent.glob("runs/*"))
