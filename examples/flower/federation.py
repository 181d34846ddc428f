"""A Flower federation of four clients: undefended, or guarded, audited and defended.

    python examples/flower/federation.py                       # undefended
    python examples/flower/federation.py --protect             # each client protects itself
    python examples/flower/federation.py --hostile --protect   # a server that sets a trap
    seepage attack $(ls runs/flower/round-1/node-*.safetensors | head -1) \
        --model examples/flower/task.py:build --attack "BiasRatio()"

Needs `pip install "flwr[simulation]>=1.41"`.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from task import CLIENTS, RATE, build, photographs, train

import seepage
from seepage import Batch, Clip, Model, Noise
from seepage.attacks import BiasRatio
from seepage.core import Client
from seepage.integrations.flower import CapturingStrategy, audit_mod, defend_mod, guard_mod


def private(context: Context) -> Batch:
    """The photographs of the client that is asked."""
    return photographs(int(context.node_config["partition-id"]))


def defended(inner: Client) -> Client:
    """The update clipped, with noise of the size of its entries."""
    return Noise(Clip(inner, norm=0.5), std=1.0, relative=True)


def client_app(protect: bool) -> ClientApp:
    """A client that trains one step; where it protects itself, nothing leaks unnoticed."""
    model, believed = Model.of(*build()), seepage.FedAvg(lr=RATE)
    audit = audit_mod(model, private, [BiasRatio()], believed, limit=0.0)
    app = ClientApp(mods=[guard_mod(model), audit, defend_mod(defended)] if protect else [])

    @app.train()
    def step(message: Message, context: Context) -> Message:
        batch = private(context)
        state = train(message.content["arrays"].to_torch_state_dict(), batch)
        metrics = MetricRecord({"num-examples": len(batch)})
        content = RecordDict({"arrays": ArrayRecord(state), "metrics": metrics})
        return Message(content, reply_to=message)

    return app


def trapped(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state with a first layer whose rows all measure brightness, and differ in threshold."""
    rows, columns = state["linear1.weight"].shape
    weight = torch.full((rows, columns), 1 / columns)
    return {**state, "linear1.weight": weight, "linear1.bias": -torch.linspace(0.2, 0.8, rows)}


def server_app(folder: Path, rounds: int, hostile: bool) -> ServerApp:
    """Plain federated averaging that keeps every update it receives."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001 (Flower passes it)
        model = Model.of(*build())
        state = trapped(dict(model.state)) if hostile else dict(model.state)
        everyone = FedAvg(min_available_nodes=CLIENTS, fraction_evaluate=0.0)
        strategy = CapturingStrategy(everyone, folder, model, seepage.FedAvg(lr=RATE))
        strategy.start(grid, ArrayRecord(state), num_rounds=rounds)

    return app


def main() -> None:
    """Simulate the federation on this machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--protect", action="store_true", help="guard, audit and defend clients")
    parser.add_argument("--hostile", action="store_true", help="a server that crafts its model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/flower"))
    asked = parser.parse_args()
    run_simulation(
        server_app(asked.out.resolve(), asked.rounds, asked.hostile),
        client_app(asked.protect),
        CLIENTS,
        backend_config={"client_resources": {"num_cpus": 1}},
    )
    kept = sorted(asked.out.rglob("node-*.safetensors"))
    print(f"{len(kept)} updates kept in {asked.out}")
    findings = asked.out / "findings.jsonl"
    print(findings.read_text() if findings.exists() else "no findings")


if __name__ == "__main__":
    main()
