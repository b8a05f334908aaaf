"""Whatever is written into a method's configuration: one sentence, or an adapter that works."""

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

import peftcore
from peftcore.errors import ConfigError, PeftcoreError
from peftcore.registry.references import resolve
from peftcore.testing import register_kit, run, same, tiny

register_kit()
METHODS = list(peftcore.installed().methods)
#: One of each kind that a recipe, a keyword or a mistake can bring.
ODD: list[Any] = [
    None, True, False, 0, -1, 3, 2**31, 2**63, -(2**70), 10**5000, 0.5, -0.0, 1e-300, 1e38, 1e308,
    math.inf, -math.inf, math.nan, "", "4", "x" * 5000, "path:[", "**", [], [True], ["mlp.up"],
    [[[[1]]]], {}, {"default": True}, {"default": math.inf}, {"x": 1}, {"mlp.up": 2**31},
    {"roles": [], "exclude": 3}, {1: 2}, object(), torch.zeros(2), {"default": {"default": 1}},
]  # fmt: skip


class Tried:
    """One toy on which configurations are tried, one after another."""

    def __init__(self, method: str):
        self.method = method
        self.fields = list(resolve(peftcore.installed().methods[method].config).model_fields)
        _, self.model, self.batch = tiny("toy")
        self.bare = run(self.model, self.batch)
        self.before = {n: t.clone() for n, t in self.model.state_dict().items()}
        self.flags = [p.requires_grad for p in self.model.parameters()]

    def outcome(self, config: dict[str, Any]) -> str:
        """Attach, run and detach; return whether it was refused or works."""
        torch.manual_seed(0)
        try:
            adapter = peftcore.attach(self.model, [{"method": self.method, **config}])
        except PeftcoreError as error:
            assert str(error).strip() and len(str(error)) < 20_000
            self._is_as_it_was()
            return "refused"
        try:
            out = run(self.model, self.batch)
            assert all(bool(torch.isfinite(t).all()) for t in out), "outputs that are not finite"
        except PeftcoreError:
            pass  # said in the first call, where only that can know it
        finally:
            adapter.detach()
        self._is_as_it_was()
        return "works"

    def _is_as_it_was(self) -> None:
        after = self.model.state_dict()
        assert not peftcore.adapters(self.model) and list(after) == list(self.before)
        assert all(torch.equal(after[n], t) for n, t in self.before.items())
        assert [p.requires_grad for p in self.model.parameters()] == self.flags
        assert same(run(self.model, self.batch), self.bare)


@pytest.mark.parametrize("method", METHODS)
def test_an_odd_configuration_is_refused_or_works(method: str) -> None:
    tried = Tried(method)
    keys = st.sampled_from([*tried.fields, "surprise"])

    @settings(
        max_examples=2, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.dictionaries(keys, st.integers(0, len(ODD) - 1), max_size=3))
    def check(chosen: dict[str, int]) -> None:
        # by number: not every value can be printed
        tried.outcome({field: ODD[i] for field, i in chosen.items()})

    check()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_odd_value_in_every_field_is_refused_or_works(method: str) -> None:
    tried = Tried(method)
    found = []
    for field in tried.fields:
        for i, value in enumerate(ODD):
            try:
                found.append(tried.outcome({field: value}))
            except BaseException as error:
                error.add_note(f"{method}.{field}, value {i}")
                raise
    assert "refused" in found or not tried.fields


@pytest.mark.parametrize(
    "wrong", [True, math.inf, math.nan, 1e308, 10**5000, {"default": True}], ids=range(6)
)
@pytest.mark.parametrize("field", ["rank", "alpha"])
def test_what_is_no_number_is_refused_by_name(field: str, wrong: Any) -> None:
    _, model, _ = tiny("toy")
    with pytest.raises(ConfigError) as caught:
        peftcore.attach(model, "lora", **{field: wrong})
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"methods[0].{field}")
    assert len(str(caught.value)) < 300
