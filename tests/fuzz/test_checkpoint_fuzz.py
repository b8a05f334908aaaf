"""A damaged or edited checkpoint is refused in one sentence, and the model stays as it was."""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import peftcore
from peftcore.errors import CheckpointError, ConfigError
from peftcore.store.checkpoint import TENSORS
from peftcore.store.description import _digest_of
from peftcore.testing.matrix import perturb, run, same, tiny

#: Values that somebody, or a decoder, might put anywhere into a description.
ODD: list[Any] = [
    None, True, False, 0, -1, 17, 2**31, 2**63, 10**400, 1.5, float("nan"), float("inf"), "", "x",
    "lora", "\ud800", "../../etc", [], [[]], {}, {"a": {}}, ["lora"] * 3,
]  # fmt: skip


class Target:
    """A saved adapter, its file in pieces, and the model that it is loaded on."""

    def __init__(self, folder: Path, method: str):
        torch.manual_seed(0)
        _, model, self.batch = tiny("toy")
        config = {"rank": 2, "targets": ["mlp.up", "attention.value"]} if method == "lora" else {}
        adapter = peftcore.attach(model, method, modules_to_save=["head"], **config)
        perturb(adapter)
        self.tuned = run(model, self.batch)
        adapter.save(folder)
        self.file = folder / TENSORS
        self.whole = self.file.read_bytes()
        (length,) = struct.unpack("<Q", self.whole[:8])
        self.header = json.loads(self.whole[8 : 8 + length])
        self.body = self.whole[8 + length :]
        _, self.model, _ = tiny("toy")
        self.bare = run(self.model, self.batch)
        self.keys = list(self.model.state_dict())

    def packed(self, header: Any) -> bytes:
        text = json.dumps(header).encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(text)) + text + self.body

    def described(self, data: Any, *, signed: bool) -> bytes:
        """Return the file with another description."""
        if signed and isinstance(data, dict):
            data = {k: v for k, v in data.items() if k != "digest"}
            data["digest"] = _digest_of(data)
        header = {**self.header, "__metadata__": {"peftcore": json.dumps(data, indent=1)}}
        return self.packed(header)

    def outcome(self, data: bytes, *, harmless: bool = False) -> str:
        """Load a file and say what came of it; ``harmless``: it may load, if it says the same."""
        self.file.write_bytes(data)
        try:
            adapter = peftcore.load(self.model, self.file)
        except (CheckpointError, ConfigError) as error:
            assert str(error) and "Traceback" not in str(error)
            assert not peftcore.adapters(self.model)
            assert list(self.model.state_dict()) == self.keys
            assert same(run(self.model, self.batch), self.bare)
            assert all(p.requires_grad for p in self.model.parameters())
            return "refused"
        out = run(self.model, self.batch)
        adapter.detach()
        assert harmless or data == self.whole, "loaded, although it was changed"
        assert same(out, self.tuned), "loaded, and computes something else"
        return "loaded"


def places(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the ways to all values in a description."""
    found = [at] if at else []
    items = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else ()
    )
    for key, value in items:
        found += places(value, (*at, key))
    return found


def edited(data: Any, pick: random.Random) -> Any:
    """Return a copy of a description with one value changed, taken out or added."""
    data = json.loads(json.dumps(data))
    way = pick.choice(places(data))
    inside = data
    for key in way[:-1]:
        inside = inside[key]
    old = inside[way[-1]]
    what = pick.randrange(4)
    if what == 0:
        del inside[way[-1]]
    elif what == 1 and isinstance(inside, dict):
        inside[pick.choice(["surprise", "alpha_", "", "0"])] = pick.choice(ODD)
    elif what == 2 and isinstance(old, int | float) and not isinstance(old, bool):
        inside[way[-1]] = pick.choice([old + 1, -old, str(old), float(old), bool(old)])
    elif what == 2 and isinstance(old, str) and old:
        inside[way[-1]] = pick.choice([old[:-1], old + "x", old.upper(), old[::-1]])
    else:
        inside[way[-1]] = pick.choice(ODD)
    return data


def flipped(target: Target, pick: random.Random) -> bytes:
    data = bytearray(target.whole)
    for _ in range(pick.choice([1, 1, 1, 3, 40])):
        data[pick.randrange(len(data))] ^= 1 << pick.randrange(8)
    return bytes(data)


def truncated(target: Target, pick: random.Random) -> bytes:
    cut = pick.randrange(len(target.whole))
    return pick.choice([target.whole[:cut], target.whole[cut:], target.whole + target.whole[:cut]])


def header_changed(target: Target, pick: random.Random) -> bytes:
    header = json.loads(json.dumps(target.header))
    return target.packed(edited({k: v for k, v in header.items()}, pick))


def tensors_exchanged(target: Target, pick: random.Random) -> bytes:
    """Let two names, shapes or dtypes of the header change places."""
    header = json.loads(json.dumps(target.header))
    one, two = pick.sample([name for name in header if name != "__metadata__"], 2)
    if pick.random() < 0.5:
        header[one], header[two] = header[two], header[one]
    else:
        header[one]["dtype"] = pick.choice(["F16", "BF16", "I32", "U8", "F64", "BOOL", "X"])
    return target.packed(header)


def description_edited(target: Target, pick: random.Random) -> bytes:
    data = json.loads(target.header["__metadata__"]["peftcore"])
    return target.described(edited(data, pick), signed=False)


MUTATIONS: list[Callable[[Target, random.Random], bytes]] = [
    flipped, truncated, header_changed, tensors_exchanged, description_edited,
]  # fmt: skip


def attack(target: Target, number: int, seed: int) -> dict[str, int]:
    pick = random.Random(seed)
    count: dict[str, int] = {"refused": 0, "loaded": 0}
    for i in range(number):
        mutation = MUTATIONS[i % len(MUTATIONS)]
        data = mutation(target, pick)
        if data == target.whole or json_equal(target, data):
            continue
        try:
            count[target.outcome(data)] += 1
        except BaseException as error:
            error.add_note(f"{mutation.__name__}, number {i} of seed {seed}")
            raise
    return count


def layout(header: Any) -> dict[str, Any]:
    """Return what safetensors reads of its header; further keys are nobody's."""
    known = ("dtype", "shape", "data_offsets")
    return {n: [t[k] for k in known] for n, t in header.items() if n != "__metadata__"}


def json_equal(target: Target, data: bytes) -> bool:
    """Tell whether a changed file says the same: spaces, or a value that equals the old one."""
    try:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        here = json.loads(header["__metadata__"]["peftcore"])
        there = json.loads(target.header["__metadata__"]["peftcore"])
        rest = layout(header) == layout(target.header)
        same_text = json.dumps(here, sort_keys=True) == json.dumps(there, sort_keys=True)
        return bool(rest and same_text and data[8 + length :] == target.body)
    except Exception:
        return False


def resigned(target: Target, number: int, seed: int) -> dict[str, int]:
    """Edit the description and sign it anew, as somebody does who wants to."""
    pick = random.Random(seed)
    count: dict[str, int] = {"refused": 0, "loaded": 0}
    base = json.loads(target.header["__metadata__"]["peftcore"])
    for i in range(number):
        data = edited(base, pick)
        changed = {k for k in {*data, *base} if data.get(k) != base.get(k)}
        # what says nothing of the computation may be said otherwise by who signs
        config = bool(changed & {"methods"})
        try:
            count[loads_or_refuses(target, target.described(data, signed=True), config)] += 1
        except BaseException as error:
            error.add_note(f"re-signed, number {i} of seed {seed}: {sorted(changed)}")
            raise
    return count


def loads_or_refuses(target: Target, data: bytes, config: bool) -> str:
    if not config:
        return target.outcome(data, harmless=True)
    try:
        return target.outcome(data, harmless=True)
    except AssertionError as error:
        if "computes something else" not in str(error):
            raise
        # another alpha, say, that its author signed: a working adapter
        assert same(run(target.model, target.batch), target.bare)
        return "loaded"


@pytest.mark.parametrize("method", ["lora", "probe", "bitfit"])
def test_a_damaged_file_is_refused_and_nothing_is_changed(method: str, tmp_path: Path) -> None:
    target = Target(tmp_path, method)
    assert target.outcome(target.whole) == "loaded"
    count = attack(target, 50, seed=hash_of(method))
    assert count["refused"] > 40 and not count["loaded"]


@pytest.mark.parametrize("method", ["lora", "probe"])
def test_a_description_signed_anew_loads_or_is_refused(method: str, tmp_path: Path) -> None:
    count = resigned(Target(tmp_path, method), 40, seed=hash_of(method))
    assert count["refused"] > 10


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "bitfit"])
def test_many_damaged_files(method: str, tmp_path: Path) -> None:
    target = Target(tmp_path, method)
    count = attack(target, 1000, seed=1), resigned(target, 300, seed=2)
    print(method, count)
    assert not count[0]["loaded"]


def hash_of(text: str) -> int:
    return sum(map(ord, text))


@pytest.mark.parametrize("depth", [5_000, 200_000])
def test_a_deeply_nested_description_is_refused(depth: int, tmp_path: Path) -> None:
    target = Target(tmp_path, "probe")
    header = {**target.header, "__metadata__": {"peftcore": "[" * depth + "]" * depth}}
    assert target.outcome(target.packed(header)) == "refused"
    text = '{"format": 2, "extra": ' + '{"a":' * depth + "1" + "}" * depth + "}"
    header["__metadata__"] = {"peftcore": text}
    assert target.outcome(target.packed(header)) == "refused"
