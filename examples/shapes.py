"""Write clouds of made shapes, and a small Point-MAE with random weights that knows none of them.

Surfaces are trimesh's, points on them torch-geometric's. Eight classes of single bodies are for
pre-training, eight of things that are put together of several for tuning: no class is in both.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
import trimesh
from torch_geometric.data import Data
from torch_geometric.transforms import Compose, SamplePoints

from peftcore_pointcloud.config import PointConfig
from peftcore_pointcloud.masked import MaskedAutoencoder
from peftcore_pointcloud.views import Candidates, UnitSphere

Mesh = trimesh.Trimesh
Chance = np.random.Generator
POINTS = 512
made = trimesh.creation


def at(mesh: Mesh, x: float, y: float, z: float) -> Mesh:
    """Move a mesh."""
    mesh.apply_translation((x, y, z))
    return mesh


def box(x: float, y: float, z: float) -> Mesh:
    """Return a box around the origin."""
    return made.box((x, y, z))


def table(chance: Chance) -> list[Mesh]:
    """Return a plate on four legs."""
    x, y, height = chance.uniform((0.8, 0.6, 0.5), (1.6, 1.2, 1.1))
    legs = [
        at(box(0.08, 0.08, height), i * x / 2.3, j * y / 2.3, height / 2)
        for i in (-1, 1)
        for j in (-1, 1)
    ]
    return [at(box(x, y, 0.08), 0, 0, height), *legs]


def chair(chance: Chance) -> list[Mesh]:
    """Return a small table with a back."""
    side, height, back = chance.uniform((0.5, 0.4, 0.5), (0.7, 0.6, 0.9))
    legs = [
        at(box(0.07, 0.07, height), i * side / 2.3, j * side / 2.3, height / 2)
        for i in (-1, 1)
        for j in (-1, 1)
    ]
    seat = at(box(side, side, 0.07), 0, 0, height)
    return [seat, at(box(side, 0.07, back), 0, side / 2, height + back / 2), *legs]


def lamp(chance: Chance) -> list[Mesh]:
    """Return a shade on a pole on a foot."""
    height, shade, foot = chance.uniform((0.9, 0.25, 0.2), (1.5, 0.45, 0.4))
    pole = at(made.cylinder(0.04, height), 0, 0, height / 2)
    return [pole, at(made.cone(shade, 0.4), 0, 0, height), made.cylinder(foot, 0.05)]


def mug(chance: Chance) -> list[Mesh]:
    """Return a tube with a floor and a handle."""
    radius, height = chance.uniform((0.3, 0.6), (0.5, 1.0))
    handle = made.torus(0.22 * height + 0.05, 0.05)
    handle.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, (1, 0, 0)))
    floor = at(made.cylinder(radius, 0.05), 0, 0, -height / 2)
    return [made.annulus(0.85 * radius, radius, height), floor, at(handle, radius, 0, 0)]


def bottle(chance: Chance) -> list[Mesh]:
    """Return a body with a neck."""
    radius, height, neck = chance.uniform((0.2, 0.6, 0.2), (0.35, 1.0, 0.4))
    body = made.cylinder(radius, height)
    return [body, at(made.cylinder(0.35 * radius, neck), 0, 0, (height + neck) / 2)]


def stairs(chance: Chance) -> list[Mesh]:
    """Return three to five steps."""
    depth, rise, width = chance.uniform((0.2, 0.15, 0.5), (0.3, 0.25, 1.0))
    count = int(chance.integers(3, 6))
    return [
        at(box(depth, width, rise * i), depth * i, 0, rise * i / 2) for i in range(1, count + 1)
    ]


def barbell(chance: Chance) -> list[Mesh]:
    """Return two balls on a rod."""
    length, radius = chance.uniform((0.8, 0.2), (1.5, 0.35))
    balls = [at(made.icosphere(2, radius), 0, 0, i * length / 2) for i in (-1, 1)]
    return [made.cylinder(0.06, length), *balls]


def cross(chance: Chance) -> list[Mesh]:
    """Return two beams across each other."""
    long, short, thick = chance.uniform((1.0, 0.5, 0.12), (1.5, 0.9, 0.22))
    return [box(thick, thick, long), at(box(short, thick, thick), 0, 0, 0.2 * long)]


def body(kind: str) -> Callable[[Chance], list[Mesh]]:
    """Return what makes a single body."""
    makers: dict[str, Callable[[float, float], Mesh]] = {
        "block": lambda r, h: box(2 * r, 1.4 * r, h),
        "ball": lambda r, h: made.icosphere(3, r),
        "drum": lambda r, h: made.cylinder(r, h),
        "cone": lambda r, h: made.cone(r, h),
        "ring": lambda r, h: made.torus(r, 0.35 * r),
        "pill": lambda r, h: made.capsule(h, 0.6 * r),
        "pyramid": lambda r, h: made.cone(r, h, sections=4),
        "tube": lambda r, h: made.annulus(0.7 * r, r, h),
    }

    def make(chance: Chance) -> list[Mesh]:
        mesh = makers[kind](*chance.uniform((0.3, 0.6), (0.7, 1.4)))
        mesh.apply_scale(chance.uniform(0.7, 1.3, 3))
        return [mesh]

    return make


BODIES = ("ball", "block", "cone", "drum", "pill", "pyramid", "ring", "tube")
PRETRAIN = {name: body(name) for name in BODIES}
TUNE = {f.__name__: f for f in (barbell, bottle, chair, cross, lamp, mug, stairs, table)}


def cloud(meshes: list[Mesh], chance: Chance) -> np.ndarray:
    """Return points of the surface with noise of a hundredth, those farthest apart first."""
    mesh = trimesh.util.concatenate(meshes)
    pos = torch.as_tensor(np.array(mesh.vertices), dtype=torch.float32)
    face = torch.as_tensor(np.array(mesh.faces).T, dtype=torch.long)
    torch.manual_seed(int(chance.integers(2**31)))
    steps = Compose([SamplePoints(2 * POINTS), UnitSphere(), Candidates(POINTS, "farthest")])
    points = steps(Data(pos=pos, face=face)).pos
    return points.numpy() + chance.normal(scale=0.01, size=(POINTS, 3)).astype("float32")


def write(
    path: Path, classes: dict[str, Callable[[Chance], list[Mesh]]], each: int, seed: int
) -> None:
    """Write so many clouds of each class as ScanObjectNN's h5 files hold them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        file["data"] = np.stack(
            [cloud(f(chance), chance) for f in classes.values() for _ in range(each)]
        )
        file["label"] = np.repeat(np.arange(len(classes)), each)
        file.attrs["names"] = list(classes)


def main() -> None:
    """Write all files into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, default=200, help="clouds of a class to pre-train on")
    parser.add_argument("--few", type=int, default=20, help="clouds of a class to tune on")
    parser.add_argument("--test", type=int, default=50, help="clouds of a class to test on")
    given = parser.parse_args()
    write(given.folder / "pretrain" / "train.h5", PRETRAIN, given.each, 0)
    write(given.folder / "pretrain" / "test.h5", PRETRAIN, given.test, 1)
    write(given.folder / "tune" / "train.h5", TUNE, given.few, 2)
    write(given.folder / "tune" / "test.h5", TUNE, given.test, 3)
    sizes = {"widths": (96,), "depths": (4,), "groups": (32,), "group_sizes": (16,)}
    torch.manual_seed(0)
    network = MaskedAutoencoder(PointConfig(**sizes, decoder_depth=2))
    network.save_pretrained(given.folder / "random")
    print(f"{given.folder}: clouds of {len(PRETRAIN)} classes and of {len(TUNE)} others;"
          f" {sum(p.numel() for p in network.parameters()):,} random weights")  # fmt: skip


if __name__ == "__main__":
    main()
