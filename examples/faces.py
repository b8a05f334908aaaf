"""Write scikit-image's 200 grey images, faces and other things, as files with a table."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.data import lfw_subset

#: Every fifth image is for validation, every fifth to test.
SPLITS = ("train", "train", "train", "validation", "test")


def write(folder: Path) -> int:
    """Write 25 x 25 pixels as PNG and a table of each split; return how many images.

    ``light`` is the mean brightness of an image, a number between 0 and 1: it stands for the
    sensitive attribute of a medical data set, such as an age.
    """
    images = lfw_subset()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    tables = {split: ["image,label,light"] for split in SPLITS}
    for number, pixels in enumerate(images):
        name = f"images/{number:03}.png"
        Image.fromarray((pixels * 255).round().astype(np.uint8)).save(folder / name)
        label = "face" if number < 100 else "other"
        tables[SPLITS[number % len(SPLITS)]].append(f"{name},{label},{pixels.mean():.3f}")
    for split, lines in tables.items():
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return len(images)


if __name__ == "__main__":
    print(write(Path(sys.argv[1])), "images in", sys.argv[1])
