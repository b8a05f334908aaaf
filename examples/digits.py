"""Write the handwritten digits that come with scikit-learn as a folder of images."""

import sys
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits


def write(folder: Path) -> int:
    """Write 8 x 8 pixels of 17 greys as PNG, each in the folder of its digit; return how many."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15.9375).astype("uint8")).save(place / f"{number:04}.png")
    return len(digits.target)


if __name__ == "__main__":
    print(write(Path(sys.argv[1])), "images in", sys.argv[1])
