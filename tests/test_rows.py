"""Which rows of a batch are which, where tokens, heads or parameters are as many."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftcore
from peftcore import (
    Around,
    AttachError,
    Method,
    MethodConfig,
    MethodSpec,
    Site,
    backbone_named,
    hookimpl,
    installed,
)
from peftcore.testing import perturb

NAMES = ("a", "b")


class Times(Around):
    """Multiplies what goes in and what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.0))

    def forward(self, call: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
        out = call(x * self.factor, *args, **kwargs)
        return out if isinstance(out, tuple) else out * self.factor


class TimesConfig(MethodConfig):
    path: str


class TimesMethod(Method):
    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Times | None:
        return Times() if site.path == self.config.path else None


@pytest.fixture(autouse=True)
def _plugin() -> Iterator[None]:
    spec = MethodSpec("times", "Times.", f"{__name__}:TimesConfig", f"{__name__}:TimesMethod")
    with installed().with_plugin(spec, "rows"):
        yield


def check_rows(
    model: nn.Module, call: Callable[[], Tensor], rows: int, method: str = "times", **config: Any
) -> None:
    """Check that every row of a routed batch is what its adapter computes alone."""
    wanted: dict[str | None, Tensor] = {None: call()}
    for name in NAMES:
        perturb(peftcore.attach(model, method, name=name, **config))
        wanted[name] = call()
    names = [(None, *NAMES)[i % 3] for i in range(rows)]
    with peftcore.route(model, names):
        mixed = call()
    for row, name in enumerate(names):
        torch.testing.assert_close(mixed[row], wanted[name][row])
        assert name is None or not torch.allclose(wanted[name][row], wanted[None][row])


@torch.no_grad()
@pytest.mark.parametrize("rows", [4, 9], ids=["as heads", "as tokens"])
def test_a_parameter_with_as_many_entries_as_rows_is_no_part_of_the_batch(rows: int) -> None:
    torch.manual_seed(0)
    backbone = backbone_named("toy-decoder")
    model = backbone.tiny()
    batch = backbone.batch(model, rows)
    path = "network.blocks.0.attention"
    check_rows(model, lambda: model(**batch).logits, rows, path=path)


class Biased(nn.Module):
    """Scores of pairs of tokens with a bias that is made anew in each call."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.num_heads = size
        self.lin = nn.Linear(4, 4)

    def forward(self, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return self.lin(x) + bias.sum(), bias


class Outer(nn.Module):
    def __init__(self, size: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(shape))
        self.inner = nn.ModuleList([Biased(size)])

    def forward(self, x: Tensor) -> Tensor:
        out, bias = self.inner[0](x, 2 * self.bias)
        return out + bias.mean()  # type: ignore[no-any-return]


@torch.no_grad()
@pytest.mark.parametrize(
    ("rows", "heads", "shape"), [(3, 3, (3, 5, 5)), (5, 2, (5, 4)), (3, 2, (6, 5, 5))], ids=str
)
def test_what_may_be_rows_or_not_is_left_whole(
    rows: int, heads: int, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    model, x = Outer(heads, shape), torch.randn(rows, 5, 4)
    check_rows(model, lambda: model(x), rows, path="inner.0")


class TokensFirst(nn.Module):
    """Takes rows first and computes with tokens first, as many older models do."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x.transpose(0, 1)).transpose(0, 1)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("tokens", "words"), [(6, "may be its first axis or"), (5, "given 5 rows")]
)
def test_a_first_axis_that_is_not_the_rows_of_the_call_is_refused(tokens: int, words: str) -> None:
    model = TokensFirst()
    peftcore.attach(model, "probe", targets=["linear"], name="a")
    with peftcore.route(model, ["a", None]), pytest.raises(AttachError, match=words):
        model(torch.randn(2, tokens, 4))


def test_routing_beside_layers_that_take_tokens_first_is_refused() -> None:
    model = nn.ModuleList([nn.ModuleDict({"read": nn.LSTM(4, 4), "lin": nn.Linear(4, 4)})])
    peftcore.attach(model, "probe", targets=["linear"])
    with (
        pytest.raises(AttachError, match=r"since 0\.read has batch_first=False"),
        peftcore.route(model, ["default", None]),
    ):
        pass
