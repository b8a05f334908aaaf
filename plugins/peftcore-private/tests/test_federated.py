"""Federated averaging by Flower: what is sent, what comes of it, and what is refused."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import peftcore
from peftcore.testing import CommandContract, run_in_process

needs_flower = pytest.mark.skipif(
    find_spec("flwr") is None, reason="Flower is not installed: pip install flwr"
)


class TestCommand(CommandContract):
    command = "federated"


@pytest.mark.skipif(find_spec("flwr") is not None, reason="Flower is installed")
def test_without_flower_the_command_says_how_to_get_it(recipe):
    done = run_in_process("federated", recipe())
    assert done.exit_code == 2, done.output
    told = "pip install 'peftcore-private[federated]', best in an environment"
    assert told in done.stderr


@needs_flower
def test_two_clients_train_as_their_weighted_mean_and_send_four_bytes_a_number(recipe):
    train = {"optimizer": "sgd", "momentum": 0.0, "epochs": 1, "batch_size": 24}
    section = {"clients": 2, "rounds": 1}
    path = recipe(train=train, federated=section)
    done = run_in_process("federated", path, "--json", "-q")
    assert done.exit_code == 0, done.output + str(done.exception)
    found = json.loads(done.stdout)
    assert found["clients"] == {"0": 12, "1": 12}
    tensors = peftcore.read(Path(found["directory"]) / "adapter")[1]
    count = sum(t.numel() for t in tensors.values())
    assert found["sent"] == count
    (only,) = found["rounds"]
    for way in ("down", "up"):
        # beside the numbers: what numpy writes before each array, and a little of Flower's
        more = only["bytes"][way] - 2 * 4 * count
        assert 0 < more <= 2 * (128 * len(tensors) + 256), way
    scored = run_in_process(
        "evaluate", Path(found["directory"]) / "adapter", "--split", "test", "--json", "-q"
    )
    assert json.loads(scored.stdout) == {"split": "test", **found["test"]}


@needs_flower
def test_a_frozen_A_stays_is_not_sent_and_secure_sums_are_the_plain_ones(recipe):
    found, tensors = {}, {}
    for secure in (False, True):
        section = {"clients": 3, "rounds": 2, "freeze_A": True, "secure_aggregation": secure}
        done = run_in_process("federated", recipe(federated=section), "--json", "-q")
        assert done.exit_code == 0, done.output + str(done.exception)
        found[secure] = json.loads(done.stdout)
        tensors[secure] = peftcore.read(Path(found[secure]["directory"]) / "adapter")[1]
    for name, plain in tensors[False].items():
        torch.testing.assert_close(tensors[True][name], plain, rtol=0, atol=1e-4)
    sent = sum(t.numel() for n, t in tensors[False].items() if not n.endswith("lora_A"))
    assert found[False]["sent"] == found[True]["sent"] == sent
    secure, plain = (sum(r["bytes"]["up"] for r in found[s]["rounds"]) for s in (True, False))
    assert secure > plain, "masked numbers and keys"


@needs_flower
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"federated": {"secure_aggregation": True}}, "of two each could take its own part from"),
        ({"federated": {"clients": 25}}, "federated.clients: 25 share 24 rows; name fewer."),
        ({"federated": {"column": "labl"}}, "no column 'labl'. Did you mean label?"),
        ({"methods": ["bitfit"], "federated": {"freeze_A": True}}, "no method here has an A"),
        ({"methods": ["adalora"]}, "adalora acts between the steps of a run, and clients train in"),
        ({"seeds": [0]}, "federated training takes methods and one seed; leave seeds out."),
        ({"federated": {"client": 2}}, "federated.client is not a field of federated. Did you"),
    ],
)
def test_what_cannot_be_federated_is_named_first(recipe, changes, sentence):
    path = recipe(**changes)
    done = run_in_process("federated", path)
    assert done.exit_code == 2 and sentence in done.stderr, done.stderr
    assert not list(path.parent.glob("runs/*"))


@needs_flower
def test_clients_can_be_told_by_a_column(recipe):
    section = {"column": "label", "rounds": 1}
    done = run_in_process("federated", recipe(federated=section))
    assert done.exit_code == 0, done.output + str(done.exception)
    assert "validation" in done.stdout and "round 1: validation accuracy" in done.stderr


@needs_flower
def test_numbers_that_a_secure_sum_would_cut_end_the_run(recipe):
    section = {"clients": 3, "rounds": 1, "local_epochs": 3, "secure_aggregation": True}
    done = run_in_process(
        "federated", recipe(train={"learning_rate": 8.0}, federated=section), "-q"
    )
    assert done.exit_code == 1 and "beyond 8, which secure aggregation would cut" in done.stderr
