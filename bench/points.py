"""What clouds cost: farthest points and neighbours, reading, a step of training and its data.

python bench/points.py neighbours | memory | waiting [--library FILE]

Times are of the process on one thread, so that other work on the machine counts little.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch


def seconds(do: Callable[[], object], repeats: int = 9) -> float:
    """Return the median of the process time of some calls."""
    do()
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        do()
        taken.append(time.process_time() - began)
    return sorted(taken)[repeats // 2]


def neighbours(library: str | None) -> None:
    """Print the cost for 32 clouds of 1,024 points, 64 centres and 32 neighbours of each."""
    from peftcore_pointcloud.neighbours import farthest_points, gathered, nearest

    torch.manual_seed(0)
    clouds = torch.randn(32, 1024, 3)
    index = farthest_points(clouds, 64)
    centres = gathered(clouds, index)
    ours = (
        seconds(lambda: farthest_points(clouds, 64)),
        seconds(lambda: nearest(clouds, centres, 32)),
    )
    print(f"plain torch: farthest {1000 * ours[0]:.1f} ms, neighbours {1000 * ours[1]:.1f} ms")
    if library is None:
        return
    torch.ops.load_library(library)
    flat, middle = clouds.flatten(0, 1), centres.flatten(0, 1)
    ends, starts = torch.arange(33) * 1024, torch.arange(33) * 64
    ratio = torch.full((32,), 63.5 / 1024)

    def fps() -> torch.Tensor:
        found: torch.Tensor = torch.ops.torch_cluster.fps(flat, ends, ratio, False)
        return found

    def knn() -> torch.Tensor:
        found: torch.Tensor = torch.ops.torch_cluster.knn(flat, middle, ends, starts, 32, False, 1)
        return found

    theirs = seconds(fps), seconds(knn)
    print(
        f"torch-cluster: farthest {1000 * theirs[0]:.1f} ms, neighbours {1000 * theirs[1]:.1f} ms"
    )
    same = (fps().view(32, 64) % 1024 == index).float().mean()
    near = (knn()[1].view(32, 64, 32) % 1024 == nearest(clouds, centres, 32)).float().mean()
    print(f"the same: farthest {100 * same:.2f} %, neighbours {100 * near:.2f} %")


def memory() -> None:
    """Print the peak memory of reading every cloud of h5 files of 1,000 to 100,000 clouds."""
    code = """
import resource, sys
from peftcore_pointcloud.clouds import cloud_at, rows_of
from peftcore_train.schema import DataSection

rows = rows_of(DataSection(source=sys.argv[1]), "test", 0.1, [])
for row in rows:
    cloud_at(row.values["cloud"], row.folder, row.where)
print(len(rows), "clouds:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "MiB")
"""
    import h5py

    for count in (1_000, 10_000, 100_000):
        with tempfile.TemporaryDirectory() as folder:
            with h5py.File(Path(folder, "test.h5"), "w") as file:
                file.create_dataset("data", (count, 256, 3), "float32", fillvalue=0.5)
                file["label"] = torch.zeros(count, dtype=torch.long).numpy()
            subprocess.run([sys.executable, "-c", code, folder], check=True)


def waiting() -> None:
    """Print what a batch of 32 clouds of 1,024 points costs, and a step of Point-MAE on it."""
    import h5py

    from peftcore import attach, backbone_named
    from peftcore_pointcloud.classification import PointClassification, PointClassificationConfig
    from peftcore_train.data import Row

    knows = backbone_named("point-transformer")
    torch.manual_seed(0)
    model = knows.build("point-mae", head="point-classification").train()
    adapter = attach(model, "pointpeft", modules_to_save=["head"])
    optimizer = torch.optim.AdamW(adapter.parameters(), 5e-4)
    target = torch.randint(40, (32,))
    with tempfile.TemporaryDirectory() as folder:
        with h5py.File(Path(folder, "test.h5"), "w") as file:
            file["data"] = torch.randn(32, 8192, 3).numpy()
            file["label"] = target.numpy()
        rows = [Row({"cloud": f"test.h5#{i}"}, "x", folder) for i in range(32)]
        for how in ("first", "farthest"):
            task = PointClassification(PointClassificationConfig(sampling=how))

            def batch(task: PointClassification = task) -> torch.Tensor:
                made = [task.distort(task.named(row), torch.Generator()) for row in rows]
                return task.collate(made)["points"]  # type: ignore[no-any-return]

            print(f"a batch, sampling {how}: {seconds(batch, 3):.2f} s")

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(model(torch.randn(32, 1024, 3)), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    print(f"a step: {seconds(step, 3):.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("neighbours", "memory", "waiting"))
    parser.add_argument("--library", help="torch-cluster's compiled functions")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "neighbours":
        neighbours(given.library)
    elif given.what == "memory":
        memory()
    else:
        waiting()
