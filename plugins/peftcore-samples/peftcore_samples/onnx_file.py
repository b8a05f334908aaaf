"""The tensors and nodes of an ONNX file, without the packages onnx and protobuf."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

# Numbers of fields in onnx.proto: of the model, the graph, a node, and a tensor.
_GRAPH = 7
_NODE, _INITIALIZER = 1, 5
_INPUT, _NODE_NAME, _OPERATION = 1, 3, 4
_DIMS, _DATA_TYPE, _TENSOR_NAME, _RAW = 1, 2, 8, 9
_FLOAT = 1

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Value = int | memoryview


@dataclass(frozen=True)
class Node:
    """One operation of a graph, with the names of its inputs."""

    name: str
    operation: str
    inputs: tuple[str, ...]


def read_onnx(path: Path) -> tuple[dict[str, Tensor], list[Node]]:
    """Return the float32 tensors of a graph by name, and its nodes in order."""
    data = memoryview(bytearray(path.read_bytes()))
    tensors: dict[str, Tensor] = {}
    nodes: list[Node] = []
    for number, graph in _fields(data):
        if number != _GRAPH:
            continue
        for part, value in _fields(_message(graph)):
            if part == _NODE:
                nodes.append(_node(_message(value)))
            elif part == _INITIALIZER:
                tensors.update(_tensor(_message(value)))
    return tensors, nodes


def _node(data: memoryview) -> Node:
    found: dict[int, list[str]] = {_INPUT: [], _NODE_NAME: [], _OPERATION: []}
    for number, value in _fields(data):
        if number in found:
            found[number].append(str(_message(value), "utf-8"))
    return Node("".join(found[_NODE_NAME]), "".join(found[_OPERATION]), tuple(found[_INPUT]))


def _tensor(data: memoryview) -> dict[str, Tensor]:
    """Return a tensor by its name; nothing for one of another type than float32."""
    shape: list[int] = []
    kind, name, raw = 0, "", data[:0]
    for number, value in _fields(data):
        if number == _DIMS:
            shape += [value] if isinstance(value, int) else _varints(value)
        elif number == _DATA_TYPE:
            assert isinstance(value, int)
            kind = value
        elif number == _TENSOR_NAME:
            name = str(_message(value), "utf-8")
        elif number == _RAW:
            raw = _message(value)
    if kind != _FLOAT or len(raw) != 4 * prod(shape) or not len(raw):
        return {}
    return {name: torch.frombuffer(bytearray(raw), dtype=torch.float32).view(shape)}


def _fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """Yield number and value of each field of a protobuf message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}[wire]
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return the number that starts at a place, and the place after it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _varints(data: memoryview) -> list[int]:
    at, found = 0, []
    while at < len(data):
        value, at = _varint(data, at)
        found.append(value)
    return found


def _message(value: Value) -> memoryview:
    assert not isinstance(value, int)
    return value
