import copy
import threading

import peftcore
import pytest
import torch
from peftcore import PeftcoreError
from peftcore.testing import loss_of, perturb, run, same, tiny


def with_side(**config: object) -> tuple:
    _, model, batch = tiny("toy")
    adapter = peftcore.attach(model, "lst", **{"reduction": 4, "heads": 2, **config})
    return model, adapter, batch


def test_the_side_network_reads_what_each_block_gives_and_gives_what_the_last_one_does() -> None:
    model, adapter, batch = with_side()
    perturb(adapter)
    side, mask = adapter.placed[-1].piece, batch["attention_mask"].bool()
    with torch.no_grad():
        logits = model(**batch).logits
        with peftcore.disabled(model):
            states = [model.embeddings(batch["input_ids"])]
            for block in model.blocks:
                states.append(block(states[-1], mask))
        g = side.enter(states[0])
        for i in range(2):
            mu = torch.sigmoid(side.alphas[i] / 0.1)
            mixed = mu * g + (1 - mu) * side.downs[i](states[i + 1])
            g = side.blocks[i](mixed, src_key_padding_mask=~mask)
        out = side.up(side.norm(g)) * mask[:, :, None]
        expected = model.head(out.sum(1) / mask.sum(1, keepdim=True))
    torch.testing.assert_close(logits, expected)


def test_no_gradient_goes_through_the_backbone() -> None:
    model, adapter, batch = with_side()
    graphs: list[bool] = []
    for module in (model.embeddings, model.blocks[0], model.blocks[1].up):
        module.register_forward_hook(lambda _, given, out: graphs.append(out.requires_grad))
    loss_of(model(**batch)).backward()
    adapter.check_alive()
    assert graphs == [False] * 3


@pytest.mark.parametrize("other", ["lora", "bitfit"])
def test_it_goes_with_no_other_method(other: str) -> None:
    _, model, _ = tiny("toy")
    with pytest.raises(PeftcoreError, match=r"^methods: lst goes with no other method; choose it"):
        peftcore.plan(model, [other, "lst"])
    adapter = peftcore.attach(model, "lst", reduction=4, modules_to_save=["head"])
    assert adapter.plan.head == 16 * 3 + 3


def test_sizes_that_do_not_fit_are_refused() -> None:
    _, model, _ = tiny("toy")
    with pytest.raises(PeftcoreError, match=r"lst\.reduction: 5 does not divide 16, .* Write redu"):
        peftcore.plan(model, "lst", reduction=5)
    with pytest.raises(
        PeftcoreError, match=r"lst\.heads: 3 does not divide 4, the width of the si"
    ):
        peftcore.plan(model, "lst", reduction=4, heads=3)


def test_a_copy_reads_its_own_blocks() -> None:
    model, adapter, batch = with_side()
    perturb(adapter)
    tuned, twin = run(model, batch), copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.blocks[0].parameters():
            parameter.zero_()
    assert not same(run(twin, batch), tuned) and same(run(model, batch), tuned)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    """A block that is computed again hands its state to the side network of its own call."""

    def gradients(*, checkpointed: bool) -> list[torch.Tensor]:
        knows, model, first = tiny("bert", "sequence-classification")
        second = knows.batch(model, rows=3)
        adapter = peftcore.attach(model, "lst", reduction=4)
        perturb(adapter)
        model.train()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        (loss_of(model(**first)) + loss_of(model(**second))).backward()
        return [p.grad for p in adapter.parameters()]

    for one, two in zip(gradients(checkpointed=True), gradients(checkpointed=False), strict=True):
        torch.testing.assert_close(one, two)


def test_two_threads_each_have_their_own_states() -> None:
    model, adapter, _ = with_side()
    perturb(adapter)
    knows = peftcore.backbone_named("toy")
    batches = [knows.batch(model, rows=3) for _ in range(2)]
    alone = [run(model, batch) for batch in batches]
    wrong: list[int] = []

    def serve(i: int) -> None:
        for _ in range(30):
            if not same(run(model, batches[i]), alone[i]):
                wrong.append(i)

    threads = [threading.Thread(target=serve, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
