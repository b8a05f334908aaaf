"""Checkpoints are whole or refused, and writing one never loses another."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

import peftcore
from peftcore.errors import CheckpointError, UnknownName
from peftcore.store.checkpoint import DESCRIPTION, TENSORS, read
from peftcore.store.description import Description, parsed
from peftcore.testing import run_cli
from peftcore.testing.matrix import perturb, run, same, tiny


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    _, model, _ = tiny("toy")
    adapter = peftcore.attach(model, "probe", targets=["mlp.up"], modules_to_save=["head"])
    perturb(adapter)
    adapter.save(tmp_path / "a")
    return tmp_path / "a"


def bare() -> tuple[Any, Any]:
    _, model, batch = tiny("toy")
    return model, batch


def test_one_file_is_self_describing(saved: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.safetensors"
    (saved / TENSORS).rename(alone)
    model, _ = bare()
    assert peftcore.load(model, alone).plan.trainable == 2 * 16 * 32
    assert json.loads((saved / DESCRIPTION).read_text()) == json.loads(read(alone)[0].signed())


def test_tensors_are_named_by_site_method_and_tensor(saved: Path) -> None:
    assert set(peftcore.inspect(saved)["tensors"]) == {
        "blocks.0.up.probe.change",
        "blocks.1.up.probe.change",
        "head.modules_to_save.weight",
        "head.modules_to_save.bias",
    }


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(saved: Path, keep: int) -> None:
    data = (saved / TENSORS).read_bytes()
    (saved / TENSORS).write_bytes(data[:keep])
    model, batch = bare()
    before = run(model, batch)
    with pytest.raises(CheckpointError, match="damaged or was not written whole"):
        peftcore.load(model, saved)
    assert same(run(model, batch), before)


def test_a_tampered_tensor_is_refused_and_named(saved: Path) -> None:
    data = bytearray((saved / TENSORS).read_bytes())
    data[-3] ^= 1
    (saved / TENSORS).write_bytes(bytes(data))
    model, _ = bare()
    with pytest.raises(CheckpointError, match=r"tensor .* was changed after it was saved"):
        peftcore.load(model, saved)


def test_not_a_number_is_refused_in_saving_and_in_loading(saved: Path) -> None:
    model, _ = bare()
    adapter = peftcore.load(model, saved)
    old = (saved / TENSORS).read_bytes()
    with torch.no_grad():
        adapter.parameters()[0][0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"blocks\.0\.up\.probe\.change holds NaN"):
        adapter.save(saved)
    assert (saved / TENSORS).read_bytes() == old

    from safetensors.torch import save as to_bytes

    from peftcore.store.checkpoint import digest

    description, tensors = read(saved)
    tensors["blocks.0.up.probe.change"][0, 0] = float("inf")
    digests = {k: digest(v) for k, v in tensors.items()}
    text = description.model_copy(update={"digests": digests}).signed()
    (saved / TENSORS).write_bytes(to_bytes(tensors, {"peftcore": text}))
    with pytest.raises(CheckpointError, match=r"blocks\.0\.up\.probe\.change holds NaN"):
        peftcore.load(bare()[0], saved)


def test_what_is_no_adapter_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / TENSORS)
    with pytest.raises(CheckpointError, match="no peftcore adapter"):
        read(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        read(tmp_path / "nowhere")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="directory of Hugging Face PEFT"):
        read(tmp_path / "hf")


def rewritten(saved: Path, change: Any) -> Path:
    from safetensors.torch import save as to_bytes

    description, tensors = read(saved)
    data = description.model_dump(mode="json")
    change(data)
    text = Description.model_validate(data).signed()
    (saved / TENSORS).write_bytes(to_bytes(tensors, {"peftcore": text}))
    return saved


def test_another_version_of_a_method_is_refused(saved: Path) -> None:
    rewritten(saved, lambda d: d["methods"][0].update(version="0.7.2"))
    with pytest.raises(CheckpointError, match=r"pip install 'peftcore==0\.7\.\*'"):
        peftcore.load(bare()[0], saved)
    peftcore.load(bare()[0], saved, allow_other_version=True)


def test_a_missing_method_and_another_format_are_refused(saved: Path) -> None:
    rewritten(saved, lambda d: d["methods"][0].update(method="porbe"))
    with pytest.raises(UnknownName, match="Did you mean probe"):
        peftcore.load(bare()[0], saved)
    with pytest.raises(CheckpointError, match="has format 9"):
        parsed(json.dumps({"format": 9}), saved)


def test_a_checkpoint_insists_on_the_distribution_that_wrote_it(saved: Path) -> None:
    rewritten(saved, lambda d: d["methods"][0].update(distribution="peftcore-other"))
    with pytest.raises(CheckpointError, match="was written by peftcore-other, whose method"):
        peftcore.load(bare()[0], saved)
    with pytest.raises(CheckpointError, match="was written by peftcore-other"):
        peftcore.load(bare()[0], saved, allow_other_version=True)


def test_inspecting_a_damaged_file_exits_with_one_sentence(saved: Path) -> None:
    assert run_cli("inspect", saved).returncode == 0
    (saved / TENSORS).write_bytes((saved / TENSORS).read_bytes()[:50])
    done = run_cli("inspect", saved)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "damaged" in done.stderr


WRITER = """
import sys, resource, torch, peftcore
from peftcore.testing.matrix import tiny, perturb
_, model, _ = tiny("toy")
adapter = peftcore.attach(model, "probe")
perturb(adapter)
"""


def script(body: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER + textwrap.dedent(body), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_full_disk_leaves_the_old_checkpoint_whole(saved: Path) -> None:
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    body = """
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            adapter.save(sys.argv[1])
        except peftcore.PeftcoreError as error:
            print(error)
            adapter.parameters()[0].sum().item()
    """
    out, err = script(body, str(saved)).communicate(timeout=60)
    assert "cannot be written" in out and "untouched" in out, out + err
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before


def test_a_kill_while_saving_leaves_a_whole_checkpoint(saved: Path) -> None:
    body = """
        print("ready", flush=True)
        while True:
            adapter.save(sys.argv[1])
    """
    for delay in (0.0, 0.003, 0.006, 0.011, 0.017):
        process = script(body, str(saved))
        assert process.stdout is not None
        process.stdout.readline()
        process_wait(process, delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        read(saved)


def process_wait(process: subprocess.Popen[str], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return
    raise AssertionError("the writer ended by itself")


def test_saving_where_a_file_stands_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    model, _ = bare()
    adapter = peftcore.attach(model, "probe")
    with pytest.raises(CheckpointError, match="cannot be written"):
        adapter.save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_have_the_mode_that_the_umask_says(tmp_path: Path, mask: int) -> None:
    model, _ = bare()
    adapter = peftcore.attach(model, "probe")
    before = os.umask(mask)
    try:
        adapter.save(tmp_path / "a")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "a").iterdir()}
    assert modes == {0o666 & ~mask}


def test_other_files_in_the_directory_stay(saved: Path) -> None:
    (saved / "README.md").write_text("mine")
    model, _ = bare()
    peftcore.load(model, saved).save(saved)
    assert (saved / "README.md").read_text() == "mine"
    assert sorted(p.name for p in saved.iterdir()) == ["README.md", DESCRIPTION, TENSORS]


def test_a_random_frozen_module_travels_with_the_adapter(tmp_path: Path) -> None:
    torch.manual_seed(1)
    _, model, batch = tiny("toy")
    with torch.no_grad():
        model.head.weight.normal_()
    adapter = peftcore.attach(model, "probe", targets=["mlp.up"], save_frozen=["head"])
    perturb(adapter)
    tuned = run(model, batch)
    assert adapter.plan.head == 0
    adapter.save(tmp_path)
    _, fresh, _ = tiny("toy")
    peftcore.load(fresh, tmp_path)
    assert same(run(fresh, batch), tuned)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_planning_and_loading_leave_the_generators_of_random_numbers_alone(
    device: str, tmp_path: Path
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no accelerator")
    _, model, _ = tiny("toy")
    model.to(device)
    peftcore.attach(model, "adapter", bottleneck=2).save(tmp_path)
    peftcore.detach(model)
    of_device = torch.cuda.get_rng_state if device == "cuda" else torch.get_rng_state
    before = torch.get_rng_state(), of_device()
    peftcore.plan(model, "adapter", bottleneck=2)
    peftcore.load(model, tmp_path)  # whose layers draw a start
    assert torch.equal(torch.get_rng_state(), before[0]) and torch.equal(of_device(), before[1])
