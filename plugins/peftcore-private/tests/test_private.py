"""DP-SGD: gradients of single rows, what is spent, what goes on, and what is refused."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from opacus.accountants import RDPAccountant

import peftcore
from peftcore import ConfigError
from peftcore.testing import CommandContract, run_in_process
from peftcore_private.loop import PrivateLoop, check_adapter
from peftcore_private.row_gradients import RowGradients
from peftcore_private.sampling import PoissonBatches
from peftcore_private.section import PrivateSection
from peftcore_train import building, rundir
from peftcore_train.errors import Interrupted
from peftcore_train.progress import Progress
from peftcore_train.running import prepare, run
from peftcore_train.schema import load_jobs
from peftcore_train.signals import Stop


class TestCommand(CommandContract):
    command = "private"


@pytest.fixture
def attached(recipe):
    """Return a function that attaches methods to the toy with values other than their start."""

    def attach(methods, **changes):
        (job,) = load_jobs(recipe(methods=methods, **changes))
        prepared = prepare(job)
        rows = prepared.features["train"]
        adapter = building.attach(job, prepared.task, prepared.model, prepared.loaded, rows)
        chance = torch.Generator().manual_seed(0)
        for parameter in adapter.parameters():
            parameter.data.add_(torch.randn(parameter.shape, generator=chance), alpha=0.1)
        prepared.model.eval()
        made = RowGradients(prepared.task, prepared.model, adapter, torch.device("cpu"))
        return prepared, adapter, made

    return attach


@pytest.mark.parametrize(
    ("method", "way"),
    [
        ("lora", "batches"),
        ("bitfit", "batches"),
        ("norm_tuning", "batches"),
        ("loha", "batches"),
        ("ia3", "rows"),
        ("dora", "rows"),
    ],
)
def test_gradients_of_rows_are_those_of_a_loop_over_them(attached, method, way):
    prepared, adapter, made = attached([method])
    rows = prepared.features["train"][:5]
    why = made.choose("auto", rows)
    assert made.way == way, why
    found, loss = made(rows)
    total = 0.0
    for i, row in enumerate(rows):
        alone = prepared.task.loss(prepared.model, prepared.task.collate([row]))
        total += alone.item()
        for parameter in adapter.parameters():
            parameter.grad = None
        alone.backward()
        for name, parameter in adapter.named_parameters():
            torch.testing.assert_close(
                found[parameter][i], parameter.grad, rtol=1e-4, atol=1e-6, msg=name
            )
    assert loss.item() == pytest.approx(total / len(rows), rel=1e-5)


def test_a_loss_that_weighs_rows_is_taken_row_by_row(attached):
    weights = {"type": "sequence-classification", "class_weights": {"good": 1.0, "bad": 3.0}}
    prepared, _, made = attached(["lora"], task=weights)
    why = made.choose("auto", prepared.features["train"][:6])
    assert made.way == "rows" and "the loss of a batch is not the mean" in why


def test_epsilon_is_that_of_opacus_accountant_step_by_step(recipe):
    path = recipe(private={"epsilon": 8, "noise_seed": 1, "baseline": True})
    done = run_in_process("private", path, "--json", "-q")
    assert done.exit_code == 0, done.output + str(done.exception)
    found = json.loads(done.stdout)
    assert [one["run"] for one in found["runs"]] == ["epsilon-8", "not-private"]
    one, baseline = found["runs"]
    spent, accountant = one["private"], RDPAccountant()
    assert one["steps"] == 6 and spent["sample_rate"] == 8 / 24 and baseline["private"] is None
    for _ in range(one["steps"]):
        accountant.step(noise_multiplier=spent["noise_multiplier"], sample_rate=8 / 24)
    assert spent["epsilon"] == accountant.get_epsilon(delta=1 / 240)
    assert 7.9 < spent["epsilon"] <= 8, "no more noise than the budget asks for"
    adapter = Path(found["directory"]) / "epsilon-8" / "adapter"
    assert peftcore.inspect(adapter)["extra"]["private"] == spent
    assert run_in_process("check", path).exit_code == 0, "the section is no part of a run"
    again = run_in_process("private", "--resume", found["directory"])
    assert again.exit_code == 0 and "not-private" in again.stdout


def test_a_step_is_the_sum_of_cut_gradients_over_the_rows_drawn_on_average(recipe):
    path = recipe(train={"optimizer": "sgd", "momentum": 0.0, "max_steps": 1, "learning_rate": 0.5})
    (job,) = load_jobs(path)
    section = PrivateSection(noise_multiplier=1e-9, clip=0.05, noise_seed=3, rows_at_once=3)
    seen = []

    class Watched(PrivateLoop):
        def _batch(self, rows):
            for module in self.session.model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0  # so that gradients can be made again
            before = {p: p.detach().clone() for p in self.gradients.parameters}
            found, loss = self.gradients.by_row(rows)
            super()._batch(rows)
            assert self.loss == pytest.approx(loss.item(), rel=1e-4), "of all its rows"
            norms = sum(g.flatten(1).square().sum(1) for g in found.values()).sqrt()
            assert float(norms.max()) > 0.05, "something is cut"
            factor = (0.05 / norms).clamp(max=1)
            for p, gradients in found.items():
                step = torch.einsum("i,i...->...", factor, gradients) / 8
                torch.testing.assert_close(p, before[p] - 0.5 * step, rtol=1e-4, atol=1e-6)
            seen.append(len(rows))

    folder = path.parent / "run"
    folder.mkdir()
    make = partial(Watched, section=section, epsilon=None)
    run(job, folder, Stop(), Progress(quiet=True), make)
    assert seen and seen[0] > 3, "more rows than at once"


def test_every_row_is_drawn_by_a_throw_of_its_own(recipe):
    (job,) = load_jobs(recipe())
    batches = PoissonBatches(400, job.recipe.train, seed=5)
    drawn = []
    for epoch in range(20):
        batches.epoch = epoch
        drawn += [[row for row, _ in batch] for batch in batches]
    assert len(drawn) == 20 * 50 and any(not rows for rows in drawn)
    sizes = torch.tensor([float(len(rows)) for rows in drawn])
    assert abs(sizes.mean() - 8) < 0.3 and abs(sizes.var() - 400 * 0.02 * 0.98) < 1
    again = PoissonBatches(400, job.recipe.train, seed=5)
    again.start = 10
    batches.epoch = 0
    assert list(again) == list(batches)[10:]


def test_a_private_run_that_was_stopped_goes_on_with_the_same_numbers(recipe):
    (job,) = load_jobs(recipe(train={"log_steps": 1}))
    section = PrivateSection(noise_multiplier=0.5, noise_seed=2)
    make = partial(PrivateLoop, section=section, epsilon=None)
    folders = [Path(job.recipe.output) / name for name in ("whole", "stopped")]
    for folder in folders:
        folder.mkdir(parents=True)
    results = run(job, folders[0], Stop(), Progress(quiet=True), make)
    stop = Stop()

    class Stopping(Progress):
        def step(self, loss):
            super().step(loss)
            stop.asked = stop.asked or self.done == 4
            self.done += 1

        done = 0

    with pytest.raises(Interrupted):
        run(job, folders[1], stop, Stopping(quiet=True), make)
    again = run(job, folders[1], Stop(), Progress(quiet=True), make)
    del results["time"], again["time"]
    assert rundir.finite(again) == rundir.finite(results)
    adapters = [(f / "adapter" / "adapter.safetensors").read_bytes() for f in folders]
    assert adapters[0] == adapters[1]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"private": {"epsilon": 0}}, "a budget is above 0"),
        ({"private": {"epsilon": [8, 8.0]}}, "name each budget once"),
        (
            {"private": {"noise_multiplier": 1, "epsilon": 8}},
            "give epsilon or noise_multiplier, not both",
        ),
        ({"private": {"epsilom": 8}}, "private.epsilom is not a field of private. Did you mean"),
        ({"private": {"delta": 0.5}}, "private.delta 0.5 is no guarantee for 24 training rows"),
        ({"private": {"epsilon": 1e-9}}, "no noise keeps 6 steps within it"),
        ({"train": {"batch_size": 32}}, "train.batch_size 32 is more than the 24 training rows"),
        ({"train": {"gradient_accumulation_steps": 2}}, "a step draws its rows at once"),
        ({"train": {"mixed_precision": "bf16"}}, "are made in full precision"),
        ({"seeds": [0, 1]}, "private training takes methods and one seed; leave seeds out."),
    ],
)
def test_what_cannot_be_private_is_named_before_anything_is_trained(recipe, changes, sentence):
    path = recipe(**changes)
    done = run_in_process("private", path)
    assert done.exit_code == 2 and sentence in done.stderr, done.stderr
    assert not list(path.parent.glob("runs/*"))


def test_a_way_that_was_asked_for_and_does_not_serve_is_refused(recipe):
    path = recipe(methods=["dora"], private={"gradients": "batches", "noise_multiplier": 1})
    done = run_in_process("private", path)
    assert done.exit_code == 2 and "private.gradients: batches: " in done.stderr
    assert "is more than a function of the rows" in done.stderr


class Normed(torch.nn.Module):
    """A model whose batch norm can be trained."""

    def __init__(self):
        super().__init__()
        self.lin, self.norm = torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)


def test_a_batch_norm_that_is_trained_is_refused_and_a_frozen_one_is_not():
    model = Normed()
    adapter = peftcore.attach(model, "lora", rank=2, targets=["linear"])
    check_adapter(adapter, model)
    adapter.detach()
    adapter = peftcore.attach(model, "norm_tuning")
    with pytest.raises(ConfigError, match="norm is a batch norm that would be trained: it mixes"):
        check_adapter(adapter, model)


def test_a_start_that_looks_at_training_rows_is_refused():
    model = Normed()
    adapter = peftcore.attach(model, "lora", rank=2, targets=["linear"])
    adapter.methods[0].__class__ = type(
        "Looks", (type(adapter.methods[0]),), {"examples": property(lambda self: 8)}
    )
    with pytest.raises(ConfigError, match="lora starts from 8 training rows, to which no noise"):
        check_adapter(adapter, model)
