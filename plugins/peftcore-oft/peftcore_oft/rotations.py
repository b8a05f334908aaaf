"""Orthogonal blocks: from free values to rotations, and how they turn vectors."""

import torch
from torch import Tensor


def skew(free: Tensor, upper: Tensor, block: int) -> Tensor:
    """Return skew matrices [n, b, b] from the values above their diagonals, [n, b (b - 1) / 2].

    Args:
        free: the values.
        upper: [2, b (b - 1) / 2] row and column of each value.
        block: width b of a matrix.
    """
    above = free.new_zeros(len(free), block, block)
    above[:, upper[0], upper[1]] = free
    matrix: Tensor = above - above.mT
    return matrix


def cayley(matrix: Tensor) -> Tensor:
    """Return the rotations (I - S)(I + S)⁻¹ of skew matrices S, [..., b, b]."""
    wide = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    eye = torch.eye(matrix.shape[-1], dtype=wide.dtype, device=wide.device)
    rotation: Tensor = torch.linalg.solve(eye + wide, eye - wide, left=False)
    return rotation


def neumann(matrix: Tensor, terms: int) -> Tensor:
    """Return I + 2S + 2S² + ... + S^(terms - 1), near which (I + S)(I - S)⁻¹ is for a small S.

    The sign and the halved last term are those of Hugging Face PEFT, whose default it is.
    """
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    out, power = eye + 2 * matrix, matrix
    for i in range(2, terms):
        power = power @ matrix
        out = out + (2 if i < terms - 1 else 1) * power
    return out


def turn(x: Tensor, blocks: Tensor) -> Tensor:
    """Return vectors [..., d] multiplied from the right with blocks [n or 1, b, b]."""
    block = blocks.shape[-1]
    parts = x.unflatten(-1, (-1, block))
    if len(blocks) == 1:
        shared: Tensor = parts @ blocks[0].to(x.dtype)
        return shared.flatten(-2)
    turned: Tensor = torch.einsum("...nk,nkc->...nc", parts, blocks.to(x.dtype))
    return turned.flatten(-2)


def butterfly(width: int, block: int, level: int) -> Tensor:
    """Return the order of coordinates at one level, [width]: even half-blocks before odd ones."""
    order = torch.arange(width)
    if level == 0:
        return order
    return order.view(-1, 2**level, 2, block // 2).transpose(1, 2).flatten()
