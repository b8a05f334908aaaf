"""Which parameters each bit of a mask stands for."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from peftcore import ParameterInfo, TargetError
from peftcore_fairtune.config import Space

#: Names of the parameters of one bit.
Bit = tuple[str, ...]
_Block = Mapping[str, Sequence[ParameterInfo]]
#: Parts of a block that one bit stands for, by space.
_TOGETHER: dict[str, tuple[str, ...]] = {
    "attention": ("attention",),
    "norm": ("norm",),
    "mlp": ("mlp",),
    "attention_norm": ("attention", "norm"),
    "attention_mlp": ("attention", "mlp"),
    "norm_mlp": ("norm", "mlp"),
    "attention_norm_mlp": ("attention", "norm", "mlp"),
    "block": ("attention", "norm", "mlp", "rest"),
}


def bits_of(
    space: Space, parameters: Sequence[ParameterInfo], roles: Mapping[str, str]
) -> list[Bit]:
    """Return the names of the parameters that each bit of a mask stands for, block by block.

    Args:
        space: name of the space.
        parameters: of the model.
        roles: path of each module to its role.

    Raises:
        TargetError: the model has no blocks, or blocks without what the space names.
    """
    blocks = _blocks(parameters, roles)
    if not blocks:
        raise TargetError(f"fairtune.space {space}: this model has no blocks.")
    bits = [bit for index, block in blocks.items() for bit in _bits(space, index, block)]
    return [tuple(info.name for info in bit) for bit in bits]


def _bits(space: Space, index: int, block: _Block) -> list[list[ParameterInfo]]:
    def part(*names: str) -> list[ParameterInfo]:
        found = [info for name in names for info in block[name]]
        if not found:
            raise TargetError(
                f"fairtune.space {space}: block {index} has no {' and no '.join(names)}; choose"
                " another space."
            )
        return found

    if space in _TOGETHER:
        return [part(*_TOGETHER[space])]
    if space == "attention_parameters":
        return [[info] for info in part("attention")]
    if space == "auto_peft1":
        return [part("norm"), part("attention"), part("mlp")]
    norms = [list(found) for _, found in groupby(part("norm"), key=lambda info: info.path)]
    if len(norms) != 2:
        raise TargetError(
            f"fairtune.space auto_peft2 asks for two norms a block; block {index} has {len(norms)}."
            " Choose auto_peft1."
        )
    return [norms[0], part("attention"), norms[1], part("mlp")]


def _blocks(
    parameters: Sequence[ParameterInfo], roles: Mapping[str, str]
) -> dict[int, dict[str, list[ParameterInfo]]]:
    """Return the parameters of each block by part, in model order."""
    inside = {part: _within(roles, part) for part in ("attention", "mlp")}
    blocks: dict[int, dict[str, list[ParameterInfo]]] = {}
    for info in parameters:
        if info.block is None:
            continue
        parts = blocks.setdefault(info.block, {p: [] for p in ("attention", "norm", "mlp", "rest")})
        found = next((part for part, holds in inside.items() if holds(info.path)), None)
        parts[found or ("norm" if info.kind == "norm" else "rest")].append(info)
    return blocks


def _within(roles: Mapping[str, str], part: str) -> Callable[[str], bool]:
    """Return whether a path is that of a part of a block, or inside of it."""
    own = {path for path, role in roles.items() if role == part or role.startswith(f"{part}.")}

    def holds(path: str) -> bool:
        while path:
            if path in own:
                return True
            path = path.rpartition(".")[0]
        return False

    return holds
