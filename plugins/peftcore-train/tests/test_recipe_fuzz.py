"""Whatever stands in a recipe: it is checked in sentences, in bounded time, and nothing is run."""

import copy
import random
import time

import pytest
import yaml

#: What a recipe may hold by mistake or by malice, in the place of any value.
ODD = [
    None, True, -1, 0, 3, 2**62, -(2**70), 0.5, -0.0, 1e308, float("inf"), float("nan"), "", "x",
    "4", "no", "../..", "/dev/null", "path:[", "**", "a\x00b", "é" * 300, [], ["lora"], [[[]]],
    [None], {}, {"a": 1}, {"method": "lora"}, {"method": 3}, {"type": "masked-lm"}, {1: 2},
    {"default": {"default": 1}}, list(range(400)),
]  # fmt: skip
#: Pieces of text that mean something to a YAML reader.
TEXT = [
    "\t", "\n", ":", "- ", "&a ", "*a", "<<: *a\n", "!!python/name:os.system ", "{", "}", "[", "]",
    "'", '"', "|\n", ">\n", "#", "---\n", "%YAML 1.1\n", "\x00", "\ufeff", "9" * 300, "1e999", "? ",
    "0x1F", "2020-01-01", "~", "@", "`",
]  # fmt: skip
#: Seconds of processor time that a check may take.
LIMIT = 2


def places(value, here=()):
    """Yield where every value of a recipe is."""
    yield here
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*here, key))


def mutated(content: dict, chance: random.Random) -> str:
    """Return the text of a recipe with some values or pieces of text changed."""
    content = copy.deepcopy(content)
    for _ in range(chance.randint(0, 3)):
        place = chance.choice([p for p in places(content) if p])
        inner = content
        for key in place[:-1]:
            inner = inner[key]
        act = chance.random()
        if act < 0.6:
            inner[place[-1]] = copy.deepcopy(chance.choice(ODD))
        elif act < 0.8:
            del inner[place[-1]]
        elif isinstance(inner, dict):
            inner[f"{place[-1]}x"] = inner.pop(place[-1])
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    for _ in range(chance.choice([0, 0, 1, 2])):
        at = chance.randrange(len(text) + 1)
        cut = chance.choice([0, 0, 1, 5])
        text = text[:at] + chance.choice(TEXT) + text[at + cut :]
    return text


def check_many(path, peftcore, seeds: range) -> set[int]:
    """Check mutated recipes; return the exit codes that were seen."""
    content = yaml.safe_load(path.read_text())
    folder, seen = path.parent, set()
    assert peftcore("check", path).exit_code == 0  # imports are over after this one
    for seed in seeds:
        text = mutated(content, random.Random(seed))
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        before, start = sorted(folder.rglob("*")), time.process_time()
        done = peftcore("check", path)
        said = f"seed {seed}: exit {done.exit_code}\n{text}\n{done.stderr}"
        assert time.process_time() - start < LIMIT, said
        assert done.exit_code in (0, 2, 3), f"{said}\n{done.exception!r}"
        assert "Traceback" not in done.output, said
        if done.exit_code:
            lines = done.stderr.strip().splitlines()
            assert lines and all(line.startswith(("error: ", "  ")) for line in lines), said
        assert sorted(folder.rglob("*")) == before, said
        seen.add(done.exit_code)
    return seen


def test_a_mutated_recipe_is_checked_in_sentences(recipe, peftcore):
    assert check_many(recipe(), peftcore, range(40)) >= {0, 2}


@pytest.mark.slow
def test_a_thousand_mutated_recipes(recipe, peftcore):
    path = recipe(methods=[{"method": "lora", "rank": {"default": 2}}, "bitfit"], seed=1)
    check_many(path, peftcore, range(1_000, 2_000))
