"""What an epsilon stops: Opacus trains to it, and its very steps are attacked.

    python benchmarks/epsilon.py          # about five minutes; a table follows the JSON lines

Digits, a tanh network, batches of 64 by Poisson sampling, 10 epochs, delta = 1e-5. The noise of a
step is audited alone on one record, which is the worst case that the accounting has: an attacker
who knows all other records of the batch subtracts them. CPU, one thread. Needs opacus.
"""

import json
import math
import sys
import warnings
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import seepage
from seepage import zoo
from seepage.analysis import bounds
from seepage.core import stream
from seepage.defenses import DPSGD
from seepage.guard import dp

torch.set_num_threads(1)
warnings.simplefilter("ignore")
EPOCHS, BATCH, NORM, DELTA, RATE = 10, 64, 1.0, 1e-5, 0.5
EPSILONS = (math.inf, 1000.0, 100.0, 8.0, 1.0)
RECORDS, CANDIDATES = 10, 100
COMPOSED = 20.0  # above, losses spread so far that composing them takes minutes, and says "all"


def network(seed: int) -> nn.Module:
    return zoo.mlp(64, 64, 10, activation="tanh", seed=seed)


def setting(epsilon: float, seed: int) -> tuple[Any, float]:
    """What Opacus makes of a target, and the accuracy that its training reaches on other digits."""
    from opacus import PrivacyEngine

    from seepage.integrations.opacus import read

    data, test = zoo.digits(800, seed=seed), zoo.digits(400, split="public", seed=seed)
    torch.manual_seed(seed)
    engine = PrivacyEngine(accountant="prv" if epsilon <= COMPOSED else "rdp")
    module = network(seed)
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
    loader = DataLoader(TensorDataset(data.x, data.y), batch_size=BATCH)
    parts = {"module": module, "optimizer": optimizer, "data_loader": loader}
    if math.isfinite(epsilon):
        parts |= {"target_epsilon": epsilon, "target_delta": DELTA, "epochs": EPOCHS}
        private = engine.make_private_with_epsilon(**parts, max_grad_norm=NORM)
    else:
        private = engine.make_private(**parts, noise_multiplier=0.0, max_grad_norm=NORM)
    module, optimizer, loader = private
    for _ in range(EPOCHS):
        for x, y in loader:
            optimizer.zero_grad()
            if len(x):
                nn.functional.cross_entropy(module(x), y).backward()
            optimizer.step()
    right = (module(test.x).argmax(1) == test.y).double().mean()
    return read(engine, optimizer, loader, DELTA), float(right)


def attacked(multiplier: float) -> dict[str, Any]:
    """One record's clipped and noised gradient, read by the best of three attackers."""
    records = zoo.digits(RECORDS, seed=50)
    model = records.model(network(0))
    client = DPSGD(NORM, multiplier, 1.0)
    tried = [seepage.BiasRatio(), seepage.Adaptive(seepage.Invert(steps=200))]
    best = []
    for i in range(RECORDS):
        plan = seepage.Plan(seeds=(i,), public=zoo.digits(200, split="public").x)
        report = seepage.audit(model, records.batch[i : i + 1], None, [client], tried, plan=plan)
        psnr = [row["scores"]["psnr"][0] for row in report.rows if row["status"] == "done"]
        found = [sum(row["recovered"]) for row in report.rows if row["status"] == "done"]
        best.append((max(p for p in psnr if p is not None), max(found)))
    middle = sorted(p for p, _ in best)[RECORDS // 2]
    return {"recovered": sum(f for _, f in best), "median psnr": middle}


def named(multiplier: float) -> float:
    """How often the best attacker names the record among a hundred equally likely ones."""
    if multiplier == 0:
        return 1.0
    candidates = zoo.digits(CANDIDATES, seed=60)
    model = candidates.model(network(0))
    client = DPSGD(NORM, 0.0, 1.0)
    updates = [client(model, candidates.batch[i : i + 1], stream(0, "client"))
               for i in range(CANDIDATES)]  # fmt: skip
    rows = torch.stack([torch.cat([u.flatten() for u in one.values()]) for one in updates])
    return bounds.best_identification(rows, multiplier * NORM, 4000, stream(0, "draws")).value


def measured(epsilon: float) -> dict[str, Any]:
    done = [setting(epsilon, seed) for seed in range(3)]
    made = done[0][0]
    z, steps, rate = made.multiplier, made.steps, made.rate or 1.0
    told = {"epsilon": made.epsilon, "multiplier": z, "steps": steps,
            "accuracy": sum(a for _, a in done) / len(done)}  # fmt: skip
    if z:
        told["bound, of 100"] = bounds.rero(1 / CANDIDATES, z).value
        told["one step alone"] = dp.Mechanism(NORM, z * NORM, None, DELTA).tight()
    if epsilon <= COMPOSED:
        training = dp.Mechanism(NORM, z * NORM, None, DELTA, rounds=steps, rate=rate)
        told["tight"] = training.tight()
        told["all steps, of 100"] = bounds.rero(1 / CANDIDATES, z, steps, rate).value
    return {**told, **attacked(z), "named of 100": named(z)}


if __name__ == "__main__":
    rows = []
    for wanted in [float(word) for word in sys.argv[1:]] or EPSILONS:
        rows.append({"target": wanted, **measured(wanted)})
        print(json.dumps(rows[-1]), flush=True)
    heads = list(rows[-1])
    print("| " + " | ".join(heads) + " |")
    for row in rows:
        cells = (row.get(head) for head in heads)
        print(
            "| " + " | ".join(f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells) + " |"
        )
