"""Training from Python: functions of the core's face, which plugins bring."""

import subprocess
import sys

import pytest
import yaml

import peftcore
from peftcore_train.api import Run, Runs, document_of


def test_a_recipe_as_a_mapping_with_changes_gives_a_run_with_its_scores(recipe):
    content = yaml.safe_load(recipe().read_text())
    found = peftcore.train(content, quiet=True, train={"max_steps": 2, "log_steps": 1}, seed=4)
    assert isinstance(found, Run)
    assert found.results["steps"] == 2 and found.results["seed"] == 4
    assert [line["step"] for line in found.metrics] == [1, 2, 2]
    assert f"{found.test['accuracy']:.4f}" in repr(found)
    assert f"<td>{found.validation['accuracy']:.4f}</td>" in found._repr_html_()
    assert peftcore.inspect(found.adapter)


def test_arms_are_a_mapping(recipe):
    content = yaml.safe_load(recipe(train={"max_steps": 1}).read_text())
    del content["methods"]
    dead = [{"method": "adalora", "tinit": 1, "tfinal": 1}]
    found = peftcore.train({**content, "compare": {"head": [], "dead": dead}}, quiet=True)
    assert isinstance(found, Runs) and list(found) == ["head"] and "adalora" in found.failed["dead"]
    assert repr(found).count("failed") == 3 and "head" in found._repr_html_()


def test_changes_that_do_not_fit_are_named(recipe):
    assert document_of(recipe(), {"methods[0].rank": 9}).data["methods"][0]["rank"] == 9
    with pytest.raises(peftcore.ConfigError, match=r"^sedd: sedd is not a field of the recipe. Di"):
        peftcore.train(recipe(), sedd=1)
    with pytest.raises(peftcore.ConfigError, match=r"the recipe: .*cannot be written as YAML"):
        peftcore.train({"name": object()})
    with pytest.raises(peftcore.ConfigError, match=r"^the recipe: name: "):
        peftcore.train({"backbone": {"source": "x"}, "methods": []})


def test_functions_of_plugins_are_named_where_the_plugin_is_missing():
    code = (
        "import peftcore\n"
        "assert 'train' in dir(peftcore) and 'train' not in peftcore.__all__\n"
        "assert not hasattr(peftcore, 'trai')\n"
        "try: peftcore.train\n"
        "except AttributeError as error: print(error)"
    )
    environment = {"PEFTCORE_DISABLE_PLUGINS": "peftcore-train", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "peftcore.train: command 'train' cannot be used: peftcore-train" in done.stdout
