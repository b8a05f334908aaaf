import peftcore
import torch
from peftcore import Context
from peftcore.testing import perturb, run, tiny
from peftcore_small_methods.red import Edit


def test_a_representation_is_scaled_and_shifted() -> None:
    piece, hidden = Edit(6), torch.randn(2, 3, 6)
    torch.nn.init.normal_(piece.scaling)
    torch.nn.init.normal_(piece.bias)
    torch.testing.assert_close(piece(hidden, Context()), hidden * piece.scaling + piece.bias)


def test_a_large_model_trains_two_vectors_a_layer() -> None:
    model = peftcore.build_on_meta("bert-base-cased")
    assert peftcore.plan(model, "red").trainable == 12 * 2 * 768


def test_rows_with_edits_of_their_own_are_one_product_and_one_sum() -> None:
    knows, model, _ = tiny("toy")
    batch = knows.batch(model, rows=4)
    single, calls = {None: run(model, batch)[1]}, []
    for times, name in ((1, "a"), (2, "b")):
        adapter = peftcore.attach(model, "red", targets=["mlp.down", "block"], name=name)
        for _ in range(times):
            perturb(adapter)
        single[name] = run(model, batch)[1]
        for item in adapter.placed:
            item.piece.register_forward_hook(lambda *_: calls.append(1))
    names = ["b", None, "a", "b"]
    with peftcore.route(model, names):
        mixed = run(model, batch)[1]
    assert not calls, "no piece ran by itself"
    for row, name in enumerate(names):
        torch.testing.assert_close(mixed[row], single[name][row])


def test_edits_learn_where_rows_have_their_own() -> None:
    _, model, batch = tiny("toy")
    adapters = [peftcore.attach(model, "red", name=name) for name in ("a", "b")]
    with peftcore.route(model, ["a", None]):
        model(**batch).loss.backward()
    assert all(bool(p.grad.any()) for p in adapters[0].parameters())
    assert not any(p.grad is not None and bool(p.grad.any()) for p in adapters[1].parameters())
