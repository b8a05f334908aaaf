"""Which tokens are edited: grammar, short prompts, padding, masks, generation."""

import copy
import pickle

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from peftcore import AttachError, Context
from peftcore_loreft.config import SourceConfig, parse_positions
from peftcore_loreft.pieces import FORMULAS, Edit
from peftcore_loreft.positions import Positions

WIDTH = 4


def edit(positions: str, part: str = "both", name: str = "lobireft") -> Edit:
    piece = Edit(FORMULAS[name], WIDTH, Positions(positions), part, rank=2)
    with torch.no_grad():
        piece.start(lambda: torch.empty(0))
    return piece


def edited(piece: Edit, prompt: Tensor | None, shape: tuple[int, ...]) -> list[list[int]]:
    hidden = torch.randn(*shape, WIDTH)
    out = piece(hidden, Context(prompt=prompt))
    changed = (out != hidden).any(-1).reshape(-1, shape[-1])
    return [row.nonzero().flatten().tolist() for row in changed]


def prompt(*spans: tuple[int, int], length: int) -> Tensor:
    places = torch.arange(length)
    return torch.stack([(places >= start) & (places < stop) for start, stop in spans])


@pytest.mark.parametrize(
    ("text", "counts"),
    [("f7+l7", (7, 7)), ("f1", (1, 0)), ("l5", (0, 5)), ("f3+l12", (3, 12)), ("all", None)],
)
def test_positions_are_read(text, counts):
    assert parse_positions(text) == counts


@pytest.mark.parametrize("text", ["", "f", "7", "f0", "l5+f5", "f1+", "+l1", "f1l1", "f1+l", "F1"])
def test_unreadable_positions_are_refused_with_the_grammar(text):
    with pytest.raises(ValidationError, match="write f7\\+l7, f1, l5 or all"):
        SourceConfig(positions=text)


@pytest.mark.parametrize(
    ("length", "first", "last"),
    [
        (10, range(5), range(5, 10)),
        (30, range(7), range(23, 30)),
        (14, range(7), range(7, 14)),
        (11, range(5), range(6, 11)),
        (3, [0], [2]),
        (2, [0], [1]),
        (1, [], []),
    ],
)
def test_at_most_half_of_the_prompt_is_first_and_half_is_last(length, first, last):
    whole = [[*first, *last]]
    assert edited(edit("f7+l7"), None, (1, length)) == whole
    assert edited(edit("f7+l7"), prompt((0, length), length=length + 9), (1, length + 9)) == whole
    assert edited(edit("f7+l7", "prefix"), None, (1, length)) == [[*first]]
    assert edited(edit("f7+l7", "suffix"), None, (1, length)) == [[*last]]


def test_the_first_and_the_last_slots_never_meet():
    mask = prompt(*((0, n) for n in range(41)), length=40)
    found = Positions("f9+l13").slots(torch.zeros(41, 40, WIDTH), Context(prompt=mask), "both")
    used = found.tokens[found.live[:, 0]].tolist()
    assert len(used) == len(set(used)) == sum(min(9, n // 2) + min(13, n // 2) for n in range(41))


def test_each_row_has_its_own_places_under_left_and_right_padding_and_answers():
    rows = prompt((0, 3), (4, 12), (2, 9), (0, 12), (5, 6), length=12)
    assert edited(edit("f2+l2"), rows, (5, 12)) == [
        [0, 2],
        [4, 5, 10, 11],
        [2, 3, 7, 8],
        [0, 1, 10, 11],
        [],
    ]


def test_a_prompt_with_gaps_counts_its_own_tokens():
    row = torch.tensor([[0, 1, 0, 1, 1, 0, 1, 1, 0]], dtype=torch.bool)
    assert edited(edit("f2+l1"), row, (1, 9)) == [[1, 3, 7]]


def test_all_is_every_token_of_the_prompt():
    assert edited(edit("all"), prompt((1, 4), (0, 2), length=5), (2, 5)) == [[1, 2, 3], [0, 1]]
    assert edited(edit("all"), None, (1, 3)) == [[0, 1, 2]]


def test_without_a_prompt_the_real_tokens_are_it():
    hidden = torch.randn(1, 6, WIDTH)
    out = edit("f1+l1")(hidden, Context(mask=prompt((2, 6), length=6)))
    assert (out != hidden).any(-1).tolist() == [[False, False, True, False, False, True]]


def test_more_leading_dimensions_are_more_rows_and_vectors_alone_are_all_edited():
    assert edited(edit("f1"), None, (2, 3, 4)) == [[0]] * 6
    assert edited(edit("f1"), None, (3,)) == [[0, 1, 2]]


def test_generated_tokens_are_returned_as_they_came():
    hidden = torch.randn(2, 1, WIDTH)
    assert edit("f7+l7")(hidden, Context(generated=True)) is hidden


def test_another_sequence_than_the_prompts_is_an_error():
    with pytest.raises(AttachError, match=r"known for \(1, 5\) tokens.*of \(1, 4\)"):
        edit("f1")(torch.randn(1, 4, WIDTH), Context(prompt=prompt((0, 5), length=5)))


def test_unused_slots_change_nothing_and_give_no_gradient():
    piece = edit("f7+l7")
    hidden = torch.randn(1, 20, WIDTH, requires_grad=True)
    out = piece(hidden, Context(prompt=prompt((4, 4), length=20)))
    torch.testing.assert_close(out, hidden, rtol=0, atol=0)
    out.sum().backward()
    assert not piece.learned_source.grad.any()
    torch.testing.assert_close(hidden.grad, torch.ones_like(hidden), rtol=0, atol=0)


def test_pieces_of_one_method_find_the_places_once_for_each_context():
    positions = Positions("f1+l1")
    hidden, context = torch.zeros(2, 6, WIDTH), Context(prompt=prompt((0, 6), (2, 6), length=6))
    first = positions.slots(hidden, context, "both")
    again = positions.slots(hidden, context, "both")
    assert first.tokens.data_ptr() == again.tokens.data_ptr()
    other = positions.slots(hidden, Context(prompt=prompt((0, 4), (0, 6), length=6)), "both")
    assert other.tokens.tolist() != first.tokens.tolist()


def test_copies_and_pickles_leave_the_found_places_behind():
    pieces = torch.nn.ModuleList([edit("f1"), edit("f1")])
    pieces[1].positions = pieces[0].positions
    pieces[0](torch.zeros(1, 4, WIDTH), Context())
    for twin in (copy.deepcopy(pieces), pickle.loads(pickle.dumps(pieces))):
        assert twin[0].positions is twin[1].positions is not pieces[0].positions
        assert twin[0].positions._found is None
        hidden = torch.randn(1, 4, WIDTH)
        expected = pieces[0](hidden, Context())
        torch.testing.assert_close(twin[0](hidden, Context()), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", FORMULAS)
def test_a_compiled_edit_is_the_plain_one(name):
    piece = edit("f2+l2", name=name)
    compiled = torch.compile(piece, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        hidden = torch.randn(2, 9, WIDTH)
        context = Context(prompt=prompt((0, 9), (5, 8), length=9))
        expected = piece(hidden, context)
        torch.testing.assert_close(compiled(hidden, context), expected)
        compiled(hidden, context).sum().backward()


def test_a_checkpointed_edit_has_the_plain_gradients():
    piece, context = edit("f2+l2"), Context(prompt=prompt((0, 9), (5, 8), length=9))
    hidden = torch.randn(2, 9, WIDTH, requires_grad=True)
    grads = []
    for run in (piece, lambda h, c: checkpoint(piece, h, c, use_reentrant=False)):
        out = run(hidden, context).square().sum()
        grads.append(torch.autograd.grad(out, [hidden, *piece.parameters()]))
    for plain, again in zip(*grads, strict=True):
        torch.testing.assert_close(plain, again, rtol=0, atol=0)
