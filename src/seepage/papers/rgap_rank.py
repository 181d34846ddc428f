"""R-GAP's rank analysis: does the count of equations predict recovery? arXiv 2010.07733.

Zhu & Blaschko 2021 count the equations of each layer and argue that a network whose layer is
short of them, such as CNN6-d, is more secure at no loss of accuracy.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from seepage import zoo
from seepage.analysis import rank
from seepage.attacks import RGap
from seepage.papers.claims import Claim
from seepage.papers.rgap import Run, pair, ran, save


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:
    """The counts of CNN6 and CNN6-d, what each attack recovers, and what each network learns."""
    for name, make in (("CNN6", zoo.cnn6), ("CNN6-d", zoo.cnn6_d)):
        yield _counted(name, make, quick)
    yield from _recoveries(1 if quick else 6, folder)
    yield from _together(quick, folder)
    yield from _accuracies(quick)


def _counted(name: str, make: Callable[..., nn.Module], quick: bool) -> Claim:
    sizes = (32,) if quick else (32, 64, 224)
    texts = []
    for size in sizes:
        given = pair(partial(make, size=size), 0, size)
        exposure = rank.layers(given.seen.model, most=0 if quick else 4000)
        second, first = exposure.rows[1], exposure.rows[0]
        texts.append(
            f"{size}x{size}: conv2 {second.deficit}, network {first.network_deficit}, "
            f"{exposure.tier}"
        )
    return Claim(f"{name}: RA of conv2 and of the whole network", "not available",
                 "; ".join(texts), "measured")  # fmt: skip


def _recoveries(count: int, folder: Path | None) -> Iterator[Claim]:
    plain = [ran(RGap(), pair(zoo.cnn6, i)) for i in range(count)]
    short = [ran(RGap(joint=False, refine="none"), pair(zoo.cnn6_d, i)) for i in range(count)]
    parted = min(r.psnr for r in plain) > 60 and max(r.psnr for r in short) < 20
    yield Claim(
        "the count predicts what the recursion recovers",
        "a full count is recovered, a short one is not",
        f"CNN6 {_range(plain)}, CNN6-d {_range(short)}",
        "confirmed" if parted else "not confirmed",
        f"{count} pairs; the failures say so: {short[0].answer.note.split(';')[0]}",
    )
    if folder is not None:
        save(plain[0].answer.x[0], folder / "cnn6.png")
        save(short[0].answer.x[0], folder / "cnn6_d_recursion.png")


def _together(quick: bool, folder: Path | None) -> Iterator[Claim]:
    """The 'safer' network: its deficit stops the recursion, not the leak."""
    make = (lambda: zoo.three_conv(12, 10)) if quick else zoo.cnn6_d
    count, size = (1, 16) if quick else (6, 32)
    runs = [ran(RGap(), pair(make, i, size)) for i in range(count)]
    many = sum(run.psnr >= 60 for run in runs)
    yield Claim(
        "a layer that is short of equations raises security",
        "yes",
        f"solved with the layer before: {_range(runs)}, {many} of {count} at 60 dB or more, "
        f"{max(run.seconds for run in runs):.0f} CPU s at most",
        "not confirmed" if many else "confirmed",
        "S(12, 10) at 16x16" if quick else f"CNN6-d at 32x32, {count} pairs, label unknown",
    )
    if folder is not None:
        save(runs[0].answer.x[0], folder / "short_solved_jointly.png")


def _range(runs: list[Run]) -> str:
    quality = [run.psnr for run in runs]
    return f"{min(quality):.1f} to {max(quality):.1f} dB"


def _accuracies(quick: bool) -> Iterator[Claim]:
    """Both networks trained alike, on several seeds, and tested on examples not seen."""
    for task, data in (
        ("digits", digits_halves),
        ("which of eight photographs", photograph_halves),
    ):
        what = f"no loss of accuracy: {task}"
        if quick:
            yield Claim(what, "none", "not run in the quick form", "not run")
            continue
        given = data()
        got = {
            name: torch.tensor([trained(make, given, seed).accuracy for seed in range(_SEEDS)])
            for name, make in _NETWORKS.items()
        }
        yield _compared(what, got["CNN6"], got["CNN6-d"], len(given[2]))


def _compared(what: str, wide: Tensor, narrow: Tensor, tested: int) -> Claim:
    """Confirmed where the loss, and two standard errors more, stay below one in a hundred."""
    loss = wide - narrow
    error = float(loss.std()) / len(loss) ** 0.5
    scores = (("CNN6", wide), ("CNN6-d", narrow))
    each = ", ".join(
        f"{name} {float(s.mean()):.3f} (s.d. {float(s.std()):.3f})" for name, s in scores
    )
    return Claim(
        what,
        "none",
        f"{each}; loss {float(loss.mean()):+.4f}, standard error {error:.4f}, median "
        f"{float(loss.median()):+.4f}",
        "confirmed" if float(loss.mean()) + 2 * error <= 0.01 else "not confirmed",
        f"{len(loss)} seeds, {_STEPS} steps of Adam on 800 examples, {tested:,} to test",
    )


_SEEDS, _STEPS = 10, 400
_NETWORKS: dict[str, Callable[..., nn.Module]] = {"CNN6": zoo.cnn6, "CNN6-d": zoo.cnn6_d}
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def digits_halves() -> Data:
    """Digits as three equal channels of 32 x 32."""
    known, tested = zoo.digits(800, 32, "public").batch, zoo.digits(400, 32).batch
    shape = (-1, 3, -1, -1)
    return known.x.expand(shape), known.target, tested.x.expand(shape), tested.target


def photograph_halves() -> Data:
    """Crops of eight photographs; the photograph is the class."""
    known, tested = zoo.photos(800, 32, "both", seed=1).batch, zoo.photos(2000, 32, "both").batch
    return known.x, known.target, tested.x, tested.target


@dataclass(frozen=True, eq=False)
class Trained:
    """A network after training, in eval mode, and its accuracy on examples not seen."""

    network: nn.Module
    accuracy: float


def trained(
    make: Callable[..., nn.Module], data: Data, seed: int = 0, count: int = _STEPS
) -> Trained:
    """A network of ten classes after so many steps on the first half of the data."""
    x, y, x_, y_ = data
    network = make(10, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    steps = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(count):
        chosen = torch.randint(len(x), (64,), generator=rng)
        steps.zero_grad()
        risk = nn.functional.cross_entropy(network(x[chosen] - 0.5), y[chosen])
        risk.backward()  # type: ignore[no-untyped-call]
        steps.step()
    with torch.no_grad():
        accuracy = float((network(x_ - 0.5).argmax(1) == y_).double().mean())
    return Trained(network.eval(), accuracy)
