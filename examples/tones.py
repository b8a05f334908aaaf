"""Write tones of three shapes and random heights as a folder of recordings."""

import sys
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import sawtooth, square

RATE = 8000
SHAPES = {"sine": np.sin, "square": square, "sawtooth": sawtooth}


def write(folder: Path, each: int = 40) -> int:
    """Write recordings of one to two seconds, with noise, each in the folder of its shape."""
    chance = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            time = np.arange(int(chance.uniform(1, 2) * RATE)) / RATE
            wave = shape(2 * np.pi * chance.uniform(150, 600) * time)
            sound = 0.3 * wave + chance.normal(0, 0.05, len(time))
            soundfile.write(folder / name / f"{number:02}.wav", sound, RATE)
    return each * len(SHAPES)


if __name__ == "__main__":
    print(write(Path(sys.argv[1])), "recordings in", sys.argv[1])
