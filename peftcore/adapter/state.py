"""What peftcore knows of a model that carries adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftcore.adapter.plan import Plan
from peftcore.adapter.selecting import Selected
from peftcore.adapter.statistics import Statistics
from peftcore.errors import AttachError, DeadPieceError
from peftcore.method.method import Method, Methods
from peftcore.method.pieces import Around, Piece, Reparam
from peftcore.method.placed import Placed
from peftcore.model.features import prompt_stack
from peftcore.model.offloading import keepers, offloads
from peftcore.run.holder import ContextHolder
from peftcore.run.seat import seat_of

#: Name of the state among the attributes of a model that carries adapters.
STATE = "_peftcore_adapters"


class Swap:
    """One base parameter that an adapter holds a value of its own for.

    While the adapter is active its own parameter sits in the module and the base's is parked here;
    the base's tensor is never written to.
    """

    def __init__(self, selected: Selected, places: list[tuple[nn.Module, str]]):
        self.selected = selected
        self.places = places
        base = self.base = selected.info.parameter
        low = base.dtype in (torch.float16, torch.bfloat16) and selected.trained
        dtype = torch.float32 if low else base.dtype
        value = base.detach().to(dtype, copy=True)
        self.own = nn.Parameter(value, requires_grad=selected.trained)

    @property
    def name(self) -> str:
        """Name in a checkpoint."""
        return self.selected.name

    def check_at_hand(self) -> None:
        """Refuse what cannot be done once the parameter's place was offloaded."""
        if any(offloads(module) for module, _ in self.places):
            raise AttachError(
                f"{self.selected.info.name} was offloaded by accelerate while an adapter had a"
                " value of its own there, and cannot be trained, exchanged or saved: take the hooks"
                " away first, with accelerate.hooks.remove_hook_from_module(model, recurse=True)."
            )

    def come_home(self) -> None:
        """Take the place of an equal copy, as accelerate leaves one when its hooks go."""
        for module, leaf in self.places:
            there = module._parameters.get(leaf)
            if there is not self.own and not offloads(module) and _copied(there, self.own):
                module._parameters[leaf] = self.own

    def put_in(self, *, own: bool) -> None:
        """Put the adapter's own parameter, or the base's, into the modules."""
        coming, going = (self.own, self.base) if own else (self.base, self.own)
        self.check_at_hand()
        if coming.device != going.device:  # moved by hand, parameter by parameter
            coming.data = coming.data.to(going.device)
        for module, leaf in self.places:
            there = module._parameters.get(leaf)
            if there is not going and going is self.own and not _copied(there, going):
                continue  # somebody has put another parameter there, which is theirs
            module._parameters[leaf] = coming
        self._note_cast()

    @torch.no_grad()
    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Do to the parameter that is parked what was done to the one in the modules."""
        module, leaf = self.places[0]
        for parked in (self.own, self.base):
            if module._parameters.get(leaf) is not parked:
                parked.data = fn(parked.data)
        self._note_cast()

    def _note_cast(self) -> None:
        for module, leaf in self.places:
            casts = seat_of(module).casts
            if self.own.dtype != self.base.dtype or leaf in casts:
                casts[leaf] = self.base.dtype


def _copied(there: nn.Parameter | None, own: nn.Parameter) -> bool:
    """Tell whether a parameter is an adapter's own, as it comes back from being offloaded."""
    alike = there is not None and there.shape == own.shape and there.device == own.device
    return alike and there is not None and not own.is_meta and torch.equal(there, own)


class Attached:
    """What one adapter is, as the model that carries it knows it; users hold an :class:`Adapter`.

    Attributes:
        name: name on this model.
        model: the model that carries it; None once it is detached.
        plan: what was attached.
        swaps: base parameters that it holds values of its own for.
    """

    def __init__(self, name: str, model: nn.Module, plan: Plan):
        self.name = name
        self.model: nn.Module | None = model
        self.plan = plan
        self.swaps: list[Swap] = []
        #: Running statistics of its own, by name in a checkpoint, while they are not in the model.
        self.statistics: dict[str, Tensor] = {}
        #: Its own values of parameters and statistics are in the model.
        self.is_in = False
        #: A piece of it uses the context of the call.
        self.uses_context = any(_uses_context(item.piece) for item in plan.placed)
        #: What its pieces need of a call, to the name of a method.
        self.needs = {need: item.label for item in plan.placed for need in item.piece.needs}
        #: The same by the stack whose tokens they are at.
        self.stack_needs = _by_stack(plan)
        #: A piece keeps something for the tokens of a sequence, so that its beginning must be seen.
        self.keeps = any(item.piece.serves_rows or item.piece.precomputes for item in plan.placed)
        #: Training hooks that the loop has called so far, whether or not a method has them.
        self.called: set[str] = set()
        self._by_label: dict[str, list[Placed]] = {}
        for item in plan.placed:
            self._by_label.setdefault(item.label, []).append(item)

    @property
    def methods(self) -> Methods:
        """The methods, in order."""
        return self.plan.methods

    @property
    def placed(self) -> list[Placed]:
        """The pieces, in model order."""
        return self.plan.placed

    @property
    def active(self) -> bool:
        """Whether the adapter takes part in the model's forward."""
        return self.model is not None and self.name in state_of(self.model).active

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield (name in a checkpoint, parameter) of all that is trained."""
        self.come_home()
        seen: set[int] = set()
        for item in self.placed:
            for name, parameter in item.piece.named_parameters():
                if parameter.requires_grad and id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield f"{item.name}.{name}", parameter
        for swap in self.swaps:
            if swap.selected.trained:
                yield swap.name, swap.own

    def come_home(self) -> None:
        """Take back the pieces' tensors and the adapter's values, if the model was offloaded."""
        for swap in self.swaps if self.is_in else ():
            swap.come_home()
        for item in self.placed:
            if item.away:
                item.come_home()
                if item.away and self.model is not None and keepers(self.model):
                    raise AttachError(
                        f"{item.name} was offloaded by accelerate together with the module that"
                        " encloses it (preload_module_classes): take the hooks away with"
                        " accelerate.hooks.remove_hook_from_module(model, recurse=True), and leave"
                        " out the adapter there."
                    )

    def parameters(self) -> list[nn.Parameter]:
        """Return all that is trained, for an optimiser."""
        return [parameter for _, parameter in self.named_parameters()]

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Return all that is trained as groups for an optimiser, each with its learning rate.

        Args:
            lr: the learning rate; methods may ask for a multiple of it for some tensors.
        """
        groups: dict[float, list[nn.Parameter]] = {}
        factors = self.learning_rates()
        for parameter in self.parameters():
            groups.setdefault(factors.get(parameter, 1.0), []).append(parameter)
        return [{"params": params, "lr": lr * factor} for factor, params in groups.items()]

    def learning_rates(self) -> dict[nn.Parameter, float]:
        """Return factors of the learning rate for the parameters that have one other than 1."""
        found: dict[nn.Parameter, float] = {}
        for method, call in self._called("peftcore_learning_rates"):
            for item in self._placed_by(method):
                tensors = dict(item.piece.named_parameters())
                for name, factor in (call(site=item.site, piece=item.piece) or {}).items():
                    if factor != 1:
                        found[tensors[name]] = factor
        return found

    def before_run(self, steps: int) -> None:
        """Let the methods prepare for training, or refuse it, before the first step.

        ``peftcore train`` calls it by itself.

        Args:
            steps: number of steps of the whole run.
        """
        for method, call in self._called("peftcore_before_run"):
            call(placed=self._placed_by(method), steps=steps)

    def extra_loss(self) -> Tensor | float:
        """Return what the methods add to the loss of a step, 0.0 where they add nothing.

        Add it before ``backward``; ``peftcore train`` does so by itself.
        """
        callers = self._called("peftcore_extra_loss")
        if not callers:
            return 0.0
        context = state_of(self.carrier()).holder.current
        parts: list[Tensor] = []
        for method, call in callers:
            placed = self._placed_by(method)
            part = call(placed=placed, kept=context.take_kept(item.piece for item in placed))
            if part is not None:
                parts.append(part)
        return sum((part.to(parts[0].device) for part in parts), start=0.0)

    def after_step(self, step: int, steps: int) -> None:
        """Let the methods act after an optimiser step and before the gradients are set to zero.

        ``peftcore train`` calls it by itself.

        Args:
            step: number of the step that was taken, from 1.
            steps: number of steps of the whole run.
        """
        callers = self._called("peftcore_after_step")
        if callers:
            with torch.no_grad():
                for method, call in callers:
                    call(placed=self._placed_by(method), step=step, steps=steps)

    def after_run(self) -> None:
        """Let the methods act once after the last step, before the adapter is saved.

        ``peftcore train`` calls it by itself.
        """
        with torch.no_grad():
            for method, call in self.methods.each("peftcore_after_run"):
                call(placed=self._placed_by(method))

    def _called(self, hook: str) -> list[tuple[Method, Callable[..., Any]]]:
        self.called.add(hook)
        return self.methods.each(hook)

    def _placed_by(self, method: Method) -> list[Placed]:
        return self._by_label.get(method.label, [])

    def modules_touched(self) -> list[nn.Module]:
        """Return the modules that carry a piece or a value of this adapter, once each."""
        found = {id(item.site.module): item.site.module for item in self.placed}
        for swap in self.swaps:
            found.update({id(module): module for module, _ in swap.places})
        return list(found.values())

    def check_alive(self, loss: Tensor | None = None) -> None:
        """Check that everything trained gets a gradient.

        Args:
            loss: what the gradients are of; they are not kept. Without it those that a backward
                pass has left are looked at, in which a penalty would hide a piece that never ran.

        Raises:
            DeadPieceError: a piece never ran, or its gradient does not reach it.
        """
        trained = dict(self.named_parameters())
        grads: Iterable[Tensor | None] = [parameter.grad for parameter in trained.values()]
        if loss is not None and not loss.requires_grad:
            grads = [None for _ in trained]
        elif loss is not None:
            inputs = list(trained.values())
            grads = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
        dead = [name for name, grad in zip(trained, grads, strict=True) if grad is None]
        if dead:
            more = f" and {len(dead) - 1} more" if len(dead) > 1 else ""
            alive = [name for name, grad in zip(trained, grads, strict=True) if grad is not None]
            raise DeadPieceError(
                f"{dead[0]}{more} of adapter {self.name!r} got no gradient:"
                f" {self._why_dead(dead[0], alive)}"
            )

    def _why_dead(self, dead: str, alive: Sequence[str]) -> str:
        """Say what keeps a tensor without a gradient, and what to do."""
        for item in self.placed:
            if dead.startswith(f"{item.name}.") and any(
                name.startswith(f"{item.name}.") for name in alive
            ):
                return (
                    f"{type(item.piece).__name__} ran and did not use it. Use it in forward, or"
                    " make it a buffer."
                )
        return (
            "the model does not use that place in this pass. Leave it out with exclude, or tell"
            " peftcore that the weight is read directly (direct_weights of the backbone)."
        )

    def carrier(self) -> nn.Module:
        """Return the model that carries the adapter.

        Raises:
            AttachError: it has been detached.
        """
        if self.model is None:
            raise AttachError(f"adapter {self.name!r} has been detached.")
        return self.model


def _uses_context(piece: Piece) -> bool:
    through = isinstance(piece, Reparam) and piece.through_uses_context
    widens = isinstance(piece, Around) and piece.widens
    return piece.uses_context or through or widens or bool(piece.needs)


def _by_stack(plan: Plan) -> dict[str, dict[str, str]]:
    """Return what pieces need by the stack of their tokens, where stacks have contexts."""
    found: dict[str, dict[str, str]] = {}
    placed = [item for item in plan.placed if item.piece.needs and item.site.stack]
    reads = prompt_stack(plan.survey) if placed else ""
    for item in placed if reads else ():
        there = found.setdefault(reads if item.site.crosses else item.site.stack, {})
        there.update(dict.fromkeys(item.piece.needs, item.label))
    return found


class ModelState:
    """What peftcore knows of one model that carries adapters.

    Attributes:
        adapters: by name, in the order in which they were attached.
        active: names of the active ones outside of blocks, in order.
        merged: merges that can be undone, oldest first: (name, undo entries).
        frozen: base parameters that attaching froze, with the modules and names of their places.
        statistics: running statistics of the base's batch norms.
        holder: the context of the batch that is running, and the open blocks.
        entries: modules whose calls make contexts, once a piece needs one: the entry of the model,
            and those of its stacks that have contexts of their own.
    """

    def __init__(self, holder: ContextHolder, statistics: Statistics) -> None:
        self.statistics = statistics
        self.adapters: dict[str, Attached] = {}
        self.active: tuple[str, ...] = ()
        self.merged: list[tuple[str, list[Any]]] = []
        self.frozen: list[tuple[nn.Module, str, nn.Parameter]] = []
        self.holder = holder
        self.entries: tuple[nn.Module, ...] = ()

    def swapped(self) -> list[Attached]:
        """Return the adapters whose own parameters and statistics are in the modules."""
        return [adapter for adapter in self.adapters.values() if adapter.is_in]

    def swaps(self, adapter: Attached) -> bool:
        """Tell whether an adapter has, or may come to have, values in the base's place."""
        return bool(adapter.swaps) or bool(self.statistics)


def state_of(model: nn.Module) -> ModelState:
    """Return what peftcore knows of a model.

    Raises:
        AttachError: the model carries no adapter.
    """
    state = model.__dict__.get(STATE)
    if state is None:
        raise AttachError(f"this {type(model).__name__} carries no adapter.")
    return state  # type: ignore[no-any-return]
