"""Write the spoken digits and letters of Asterisk's voices as clips and as codes.

    apt-get install asterisk-core-sounds-{en,es,fr,it,ru}-wav asterisk-prompt-it-menardi-wav
    apt-get install asterisk-prompt-es-co asterisk-prompt-fr-armelle
    python examples/spoken.py /usr/share/asterisk/sounds spoken

or, without installing, after `dpkg-deb -x` of the packages into a folder, with that folder. The
core sounds are CC-BY-SA 3.0 (Digium), the others GPL 2.

``spoken/clips``: one digit, number or letter a recording. ``spoken/codes``: a voice says three to
five of them one after the other. Voices of validation and test are none of training.
"""

import json
import random
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

RATE = 8000
SPLITS = ("train", "validation", "test")
NUMBERS = [str(n) for n in (*range(21), *range(30, 100, 10))]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
#: Codes of each voice.
CODES = {"train": 160, "validation": 60, "test": 60}


class Voice(NamedTuple):
    """A folder of recordings: who speaks which language, and in which split."""

    folder: str
    suffix: str
    speaker: str
    language: str
    split: str


VOICES = (
    Voice("en_US_f_Allison", "wav", "allison", "en", "train"),
    Voice("es_MX_f_Allison", "wav", "allison", "es", "train"),
    Voice("fr_CA_f_June", "wav", "june", "fr", "train"),
    Voice("it_IT_m_Carlo", "wav", "carlo", "it", "train"),
    Voice("ru_RU_f_IvrvoiceRU", "wav", "ivrvoice", "ru", "train"),
    Voice("fr", "gsm", "armelle", "fr", "validation"),
    Voice("it_IT_f_Menardi", "wav", "menardi", "it", "test"),
    Voice("es", "gsm", "colombian", "es", "test"),
)


def read(path: Path) -> np.ndarray:
    """Return samples without the silence at their ends; .gsm files have no header."""
    raw = {"samplerate": RATE, "channels": 1, "format": "RAW", "subtype": "GSM610"}
    samples, rate = soundfile.read(path, dtype="float32", **(raw if path.suffix == ".gsm" else {}))
    assert rate == RATE, path
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    return samples[max(0, loud[0] - RATE // 50) : loud[-1] + RATE // 20]


def recordings(root: Path, voice: Voice) -> dict[str, np.ndarray]:
    """Return what a voice says, by digit, number or letter; a voice may lack some."""
    found = {}
    for kind, names in (("digits", NUMBERS), ("letters", LETTERS)):
        for name in names:
            place = f"{voice.folder}/{kind}/{name}.{voice.suffix}"
            paths = sorted(root.rglob(place))
            if paths and paths[0].stat().st_size > 100:
                found[name] = read(paths[0])
    return found


def write(root: Path, out: Path) -> dict[str, int]:
    """Write both data sets, and return how many rows each split has."""
    rows: dict[str, list[dict]] = {}
    for voice in VOICES:
        said = recordings(root, voice)
        if not said:
            raise SystemExit(f"{root} has no {voice.folder}/digits/*.{voice.suffix}; see above")
        who = {"speaker": voice.speaker, "language": voice.language}
        name = f"{voice.language}-{voice.speaker}"
        for symbol, samples in said.items():
            place = save(out / "clips", f"{name}-{symbol}.wav", samples)
            rows.setdefault(f"clips/{voice.split}", []).append(
                {"audio": place, "label": symbol, **who}
            )
        chance = random.Random(name)
        for number in range(CODES[voice.split]):
            code = chance.choices(sorted(said), k=chance.randint(3, 5))
            gap = np.zeros(int(RATE * chance.uniform(0.05, 0.2)), "float32")
            parts = [part for symbol in code for part in (said[symbol], gap)]
            place = save(out / "codes", f"{name}-{number:03}.wav", np.concatenate(parts))
            rows.setdefault(f"codes/{voice.split}", []).append(
                {"audio": place, "text": " ".join(code), **who}
            )
    for split, found in rows.items():
        lines = (json.dumps(row) + "\n" for row in found)
        (out / f"{split}.jsonl").write_text("".join(lines))
    return {split: len(found) for split, found in rows.items()}


def save(folder: Path, name: str, samples: np.ndarray) -> str:
    """Write a recording, and return its path from the folder."""
    (folder / "recordings").mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / "recordings" / name, samples, RATE)
    return f"recordings/{name}"


if __name__ == "__main__":
    for split, count in write(Path(sys.argv[1]), Path(sys.argv[2])).items():
        print(f"{count:5} {split}")
