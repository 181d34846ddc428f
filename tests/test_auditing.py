"""The audit takes models and data as people have them, and says what it cannot take."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from seepage import zoo
from seepage.attacks import Invert
from seepage.auditing import Plan, audit, batches_of, beliefs, defaults, model_of, planned
from seepage.clients import FedAvg, FedSGD, Given, SecureSum
from seepage.core import Batch, Client, Model, Observation, Reconstruction
from seepage.defenses import Noise, Prune
from seepage.errors import InvalidInput
from seepage.executors import Processes
from seepage.forms import Images, Table, Tokens
from seepage.report import Report


def nothing(seen: Observation, rng: Generator) -> Reconstruction:
    return Reconstruction.nothing(seen, "not tried")


def net(inputs: int = 48, classes: int = 5) -> nn.Module:
    return zoo.linear(inputs, classes, seed=0)


def images(n: int = 4) -> Tensor:
    return torch.rand(n, 3, 4, 4, generator=Generator().manual_seed(0))


LABELS = torch.tensor([0, 1, 2, 4])


@pytest.mark.parametrize(
    "data",
    [
        Batch(images(), LABELS),
        (images(), LABELS),
        [images(), LABELS],
        [(images(), LABELS)],
        [Batch(images(), LABELS)],
        DataLoader(TensorDataset(images(), LABELS), batch_size=4),
        iter([[images(), LABELS]]),
        (Batch(images(), LABELS), Images((3, 4, 4), 5)),
    ],
)
def test_data_as_people_have_them(data: Any) -> None:
    (batch,) = batches_of(data, Plan())
    assert torch.equal(batch.x, images())
    assert batch.y is not None
    assert torch.equal(batch.y, LABELS)


def test_several_batches() -> None:
    data = TensorDataset(images(), LABELS)
    batches = batches_of(DataLoader(data, batch_size=1), Plan(batches=3))
    assert [int(batch.target) for batch in batches] == [0, 1, 2]
    two = batches_of([Batch(images()[:1]), Batch(images()[1:2])], Plan(batches=2))
    assert torch.equal(torch.cat([batch.x for batch in two]), images()[:2])
    with pytest.raises(InvalidInput, match="asks for 9 batches, and the data hold 2"):
        batches_of(DataLoader(data, batch_size=2), Plan(batches=9))


def test_a_shuffling_loader_gives_the_same_batches_again_and_draws_nothing_global() -> None:
    loader = DataLoader(TensorDataset(torch.arange(50.0)[:, None]), batch_size=5, shuffle=True)
    before = torch.random.get_rng_state()
    first, second = batches_of(loader, Plan())[0].x, batches_of(loader, Plan())[0].x
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first[:, 0], torch.arange(5.0))
    assert not torch.equal(first, batches_of(loader, Plan(seeds=(1,)))[0].x)


@pytest.mark.parametrize("data", [3, [{"pixels": images()}], [(images(), "label")]])
def test_data_that_cannot_be_read(data: Any) -> None:
    with pytest.raises(InvalidInput, match=r"\(x, y\)"):
        batches_of(data, Plan())


def test_forms_are_inferred() -> None:
    assert model_of(net(), Batch(images())).form == Images((3, 4, 4), classes=5)
    table = model_of(nn.Linear(3, 2), Batch(torch.randn(2, 3))).form
    assert isinstance(table, Table)
    assert (table.shape, table.classes, table.columns[2].name) == ((3,), 2, "column 3")
    words = nn.Embedding(11, 6, padding_idx=2)
    reader = model_of(nn.Sequential(words, nn.Linear(6, 11)), Batch(torch.ones(1, 7).long()))
    assert reader.form == Tokens(7, 11, pad=2)
    judge = nn.Sequential(words, nn.Flatten(), nn.Linear(42, 3))
    assert model_of(judge, Batch(torch.ones(1, 7).long())).form == Tokens(7, 11, pad=2, classes=3)


@pytest.mark.parametrize(
    ("module", "x", "said"),
    [
        (net(), images() * 255, r"lie in \[.*Model\.of.*Images\(\(3, 4, 4\), 5, mean="),
        (net(), images(1)[0], "cannot take x of shape"),
        (nn.Flatten(0), torch.rand(2, 2, 2), "no parameter"),
        (nn.Conv1d(2, 3, 1), torch.rand(2, 2, 5), r"none of images.*Model\.of"),
        (net(), torch.rand(2, 3, 9, 9), r"Sequential cannot take x of shape \(1, 3, 9, 9\)"),
        (nn.LSTM(4, 5), torch.rand(2, 3, 4), "returns a tuple, not one tensor"),
        (nn.Linear(4, 2).forward, torch.rand(2, 4), "Pass a torch.nn.Module"),
    ],
)
def test_what_cannot_be_inferred_says_what_to_pass(module: Any, x: Tensor, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        model_of(module, Batch(x))


def test_wrong_shapes_and_labels_are_told_before_anything_runs() -> None:
    model = Model.of(net(), nn.functional.cross_entropy, Images((3, 4, 4), 5))
    with pytest.raises(InvalidInput, match=r"x has shape \(2, 3, 5, 5\).*\(n, 3, 4, 4\)"):
        audit(model, Batch(torch.rand(2, 3, 5, 5)), attacks=[nothing])
    with pytest.raises(InvalidInput, match=r"labels lie in 1 to 5.*5 classes"):
        audit(net(), (images(), LABELS + 1), attacks=[nothing])
    with pytest.raises(InvalidInput, match="Pass attacks="):
        audit(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5)), torch.ones(1, 3).long())
    with pytest.raises(InvalidInput, match="batches=0"):
        Plan(batches=0)
    with pytest.raises(InvalidInput, match="seeds"):
        Plan(seeds=())


@pytest.mark.parametrize(
    ("client", "wanted"),
    [
        (FedSGD(), 1),
        (FedSGD("train"), 1),
        (Noise(FedSGD(), 0.1), 1),
        (FedAvg(), 2),
        (Prune(FedSGD()), 2),
        (SecureSum(FedAvg(), 2), 2),
    ],
)
def test_defenses_are_attacked_adaptively_and_naively(client: Client, wanted: int) -> None:
    assert beliefs(client) == [client, FedSGD()][:wanted]


def test_a_captured_update_cannot_be_simulated() -> None:
    assert beliefs(Given({})) == [FedSGD()]


def test_the_plan_is_every_combination_once() -> None:
    model = Model.of(net(), nn.functional.cross_entropy, Images((3, 4, 4), 5))
    batches = [Batch(images()[:2]), Batch(images()[2:])]
    plan = Plan(seeds=(0, 1), tell=("n", "y"))
    trials = planned(model, batches, [FedSGD(), FedAvg()], [nothing, Invert()], plan)
    assert len(trials) == len(set(trials)) == 2 * 2 * 2 * 3
    assert {trial.tell for trial in trials} == {("n", "y")}


def test_an_audit_from_a_bare_module_to_a_report(tmp_path: Path) -> None:
    sample = zoo.photos(2, 8)
    module = zoo.mlp(192, 8, activation="tanh", seed=0)
    told: list[int] = []
    plan = Plan(store=tmp_path / "store", progress=lambda step: told.append(step.done))
    report = audit(
        module,
        sample.batch,
        clients=[FedSGD(), Prune(FedSGD())],
        attacks=[Invert(steps=3)],
        plan=plan,
    )
    assert isinstance(report, Report)
    assert told == [0, 1, 2, 3]
    assert [row["status"] for row in report.rows] == ["done"] * 3
    assert [row["believed"] for row in report.rows] == [
        "FedSGD()",
        "Prune(inner=FedSGD())",
        "FedSGD()",
    ]
    assert 0 <= report.recovered <= 1
    assert (tmp_path / "store" / "rows.jsonl").exists()
    assert report.save(tmp_path / "page.html").exists()


def test_processes_give_the_same_report(tmp_path: Path) -> None:
    def measured(plan: Plan) -> list[dict[str, Any]]:
        report = audit(net(), (images(), LABELS), attacks=[Invert(steps=3)], plan=plan)
        return [{**row, "seconds": 0} for row in report.rows]

    here = measured(Plan(seeds=(0, 1), store=tmp_path / "here"))
    assert measured(Plan(seeds=(0, 1), executor=Processes(2))) == here


def test_a_loss_of_ones_own() -> None:
    def wrong(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, target, reduction="none")

    report = audit(net(), (images(), LABELS), loss=wrong, attacks=[nothing])
    assert report.rows[0]["error"].startswith("InvalidInput: the loss returned shape (4,)")


def test_default_attacks_are_those_that_can_work_on_the_network() -> None:
    dense = model_of(net(), Batch(images()))
    conv = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 5))
    assert [type(one).__name__ for one in defaults(dense)] == ["BiasRatio", "Invert"]
    assert list(defaults(model_of(conv, Batch(images())))) == [Invert()]


def test_a_bar_shows_on_terminals_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    audit(net(), (images(), LABELS), attacks=[nothing])
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    audit(net(), (images(), LABELS), attacks=[nothing])
    assert "1/1" in capsys.readouterr().err
