"""What runs at each module while a block is open, made when a module is first reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from peftcore.run.holder import ContextHolder
from peftcore.run.program import program_of
from peftcore.run.routed import routed
from peftcore.run.rows import Rows
from peftcore.run.seat import seat_of


class Chosen:
    """The same adapters for all rows; none of them is the bare base."""

    by_row = False

    def __init__(
        self, names: Sequence[str], holder: ContextHolder, *, wanted: bool,
        needs: Mapping[str, str], stack_needs: Mapping[str, Mapping[str, str]],
    ):  # fmt: skip
        self.names = tuple(names)
        self.holder = holder
        self.wanted = wanted
        self.needs = needs
        self.stack_needs = stack_needs
        self._programs: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_programs": {}}  # a copy has modules of its own

    def holds(self, having: frozenset[str]) -> frozenset[str]:
        """Return those of its adapters that have values in the base's place."""
        return having.intersection(self.names)

    def program(self, module: nn.Module) -> Any:
        """Return what runs at a rewritten module."""
        key = id(module)
        if key not in self._programs:
            placed = seat_of(module).placed
            items = [item for name in self.names for item in placed.get(name, ())]
            self._programs[key] = program_of(module, items, self.holder) if items else None
        return self._programs[key]


class ByRow:
    """Each row of the batch its own adapter.

    Attributes:
        names: the adapters that serve rows, each once.
    """

    by_row = True

    def __init__(
        self, names: Sequence[str], rows: Rows,
        swaps: dict[int, list[dict[str, nn.Parameter]]], holder: ContextHolder, *, wanted: bool,
        needs: Mapping[str, str], stack_needs: Mapping[str, Mapping[str, str]],
    ):  # fmt: skip
        self.names = tuple(names)
        self.holder = holder
        self.wanted = wanted
        self.needs = needs
        self.stack_needs = stack_needs
        self._rows = rows
        self._swaps = swaps
        self._programs: dict[int, Any] = {}

    def holds(self, having: frozenset[str]) -> frozenset[str]:
        """Return none: a module that is routed gets the values of each row's adapter in turn."""
        return frozenset()

    def program(self, module: nn.Module) -> Any:
        """Return what runs at a rewritten module."""
        key = id(module)
        if key not in self._programs:
            placed = seat_of(module).placed
            items = [placed.get(name, []) for name in self.names]
            swaps = self._swaps.get(key, [{} for _ in items])
            some = any(items) or any(swaps)
            self._programs[key] = (
                routed(module, items, swaps, self._rows, self.holder) if some else None
            )
        return self._programs[key]
