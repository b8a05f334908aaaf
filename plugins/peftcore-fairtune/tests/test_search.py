"""Both stages on images of two groups, of which the small one follows another rule."""

import json
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
import yaml
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference
from PIL import Image
from safetensors.torch import save_file

import peftcore
from peftcore import ConfigError, installed
from peftcore.testing import CommandContract, run_in_process, tiny
from peftcore_fairtune import fairness

pytestmark = pytest.mark.skipif(
    "timm-vit" not in installed().backbones, reason="no backbone plugin for images is installed"
)


class TestCommand(CommandContract):
    command = "fairtune"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Write a small ViT, and images: most show their label by colour, the others by stripes."""
    from timm.models import save_for_hf

    root, chance = tmp_path_factory.mktemp("base"), np.random.default_rng(0)
    torch.manual_seed(0)
    _, model, _ = tiny("timm-vit", "image-classification")
    save_for_hf(model, str(root / "vit"), safe_serialization=True)
    (root / "data" / "images").mkdir(parents=True)
    for split, count in (("train", 48), ("validation", 24), ("test", 24)):
        lines = ["image,label,sex"]
        for i in range(count):
            label, few = i % 2, i % 8 >= 6
            pixels = chance.integers(0, 80, (16, 16, 3))
            # in the small group colours point the other way, and stripes tell
            pixels[..., 2 * (label ^ few)] += 120
            if few and label:
                pixels[::4] = 255
            name = f"images/{split}-{i}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(root / "data" / name)
            lines.append(f"{name},{label},{'F' if few else 'M'}")
        (root / "data" / f"{split}.csv").write_text("\n".join(lines))
    return root


@pytest.fixture
def recipe(tmp_path, base):
    """Return a function that writes a recipe with some sections changed, and gives its path."""

    def write(fairtune=None, **changes) -> Path:
        content = {
            "name": "fair",
            "backbone": {"source": str(base / "vit")},
            "methods": ["fairtune"],
            "task": {
                "type": "image-classification",
                "groups": {"sex": []},
                "flip": False,
                "random_crop": False,
            },
            "data": {"source": str(base / "data")},
            "train": {"device": "cpu", "epochs": 1, "batch_size": 12},
            "output": str(tmp_path / "runs"),
            "fairtune": {
                "objective": "acc_diff",
                "learning_rate": [1e-3, 1e-2],
                "retrain_seeds": [0],
                **(fairtune or {}),
            },
            **changes,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


def test_the_mask_that_is_found_leaves_no_wider_gap_than_training_everything(recipe):
    path = recipe({"pruner": "none", "seed": 1})
    found = peftcore.fairtune(path, trials=4, quiet=True)
    whole = peftcore.train(
        yaml.safe_load(path.read_text()),
        quiet=True,
        train={"learning_rate": found.found["best"]["learning_rate"]},
    )
    assert found.found["metric"] == "accuracy_gap.sex" and len(found.mask) == 6
    assert found.found["best"]["value"] <= whole.validation["accuracy_gap.sex"]
    values = [trial["value"] for trial in found.found["trials"]]
    assert len(values) == 4 and found.found["best"]["value"] == min(values)
    # what was tried is what optuna draws with this seed: bits as integers, then the rate
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=1))
    for trial in found.found["trials"]:
        asked = study.ask()
        bits = [asked.suggest_int(f"bit_{i}", 0, 1) for i in range(6)]
        assert trial["mask"] == "".join(map(str, bits))
        assert trial["learning_rate"] == asked.suggest_float("learning_rate", 1e-3, 1e-2, log=True)
        study.tell(asked, trial["value"])
    assert found.recipe["methods"] == [{"method": "fairtune", "mask": found.mask}]
    assert found.recipe["train"]["metric_for_best"] == "accuracy_gap.sex"
    assert set(found.test["sex"]) >= {"accuracy_min", "equalized_odds_difference", "auroc_gap"}
    assert found.mask in repr(found) and "<table>" in found._repr_html_()


def test_a_search_goes_on_with_more_trials_and_trains_the_head_alone_where_all_bits_are_0(recipe):
    path = recipe(
        {"objective": "min_auc", "seed": 1}, methods=[{"method": "fairtune", "space": "attention"}]
    )
    done = run_in_process("fairtune", path, "--trials", "1", "--json", "-q")
    assert done.exit_code == 0, done.output
    first = json.loads(done.stdout)
    folder = Path(first["directory"])
    done = run_in_process("fairtune", "--resume", folder, "--trials", "2", "--json", "-q")
    assert done.exit_code == 0, done.output
    trials = json.loads(done.stdout)["trials"]
    assert trials[:1] == first["trials"] and len(trials) == 2
    nothing = next(t for t in trials if t["mask"] == "00")
    recipe_of_it = yaml.safe_load((folder / nothing["run"] / "config.yaml").read_text())
    assert recipe_of_it["methods"] == []
    counts = json.loads((folder / nothing["run"] / "results.json").read_text())["parameters"]
    assert counts["trainable"] == 0 and counts["head"] > 0
    assert run_in_process("check", folder / "best.yaml").exit_code == 0
    assert run_in_process("check", path).exit_code == 0, "the section is no part of a run"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"methods": ["bitfit"]}, "name the method fairtune once; its mask is searched."),
        (
            {"methods": [{"method": "fairtune", "mask": "111111"}]},
            "methods[0].mask is what is searched for; leave it out",
        ),
        (
            {"fairtune": {"attribute": "sx"}},
            "'sx' is not among task.groups: sex. Did you mean sex?",
        ),
        (
            {"task": {"type": "image-classification"}},
            "whose groups? give the columns as task.groups",
        ),
        ({"fairtune": {"objectve": "min_auc"}}, "fairtune.objectve is not a field of fairtune."),
        ({"fairtune": {"learning_rate": [1e-2, 1e-3]}}, "is the least and the greatest rate"),
        ({"seeds": [0, 1]}, "a search takes methods and one seed; leave seeds out."),
    ],
)
def test_what_cannot_be_searched_is_named_before_anything_is_trained(recipe, changes, sentence):
    path = recipe(**changes)
    done = run_in_process("fairtune", path)
    assert done.exit_code == 2 and sentence in done.stderr, done.stderr
    assert not list(path.parent.glob("runs/*"))


def test_scores_of_groups_are_those_of_fairlearn_and_of_a_table_by_hand(tmp_path):
    # right answers: 3 of 4 in A, 1 of 2 in B
    target = np.array([1, 1, 0, 0, 1, 0])
    logits = np.array([[0, 2.0], [0, 3], [1, 0], [0, 1], [0, 1], [0, 3]])
    groups = np.array(list("AAAABB"), object)
    predicted = logits.argmax(1)
    found = fairness.scores(logits, target, groups)
    assert found["accuracy_by_group"] == {"A": 0.75, "B": 0.5} and found["rows"] == {"A": 4, "B": 2}
    assert found["accuracy_gap"] == 0.25 and found["accuracy_min"] == 0.5
    # chosen: A 3 of 4, B 2 of 2
    assert found["demographic_parity_difference"] == pytest.approx(0.25)
    assert found["demographic_parity_ratio"] == pytest.approx(0.75)
    # true positives 2/2 and 1/1; false positives 1/2 and 1/1
    assert found["equalized_odds_difference"] == pytest.approx(0.5)
    parts = {"y_true": target, "y_pred": predicted, "sensitive_features": groups}
    assert found["equalized_odds_difference"] == equalized_odds_difference(**parts)
    assert found["demographic_parity_difference"] == demographic_parity_difference(**parts)
    task = {
        "groups": {"sex": [], "age": [40]},
        "cross_groups": True,
        "group_values": {"sex": ["F", "M"], "age": ["below 40", "from 40"]},
    }
    crossed = ["F x below 40", "F x from 40", "M x below 40", "M x from 40"]
    assert fairness.group_names(task) == {**task["group_values"], "sex x age": crossed}
    # a group of one label has no AUROC, and no part in the worst
    only = fairness.scores(logits, np.array([1, 1, 0, 0, 1, 1]), groups)
    assert (
        np.isnan(only["auroc_by_group"]["B"]) and only["auroc_min"] == only["auroc_by_group"]["A"]
    )
    save_file({"preds": torch.zeros(2, 2)}, tmp_path / "test.safetensors")
    with pytest.raises(ConfigError, match=r"kept no groups; give their columns as task\.groups"):
        fairness.report(tmp_path)
