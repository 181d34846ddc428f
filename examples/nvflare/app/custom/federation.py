"""An NVFlare job whose sites audit what they share, and can put a defense on it.

    nvflare simulator examples/nvflare -w runs/nvflare -n 2 -t 1
    cat runs/nvflare/server/simulate_job/app_server/rounds.jsonl

Filters are made of JSON, so the model and the data come in a class of your own. With "std": 0.3 the
sites add noise, and the audit finds nothing; with "limit": 0.0 what leaks does not leave.
"""

import json
from pathlib import Path
from typing import Any

import numpy
import torch
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable

from seepage import Batch, BiasRatio, Clip, FedAvg, Model, Noise, zoo
from seepage.core import stream
from seepage.integrations.nvflare import AuditFilter, DefendFilter

RATE = 0.1


def build() -> Model:
    """The network that the server broadcasts: replace with your own."""
    return zoo.photos(1, 16).model(zoo.mlp(768, 32, 8, activation="tanh", seed=0))


def private() -> Batch:
    """The one photograph of a site: replace with your own."""
    return zoo.photos(1, 16).batch


class Audited(AuditFilter):
    """Measures what the server could read, and blocks what is above the limit."""

    def __init__(self, limit: float) -> None:
        super().__init__(build(), private, [BiasRatio()], FedAvg(lr=RATE), limit)


class Defended(DefendFilter):
    """Clips the difference, with noise where a standard deviation is given."""

    def __init__(self, std: float) -> None:
        super().__init__(lambda inner: Noise(Clip(inner, norm=1.0), std=std), build())


class Site(Executor):
    """One step of gradient descent from the broadcast weights."""

    def execute(self, task: str, shareable: Shareable, fl_ctx: FLContext, abort: Any) -> Shareable:
        weights = from_shareable(shareable).data
        model = build().with_params({n: torch.from_numpy(w.copy()) for n, w in weights.items()})
        update = FedAvg(lr=RATE)(model, private(), stream(0, "client"))
        return DXO(DataKind.WEIGHT_DIFF, {n: -u.numpy() for n, u in update.items()}).to_shareable()


class Rounds(Controller):
    """Broadcasts, waits for every site, averages, and writes down what came."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.came: list[DXO] = []

    def start_controller(self, fl_ctx: FLContext) -> None:
        self.weights = {n: p.numpy() for n, p in build().params.items()}

    def control_flow(self, abort_signal: Any, fl_ctx: FLContext) -> None:
        place = Path(fl_ctx.get_prop("__app_root__", ".")) / "rounds.jsonl"
        for number in range(self.number):
            self.came = []
            data = DXO(DataKind.WEIGHTS, self.weights).to_shareable()
            task = Task("train", data, result_received_cb=self.received)
            self.broadcast_and_wait(task, fl_ctx, min_responses=2, abort_signal=abort_signal)
            if self.came:
                self.weights = {n: w + numpy.mean([dxo.data[n] for dxo in self.came], axis=0)
                                for n, w in self.weights.items()}  # fmt: skip
            found = [dxo.get_meta_prop("seepage.recovered") for dxo in self.came]
            with place.open("a") as file:
                file.write(json.dumps({"round": number, "recovered": found}) + "\n")

    def received(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        if client_task.result.get_return_code() == ReturnCode.OK:
            self.came.append(from_shareable(client_task.result))

    def process_result_of_unknown_task(self, *_: Any) -> None:
        """Nothing is expected late."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing is held."""
