import importlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import peftcore_samples
from peftcore_samples import antibodies, cells, models, peptides, sentiment, vision, whisper

Python = Callable[..., "subprocess.CompletedProcess[str]"]

README = Path(__file__).parents[1] / "README.md"
SPECS = peftcore_samples.peftcore_register_sources()


def read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def test_naming_the_sources_imports_nothing_heavy(python: Python) -> None:
    done = python(
        "import sys, peftcore_samples\npeftcore_samples.peftcore_register_sources()\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'pydantic', 'gguf'} & set(sys.modules)))"
    )
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_source_has_its_function_and_its_line_in_the_readme(spec) -> None:
    module, _, name = spec.resolve.partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert f"| `{spec.name}` |" in README.read_text("utf-8")
    assert spec.name.startswith("samples/")


def test_every_package_is_in_the_readme_with_its_licence() -> None:
    text = README.read_text("utf-8")
    for package in (
        models.MINILM, models.SMOLLM2, models.ANTIBERTY, whisper.WHISPER, sentiment.VADER,
        peptides.MODLAMP, antibodies.TIDYTCELLS, cells.SCANPY, vision.VIT_S14,
        vision.EFFICIENTNET_LITE0,
    ):  # fmt: skip
        assert f"{package.name} {package.version}, {package.size}, {package.licence}" in text


@pytest.mark.weights
def test_sentiment_sentences_are_in_one_split_each() -> None:
    counts = {}
    for kind in ("movie", "tweet", "product", "news"):
        folder = getattr(sentiment, kind)()
        rows = {split: read(folder / f"{split}.jsonl") for split in ("train", "validation", "test")}
        texts = [row["text"].casefold() for part in rows.values() for row in part]
        assert len(set(texts)) == len(texts)
        assert all(
            abs(row["score"]) > 1
            and row["label"] == ("positive" if row["score"] > 0 else "negative")
            for part in rows.values()
            for row in part
        )
        counts[kind] = [len(part) for part in rows.values()]
    assert counts == {
        "movie": [6315, 902, 1804],
        "tweet": [1712, 244, 489],
        "product": [1680, 215, 472],
        "news": [984, 137, 280],
    }


@pytest.mark.weights
def test_peptides_have_two_labels() -> None:
    rows = read(peptides.amp() / "train.jsonl")
    assert len(rows) == 3234
    assert {row["label"] for row in rows} == {"AMP", "UniProt"}


@pytest.mark.weights
def test_every_residue_of_an_antibody_gene_has_a_region() -> None:
    rows = read(antibodies.regions() / "train.jsonl")
    assert all(len(row["labels"]) == len(row["sequence"]) for row in rows)
    assert {label for row in rows for label in row["labels"]} == {
        "FR1", "CDR1", "FR2", "CDR2", "FR3", "CDR3",
    }  # fmt: skip


@pytest.mark.weights
def test_minilm_tells_a_paraphrase_from_another_sentence() -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = models.minilm()
    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_713_216
    sentences = [
        "A man is playing a guitar.",
        "Someone plays the guitar on stage.",
        "The stock market fell sharply today.",
    ]
    batch = AutoTokenizer.from_pretrained(folder)(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model.eval()(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    cosine = mean @ mean.T
    assert cosine[0, 1] > 0.6
    assert abs(cosine[0, 2]) < 0.15


@pytest.mark.weights
def test_weights_that_do_not_fit_on_the_disk_leave_nothing(python: Python, cache: Path) -> None:
    done = python(
        "from peftcore import PeftcoreError\nfrom peftcore_samples.peptides import amp\n"
        "try: amp()\nexcept PeftcoreError as error: print(error)",
        largest_file=190_000,
    )
    assert "peptides-amp-4.3.3-r1 cannot be written" in done.stdout, done.stderr
    assert not list((cache / "samples").iterdir())
