"""Recipes: line marks, overrides, arms, and all errors at once."""

import pytest

from peftcore import ConfigError
from peftcore_train import arms, recipes
from peftcore_train.recipes import Problems, Recipe

GOOD = "name: a\nbackbone: {source: x}\nmethods: []\n"


def write(tmp_path, text: str):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text.encode())
    return path


def problems_of(tmp_path, text: str, model=Recipe) -> list[str]:
    document = recipes.read(write(tmp_path, text))
    found = Problems()
    for _, part in arms.arms(document, found):
        recipes.checked(part, model, found)
    with pytest.raises(ConfigError) as caught:
        found.raise_any()
    return [p.removeprefix(f"{document.file}:") for p in caught.value.problems]


def test_scalars_are_those_of_yaml_1_2(tmp_path):
    text = "a: 1e-3\nb: no\nc: 010\nd: .5\ne: 1:30\nf: 2020-01-01\ng: ~\nh:\ni: 'true'\nj: -.inf\n"
    data = recipes.read(write(tmp_path, text)).data
    assert data == {
        "a": 0.001, "b": "no", "c": 10, "d": 0.5, "e": "1:30", "f": "2020-01-01", "g": None,
        "h": None, "i": "true", "j": float("-inf"),
    }  # fmt: skip
    assert recipes.read(write(tmp_path, recipes.dump(data))).data == data


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ": the recipe is empty."),
        ("# nothing\n", ": the recipe is empty."),
        ("- a\n", ":1: a recipe is a mapping of sections, not list."),
        ("a: 1\nb: 2\na: 3\n", ":3: a is given twice, first at "),
        ("a:\n  b: [1\n", ":3: not readable as YAML: "),
        ("a: 1\n\tb: 2\n", ":2: not readable as YAML: "),
        ("a: !!python/object:os.system x\n", ":1: tag tag:yaml.org,2002:python/object:os.system"),
        ("a: &x\n  b: *x\n", ":1: this value holds itself."),
        ("[a]: 1\n", ":1: a key is a word, not a list or mapping."),
        ("a: 1\n---\nb: 2\n", ":2: not readable as YAML: "),
    ],
)
def test_what_is_no_recipe_is_one_sentence(text, expected, tmp_path):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        recipes.read(path)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}{expected}")


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    write(tmp_path, GOOD)
    with pytest.raises(ConfigError, match=r"no such file\. Did you mean recipe\.yaml\?"):
        recipes.read(tmp_path / "recipes.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml: not UTF-8 \(byte 9\)"):
        recipes.read(tmp_path / "latin.yaml")


def test_all_problems_come_at_once_by_line(tmp_path):
    text = "name: a b\nbackbone:\n  nmae: bert\nmethods: lora\nseed: true\n"
    assert problems_of(tmp_path, text) == [
        "1: name: use letters, digits, - and _ only (got 'a b').",
        "2: backbone.source: field required.",
        "3: backbone.nmae is not a field of the recipe. Did you mean name?",
        "4: methods: input should be a list (got 'lora').",
        "5: seed: input should be a valid integer (got True).",
    ]


@pytest.mark.parametrize("value", ["'3'", "3.0", "true"])
def test_numbers_are_not_converted(value, tmp_path):
    (problem,) = problems_of(tmp_path, f"{GOOD}seed: {value}\n")
    assert problem.startswith("4: seed: input should be a valid integer (got ")


def test_a_name_alone_stands_for_a_method(tmp_path):
    document = recipes.read(write(tmp_path, GOOD.replace("[]", "[a, {method: b}]")))
    assert document.data["methods"] == [{"method": "a"}, {"method": "b"}]


def test_overrides_change_values_and_are_named_in_messages(tmp_path):
    path = write(tmp_path, GOOD.replace("[]", "[a, b]"))
    settings = ["methods[1].rank=16", "train.rate=1e-3", "backbone.source='7'", "seed=x"]
    document = recipes.read(path, settings)
    assert document.data["methods"] == [{"method": "a"}, {"method": "b", "rank": 16}]
    assert document.data["train"] == {"rate": 0.001}
    assert document.data["backbone"] == {"source": "7"}
    found = Problems()
    recipes.checked(document, Recipe, found)
    with pytest.raises(ConfigError, match=r"^--set seed=x: seed: input should be a valid integer"):
        found.raise_any()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("seed", "--set seed: write KEY=VALUE"),
        ("a..b=1", "'a..b' is no key"),
        ("[=1", "'[' is no key"),
        ("methods[2].rank=1", "methods has 0 items"),
        ("name.x=1", "name is 'a'"),
        ("seed=[1", "not readable as YAML"),
    ],
)
def test_an_override_that_does_not_fit_is_refused(setting, expected, tmp_path):
    with pytest.raises(ConfigError) as caught:
        recipes.read(write(tmp_path, GOOD), [setting])
    assert expected in str(caught.value)


COMPARE = """\
name: a
backbone: {source: x}
compare:
  one: [m]
  two:
    methods:
      - {method: m, rank: 2}
    set: {seed: 7, train.epochs: 2}
  none: []
train:
  epochs: 5
"""


def test_arms_are_whole_recipes(tmp_path):
    found = Problems()
    document = recipes.read(write(tmp_path, COMPARE))
    parts = dict(arms.arms(document, found))
    assert not found
    assert [arm.data["methods"] for arm in parts.values()] == [
        [{"method": "m"}], [{"method": "m", "rank": 2}], [],
    ]  # fmt: skip
    assert parts["two"].data["seed"] == 7
    assert [arm.data["train"]["epochs"] for arm in parts.values()] == [5, 2, 5]
    assert not any("compare" in arm.data for arm in parts.values())
    assert document.data["train"] == {"epochs": 5}


def test_problems_in_arms_name_their_line_and_path(tmp_path):
    text = COMPARE.replace("seed: 7", "seed: -7").replace("set:", "sett: 1\n    set:")
    problems = problems_of(tmp_path, text)
    assert problems == [
        "8: compare.two.sett is not a field of an arm of compare. Did you mean set?"
    ]
    problems = problems_of(tmp_path, COMPARE.replace("seed: 7", "seed: -7"))
    assert problems == ["8: seed: input should be greater than or equal to 0 (got -7)."]
    problems = problems_of(tmp_path, COMPARE.replace("none: []", "none:"))
    assert problems == ["9: compare.none: write [] for the head alone."]
    problems = problems_of(tmp_path, COMPARE.replace("none: []", "no ne: []"))
    assert problems == ["9: compare: arm 'no ne': use letters, digits, - and _ only."]
    problems = problems_of(tmp_path, COMPARE + "methods: []\n")
    assert problems == ["12: give methods or compare, not both."]


def test_a_problem_of_a_method_in_an_arm_has_its_line(tmp_path):
    path = write(tmp_path, COMPARE)
    found = Problems()
    for _, part in arms.arms(recipes.read(path), found):
        recipes.check_methods(part, found)
    with pytest.raises(ConfigError) as caught:
        found.raise_any()
    assert caught.value.exit_code == 3
    assert [p.partition(": ")[0] for p in caught.value.problems] == [f"{path}:4", f"{path}:7"]
