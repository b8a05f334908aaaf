"""Rounds of federated averaging, by Flower: its workflow, strategy, client and secure aggregation.

Clients run in this process, one after another, through a grid of Flower that hands messages over.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from flwr.app import Context, Message, RecordDict
from flwr.client import ClientApp, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import Grid, LegacyContext, ServerConfig, SimpleClientManager
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from peftcore_private.client import Site
from peftcore_private.section import FederatedSection
from peftcore_train.errors import TrainingError
from peftcore_train.task import Features

#: Told of each round, and of the bytes that were sent to clients and back.
After = Callable[[int, dict[str, int]], None]
#: Greatest number that secure aggregation carries, Flower's default; it would cut what is more.
_MOST = 8.0


class _Client(NumPyClient):
    def __init__(self, site: Site, rows: Sequence[Features], section: FederatedSection, seed: int):
        self.site, self.rows, self.section, self.seed = site, rows, section, seed

    def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict]:
        """Train on this client's rows from the values of the server."""
        self.site.put([torch.from_numpy(a) for a in parameters])
        seed = self.seed + 100_003 * int(config["round"])
        loss = self.site.fit(self.rows, self.section.local_epochs, seed)
        values = [value.numpy() for value in self.site.values()]
        if self.section.secure_aggregation and max(abs(v).max() for v in values) > _MOST:
            raise TrainingError(
                f"a trained number is beyond {_MOST:g}, which secure aggregation would cut: lower"
                " train.learning_rate, or train without secure_aggregation."
            )
        return values, len(self.rows), {"loss": loss}


class InProcess(Grid):
    """Hands messages to clients of this process, and counts what is sent.

    Attributes:
        bytes_down: bytes of arrays and configuration sent to clients since the last round.
        bytes_up: bytes that came back.
    """

    def __init__(self, app: ClientApp, count: int):
        self.app = app
        self.contexts = {
            node: Context(0, node, {"client": node - 1}, RecordDict(), {})
            for node in range(1, count + 1)
        }
        self.bytes_down = self.bytes_up = 0
        # who writes messages; Flower's processes set it when they start
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 0
        self._replies: dict[str, Message] = {}
        self._run = Run.create_empty(0)

    def set_run(self, run: Run) -> None:
        """Note the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message to a client."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the clients."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Let each client answer at once."""
        named = []
        for message in messages:
            name = f"{len(self._replies)}-{time.monotonic_ns()}"
            self.bytes_down += size_of(message.content)
            # clients change what they are given, and a message to several holds one record
            mine = deepcopy(message)
            reply = self.app(mine, self.contexts[message.metadata.dst_node_id])
            self.bytes_up += size_of(reply.content)
            self._replies[name] = reply
            named.append(name)
        return named

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the answers."""
        return [self._replies.pop(name) for name in message_ids]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send, and return the answers."""
        return self.pull_messages(self.push_messages(messages))


class _Averaging(FedAvg):
    """FedAvg whose means are put into the site.

    Attributes:
        done: rounds that came to a mean.
    """

    def __init__(self, site: Site, grid: InProcess, after: After, **options: Any):
        super().__init__(**options)
        self.site, self.grid, self.after = site, grid, after
        self.done: list[int] = []

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """Return the mean of the clients, which the site has then."""
        mean, metrics = super().aggregate_fit(server_round, results, failures)
        if mean is not None:
            arrays = parameters_to_ndarrays(mean)
            self.site.put([torch.from_numpy(a.astype("float32")) for a in arrays])
            self.done.append(server_round)
            grid = self.grid
            self.after(server_round, {"down": grid.bytes_down, "up": grid.bytes_up})
            grid.bytes_down = grid.bytes_up = 0
        return mean, metrics


def size_of(content: RecordDict) -> int:
    """Return the bytes of arrays, and of texts and bytes, in a message."""
    arrays = sum(
        len(array.data) for record in content.array_records.values() for array in record.values()
    )
    return arrays + sum(
        _size(value) for record in content.config_records.values() for value in record.values()
    )


def _size(value: object) -> int:
    if isinstance(value, list):
        return sum(map(_size, value))
    return len(value) if isinstance(value, bytes | str) else 8


def train(
    site: Site,
    clients: Sequence[Sequence[Features]],
    section: FederatedSection,
    seed: int,
    after: After,
) -> None:
    """Train in rounds; the site has the mean of the clients at the end.

    Args:
        site: what trains.
        clients: rows of each client.
        section: the ``federated`` section.
        seed: seed of the order of rows.
        after: told of each round when the site has its mean, and of the bytes that were sent.

    Raises:
        TrainingError: a round came to no mean.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)

    def client_fn(context: Context) -> Any:
        index = int(context.node_config["client"])
        return _Client(site, clients[index], section, seed + index).to_client()

    mods = [secaggplus_mod] if section.secure_aggregation else []
    grid = InProcess(ClientApp(client_fn=client_fn, mods=mods), len(clients))
    strategy = _Averaging(
        site,
        grid,
        after,
        fraction_fit=section.fraction,
        fraction_evaluate=0.0,
        min_fit_clients=min(len(clients), 3 if section.secure_aggregation else 2),
        min_available_clients=len(clients),
        initial_parameters=ndarrays_to_parameters([v.numpy() for v in site.values()]),
        on_fit_config_fn=lambda number: {"round": number},
        fit_metrics_aggregation_fn=lambda found: {},
    )
    context = LegacyContext(
        context=Context(0, 0, {}, RecordDict(), {}),
        config=ServerConfig(num_rounds=section.rounds),
        strategy=strategy,
        client_manager=SimpleClientManager(),
    )
    secure = SecAggPlusWorkflow(
        num_shares=1.0,
        reconstruction_threshold=0.6,
        max_weight=max(map(len, clients)),
        clipping_range=_MOST,
    )
    DefaultWorkflow(fit_workflow=secure if section.secure_aggregation else None)(grid, context)
    if (done := strategy.done) != list(range(1, section.rounds + 1)):
        raise TrainingError(f"round {len(done) + 1} of federated training came to no mean.")
