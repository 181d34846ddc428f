"""Leakage against cost: curves, fronts, the claim, and the command that draws them."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from test_cli import refused, said

from seepage import BiasRatio, FedSGD, InvalidInput, Noise, Prune, tradeoffs, zoo
from seepage.analysis.tradeoff import Point, Reading, equal_cost, least, pareto
from seepage.analysis.utility import Plan
from seepage.core import Batch, Model
from seepage.store import Store
from seepage.tradeoffs import Outcome, Strength, Trade, tasks, words
from seepage.values import value

APP = """
import torch
from seepage import Images, zoo

def build(hidden=8):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, hidden), torch.nn.Tanh(),
        torch.nn.Linear(hidden, 10)), torch.nn.functional.cross_entropy, Images((1, 8, 8), 10)

def data(n=200):
    return zoo.digits(n)

def few():
    return zoo.digits(20)
"""
QUICK = Plan(rounds=8, batch=16, seeds=(0, 1), grid=(1.0, 3.0))


def curve(*pairs: tuple[float, float]) -> list[Point]:
    return [Point(f"{loss}", (loss,) * 3, (leak,) * 2) for loss, leak in pairs]


def test_the_front_keeps_what_no_other_beats() -> None:
    assert [p.loss for p in pareto(curve((0, 9), (1, 9), (1, 5), (3, 6)))] == [0, 1]


def test_leak_at_equal_cost_is_isotonic_and_not_extrapolated() -> None:
    points = curve((0, 10), (1, 6), (2, 8), (4, 1))
    found = [equal_cost(points, loss).leak for loss in (0, 0.5, 1.5, 3, 4)]
    assert found == [10, 8.5, 7, 4, 1]
    lucky = curve((0, 200), (-1, 16), (6, 15))
    assert equal_cost(lucky, 1.0).leak == pytest.approx(15.77, abs=0.01)
    assert not equal_cost(points, 5).known
    assert not equal_cost(points, -0.1).known
    with pytest.raises(InvalidInput, match="1 strengths make no curve"):
        equal_cost(points[:1], 1.0)


def test_the_interval_covers_what_other_seeds_would_give() -> None:
    rng, hits = torch.Generator().manual_seed(0), 0
    for _ in range(60):
        drawn = 20 - 5 * torch.arange(4.0)[:, None] + torch.randn(4, 12, generator=rng)
        points = [
            Point(f"{i}", (float(i),) * 12, tuple(row)) for i, row in enumerate(drawn.tolist())
        ]
        reading = equal_cost(points, 1.5)
        hits += reading.low <= 12.5 <= reading.high
    assert hits >= 48  # 95 % nominal; the bootstrap of 12 is a little narrow


def test_what_overlaps_the_least_ties_with_it() -> None:
    rows = {"a": Reading(9, 8, 10), "b": Reading(7, 6, 8.5), "c": Reading(math.nan)}
    assert least(rows) == ["b", "a"]
    assert least({"c": Reading(math.nan)}) == []


def outcome(**families: list[tuple[float, float]]) -> Outcome:
    """Made-up strengths: (points lost, leak) of each."""

    def strength(loss: float, leak: float, name: str) -> Strength:
        leaks = {"adaptive": (leak, leak), "naive": (leak / 2, leak / 2)}
        accuracy = tuple(0.9 - loss / 100 + tiny for tiny in (0.0, 0.001))
        return Strength(name, accuracy, False, leaks, {"adaptive": "A()", "naive": "A()"})

    made = {
        name: [strength(*pair, f"{name}{i}") for i, pair in enumerate(pairs)]
        for name, pairs in families.items()
    }
    return Outcome("made", "psnr", strength(0, 100, "FedSGD()"), made, [])


def test_the_claim_is_confirmed_refuted_tied_or_not_measured() -> None:
    strong, weak = [(1.5, 20.0), (3.0, 10.0)], [(1.5, 40.0), (6.0, 10.0)]
    found = words.claims(outcome(Prune=strong, Noise=weak))
    told = {(c.attacker, c.cost): (c.verdict, c.why) for c in found}
    assert told["adaptive", 2.0] == ("confirmed", "it leaks less than all others")
    assert told["naive", 5.0][0] == "confirmed"  # by its dearest, which costs 3
    swapped = words.claims(outcome(Prune=weak, Noise=strong))
    assert "Noise leaks less (16.7 against 36.7)" in [c.why for c in swapped]
    # Noise that costs less than a point and leaks less than any pruning.
    free = words.claims(outcome(Prune=strong, Noise=[(0.2, 15.0), (0.7, 5.0)]))
    assert {claim.verdict for claim in free} == {"not confirmed"}
    # All below nothing, so that costs are pooled to one: the strongest counts.
    luck = outcome(Prune=strong, Noise=[(-0.1, 15.0), (-0.4, 5.0)])
    assert words.readings(luck, "adaptive")["Noise"][1.0].leak == 5
    tied = outcome(Prune=[(3.0, 10.0)], Noise=[(3.0, 10.0)])
    assert words.claims(tied)[0].why == "it cannot be told from Noise"
    assert words.claims(outcome(Noise=[(3.0, 10.0)])) == []


def small(name: str) -> tradeoffs.Task:
    task = tradeoffs.named(name)
    return tradeoffs.Task(name, task.make, task.data, task.private, task.public, [BiasRatio()])


def test_a_trade_is_measured_once_and_told_for_both_attackers(tmp_path: Path) -> None:
    families = {"Prune": [Prune(FedSGD(), 0.9)], "Noise": [Noise(FedSGD(), 1.0, relative=True)]}
    trade, steps = Trade(small("digits"), families, QUICK, batches=2), list[object]()
    first = tradeoffs.measured(trade, tmp_path, progress=steps.append)
    assert first.none.leaks["adaptive"] == first.none.leaks["naive"]
    pruned = first.families["Prune"][0].accuracy
    assert first.points("naive")["Prune"][1].losses == pytest.approx(
        [100 * (a - b) for a, b in zip(first.none.accuracy, pruned, strict=True)]
    )
    assert len(Store(tmp_path / "leakage").rows()) == 10
    assert len(Store(tmp_path / "cost").rows()) == 3
    again = list[object]()
    assert tradeoffs.measured(trade, tmp_path, progress=again.append) == first
    assert len(again) == 2  # nothing was left to do
    assert json.loads(json.dumps(words.about(first)))["front"]["adaptive"]


@value
class Broken:
    """A client that works in no round."""

    def __call__(self, model: Model, batch: Batch, rng: torch.Generator) -> dict[str, torch.Tensor]:
        raise InvalidInput("out of order")


def test_a_client_that_fails_is_left_out_and_named(tmp_path: Path) -> None:
    families = {"Broken": [Broken()], "Prune": [Prune(FedSGD(), 0.5)]}
    found = tradeoffs.measured(Trade(small("table"), families, QUICK, batches=1), tmp_path)
    assert [one.client for one in found.families["Prune"]] == [repr(Prune(FedSGD(), 0.5))]
    assert found.families["Broken"] == []
    assert any("Broken(): InvalidInput: out of order" in text for text in found.failed)
    assert "Broken" not in words.readings(found, "naive")


def test_every_task_has_a_network_that_takes_its_data() -> None:
    for name in tradeoffs.NAMES:
        make, batch = tasks.Start(name), tasks.Private(name)(2, 0)
        one, two = make(0), make(1)
        assert one.predict(batch.x).shape == (2, one.form.classes)
        assert float(one.risk(one.params, batch)) != float(two.risk(two.params, batch))


def test_reviews_are_of_one_split_and_say_what_their_label_says() -> None:
    private, public = zoo.reviews(300), zoo.reviews(300, "public")
    assert not {*map(tuple, private.x.tolist())} & {*map(tuple, public.x.tolist())}
    good = ("warm", "clever", "honest", "bright", "tender", "lively", "rich", "graceful")
    for row, label in zip(private.x, private.y.tolist(), strict=True):
        last = str(private.form.show(row)).rpartition("the ")[2].split()
        assert ((last[-1] in good) != ("not" in last)) == label, last
    assert torch.equal(zoo.reviews(5).x, private.x[:5])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "trade_app", raising=False)
    (tmp_path / "trade_app.py").write_text(APP)
    return tmp_path


def test_the_command_prints_draws_and_goes_on_where_it_was(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seepage.cli import trading

    monkeypatch.setattr(trading, "QUICK", QUICK)
    asked = [
        *("tradeoff", "--model", "trade_app.py:build", "--data", "trade_app.py:data", "--quick"),
        *("--client", "Prune(FedSGD(), ratio=0.9)", "--attack", "BiasRatio()"),
    ]
    first = said(*asked)
    assert first.exit_code == 0, first.output
    for part in ("Leak at equal cost", '"pruning is the most effective", naive', "Other attacks"):
        assert part in first.stdout, part
    folder = home / "runs" / "tradeoff" / "own"
    assert (folder / "tradeoff.png").stat().st_size > 10_000
    again = said(*asked, "--json")
    assert again.stderr.count("now: nothing") == 2
    assert json.loads(again.stdout) == json.loads((folder / "tradeoff.json").read_text())


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "digit"], "there is no task 'digit': use digits, photos"),
        (["--model", "trade_app.py:build"], "--model and --data belong together"),
        (
            ["--model", "trade_app.py:build", "--data", "trade_app.py:few"],
            "20 examples, which is too few",
        ),
        (["--client", "Prun(FedSGD())"], "Prun"),
        (["--examples", "999"], "--examples 999 are more than the 359"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(arguments: list[str], message: str) -> None:
    assert message in refused("tradeoff", *arguments)
    assert not Path("runs").exists()


def test_an_attack_that_cannot_run_is_told_before_anything_is_trained(home: Path) -> None:
    text = refused("tradeoff", "--task", "table", "--quick", "--attack", "EmbeddingRows()")
    assert (
        "no attack ran on the undefended client. InvalidInput: this attack reads sentences" in text
    )
    assert not (home / "runs" / "tradeoff" / "table" / "cost").exists()
