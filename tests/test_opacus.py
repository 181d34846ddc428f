"""What is read off Opacus is what Opacus does."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import seepage
from seepage import zoo
from seepage.core import Model, stream
from seepage.errors import InvalidInput

pytest.importorskip("opacus", reason="Opacus is not installed: pip install 'seepage[dp]'")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from opacus import PrivacyEngine

from seepage.integrations.opacus import read, unwrapped

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning:opacus"),
              pytest.mark.filterwarnings("ignore::FutureWarning"),
              pytest.mark.filterwarnings("ignore:Full backward hook:UserWarning"),
              pytest.mark.filterwarnings("ignore:Secure RNG:UserWarning")]  # fmt: skip


def private(multiplier: float, norm: float = 0.5) -> tuple[Any, ...]:
    sample = zoo.photos(8, 8)
    network = zoo.mlp(192, 16, 8, activation="tanh", seed=0)
    data = DataLoader(TensorDataset(sample.x, sample.batch.target), batch_size=4)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    engine = PrivacyEngine()
    return engine, *engine.make_private(
        module=network, optimizer=optimiser, data_loader=data, noise_multiplier=multiplier,
        max_grad_norm=norm, poisson_sampling=False,
    ), sample  # fmt: skip


def step(network: nn.Module, optimiser: Any, sample: Any) -> None:
    optimiser.zero_grad()
    nn.functional.cross_entropy(network(sample.x[:4]), sample.batch.target[:4]).backward()
    optimiser.step()


def test_the_setting_is_what_the_engine_was_told() -> None:
    engine, network, optimiser, loader, sample = private(1.3)
    before = read(engine, optimiser, loader)
    assert (before.norm, before.multiplier, before.batch, before.epsilon) == (0.5, 1.3, 4, None)
    for _ in range(3):
        step(network, optimiser, sample)
    after = read(engine, optimiser, loader, delta=1e-3)
    assert after.steps == 3
    assert after.rate == pytest.approx(0.5)
    assert after.epsilon == pytest.approx(engine.get_epsilon(1e-3))
    assert not [f for f in after.findings() if f.severity == "error"]


def test_the_client_shares_what_the_optimiser_steps_by() -> None:
    engine, network, optimiser, _, sample = private(0.0)
    model = Model.of(unwrapped(network), nn.functional.cross_entropy, sample.form)
    before = {name: p.detach().clone() for name, p in network._module.named_parameters()}
    step(network, optimiser, sample)
    setting = read(engine, optimiser)
    update = setting.client(model, sample.batch[:4], stream(0, "client"))
    for name, after in network._module.named_parameters():
        torch.testing.assert_close((before[name] - after) / 0.1, update[name], atol=2e-6, rtol=1e-4)


def test_the_audit_of_a_setting_shows_what_the_noise_stops() -> None:
    engine, network, optimiser, _, sample = private(1.0)
    model = Model.of(unwrapped(network), nn.functional.cross_entropy, sample.form)
    clients = [seepage.FedSGD(), read(engine, optimiser).client]
    report = seepage.audit(model, sample.batch[:1], None, clients, [seepage.BiasRatio()])
    assert [row["error"] for row in report.rows] == [None] * len(report.rows)
    shares = {row["client"]: sum(row["recovered"]) for row in report.rows}
    assert shares["FedSGD()"] > 0
    assert shares[repr(clients[1])] == 0


def test_what_is_no_private_optimiser_is_refused() -> None:
    engine, network, optimiser, _, _ = private(1.0)
    with pytest.raises(InvalidInput, match="make_private"):
        read(engine, torch.optim.SGD(network.parameters()))
    optimiser.max_grad_norm = [1.0, 2.0]
    with pytest.raises(InvalidInput, match="layer by layer"):
        read(engine, optimiser)
