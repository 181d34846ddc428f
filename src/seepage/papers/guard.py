"""The client-side guard: what it catches, what it wrongly flags, and what it cannot see.

No paper's figures stand behind this page: rates are measured on models that honest servers send
(fresh, after an epoch, and trained to the end) and on every malicious one that this package can
craft, with seeds that were not used to set the limits.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from seepage import zoo
from seepage.attacks import Counted, Imprint, OneShot, SparseImprint, Trap
from seepage.attacks.imprint.placement import disarmed
from seepage.clients import FedSGD
from seepage.core import Attack, Batch, Model, observe, stream
from seepage.guard import Report, Scan, SelfAudit
from seepage.papers.claims import Claim
from seepage.papers.honest import honest

_SIZE, _CLASSES, _N = 32, 8, 64
_CHECKS = ("rank", "duplicates", "reach", "isolated", "rare", "narrow")


@dataclass(frozen=True)
class _Seen:
    """One model looked at with one batch."""

    kind: str
    malicious: bool
    report: Report
    accuracy: float | None = None
    """Of an honest model, on examples that it was not trained on."""

    def flagged(self, checks: tuple[str, ...]) -> bool:
        return any(finding.check in checks for finding in self.report.findings)

    def worst(self, figure: str) -> float:
        """The figure of the layer where it stands out most."""
        values = [layer[figure] for layer in self.report.figures.values() if figure in layer]
        return (min if figure == "rank" else max)(values)


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:
    """The table of figures, then the rates of each check and of all together."""
    seeds = (31,) if quick else (31, 32, 33, 34)
    seen = [*_honest(seeds[:2], quick), *_malicious(seeds, quick)]
    yield from _table(seen)
    for checks in (*((name,) for name in _CHECKS), _CHECKS[:3], _CHECKS):
        yield _rates(checks, seen)
    yield _signal_to_noise(seen)
    yield _asleep(seeds[0])
    yield from (_adaptive(seed) for seed in seeds)
    if folder is not None:
        _draw(seen, folder)


def _table(seen: list[_Seen]) -> Iterator[Claim]:
    """One line a kind of model: the range of every figure over seeds and batches."""
    for kind in dict.fromkeys(one.kind for one in seen):
        group = [one for one in seen if one.kind == kind]
        parts = []
        for figure in ("rank", "duplicates", "reach", "isolated", "rare", "D-SNR"):
            values = [one.worst(figure) for one in group]
            low, high = min(values), max(values)
            parts.append(f"{figure} {low:.3g}" + (f"-{high:.3g}" if high > low else ""))
        malicious = "malicious" if group[0].malicious else "honest"
        how = f"{malicious}, {len(group)} looks at models with a batch of {_N}"
        right = [one.accuracy for one in group if one.accuracy is not None]
        if right:
            how += f", accuracy on new examples {min(right):.2f}-{max(right):.2f}"
        yield Claim(kind, "not available", ", ".join(parts), "measured", how)


def _rates(checks: tuple[str, ...], seen: list[_Seen]) -> Claim:
    bad = [one for one in seen if one.malicious]
    good = [one for one in seen if not one.malicious]
    caught = sum(one.flagged(checks) for one in bad)
    wrongly = sum(one.flagged(checks) for one in good)
    missed = sorted({one.kind for one in bad if not one.flagged(checks)})
    how = f"missed: {', '.join(missed)}" if missed else "missed: none of these"
    got = f"true positives {caught}/{len(bad)}, false positives {wrongly}/{len(good)}"
    return Claim(f"flagged by {' or '.join(checks)}", "not available", got, "measured", how)


def _signal_to_noise(seen: list[_Seen]) -> Claim:
    high = max(one.worst("D-SNR") for one in seen if one.malicious)
    flags = sum(one.worst("D-SNR") > 1 for one in seen if not one.malicious)
    honest = sum(not one.malicious for one in seen)
    return Claim(
        "D-SNR (Garov et al. 2023) on imprints",
        "detects malicious servers above 1",
        f"at most {high:.2g} on malicious models, above 1 on {flags}/{honest} honest ones",
        "not confirmed" if high < 1 else "confirmed",
        "blind to rows shared by many examples: it asks whether one example is the whole gradient",
    )


def _honest(seeds: tuple[int, ...], quick: bool) -> Iterator[_Seen]:
    kinds = ("MLP", "ConvNet") if quick else ("MLP", "ConvNet", "ResNet-18")
    for kind, data in itertools.product(kinds, ("digits",) if quick else ("digits", "photographs")):
        for one in itertools.chain.from_iterable(honest(kind, data, s, quick) for s in seeds):
            for batch in one.batches:
                looked = _look(f"{one.kind}, {one.state}", False, one.model, batch)
                yield replace(looked, accuracy=one.accuracy)


def _malicious(seeds: tuple[int, ...], quick: bool) -> Iterator[_Seen]:
    public = zoo.photos(300 if quick else 1500, _SIZE, split="both", seed=900)
    for seed in seeds:
        raw = zoo.photos(_N, _SIZE, split="both", seed=600 + seed)
        network = zoo.convnet(8, classes=_CLASSES, seed=seed)
        for kind, attack in _attacks(public.normalised().x).items():
            model = raw.normalised().model(network)
            yield _look(kind, True, _crafted(attack, model, seed), raw.normalised().batch)
        cah = Trap(n=_N, kind="cah", public=public.x)
        yield _look("trap, cah", True, _crafted(cah, raw.model(network), seed), raw.batch)


def _asleep(seed: int) -> Claim:
    """A patient server: the block is there, its weights are not crafted yet."""
    sample = zoo.photos(_N, _SIZE, split="both", seed=600 + seed).normalised()
    public = zoo.photos(300, _SIZE, split="both", seed=900).normalised()
    model = sample.model(zoo.convnet(8, classes=_CLASSES, seed=seed))
    asleep = disarmed(_crafted(Imprint(public=public.x), model, seed), stream(seed, "disarm"))
    found = _look("", True, asleep, sample.batch).report.findings
    got = "nothing found" if not found else f"{len(found)} findings"
    how = "the same network is found in the round in which its weights are crafted"
    return Claim("imprint rows not yet armed", "not available", got, "measured", how)


def _adaptive(seed: int) -> Claim:
    """A server that knows the scan: edges in a buffer, rows disturbed until none is a copy."""
    sample = zoo.photos(_N, _SIZE, split="both", seed=600 + seed).normalised()
    public = zoo.photos(300, _SIZE, split="both", seed=900).normalised()
    attack = SparseImprint(measure="avg", offset="buffer", public=public.x)
    crafted = _crafted(attack, sample.model(zoo.convnet(8, classes=_CLASSES, seed=seed)), seed)
    rows = crafted.params["block.linear.weight"]
    noise = torch.randn(rows.shape, generator=stream(seed, "disturb"))
    disturbed = rows + 0.1 * noise * rows.norm(dim=1, keepdim=True) / rows.shape[1] ** 0.5
    crafted = crafted.replaced({"block.linear.weight": disturbed})
    seen = observe(crafted, sample.batch, FedSGD(), stream(seed, "client"))
    read = sum(attack(seen, stream(seed, "attack")).trace.get("certified", ()))
    static = {finding.check for finding in Scan()(crafted).findings}
    dynamic = {finding.check for finding in SelfAudit()(crafted, sample.batch).findings}
    got = (
        f"{read} of {_N} images read and certified; "
        f"the scan says {', '.join(static) or 'nothing'}, "
        f"the self-audit {', '.join(dynamic) or 'nothing'}"
    )
    how = "edges in a buffer, a tenth of noise in each row: passing the scan proves nothing"
    return Claim(
        f"a server that knows the scan, seed {seed}", "not available", got, "measured", how
    )


def _attacks(public: torch.Tensor) -> dict[str, Attack]:
    return {
        "imprint, avg": Imprint(measure="avg", public=public),
        "imprint, fine, permuted": Imprint(permute=True, public=public),
        "imprint, avg, decoys": Imprint(measure="avg", decoys=32, permute=True, public=public),
        "imprint, 3 directions": Imprint(directions=3, public=public),
        "counted, 3 directions": Counted(public=public),
        "sparse, bias": SparseImprint(measure="avg", offset="bias", public=public),
        "sparse, buffer": SparseImprint(measure="avg", offset="buffer", public=public),
        "sparse, frozen": SparseImprint(public=public),
        "one-shot, pair": OneShot(n=4096, rows="pair", public=public),
        "one-shot, clamp": OneShot(n=4096, public=public),
        "trap, quantile": Trap(n=_N, public=public),
    }


def _crafted(attack: object, model: Model, seed: int) -> Model:
    crafted: Model = attack.craft(model, stream(seed, "craft"))  # type: ignore[attr-defined]
    return crafted


def _look(kind: str, malicious: bool, model: Model, batch: Batch) -> _Seen:
    return _Seen(kind, malicious, Scan()(model) + SelfAudit()(model, batch))


def _draw(seen: list[_Seen], folder: Path) -> None:
    """Reach against isolated examples: where the two kinds of model lie."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5))
    axes = figure.subplots()
    for malicious, colour, label in ((False, "tab:blue", "honest"), (True, "tab:red", "malicious")):
        group = [one for one in seen if one.malicious == malicious]
        reach = [max(one.worst("reach"), 1e-2) for one in group]
        axes.scatter(reach, [one.worst("isolated") for one in group], c=colour, label=label)
    axes.axvline(Scan().reach, color="grey", linestyle=":")
    axes.axhline(SelfAudit().isolated * _N, color="grey", linestyle=":")
    axes.set(xscale="log", xlabel="reach", ylabel=f"examples isolated, of {_N}")
    axes.legend()
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "guard.png", dpi=150)
