"""Is the privacy that a setting declares what it has? And what noise would be enough?"""

from collections.abc import Mapping
from typing import Any, Literal

from seepage.errors import InvalidInput
from seepage.guard.mechanism import (
    Mechanism,
    classical,
    false_above,
    flower_table,
    opacus_check,
    std_for_psnr,
    svt_budget,
)
from seepage.values import value

__all__ = [
    "Flaw",
    "Mechanism",
    "classical",
    "false_above",
    "flower_table",
    "judged",
    "lint",
    "opacus_check",
    "std_for_psnr",
    "svt_budget",
]

Severity = Literal["error", "warning", "note"]

_FIELDS = "clip, sensitivity, epsilon, delta, std, multiplier, rounds, rate, accountant"


@value
class Flaw:
    """What is wrong with a setting (`error`: a claim is false), where, and what to do."""

    severity: Severity
    field: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.field}: {self.remedy}"


def lint(thing: Any, **declared: float) -> list[Flaw]:
    """Every way in which a setting's privacy is not what it says.

    `thing` is a dict of settings, a client, an Opacus optimizer, Flower's LocalDpMod, or an NVFlare
    filter, known by their attributes. Keywords add what it does not say: epsilon, delta, rounds,
    rate.

    >>> [f.field for f in lint({"clip": 1.0, "sensitivity": 1.0, "epsilon": 20.0, "delta": 1e-5})]
    ['epsilon', 'epsilon']
    """
    filtered = _filters(thing)
    if filtered is not None:
        return filtered
    layers = [] if _foreign(thing) else _layers(thing)
    found = _order(layers)
    if any(f.severity == "error" for f in found):
        return found
    named = str(thing.get("accountant", "")) if isinstance(thing, Mapping) else ""
    if named.lower() == "gdp":
        found.append(_UNDERESTIMATED)
    return found + judged(_mechanism(thing, layers, declared))


def judged(made: Mechanism) -> list[Flaw]:
    """The findings about one mechanism."""
    if made.std == 0:
        return [Flaw("error", "std", "there is no noise, so no epsilon. Add noise.")]
    if made.clip is None:
        return [_UNCLIPPED]
    found = []
    if made.sensitivity is not None and made.sensitivity < made.clip:
        found.append(_sensitivity(made, made.sensitivity))
    if made.epsilon is not None:
        found += _declared(made, made.epsilon)
    else:
        found.append(
            Flaw(
                "note",
                "epsilon",
                f"none is declared: it is {made.tight():g} at delta={made.delta:g} over "
                f"{made.rounds} rounds, and {made.tight(2):g} if records are replaced.",
            )
        )
    if made.rate < 1:
        found.append(
            Flaw(
                "note",
                "rate",
                "assumes Poisson sampling: a loader that shuffles and goes through all data has "
                "rate 1 and one round for each epoch.",
            )
        )
    return found


_UNDERESTIMATED = Flaw(
    "error",
    "accountant",
    "the Gaussian limit of sampled rounds may underestimate epsilon. Use 'prv', or 'rdp' (looser).",
)
_UNCLIPPED = Flaw(
    "error", "clip", "noise without a clipped update has no epsilon. Put a Clip inside the noise."
)


def _sensitivity(made: Mechanism, given: float) -> Flaw:
    assert made.clip is not None
    return Flaw(
        "error",
        "sensitivity",
        f"{given:g} is below the clipping norm {made.clip:g}: the noise is "
        f"{made.clip / given:.3g} times too small. Use sensitivity={made.clip:g}.",
    )


def _declared(made: Mechanism, epsilon: float) -> list[Flaw]:
    found = []
    for factor, reading in ((1, "one record added or removed"), (2, "one update replaced")):
        tight = made.tight(factor)
        if tight > epsilon + 0.005:
            severity: Severity = "error" if factor == 1 else "warning"
            over = f" over {made.rounds} rounds" if made.rounds > 1 else ""
            found.append(
                Flaw(
                    severity,
                    "rounds" if made.rounds > 1 else "epsilon",
                    f"declared {epsilon:g}, but it is {tight:g} at delta={made.delta:g}{over} for "
                    f"{reading}. Use std={made.repaired(factor):.4g} (now {made.std:.4g}).",
                )
            )
    return found


_OPACUS = ("noise_multiplier", "max_grad_norm")
_FLOWER = ("clipping_norm", "sensitivity", "epsilon", "delta")


def _foreign(thing: Any) -> bool:
    """Whether it is a setting of another library, which may be callable as a client is."""
    return any(all(hasattr(thing, name) for name in names) for names in (_OPACUS, _FLOWER))


def _layers(thing: Any) -> list[Any]:
    """A client and its inner clients in the order in which things happen; nothing for the rest."""
    layers = []
    while hasattr(thing, "inner"):
        layers.append(thing)
        thing = thing.inner
    return [*layers, thing][::-1] if layers or callable(thing) else []


def _order(layers: list[Any]) -> list[Flaw]:
    names = [type(layer).__name__ for layer in layers]
    found = []
    noisy = [i for i, name in enumerate(names) if name == "Noise"]
    clips = [i for i, name in enumerate(names) if name == "Clip"]
    if noisy and clips and max(clips) > max(noisy):
        remedy = "clipping after the noise bounds nothing that the noise hides. Clip before it."
        found.append(Flaw("warning", "Clip", remedy))
    if any(layers[i].relative for i in noisy):
        remedy = "noise that grows with the update has no epsilon. Use relative=False and a Clip."
        found.append(Flaw("error", "Noise.relative", remedy))
    if any(getattr(layers[i], "kind", "gauss") == "laplace" for i in noisy):
        remedy = "Laplace noise needs the update's L1 norm bounded, and Clip bounds L2. Use gauss."
        found.append(Flaw("error", "Noise.kind", remedy))
    if any(getattr(layers[i], "kind", "gauss") == "optimal" for i in noisy):
        remedy = "noise that spreads by the data has no epsilon: its spread tells. Use gauss."
        found.append(Flaw("error", "Noise.kind", remedy))
    if noisy and not any(c < min(noisy) for c in clips):
        found.append(_UNCLIPPED)
    if layers and not noisy and "DPSGD" not in names:
        found.append(Flaw("error", "noise", "no layer adds noise, so no epsilon. Add one."))
    return found


def _filters(thing: Any) -> list[Flaw] | None:
    """NVFlare's filters, and the clients that stand for them."""
    if all(hasattr(thing, name) for name in ("percentile", "gamma")):
        remedy = "a percentile filter has no noise, so no epsilon. Clip and add noise for one."
        scalar = "tensors without dimensions pass as they are. Share none, or filter them yourself."
        return [Flaw("error", "percentile", remedy), Flaw("warning", "scalars", scalar)]
    for names in _SPARSE:
        if all(hasattr(thing, name) for name in (*names, "tau", "gamma")):
            fraction, epsilon, noise_var = (float(getattr(thing, name)) for name in names)
            return _sparse(fraction, epsilon, noise_var, float(thing.gamma))
    return None


# Our client's names, and those that NVFlare's SVTPrivacy keeps.
_SPARSE = (("fraction", "epsilon", "noise_var"), ("frac", "eps_1", "eps_3"))


def _sparse(fraction: float, epsilon: float, noise_var: float, gamma: float) -> list[Flaw]:
    budget = (
        f"declared {epsilon:g}, but a round spends epsilon + c noise_var = {epsilon:g} + "
        f"{noise_var:g} c, with c = {fraction:g} of all parameters (`svt_budget`). Lower the "
        "fraction, or account for it."
    )
    drowned = (
        f"noise of scale 2 gamma / noise_var = {2 * gamma / noise_var:.3g} lies on signals of at "
        f"most gamma = {gamma:g}. Raise noise_var or expect noise alone."
    )
    return [Flaw("error", "epsilon", budget), Flaw("warning", "noise_var", drowned)]


def _mechanism(thing: Any, layers: list[Any], extra: Mapping[str, float]) -> Mechanism:
    if isinstance(thing, Mapping):
        return _from_fields({**thing, **extra})
    if all(hasattr(thing, name) for name in _OPACUS):
        return _from_fields(
            {"multiplier": thing.noise_multiplier, "clip": thing.max_grad_norm, **extra}
        )
    if all(hasattr(thing, name) for name in _FLOWER):
        fields = {name: getattr(thing, name) for name in _FLOWER[1:]}
        return _from_fields({"clip": thing.clipping_norm, **fields, **extra})
    return _from_fields({**_of_client(layers), **extra})


def _of_client(layers: list[Any]) -> dict[str, float]:
    for i, layer in enumerate(layers):
        if type(layer).__name__ == "DPSGD":
            return {"multiplier": layer.multiplier, "clip": layer.norm, "rate": layer.rate or 1.0}
        if type(layer).__name__ == "Noise":
            clips = [inner.norm for inner in layers[:i] if type(inner).__name__ == "Clip"]
            return {"std": layer.std, "clip": min(clips)}
    raise InvalidInput(
        "this is no dict, client, Opacus optimizer, Flower mod or NVFlare filter. Give a dict of "
        f"{_FIELDS}."
    )


def _from_fields(given: Mapping[str, Any]) -> Mechanism:
    unknown = set(given) - set(_FIELDS.split(", "))
    if unknown:
        raise InvalidInput(f"{sorted(unknown)} is not known here: use {_FIELDS}.")
    fields, delta = dict(given), given.get("delta", 1e-5)
    fields.pop("accountant", None)
    multiplier, std = fields.pop("multiplier", None), fields.pop("std", None)
    clip, declared = fields.pop("clip", None), fields.get("epsilon")
    if multiplier is not None:
        std = multiplier * (clip or 1.0)
    if std is None and declared is None:
        raise InvalidInput("no noise is given: pass std, multiplier, or epsilon with delta.")
    if std is None:  # as Flower does
        std = classical(fields.get("sensitivity") or clip or 1.0, float(declared or 0), delta)
    return Mechanism(clip=clip, std=std, **fields)
