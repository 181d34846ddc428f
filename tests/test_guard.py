"""The guard: malicious models are found by evidence, honest ones pass, blind spots are said."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seepage import zoo
from seepage.attacks import Imprint, OneShot, SparseImprint, Trap
from seepage.clients import FedSGD
from seepage.core import Batch, Model, observe, stream
from seepage.errors import InvalidInput, SeepageError
from seepage.forms import Column, Images, Table
from seepage.guard import Guarded, Refused, Scan, Screened, SelfAudit, scan, self_audit
from seepage.guard.narrow import narrowest
from seepage.guard.scan import duplicates, independent, rank, reach
from seepage.guard.self_audit import isolated, signal

N = 48
PUBLIC = zoo.photos(400, 32, split="public", seed=31).normalised()
SAMPLE = zoo.photos(N, 32, seed=32).relabelled(10).normalised()


def net(seed: int) -> nn.Module:
    return zoo.convnet(4, classes=10, seed=seed)


def crafted(attack: Any, seed: int = 0) -> Model:
    made: Model = attack.craft(SAMPLE.model(net(seed)), stream(seed, "craft"))
    return made


ATTACKS = {
    "avg": (Imprint(bins=64, measure="avg", public=PUBLIC.x), {"rank", "duplicates", "reach"}),
    "fine": (Imprint(bins=64, permute=True, public=PUBLIC.x), {"rank", "duplicates"}),
    "decoys": (Imprint(bins=64, measure="avg", decoys=8, public=PUBLIC.x), {"reach"}),
    "three": (Imprint(bins=96, directions=3, public=PUBLIC.x), {"rank", "duplicates"}),
    "sparse": (
        SparseImprint(bins=64, measure="avg", offset="bias", public=PUBLIC.x),
        {"reach", "rank"},
    ),
    "frozen": (SparseImprint(bins=64, public=PUBLIC.x), {"rank", "duplicates"}),
    "buffer": (SparseImprint(bins=64, offset="buffer", public=PUBLIC.x), {"rank", "duplicates"}),
    "pair": (OneShot(n=500, rows="pair", public=PUBLIC.x), {"duplicates", "reach"}),
    "clamp": (OneShot(n=500, public=PUBLIC.x), {"reach"}),
    "quantile": (Trap(n=N, rows=64, public=PUBLIC.x), {"reach"}),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_the_scan_finds_crafted_rows_and_names_their_layer(name: str) -> None:
    attack, checks = ATTACKS[name]
    findings = [f for f in scan(crafted(attack)).findings if f.layer.startswith("block.")]
    assert checks <= {finding.check for finding in findings}


@pytest.mark.parametrize("seed", range(3))
def test_fresh_and_trained_honest_models_pass_the_scan(seed: int) -> None:
    nets = [net(seed), zoo.mlp(3072, 64, 10, seed=seed), zoo.resnet18("cifar", seed=seed)]
    for module in nets[: 3 if seed == 0 else 2]:
        assert scan(SAMPLE.model(module)).findings == ()
    assert scan(SAMPLE.model(trained(nets[1]))).findings == ()


def trained(module: nn.Module) -> nn.Module:
    plan = torch.optim.SGD(module.parameters(), lr=0.02)
    for _ in range(30):
        plan.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(module(SAMPLE.x), SAMPLE.y))
        plan.step()
    return module


def test_self_audit_counts_what_the_attack_reads() -> None:
    model = crafted(Imprint(bins=96, public=PUBLIC.x))
    report = self_audit(model, SAMPLE.batch)
    attack = Imprint(bins=96, public=PUBLIC.x)
    seen = observe(model, SAMPLE.batch, FedSGD(), stream(0, "client"))
    found = attack(seen, stream(0, "attack"))
    sure = found.x[torch.tensor(found.trace["certified"])]
    read = {int((SAMPLE.x - x).flatten(1).norm(dim=1).argmin()) for x in sure}
    # Pairs of rows need three shared examples, so the few topmost bins go unseen.
    assert len(read - set(report.isolated)) <= 4
    assert len(set(report.isolated) - read) <= 4
    assert any(f.check == "isolated" and f.layer == "block.linear" for f in report.findings)


def test_self_audit_of_a_fresh_honest_model_finds_nothing_and_reports_low_signal() -> None:
    report = self_audit(SAMPLE.model(net(1)), SAMPLE.batch)
    assert report.findings == ()
    assert all(figures["D-SNR"] < 1 for figures in report.figures.values())


def test_signal_to_noise_is_blind_to_imprints() -> None:
    report = self_audit(crafted(Imprint(bins=64, public=PUBLIC.x)), SAMPLE.batch)
    assert max(figures["D-SNR"] for figures in report.figures.values()) < 0.3
    assert len(report.isolated) > N / 4


def test_isolation_agrees_with_brute_force_differences_of_rows() -> None:
    rng = stream(0, "toy")
    x, g = torch.randn(9, 4, generator=rng), torch.rand(9, generator=rng) + 0.5
    h = torch.arange(9.0)
    edges = torch.tensor([-1.0, 0.5, 2.5, 3.5])
    d = (h > edges[:, None]) * g
    given, _ = isolated(d.double(), x.double())
    # Bins (-1, .5] and (2.5, 3.5] hold one example each: 0 and 3.
    assert given == {0, 3}
    alone = d.clone()
    alone[0, 1:] = 0
    assert 0 in isolated(alone.double(), x.double())[0]


def test_isolation_survives_rows_that_scale_the_gradient_differently() -> None:
    x, g = torch.randn(9, 4, generator=stream(1, "toy")), torch.ones(9)
    d = (torch.arange(9.0) > torch.tensor([-1.0, 0.5])[:, None]) * g
    d[1] *= -3.7
    assert isolated(d.double(), x.double())[0] == {0}


def test_signal_of_one_dominant_example() -> None:
    d = torch.tensor([[10.0, 1.0, 1.0]], dtype=torch.float64)
    x = torch.ones(3, 2, dtype=torch.float64)
    assert signal(d, x) == pytest.approx(5.0)
    assert signal(d * 0, x) == 0


def test_figures_of_matrices_with_known_rank_and_reach() -> None:
    rng = stream(0, "matrix")
    low = torch.randn(12, 3, generator=rng) @ torch.randn(3, 40, generator=rng)
    assert rank(low) == rank(low.T) == 3
    assert rank(torch.eye(5)) == 5
    rows = torch.randn(6, 10, generator=rng)
    rows[4] = -2 * rows[1]
    assert duplicates(rows) == (1, 4)
    far = reach(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([-10.0, 7.0]))
    assert far.tolist() == [2.0, 0.0]


def compared(weight: Tensor) -> tuple[int, ...]:
    """Every pair of rows in float64, one by one."""
    rows = weight.double()
    length = rows.norm(dim=1)
    cosine = (rows @ rows.T).abs() / (length[:, None] * length).clamp_min(1e-300)
    return tuple(torch.nonzero((cosine.fill_diagonal_(0) >= 0.999).any(1)).flatten().tolist())


def sparse_rows(rng: torch.Generator) -> Tensor:
    """Rows that live on few columns, two of them nearly parallel there."""
    rows = torch.randn(40, 700, generator=rng) * (torch.rand(40, 700, generator=rng) < 0.01)
    rows[7] = rows[3] * -0.2
    return rows


def near_limit(rng: torch.Generator) -> Tensor:
    """Pairs whose cosines lie close to .999 on either side."""
    rows = torch.randn(20, 500, generator=rng, dtype=torch.float64)
    unit = rows / rows.norm(dim=1, keepdim=True)
    other = unit[1::2] - (unit[1::2] * unit[::2]).sum(1, keepdim=True) * unit[::2]
    other = other / other.norm(dim=1, keepdim=True)
    cosine = 0.999 + torch.linspace(-2e-4, 2e-4, 10, dtype=torch.float64)[:, None]
    rows[1::2] = cosine * unit[::2] + (1 - cosine**2).sqrt() * other
    return rows


def dead_rows(rng: torch.Generator) -> Tensor:
    rows = torch.randn(64, 300, generator=rng)
    rows[::3] = 0
    return rows


@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25])
@pytest.mark.parametrize("make", [sparse_rows, near_limit, dead_rows])
@pytest.mark.parametrize("seed", range(2))
def test_the_screened_duplicates_are_those_of_every_pair(
    make: Any, scale: float, seed: int
) -> None:
    rows = make(stream(seed, "rows")) * scale
    assert duplicates(rows) == compared(rows)


def test_duplicates_of_half_precision_and_none() -> None:
    rows = torch.randn(12, 200, generator=stream(0, "rows"), dtype=torch.float32)
    rows[5] = rows[2]
    assert duplicates(rows.bfloat16()) == duplicates(rows) == (2, 5)
    assert duplicates(torch.zeros(3, 4)) == ()


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (40, 40)])
@pytest.mark.parametrize("true", [5, 19, 20, 21, 40])
def test_independence_is_proven_only_where_the_rank_is_there(
    shape: tuple[int, int], true: int
) -> None:
    rng = stream(true, "rank")
    low = torch.randn(shape[0], true, generator=rng) @ torch.randn(true, shape[1], generator=rng)
    for weight in (low, low * 1e-25, low.double() + 1e-8 * torch.randn(shape, generator=rng)):
        for k in (1, 20, 40):
            assert not independent(weight, k) or rank(weight) >= k
    assert independent(torch.randn(shape, generator=rng), 20)
    assert not independent(torch.randn(shape, generator=rng), 41)


def test_a_matrix_just_below_the_limit_is_never_cleared() -> None:
    left = torch.linalg.qr(torch.randn(40, 40, generator=stream(0, "l"), dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(90, 40, generator=stream(0, "r"), dtype=torch.float64))[0]
    for small in (2e-5, 1.1e-5, 0.9e-5, 1e-6):
        values = torch.ones(40, dtype=torch.float64)
        values[15:] = small
        weight = left @ values.diag() @ right.T
        assert not independent(weight, 20) or rank(weight) >= 20
    values[15:] = 0.1
    assert independent(left @ values.diag() @ right.T, 20)


@pytest.mark.parametrize("name", ATTACKS)
def test_screening_changes_no_finding_on_crafted_models(name: str) -> None:
    model = crafted(ATTACKS[name][0], seed=1)
    assert Screened()(model).findings == Scan()(model).findings


def test_screening_clears_honest_layers_without_measuring_their_rank() -> None:
    model = SAMPLE.model(zoo.resnet18("cifar", seed=3))
    screened, exact = Screened()(model), Scan()(model)
    assert screened.findings == exact.findings == ()
    assert screened.figures.keys() == exact.figures.keys()
    assert not any("rank" in figures for figures in screened.figures.values())
    assert all(figures["rank"] >= 0.5 for figures in exact.figures.values())
    stricter = Scan(rank=1.0, duplicates=1, reach=0.01)
    assert Screened(stricter)(model).findings == stricter(model).findings


def test_attention_and_convolutions_are_scanned_too() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, stride=8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            words = self.stem(x).flatten(2).transpose(1, 2)
            mixed: Tensor = self.head(self.attention(words, words, words)[0].mean(1))
            return mixed

    torch.manual_seed(0)
    module = Attends()
    report = scan(SAMPLE.model(module))
    assert {"stem.weight", "attention.in_proj_weight", "head.weight"} <= set(report.figures)
    with torch.no_grad():
        module.attention.in_proj_weight[:] = module.attention.in_proj_weight[0]
    assert any(f.layer == "attention.in_proj_weight" for f in scan(SAMPLE.model(module)).findings)


def test_guarded_refuses_before_anything_is_shared_and_otherwise_changes_nothing() -> None:
    asked: list[Batch] = []

    def inner(model: Model, batch: Batch, rng: torch.Generator) -> Any:
        asked.append(batch)
        return FedSGD()(model, batch, rng)

    guarded = Guarded(inner)
    with pytest.raises(Refused) as caught:
        guarded(crafted(Imprint(bins=64, public=PUBLIC.x)), SAMPLE.batch, stream(0, "client"))
    assert asked == []
    assert caught.value.findings
    assert isinstance(caught.value, SeepageError)
    assert "block.linear.weight" in str(caught.value)
    honest = SAMPLE.model(net(2))
    update = guarded(honest, SAMPLE.batch, stream(0, "client"))
    plain = FedSGD()(honest, SAMPLE.batch, stream(0, "client"))
    assert all(torch.equal(update[name], plain[name]) for name in plain)


def test_a_server_that_passes_the_scan_is_caught_by_the_clients_own_update() -> None:
    attack = SparseImprint(bins=96, measure="avg", offset="buffer", public=PUBLIC.x)
    model = crafted(attack)
    rows = model.params["block.linear.weight"]
    noise = torch.randn(rows.shape, generator=stream(0, "disturb")) / rows.shape[1] ** 0.5
    disturbed = rows + 0.1 * noise * rows.norm(dim=1, keepdim=True)
    adaptive = model.replaced({"block.linear.weight": disturbed})
    assert scan(adaptive).findings == ()
    with pytest.raises(Refused, match="isolated"):
        Guarded(FedSGD())(adaptive, SAMPLE.batch, stream(0, "client"))


def test_few_examples_are_measured_and_not_judged() -> None:
    model = SAMPLE.model(zoo.mlp(3072, 64, 10, seed=0))
    report = self_audit(model, SAMPLE.batch[:1])
    assert report.isolated == (0,)
    assert report.findings == ()


def test_reports_say_what_they_cannot_see_and_never_that_all_is_well() -> None:
    report = scan(SAMPLE.model(net(0))) + self_audit(SAMPLE.model(net(0)), SAMPLE.batch)
    text = str(report)
    assert "nothing found" in text
    assert "cannot see" in text
    assert "no proof of safety" in text
    assert {"rank", "isolated"} <= set(report.figures["linear"]) | set(
        report.figures["linear.weight"]
    )


def test_a_zeroed_head_or_adapter_is_not_called_a_sorter() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2))
    nn.init.zeros_(module[3].weight)  # type: ignore[arg-type]
    model = Model.of(module, nn.functional.cross_entropy, Images((3, 2, 2), classes=2))
    assert scan(model).findings == ()


def test_guards_work_on_tables() -> None:
    form = Table((Column("a"), Column("b", ("x", "y", "z"))), classes=2)
    torch.manual_seed(0)
    model = Model.of(nn.Linear(4, 2), nn.functional.cross_entropy, form)
    x = torch.randn(20, 4, generator=stream(0, "x"))
    report = self_audit(model, Batch(x, torch.arange(20) % 2))
    assert report.isolated == ()
    assert scan(model).findings == ()


@pytest.mark.parametrize("make", [lambda: Scan(reach=0), lambda: SelfAudit(isolated=-1)])
def test_limits_must_be_positive(make: Any) -> None:
    with pytest.raises(InvalidInput, match="must be"):
        make()


def test_a_bin_far_narrower_than_a_batch_is_found_by_the_clients_own_law() -> None:
    attack = OneShot(n=4000, rows="pair", measure="randn", public=PUBLIC.x)
    report = self_audit(crafted(attack), SAMPLE.batch)
    (narrow,) = [f for f in report.findings if f.check == "narrow"]
    assert narrow.layer == "block.linear"
    assert narrow.rows == (0, 1)
    # The server asked for 1/4000; the client sees it through its own photographs.
    assert 1 / 20000 < narrow.figure < 1 / 800
    honest = self_audit(SAMPLE.model(net(0)), SAMPLE.batch)
    assert all(figures["narrowest bin"] == 1 for figures in honest.figures.values())


def test_the_narrowest_bin_of_parallel_rows_by_closed_form() -> None:
    x = torch.randn(4000, 3, generator=stream(0, "x"), dtype=torch.float64)
    w = torch.tensor([0.6, 0.8, 0.0])
    weight = torch.stack([w, 2 * w, -3 * w, torch.tensor([1.0, 0.0, 0.0])])
    bias = -torch.tensor([0.0, 2 * 0.1, -3 * 1.0, 0.0])
    mass, rows = narrowest(weight, bias, x)
    assert rows == (0, 1)
    assert mass == pytest.approx(0.0398, rel=0.1)
