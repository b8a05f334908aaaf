"""Pages about a run and about a comparison: what is on them, and that they need nothing else."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

import peftcore
import peftcore_train
from peftcore.testing import CommandContract, run_in_process
from peftcore_report import pictures
from peftcore_report.rows import seen
from peftcore_train import row_scores
from peftcore_train.api import Run
from peftcore_train.experiment import jobs_in


class TestCommand(CommandContract):
    command = "report"


class Page(HTMLParser):
    """The words of a page, its pictures, its links and the headings that sort."""

    def __init__(self, file: Path):
        super().__init__()
        self.words, self.images, self.links, self.headings = "", [], [], []
        self.addresses = []
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.addresses += [found[name] for name in ("src", "href") if name in found]
        if tag == "img":
            self.images.append(found)
        elif tag == "a":
            self.links.append(found["href"])
        elif "aria-sort" in found:
            self.headings.append(found["aria-sort"])

    def handle_data(self, data):
        self.words += data


def reported(*arguments) -> tuple[Page, list[Path]]:
    done = run_in_process("report", *arguments)
    assert done.exit_code == 0, done.output + str(done.exception)
    files = [Path(line) for line in done.stdout.splitlines()]
    return Page(files[0]), files


def test_a_page_about_a_comparison_has_all_of_it(compared):
    page, (html, png) = reported(compared)
    assert html == compared / "report.html" and png.read_bytes()[:4] == b"\x89PNG"
    found = json.loads((compared / "comparison.json").read_text())
    for name in ("bitfit", "head", "dead"):
        assert name in page.words
    assert f"{found['arms']['bitfit']['test']['mean']:.4f}" in page.words
    assert "adalora.tinit and tfinal" in page.words, "why an arm failed"
    titles = ["Test accuracy over", "Validation accuracy, first seed over", "Confusion", "Calibr"]
    assert [
        image["alt"].startswith(title)
        for image, title in zip(page.images, titles, strict=True)
    ] == [True] * 4  # fmt: skip
    assert set(page.headings) == {"none"}
    # everything is inside: pictures are data, links lead to the runs and the page itself
    assert all(a.startswith(("data:image/svg+xml;base64,", "./", "#")) for a in page.addresses)
    runs = [link for link in page.links if link.startswith("./")]
    assert len(runs) == 4 and all((compared / link / "results.json").is_file() for link in runs)
    assert html.stat().st_size < 400_000


def test_a_page_about_a_run_shows_its_curves_and_its_rows(compared, tmp_path):
    run = compared / "bitfit" / "seed-1"
    page, (html, png) = reported(run, "--output", tmp_path / "one.html")
    assert (html, png) == (tmp_path / "one.html", tmp_path / "one.png")
    titles = [image["alt"].partition(" over ")[0].partition(":")[0] for image in page.images]
    assert titles[:3] == ["Loss in training", "Validation accuracy", "Confusion matrix"]
    assert "<b>&" in page.words, "a text of the data is text, not markup"
    assert "test.jsonl:" in page.words and "max_steps: 2" in page.words
    (place,) = [link for link in page.links if not link.startswith("#")]
    assert (html.parent / place / "results.json").is_file()


def test_what_is_shown_of_rows_are_their_own_numbers(compared):
    run = compared / "bitfit" / "seed-0"
    ((job, place),) = jobs_in(run)
    found = seen(job, place, "accuracy")
    kept = row_scores.read(run / "test.safetensors")
    guess = kept["preds"].argmax(-1)
    for i, line in enumerate(found.classes):
        assert line["rows"] == int((kept["target"] == i).sum())
        right = int(((guess == i) & (kept["target"] == i)).sum())
        assert line["recall"] == pytest.approx(right / line["rows"])
    worst = int(kept["loss"].argmax())
    assert found.worst[0]["row"] == worst + 1
    assert found.worst[0]["loss"] == pytest.approx(float(kept["loss"][worst]))
    assert found.worst[0]["true"] == job.task.labels[int(kept["target"][worst])]


def test_without_rows_or_their_data_the_page_says_so(compared, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(compared / "head" / "seed-0", copy)
    recipe = (copy / "config.yaml").read_text()
    gone = recipe.replace(f"{compared.parent.parent}/data", f"{tmp_path}/gone")
    assert gone != recipe
    (copy / "config.yaml").write_text(gone)
    page, _ = reported(copy)
    assert "The test rows themselves cannot be read any more" in page.words
    assert "Worst test rows" in page.words
    (copy / "test.safetensors").unlink()
    page, _ = reported(copy)
    assert "The run kept nothing of its test rows" in page.words
    (copy / "results.json").unlink()
    done = run_in_process("report", copy)
    assert done.exit_code == 2 and "has no results yet: peftcore train --resume" in done.stderr
    assert run_in_process("report", tmp_path / "none").exit_code == 2


def test_numbers_and_losses_of_rows_have_pictures(compared, tmp_path):
    ((job, _),) = jobs_in(compared / "head" / "seed-0")
    place = tmp_path
    numbers = {"preds": torch.arange(12.0), "target": torch.arange(12.0).flip(0)}
    row_scores.write(place / "test.safetensors", numbers)
    found = seen(job, place, "pearson")
    assert found.pictures[0].title == "Predicted over true"
    assert [found.worst[0][name] for name in ("true", "predicted", "absolute error")] in (
        ["11", "0", 11.0], ["0", "11", 11.0],
    )  # fmt: skip
    row_scores.write(place / "test.safetensors", {"loss": torch.arange(12.0)})
    found = seen(job, place, "loss")
    assert found.pictures[0].title == "Loss of the rows"
    assert found.worst[0]["row"] == 12


def test_in_python_a_page_and_its_pictures_are_objects(compared, tmp_path):
    made = peftcore.report(compared / "head" / "seed-0", output=tmp_path / "page.html")
    assert made.files == [tmp_path / "page.html", tmp_path / "page.png"]
    assert repr(made).startswith("Report of films: head alone: ")
    shown = Run(compared / "head" / "seed-0", {"test": {"a": 0.5}, "validation": {"a": 0.25}})
    assert "0.2500" in repr(shown) and "<td>0.5000</td>" in shown._repr_html_()
    assert made.pictures[0].figure.axes and '<img src="data:image/svg' in shown._repr_html_()
    with pytest.raises(peftcore.ConfigError, match="is a folder; name a file in it"):
        peftcore.report(compared, output=tmp_path)


def test_the_same_picture_is_drawn_twice_the_same():
    counts = np.array([[3, 1], [0, 4]])
    first, second = (pictures.confusion(counts, ["a", "b"]).address for _ in range(2))
    assert first == second and len(first) < 40_000


def test_training_needs_nothing_that_draws():
    """Libraries of it draw where matplotlib is installed; it must do without."""
    (folder,) = peftcore_train.__path__
    text = "".join(file.read_text("utf-8") for file in Path(folder).rglob("*.py"))
    assert len(text) > 50_000 and not re.search(r"(import|from) matplotlib", text)


def node_modules() -> str:
    """Return the folder with the packages of node, which nobody has to have."""
    return os.environ.get("NODE_PATH", str(Path.cwd() / "node_modules"))


@pytest.mark.slow
def test_pages_are_accessible_sort_by_keyboard_and_fit_narrow_and_wide(compared, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    modules = Path(node_modules())
    missing = [n for n in ("axe-core", "puppeteer-core") if not (modules / n).is_dir()]
    if chromium is None or shutil.which("node") is None or missing:
        pytest.skip("needs chromium, node, and npm install axe-core puppeteer-core (NODE_PATH)")
    run = compared / "bitfit" / "seed-0"
    pages = [reported(compared)[1][0], reported(run)[1][0]]
    done = subprocess.run(
        ["node", Path(__file__).with_name("look.cjs"), chromium, tmp_path, *pages],
        env={**os.environ, "NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    looks = json.loads(done.stdout)
    assert len(looks) == 4
    for look in looks:
        assert look["violations"] == [] and look["passes"] > 20, look
        assert look["fetched"] == [f"file://{look['file']}"], "it needs something else"
        assert look["tooWide"] <= 0, "the page scrolls sideways"
        first, second = look["sorted"]
        assert (first["order"], second["order"]) == ("ascending", "descending")
        assert first["names"] == second["names"][::-1] and "sorted by" in second["said"]
