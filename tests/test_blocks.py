"""Blocks that switch adapters: nested, closed in any order, in threads, tasks and copies."""

import asyncio
import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftcore
from peftcore.errors import AttachError, PeftcoreError, UnknownName
from peftcore.testing.matrix import tiny

NAMES = ("a", "b")


class Served:
    """A toy with two adapters, and what each row has to be under each of them."""

    def __init__(self, method: str = "lora"):
        _, self.model, self.batch = tiny("toy")
        for i, name in enumerate(NAMES):
            adapter = peftcore.attach(self.model, method, name=name)
            noise = torch.Generator().manual_seed(i)
            with torch.no_grad():
                for parameter in adapter.parameters():
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=noise))
        self.wanted: dict[str | None, Tensor] = {}
        for chosen in (None, *NAMES):
            peftcore.activate(self.model, *filter(None, [chosen]))
            self.wanted[chosen] = self.logits()
        assert len({tuple(t.flatten().tolist()) for t in self.wanted.values()}) == 3
        peftcore.activate(self.model, "a")

    def logits(self) -> Tensor:
        with torch.no_grad():
            return self.model(**self.batch).logits  # type: ignore[no-any-return]

    def rows(self, *, model: nn.Module | None = None) -> list[str | None]:
        """Return, for both rows, whose output they are."""
        with torch.no_grad():
            out = (model or self.model)(**self.batch).logits
        found: list[str | None] = []
        for i in range(2):
            near = [n for n, t in self.wanted.items() if torch.allclose(out[i], t[i], atol=1e-5)]
            found += near if len(near) == 1 else ["wrong"]
        return found


BLOCKS: dict[str, tuple[Callable[[nn.Module], Any], list[str | None]]] = {
    "route": (lambda m: peftcore.route(m, ["b", None]), ["b", None]),
    "other route": (lambda m: peftcore.route(m, ["a", "b"]), ["a", "b"]),
    "disabled": (peftcore.disabled, [None, None]),
}


@contextmanager
def activated(model: nn.Module) -> Iterator[None]:
    """Activate b for a while, as a user who puts it back by hand."""
    before = [n for n, a in peftcore.adapters(model).items() if a.active]
    peftcore.activate(model, "b")
    yield
    peftcore.activate(model, *before)


@pytest.mark.parametrize("method", ["lora", "bitfit", "norm_tuning", "full", "loreft", "probe"])
def test_blocks_nest_in_every_order_and_restore_what_they_found(method: str) -> None:
    served = Served(method)
    for order in permutations(BLOCKS):
        opened: list[Any] = []
        for name in order:
            make, wanted = BLOCKS[name]
            block = make(served.model)
            block.__enter__()
            opened.append((block, wanted))
            assert served.rows() == wanted, (order, name)
        while opened:
            opened.pop()[0].__exit__(None, None, None)
            wanted = opened[-1][1] if opened else ["a", "a"]
            assert served.rows() == wanted, order


@pytest.mark.parametrize("method", ["lora", "bitfit"])
def test_blocks_may_be_closed_in_another_order_than_opened(method: str) -> None:
    served = Served(method)
    for order in permutations(BLOCKS):
        for closing in permutations(range(3)):
            blocks = [BLOCKS[name][0](served.model) for name in order]
            for block in blocks:
                block.__enter__()
            left = [0, 1, 2]
            for i in closing:
                blocks[i].__exit__(None, None, None)
                left.remove(i)
                wanted = BLOCKS[order[left[-1]]][1] if left else ["a", "a"]
                assert served.rows() == wanted, (order, closing, i)


@pytest.mark.parametrize("method", ["lora", "bitfit"])
def test_activating_inside_a_block_ends_with_it(method: str) -> None:
    served = Served(method)
    for make, inside in BLOCKS.values():
        with make(served.model):
            peftcore.activate(served.model, "b")
            assert served.rows() == ["b", "b"]
            with make(served.model):
                assert served.rows() == inside
            assert served.rows() == ["b", "b"]
            peftcore.activate(served.model)
            assert served.rows() == [None, None]
        assert served.rows() == ["a", "a"] and peftcore.adapters(served.model)["a"].active


@pytest.mark.parametrize("method", ["lora", "bitfit"])
def test_an_exception_inside_of_blocks_leaves_all_as_it_was(method: str) -> None:
    served = Served(method)
    with pytest.raises(ZeroDivisionError), peftcore.route(served.model, ["b", None]):
        with pytest.raises(UnknownName), peftcore.route(served.model, ["c", None]):
            pass
        assert served.rows() == ["b", None]
        with peftcore.disabled(served.model):
            _ = 1 / 0
    assert served.rows() == ["a", "a"]


def test_generators_that_hold_blocks_may_end_in_any_order() -> None:
    served = Served()

    def streaming(*names: str | None) -> Iterator[list[str | None]]:
        with peftcore.route(served.model, names):
            yield served.rows()

    first, second = streaming("a", "b"), streaming("b", None)
    assert next(first) == ["a", "b"] and next(second) == ["b", None]
    first.close()
    assert served.rows() == ["b", None]
    second.close()
    assert served.rows() == ["a", "a"]


def test_asyncio_tasks_have_their_own_blocks() -> None:
    served = Served()
    found: dict[str, list[list[str | None]]] = {name: [] for name in (*BLOCKS, "none")}

    async def serve(name: str) -> None:
        for _ in range(5):
            if name == "none":
                found[name].append(served.rows())
                await asyncio.sleep(0)
                continue
            with BLOCKS[name][0](served.model):
                await asyncio.sleep(0)
                found[name].append(served.rows())
                await asyncio.sleep(0)

    async def all_of_them() -> None:
        await asyncio.gather(*map(serve, found))

    asyncio.run(all_of_them())
    for name, wanted in {**{n: w for n, (_, w) in BLOCKS.items()}, "none": ["a", "a"]}.items():
        assert found[name] == [wanted] * 5, name
    assert served.rows() == ["a", "a"]


def test_prompt_lengths_belong_to_a_task() -> None:
    served = Served()
    holder = served.model.__dict__["_peftcore_adapters"].holder
    seen: list[Any] = []

    async def one() -> None:
        with peftcore.prompt(served.model, torch.tensor([1, 2])):
            await asyncio.sleep(0)
            assert holder.lengths is not None

    async def other() -> None:
        seen.append(holder.lengths)

    async def both() -> None:
        await asyncio.gather(one(), other())

    asyncio.run(both())
    assert seen == [None] and holder.lengths is None


def test_a_task_that_would_get_the_values_of_another_ones_block_is_refused() -> None:
    served = Served("bitfit")
    said: list[str] = []

    async def silent(entered: asyncio.Event, done: asyncio.Event) -> None:
        with peftcore.disabled(served.model):
            entered.set()
            await done.wait()
            assert served.rows() == [None, None]

    async def other(entered: asyncio.Event, done: asyncio.Event) -> None:
        await entered.wait()
        for attempt in (served.rows, lambda: peftcore.activate(served.model, "b")):
            with pytest.raises(AttachError) as caught:
                attempt()
            said.append(str(caught.value))
        done.set()

    async def both() -> None:
        entered, done = asyncio.Event(), asyncio.Event()
        await asyncio.gather(silent(entered, done), other(entered, done))

    asyncio.run(both())
    assert all("such adapters from one thread" in text for text in said) and len(said) == 2
    assert served.rows() == ["a", "a"]


def in_threads(*works: Callable[[], None]) -> None:
    """Run functions in threads of their own, and raise what they raise."""
    raised: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


@pytest.mark.parametrize("method", ["lora", "loreft"])
def test_threads_with_a_route_each_get_their_own_rows(method: str) -> None:
    served = Served(method)
    start = threading.Barrier(3)

    def serve(*names: str | None) -> Callable[[], None]:
        def work() -> None:
            start.wait()
            for _ in range(20):
                with peftcore.route(served.model, names):
                    assert served.rows() == list(names)
                    with peftcore.disabled(served.model):
                        assert served.rows() == [None, None]

        return work

    def plain() -> None:
        start.wait()
        for _ in range(40):
            assert served.rows() == ["a", "a"]

    in_threads(serve("a", "b"), serve("b", None), plain)
    assert served.rows() == ["a", "a"] and peftcore.adapters(served.model)["a"].active
    assert not served.model.__dict__["_peftcore_adapters"].holder.blocks


@pytest.mark.parametrize("method", ["bitfit", "full", "norm_tuning"])
def test_values_of_base_parameters_are_never_served_across_threads(method: str) -> None:
    served = Served(method)
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with peftcore.disabled(served.model):
            inside.set()
            done.wait(20)
            assert served.rows() == [None, None]

    def attempt() -> None:
        inside.wait(20)
        try:
            for refused in (
                served.rows,
                lambda: peftcore.activate(served.model, "b"),
                lambda: peftcore.route(served.model, ["a", "b"]).__enter__(),
            ):
                with pytest.raises(AttachError, match="from one thread"):
                    refused()
            with peftcore.disabled(served.model):  # which needs the same values
                assert served.rows() == [None, None]
        finally:
            done.set()

    in_threads(hold, attempt)
    assert served.rows() == ["a", "a"]


@pytest.mark.parametrize("method", ["lora", "bitfit"])
@pytest.mark.parametrize("block", BLOCKS)
def test_what_cannot_be_done_inside_a_block_is_refused_and_changes_nothing(
    method: str, block: str, tmp_path: Path
) -> None:
    served = Served(method)
    model = served.model
    peftcore.adapters(model)["a"].save(tmp_path)
    make, wanted = BLOCKS[block]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attempts: dict[str, Callable[[], object]] = {
        "attach": lambda: peftcore.attach(model, "lora", name="c"),
        "load": lambda: peftcore.load(model, tmp_path, name="c"),
        "merge": lambda: peftcore.merge(model, "a"),
        "merge_and_unload": lambda: peftcore.merge_and_unload(model, "a"),
        "unmerge": lambda: peftcore.unmerge(model),
        "detach": lambda: peftcore.detach(model, "a"),
        "detach all": lambda: peftcore.detach(model),
    }
    for name, attempt in attempts.items():
        with make(model):
            with pytest.raises(AttachError, match="leave the block first"):
                attempt()
            assert served.rows() == wanted, name
        assert served.rows() == ["a", "a"], name
    assert list(peftcore.adapters(model)) == ["a", "b"]
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("method", ["lora", "bitfit"])
def test_blocks_are_refused_while_an_adapter_is_merged(method: str) -> None:
    served = Served(method)
    peftcore.merge(served.model, "b")
    for make, _ in BLOCKS.values():
        with pytest.raises(PeftcoreError, match="is merged"):
            make(served.model).__enter__()
    assert served.rows() == ["b", "b"]
    peftcore.unmerge(served.model)
    assert served.rows() == ["b", "b"]


@pytest.mark.parametrize("method", ["lora", "bitfit", "loreft"])
def test_saving_inside_a_block_writes_what_saving_outside_writes(
    method: str, tmp_path: Path
) -> None:
    served = Served(method)
    adapter = peftcore.adapters(served.model)["a"]
    adapter.save(tmp_path / "outside")
    for name, (make, wanted) in BLOCKS.items():
        with make(served.model):
            adapter.save(tmp_path / name)
            assert served.rows() == wanted
        saved = peftcore.read(tmp_path / name)
        assert saved[0] == peftcore.read(tmp_path / "outside")[0]


@pytest.mark.parametrize("method", ["lora", "loreft", "bitfit"])
def test_values_changed_inside_a_route_count(method: str) -> None:
    served = Served(method)
    with peftcore.route(served.model, ["a", "b"]):
        before = served.logits()
        with torch.no_grad():
            for parameter in peftcore.adapters(served.model)["a"].parameters():
                parameter.add_(0.2)
        changed = served.logits()
        assert not torch.allclose(before[0], changed[0]) and torch.equal(before[1], changed[1])
        for parameter in peftcore.adapters(served.model)["a"].parameters():
            parameter.data.sub_(0.2)
        torch.testing.assert_close(served.logits(), before)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_copy_made_inside_a_block_is_as_outside_of_it(block: str) -> None:
    served = Served("lora")
    make, wanted = BLOCKS[block]
    with make(served.model):
        twin = copy.deepcopy(served.model)
        other = pickle.loads(pickle.dumps(served.model))
        assert served.rows() == wanted
        assert served.rows(model=twin) == served.rows(model=other) == ["a", "a"]
    for model in (twin, other):
        with make(model):
            assert served.rows(model=model) == wanted and served.rows() == ["a", "a"]
        peftcore.activate(model, "b")
        assert served.rows(model=model) == ["b", "b"] and served.rows() == ["a", "a"]


@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("block", BLOCKS)
def test_a_copy_that_would_lose_the_values_of_its_adapter_is_refused(
    block: str, copied: Callable[[Any], Any]
) -> None:
    served = Served("bitfit")
    make, wanted = BLOCKS[block]
    with make(served.model):
        with pytest.raises(AttachError, match="leave the block first"):
            copied(served.model)
        assert served.rows() == wanted
    assert served.rows() == ["a", "a"]
    assert served.rows(model=copy.deepcopy(served.model)) == ["a", "a"]


def test_blocks_of_two_models_do_not_know_each_other() -> None:
    one, two = Served(), Served("bitfit")
    with peftcore.route(one.model, ["a", "b"]):
        assert two.rows() == ["a", "a"]
        peftcore.activate(two.model, "b")
        with peftcore.disabled(two.model):
            assert one.rows() == ["a", "b"] and two.rows() == [None, None]
        assert two.rows() == ["b", "b"]
    assert one.rows() == ["a", "a"] and two.rows() == ["b", "b"]


def test_an_activation_put_back_by_hand_inside_a_route_gives_its_adapters() -> None:
    served = Served()
    with activated(served.model), peftcore.route(served.model, ["a", None]):
        assert served.rows() == ["a", None]
    assert served.rows() == ["a", "a"]
