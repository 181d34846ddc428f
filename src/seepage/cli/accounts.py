"""`seepage dp`: the epsilon declared, the one that holds, and the noise for a wanted one."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer

from seepage import accounting
from seepage.analysis import bounds
from seepage.checks import positive
from seepage.cli import loading, screen
from seepage.cli.accounted import READINGS, Need, Outcome, Reading, show
from seepage.errors import InvalidInput
from seepage.guard import dp

FALSE = 1


@dataclass(frozen=True)
class Setting:
    """The noise that is used, and what is declared of it."""

    multiplier: float | None
    std: float | None
    clip: float | None
    client: str | None
    epsilon: float | None
    sensitivity: float | None

    @property
    def empty(self) -> bool:
        """Whether nothing is said about noise."""
        noise = (self.multiplier, self.std, self.client)
        return all(given is None for given in noise) and self.epsilon is None


@dataclass(frozen=True)
class Rounds:
    """How often noise is drawn, on which share of the records."""

    steps: int
    rate: float
    delta: float


@dataclass(frozen=True)
class Wanted:
    """What the noise shall be enough for."""

    epsilon: float | None
    success: float | None
    psnr: float | None
    chance: float
    public: str | None


def run(setting: Setting, rounds: Rounds, wanted: Wanted, as_json: bool) -> None:
    """Compute, print, and leave with 1 where something that is declared does not hold."""
    nothing = wanted.epsilon is wanted.success is wanted.psnr is None
    if setting.empty and nothing:
        raise InvalidInput(
            "there is nothing to account for. Give --noise-multiplier, --std with --clip, or "
            "--client; or what is wanted: --want-epsilon, --want-success, --want-psnr."
        )
    if wanted.success is not None and 0 < wanted.success <= wanted.chance < 1:
        raise InvalidInput(
            f"--want-success {wanted.success:g}: no noise keeps a success at or below the "
            f"{wanted.chance:g} that a blind guess has. Give more, or another --chance."
        )
    accounting.check_delta(rounds.delta)
    accounting.check_mechanism(rounds.rate, 1.0, rounds.steps)
    with screen.waiting("adding up the losses of privacy"):
        outcome = _outcome(setting, rounds, wanted)
    if as_json:
        typer.echo(json.dumps(outcome.about(), indent=2, allow_nan=False))
    else:
        show(outcome)
    if outcome.false:
        raise typer.Exit(FALSE)


def _outcome(setting: Setting, rounds: Rounds, wanted: Wanted) -> Outcome:
    findings: tuple[dp.Flaw, ...] = ()
    mechanism = None
    if not setting.empty:
        given, declared = _thing(setting), _declared(setting, rounds)
        findings = tuple(dp.lint(given, **declared))
        mechanism = _mechanism(given, declared)
    prior = None if wanted.public is None else _prior(wanted.public)
    ceilings = () if mechanism is None else tuple(_ceilings(mechanism, wanted.chance, prior))
    readings = () if mechanism is None else tuple(Reading.of(mechanism, k) for k in READINGS)
    return Outcome(findings, mechanism, readings, ceilings, tuple(_needs(rounds, wanted, prior)))


def _thing(setting: Setting) -> Any:
    """What `dp.lint` reads: the client, or a dict of the settings."""
    if setting.client is not None:
        noise = (setting.multiplier, setting.std, setting.clip, setting.sensitivity)
        if any(given is not None for given in noise):
            raise InvalidInput("--client has its own noise and clipping. Give it, or the numbers.")
        return loading.client(setting.client)
    if setting.multiplier is not None and setting.std is not None:
        raise InvalidInput("--noise-multiplier and --std say the same twice. Give one of them.")
    if setting.std is not None and setting.clip is None:
        raise InvalidInput(
            "--std needs --clip: noise on an update of any length has no epsilon. Give both."
        )
    given = {
        "multiplier": setting.multiplier,
        "std": setting.std,
        # Relative to the clipping norm, one norm is as good as another.
        "clip": setting.clip or 1.0,
        "sensitivity": setting.sensitivity,
    }
    for name, number in given.items():
        if number is not None and not 0 <= number < math.inf:
            raise InvalidInput(f"{name}={number} must be a number of at least 0.")
    return {name: number for name, number in given.items() if number is not None}


def _declared(setting: Setting, rounds: Rounds) -> dict[str, Any]:
    declared = {"delta": rounds.delta, "rounds": rounds.steps}
    if rounds.rate != 1:  # otherwise a client's own
        declared["rate"] = rounds.rate
    return declared if setting.epsilon is None else declared | {"epsilon": setting.epsilon}


def _mechanism(given: Any, declared: dict[str, Any]) -> dp.Mechanism | None:
    """Clipped Gaussian noise as numbers, where it is that."""
    fields = dict(given) if isinstance(given, dict) else _of_client(given)
    multiplier, clip = fields.pop("multiplier", None), fields.pop("clip", None)
    std = fields.pop("std", None)
    if multiplier is not None:
        std = multiplier * (clip or 1.0)
    if std is None and "epsilon" in declared and clip is not None:
        std = dp.classical(
            fields.get("sensitivity") or clip, declared["epsilon"], declared["delta"]
        )
    if not std or clip is None:
        return None
    return dp.Mechanism(clip=clip, std=std, **fields | declared)


def _of_client(client: Any) -> dict[str, float]:
    """The innermost noise of a client, and the least clipping norm inside it."""
    found: dict[str, float] = {}
    while client is not None:
        name = type(client).__name__
        if name == "DPSGD":
            found = {"multiplier": client.multiplier, "clip": client.norm}
            found |= {} if client.rate is None else {"rate": client.rate}
        elif name == "Noise" and client.kind == "gauss" and not client.relative:
            found = {"std": client.std}
        elif name == "Clip" and "std" in found:
            found["clip"] = min(client.norm, found.get("clip", math.inf))
        client = getattr(client, "inner", None)
    return found


def _ceilings(
    made: dp.Mechanism, chance: float, prior: bounds.Spectrum | None
) -> Iterator[bounds.Bound]:
    """What no attacker can exceed with this noise."""
    assert made.clip is not None
    how = (made.std / made.clip, made.rounds, made.rate)
    yield bounds.rero(chance, *how)
    if prior is not None:
        yield bounds.private_records(prior, *how).psnr()


def _needs(rounds: Rounds, wanted: Wanted, prior: bounds.Spectrum | None) -> Iterator[Need]:
    steps, rate = rounds.steps, rounds.rate
    if wanted.epsilon is not None:
        positive("--want-epsilon", wanted.epsilon)
        z = accounting.multiplier_for(wanted.epsilon, rounds.delta, steps, rate)
        what = f"epsilon {wanted.epsilon:g} at delta {rounds.delta:g}"
        yield Need(what, z, READINGS[1])
        yield Need(what, 2 * z, READINGS[2])
    if wanted.success is not None:
        what = f"success at most {wanted.success:g} from a chance of {wanted.chance:g}"
        yield Need(what, _hiding(wanted.success, wanted.chance, steps, rate), "one record")
    if wanted.psnr is not None:
        if prior is None:
            raise InvalidInput("--want-psnr needs --public: images in [0, 1] to fit a prior to.")

        def least(z: float) -> float:
            return bounds.private_records(prior, z, steps, rate).value

        what = f"no mean error better than {wanted.psnr:g} dB"
        z = dp.std_for_psnr(least, wanted.psnr)
        yield Need(what, z, "one record, drawn from a Gaussian like the public images")


def _hiding(success: float, chance: float, steps: int, rate: float) -> float:
    """The least noise multiplier that keeps any attacker's success down."""
    enough = accounting.multiplier_for_chance(success, chance, steps)
    if rate == 1:
        return enough
    # Sampling only helps, so what full batches need is where to start.
    return accounting.bisected(
        lambda z: bounds.rero(chance, z, steps, rate).value - success, enough
    )


def _prior(text: str) -> bounds.Spectrum:
    public = loading.examples(text)
    if not public.is_floating_point() or not 0 <= float(public.min()) <= float(public.max()) <= 1:
        raise InvalidInput(f"{text} must give values in [0, 1], as pictures have them.")
    return bounds.Spectrum.fit(public)
