"""What no attacker can exceed on one round of a client, from the noise that it adds."""

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from seepage.analysis.bounds import Bound, Channel, Gaussian, Spectrum
from seepage.analysis.bounds.cramer_rao import certificate
from seepage.analysis.bounds.rate import any_network, private_records
from seepage.analysis.bounds.robustness import public_chance, rero
from seepage.core import Client, Model, stream
from seepage.errors import SeepageError
from seepage.forms import Images
from seepage.values import value

Subject = Literal["records", "pixels", "naming"]

_LARGEST, _SOLVED = 800, 200  # unknowns that the rate bound and the certificate do in seconds
_HELD = 2 * 10**7  # entries of sampled gradients
_RECOVERED = 1e-3  # the mean squared error of 30 dB
_NAMED = 100
# These see the noisy update and nothing else, so what noise hides stays hidden.
_AFTER = ("Prune", "Quantize", "Sign", "Clip", "Only", "Percentile", "SVT", "Guarded")
_SHORTENING = ("Clip", "Prune", "Only")


@value
class Ceiling:
    """A bound with what it bounds.

    "records": how many examples are recovered; "pixels": the PSNR of the mean error; "naming": the
    chance of naming the right one of 100 equally likely candidates, which no attack here tries.
    """

    of: Subject
    bound: Bound


@dataclass(frozen=True, eq=False)
class Release:
    """One round: who shares what, and how the answers to it are matched with the truth.

    `public` are examples like the private ones, of which the prior is made; `candidates` is the
    number of answers that the scorer may choose from.
    """

    model: Model
    client: Client
    n: int
    y: Tensor | None = None
    public: Tensor | None = None
    candidates: int = 1
    malicious: bool = False


@value
class Noisy:
    """The noise of a client: what adds it, how often, and how far one record moves its mean.

    `shift` is that distance in standard deviations, None where nothing limits it; `alone` says that
    the noise lies on one computation, with nothing but the update's own shaping outside.
    """

    layer: Any
    rounds: int = 1
    shift: float | None = None
    alone: bool = True
    hindrance: str = ""
    rate: float = 1.0


def ceilings(release: Release) -> list[Ceiling]:
    """Every ceiling of a client that adds noise; empty where it adds none.

    DP-SGD, and noise on a clipped update: the chance of naming a candidate, the number of records
    recovered, the PSNR of a record. Other Gaussian noise on images: the Cramer-Rao certificate on
    smooth layers with one example, else the rate bound. Where none applies, one of label "none"
    says why.

    >>> from seepage import zoo
    >>> from seepage.clients import FedSGD
    >>> from seepage.defenses import DPSGD
    >>> model, batch = zoo.example()
    >>> for one in ceilings(Release(model, DPSGD(1.0, 1.0), len(batch))):
    ...     print(one.of, round(one.bound.value, 3), one.bound.label)
    naming 0.092 certified
    >>> ceilings(Release(model, FedSGD(), len(batch)))
    []
    """
    noisy = noise(release.client)
    if noisy is None:
        return []
    try:
        plain = _plain(release, noisy)
        if noisy.shift is None:
            return [Ceiling("pixels", plain)]
        return _private(release, noisy, plain)
    except (SeepageError, RuntimeError) as error:  # a network whose derivative torch cannot take
        return [Ceiling("pixels", _none(" ".join(str(error).split())[:300]))]


def noise(client: Client) -> Noisy | None:
    """The outermost noise of a client, through what only sees its result.

    >>> from seepage.clients import FedAvg, FedSGD
    >>> from seepage.defenses import DPSGD, Clip, Noise, Prune
    >>> noise(Prune(Noise(Clip(FedSGD(), norm=2.0), std=0.5))).shift
    4.0
    >>> noise(FedAvg(DPSGD(1.0, 2.0), epochs=3)).rounds
    3
    """
    seen, name = client, type(client).__name__
    made: Any = seen
    if name == "DPSGD":
        if made.multiplier == 0:
            return None
        return Noisy(made, 1, 1 / made.multiplier, made.rate is None, rate=made.rate or 1.0)
    if name == "Noise" and made.std > 0:
        return _added(made)
    inner = getattr(made, "inner", None)
    found = None if inner is None else noise(inner)
    if found is None or (name in _AFTER and getattr(made, "kind", "") != "optimal"):
        return found
    if name == "FedAvg":
        # Every epoch shows each record once more, to noise that is new.
        rounds = found.rounds * made.epochs
        return Noisy(found.layer, rounds, found.shift, alone=False, rate=found.rate)
    if name == "SecureSum":
        return Noisy(found.layer, found.rounds, found.shift, alone=False, rate=found.rate)
    return Noisy(found.layer, alone=False, hindrance=f"{name} outside the noise looks at the data")


def _added(layer: Any) -> Noisy:
    if layer.relative:
        return Noisy(layer, hindrance="the noise grows with the update, and so tells of it")
    if layer.kind != "gauss":
        return Noisy(layer, hindrance=f"the noise is of kind '{layer.kind}', not plain Gaussian")
    reach = _reach(layer.inner)
    return Noisy(layer, 1, None if reach is None else reach / layer.std)


def _reach(client: Any) -> float | None:
    """The greatest length of an update, where something shortens it last."""
    name = type(client).__name__
    if name not in _SHORTENING:
        return None
    inside = _reach(client.inner)
    if name == "Clip":
        return float(client.norm if inside is None else min(client.norm, inside))
    return inside


def _private(release: Release, noisy: Noisy, plain: Bound) -> list[Ceiling]:
    """Those of Gaussian noise that hides a record, on any network; `plain` where it is lower."""
    assert noisy.shift is not None
    z, public = 1 / noisy.shift, release.public
    named = rero(1 / _NAMED, z, noisy.rounds, noisy.rate)
    found = [Ceiling("naming", named)]
    if public is None or not isinstance(release.model.form, Images) or len(public) < 2:
        return found
    form = release.model.form
    chance = min(release.candidates * _chance(public, form), 1 - 1e-12)
    gamma = rero(max(chance, 1e-300), z, noisy.rounds, noisy.rate)
    why = (f"private examples like the {len(public)} public ones", *gamma.assumptions)
    limit = Bound(release.n * gamma.value, f"of {release.n}", "estimated", why)
    # Which candidate stands for a record is chosen by the scorer, who knows the record.
    chosen = math.log(release.candidates + (release.candidates < release.n))
    error = private_records(_spectrum(public, form), z, noisy.rounds, noisy.rate, chosen).psnr()
    lower = error if plain.label == "none" else min(plain, error, key=lambda bound: bound.value)
    return [*found, Ceiling("records", limit), Ceiling("pixels", lower)]


def _plain(release: Release, noisy: Noisy) -> Bound:
    """That of Gaussian noise on an update of any length."""
    form, public = release.model.form, release.public
    if noisy.hindrance or not noisy.alone:
        return _none(noisy.hindrance or "noise of local steps or of single users, and no clipping")
    if not isinstance(form, Images):
        return _none("no clipping, and only images have a ceiling without it")
    if public is None or len(public) < 2:
        return _none("no clipping, and no public examples for a prior")
    if release.malicious:
        return _none("no clipping, and the server made the network")
    if release.n * public[0].numel() > _LARGEST:
        unknowns = release.n * public[0].numel()
        return _none(f"no clipping, and {unknowns:,} unknowns are more than {_LARGEST}")
    error = _searched(release.model, noisy.layer, public, release.y, _choices(release))
    scale = min(form.std or (1.0,)) / (form.high - form.low)
    return error.psnr(1 / scale)


@functools.lru_cache(maxsize=64)
def _searched(
    model: Model, layer: Client, public: Tensor, y: Tensor | None, choices: tuple[int, float]
) -> Bound:
    """The least mean squared error in the network's own units."""
    n, spare = choices
    here, rng = Channel(model, layer, Gaussian.fit(public), y, n), stream(0, "ceilings")
    small = here.unknowns <= _SOLVED
    if small and spare == 0 and here.proven()[0] == "certified":
        return certificate(here, (64, 128), rng)
    fitting = _HELD // sum(p.numel() for p in model.params.values())
    return any_network(here, max(50, min(400, fitting)), 200, rng, spare)


def _choices(release: Release) -> tuple[int, float]:
    """n, and the logarithm of the number of ways to match answers with truths."""
    more, fewer = max(release.n, release.candidates), min(release.n, release.candidates)
    return release.n, math.lgamma(more + 1) - math.lgamma(more - fewer + 1)


@functools.lru_cache(maxsize=8)
def _spectrum(public: Tensor, form: Images) -> Spectrum:
    return Spectrum.fit(form.show(public))


@functools.lru_cache(maxsize=8)
def _chance(public: Tensor, form: Images) -> float:
    """The chance that one blind answer is right, not too low with 99 % confidence.

    Whatever lies within a distance of some answer lies within twice that of each other.
    """
    near = public_chance(form.show(public), 4 * _RECOVERED)
    assert near.interval is not None
    return near.interval[1]


def _none(why: str) -> Bound:
    return Bound(math.inf, "dB", "none", (why,))
