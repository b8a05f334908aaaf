"""The pieces by themselves: formula, weight form, dropout, memory, dtypes, batched rows."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from peftcore import Delta, LayerInfo, info_of
from peftcore_lora.pieces import LowRank, LowRankConv, LowRankEmbedding, _Masked

LINEAR = LayerInfo("linear", 12, 20, weight_shape=(20, 12))
CONVOLUTIONS = [
    nn.Conv1d(4, 6, 3, stride=2, padding=1),
    nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(1, 0), dilation=(2, 1)),
    nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect"),
    nn.Conv2d(4, 6, 3, padding=1, groups=2),
    nn.Conv3d(4, 6, (2, 1, 3), padding=(1, 0, 1)),
]


def started(piece: Delta) -> Delta:
    """Return a piece with its start, which looks at no weight."""
    with torch.no_grad():
        piece.start(lambda: torch.empty(0))
    return piece


def filled(piece: nn.Module) -> nn.Module:
    for parameter in piece.parameters():
        nn.init.normal_(parameter)
    return piece


def linear(dropout: float = 0.0, scale: float = 2.0) -> LowRank:
    torch.manual_seed(0)
    return filled(LowRank(LINEAR, 4, scale, dropout))


def conv_piece(conv: nn.Module, dropout: float = 0.0) -> LowRankConv:
    return filled(LowRankConv(info_of(conv), 4, 0.5, dropout, conv))


def saved_bytes(function, *args: Tensor) -> int:
    """Count the bytes that autograd keeps for backward, each storage once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function(*args)
    return sum(kept.values())


def test_linear_is_the_papers_formula() -> None:
    piece, x = linear(), torch.randn(2, 3, 12)
    torch.testing.assert_close(piece(x), 2.0 * x @ piece.lora_A.T @ piece.lora_B.T)


def test_linear_starts_at_zero_with_kaiming_a() -> None:
    piece = started(LowRank(LINEAR, 4, 1.0, 0.0))
    bound = 1 / math.sqrt(12)
    assert not piece.lora_B.any()
    assert 0.5 * bound < piece.lora_A.abs().max() <= bound


def test_linear_weight_form_is_its_forward() -> None:
    piece, x = linear(), torch.randn(2, 3, 12)
    torch.testing.assert_close(F.linear(x, piece.weight_delta()), piece(x))


def test_embedding_looks_up_columns_of_a() -> None:
    piece = filled(LowRankEmbedding(LayerInfo("embedding", 11, 6), 3, 2.0, None))
    tokens = torch.randint(0, 11, (2, 5))
    expected = 2.0 * piece.lora_A[:, tokens].permute(1, 2, 0) @ piece.lora_B.T
    torch.testing.assert_close(piece(tokens), expected)
    torch.testing.assert_close(F.embedding(tokens, piece.weight_delta()), expected)


def test_embedding_leaves_unseen_tokens_and_padding_alone() -> None:
    piece = started(LowRankEmbedding(LayerInfo("embedding", 11, 6), 3, 2.0, 0))
    piece(torch.tensor([0, 4, 7])).sum().backward()
    assert piece.lora_A.grad.any(0).nonzero().flatten().tolist() == [4, 7]
    assert not piece.lora_A.any()


@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=str)
def test_convolution_weight_form_is_its_forward(conv: nn.Module) -> None:
    piece, x = conv_piece(conv), torch.randn(2, 4, 9, 8, 7)[(..., 0, 0)[: 6 - conv.weight.dim()]]
    changed = conv._conv_forward(x, conv.weight + piece.weight_delta(), conv.bias)
    torch.testing.assert_close(conv(x) + piece(x), changed, atol=1e-4, rtol=1e-4)


def test_dropout_is_the_formula_on_the_masked_input() -> None:
    piece = linear(dropout=0.25).double()
    x = torch.randn(3, 12, dtype=torch.double, requires_grad=True)
    torch.manual_seed(1)
    out = piece(x)
    out.square().sum().backward()
    grads = [x.grad, piece.lora_A.grad, piece.lora_B.grad]
    torch.manual_seed(1)
    mask = torch.rand_like(x, dtype=torch.float32) < 0.75
    leaves = [t.detach().requires_grad_() for t in (x, piece.lora_A, piece.lora_B)]
    expected = 2.0 * (leaves[0] * mask / 0.75) @ leaves[1].T @ leaves[2].T
    torch.testing.assert_close(out, expected)
    naive = torch.autograd.grad(expected.square().sum(), leaves)
    torch.testing.assert_close(grads, list(naive))


def test_dropout_is_off_in_evaluation() -> None:
    piece, x = linear(dropout=0.5).eval(), torch.randn(3, 12)
    torch.testing.assert_close(piece(x), linear()(x))


@pytest.mark.parametrize("geometry", [None, ((2,), (1,), (1,), False, (0,), 1)])
def test_masked_projection_passes_gradcheck_twice(geometry) -> None:
    x = torch.randn(2, 3, 5, dtype=torch.double, requires_grad=True)
    shape = (4, 5) if geometry is None else (4, 3, 3)
    weight = torch.randn(shape, dtype=torch.double, requires_grad=True)
    mask = torch.rand(x.shape) > 0.3

    def run(x: Tensor, weight: Tensor) -> Tensor:
        return _Masked.apply(x, mask, weight, geometry)

    assert torch.autograd.gradcheck(run, (x, weight))
    assert torch.autograd.gradgradcheck(run, (x, weight))


def test_dropout_keeps_one_byte_a_value_and_no_second_input() -> None:
    x = torch.randn(4, 64, 12, requires_grad=True)
    without = saved_bytes(linear(), x)
    assert saved_bytes(linear(dropout=0.1), x) == without + x.numel()
    image = torch.randn(2, 4, 16, 16, requires_grad=True)
    conv = CONVOLUTIONS[3]
    without = saved_bytes(conv_piece(conv), image)
    assert saved_bytes(conv_piece(conv, 0.1), image) == without + image.numel()


def test_queries_and_values_share_the_saved_input() -> None:
    x = torch.randn(4, 64, 12)
    pieces = linear(), linear()
    one = saved_bytes(pieces[0], x)
    both = saved_bytes(lambda x: [piece(x) for piece in pieces], x)
    assert both == 2 * one - x.numel() * 4


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.double])
def test_computes_in_the_dtype_of_the_activations(dtype: torch.dtype, dropout: float) -> None:
    piece, x = linear(dropout), torch.randn(2, 3, 12, dtype=dtype, requires_grad=True)
    out = piece(x)
    out.float().sum().backward()
    assert out.dtype == x.grad.dtype == dtype
    assert piece.lora_A.grad.dtype == piece.lora_A.dtype == torch.float32


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_runs_under_autocast(dropout: float) -> None:
    piece, x = linear(dropout), torch.randn(2, 3, 12, requires_grad=True)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        out = piece(x)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    torch.manual_seed(1)
    torch.testing.assert_close(out.float(), piece(x), atol=0.5, rtol=0.05)


def test_checkpointing_repeats_the_dropout() -> None:
    piece, x = linear(dropout=0.5), torch.randn(3, 12, requires_grad=True)
    grads = []
    for run in (piece, lambda x: checkpoint(piece, x, use_reentrant=False)):
        torch.manual_seed(2)
        grads.append(torch.autograd.grad(run(x).square().sum(), [x, piece.lora_A]))
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_compiles_as_one_graph(dropout: float) -> None:
    piece, x = linear(dropout), torch.randn(4, 12, requires_grad=True)
    compiled = torch.compile(piece, fullgraph=True, backend="aot_eager")
    torch.manual_seed(3)
    expected = torch.autograd.grad(piece(x).square().sum(), [x, piece.lora_A])
    torch.manual_seed(3)
    torch.testing.assert_close(
        torch.autograd.grad(compiled(x).square().sum(), [x, piece.lora_A]), expected
    )


def test_gradients_of_single_rows_can_be_had() -> None:
    piece, x = linear(dropout=0.25), torch.randn(3, 12)
    weights = {name: p.detach() for name, p in piece.named_parameters()}

    def loss(weights: dict[str, Tensor], row: Tensor) -> Tensor:
        return torch.func.functional_call(piece, weights, (row,)).square().sum()

    rows = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0), randomness="different")
    assert rows(weights, x)["lora_A"].shape == (3, 4, 12)


@pytest.mark.parametrize("shape", [(5, 12), (5, 3, 12), (5, 2, 3, 12)])
def test_batched_rows_are_the_single_pieces(shape: tuple[int, ...]) -> None:
    pieces = [linear(scale=1.0), filled(linear(scale=3.0))]
    x, index = torch.randn(shape), torch.tensor([1, -1, 0, 0, 1])
    out = LowRank.batched(pieces, index)(x)
    for row, i in enumerate(index):
        expected = torch.zeros_like(out[row]) if i < 0 else pieces[i](x[row])
        torch.testing.assert_close(out[row], expected)


def test_batched_rows_train_their_own_piece() -> None:
    pieces = [linear(), linear()]
    LowRank.batched(pieces, torch.tensor([1, -1]))(torch.randn(2, 3, 12)).sum().backward()
    assert not pieces[0].lora_A.grad.any()
    assert pieces[1].lora_A.grad.any()


def test_batched_is_left_to_the_core_where_it_cannot_be_exact() -> None:
    index = torch.tensor([0, 1])
    assert LowRank.batched([linear(), LowRank(LINEAR, 2, 1.0, 0.0)], index) is None
    assert LowRank.batched([linear(), linear(dropout=0.1)], index) is None
    assert LowRank.batched([linear(), linear(dropout=0.1).eval()], index) is not None
