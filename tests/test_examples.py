"""The recipes that are shown: each is good as it is written, and its heading installs it."""

import re
from pathlib import Path

import pytest

from peftcore.registry.installed import installed

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted([*ROOT.glob("examples/*.yaml"), *ROOT.glob("bench/*.yaml")])

pytest.importorskip("peftcore_train")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_that_is_shown_is_good(path: Path) -> None:
    from peftcore_train.schema import load_jobs

    assert load_jobs(path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_heading_of_a_recipe_installs_what_it_needs(path: Path) -> None:
    from peftcore_train.schema import load_jobs

    if path.parent.name == "bench":
        pytest.skip("benches run in the development environment")
    text = path.read_text("utf-8")
    named = set(re.findall(r"peftcore-[\w-]+", text[: text.index("\nname:")]))
    needed = set()
    for job in load_jobs(path):
        sources = {job.recipe.backbone.source, job.recipe.data.source} & set(installed().sources)
        provided = {
            ("tasks", job.task_type),
            *(("sources", source) for source in sources),
            *(("methods", asked["method"]) for asked in job.recipe.methods),
        }
        needed |= {installed().owner(kind, name).distribution for kind, name in provided}
    assert needed <= named <= {folder.name for folder in (ROOT / "plugins").iterdir()}
