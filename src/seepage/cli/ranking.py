"""`seepage rank`: how much of its input a network's gradient fixes, layer by layer."""

import copy
import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from rich.table import Table as Grid
from rich.text import Text
from torch import Tensor, nn

from seepage import auditing, checks
from seepage.analysis import rank
from seepage.cli import charts, loading, screen
from seepage.core import Batch, Model
from seepage.errors import Failed, InvalidInput, SeepageError
from seepage.report.exposure import page as exposure_page
from seepage.store import plain

_MOST = 1200  # directions that are measured unless more are asked for
TIERS = {
    "recursive": "Highest tier, recursive",
    "identifiable": "High tier, identifiable",
    "deficient": "Lower tier, deficient",
}


@dataclass(frozen=True)
class Asked:
    """What to count, and what to measure, as the command line writes it."""

    model: str
    data: str | None
    examples: int
    noise: float
    basis: int | None


@dataclass(frozen=True)
class Measured:
    """A spectrum, the noise that it is judged at, and the part of the input that it covers."""

    spectrum: rank.Spectrum
    noise: float
    inputs: int
    examples: int

    @property
    def lost(self) -> int:
        """Directions that one gradient leaves open."""
        return self.spectrum.unknowns - self.spectrum.rank

    def about(self) -> dict[str, Any]:
        """The figures, for programs: null stands for infinite."""
        found = self.spectrum
        error = found.error(self.noise)
        return {
            "examples": self.examples,
            "inputs": self.inputs,
            "directions": found.unknowns,
            "rank": found.rank,
            "condition": _finite(found.condition),
            "noise": self.noise,
            "error": _finite(error),
            "readable": found.above(self.noise),
            "singular_values": _brief(found.values),
            "layers": {name: _brief(values) for name, values in found.layers.items()},
            "hidden_below": found.floor(self.noise),
        }

    def lines(self) -> list[str]:
        """The figures in sentences."""
        found, said = self.spectrum, []
        part = "all" if found.unknowns == self.inputs else "the smoothest"
        said.append(
            f"Measured at {self.examples} of the given examples, over {part} {found.unknowns:,} of "
            f"{self.inputs:,} directions of the input:"
        )
        said.append(
            f"- one gradient tells {found.rank:,} of {found.unknowns:,} directions apart, the best "
            f"{found.condition:.3g} times as clearly as the worst of these"
        )
        error = found.error(self.noise)
        at = f"with noise of {self.noise:g} of the gradient's length"
        readable = f"{found.above(self.noise):,} directions are read to a tenth of the range"
        if math.isinf(error):
            said.append(f"- {self.lost:,} directions stay open, so only a prior can fill them")
            said.append(f"- {at}, {readable}")
        else:
            said.append(f"- {at}, {readable}")
            said.append(
                f"- {at}, an attacker without any prior errs by at least {error:.3g} (root mean "
                "square, in the network's units); attackers have priors and do better"
            )
        if len(found.layers) > 1:
            each = (f"{name} {found.told(name):,}" for name in found.layers)
            said.append(f"- told apart by the gradient of one layer alone: {', '.join(each)}")
        if found.unknowns < self.inputs:
            said.append("- finer directions were not measured: raise --basis for more")
        return said


def run(asked: Asked, threads: int, out: Path | None, as_json: bool) -> None:
    """Count, measure where there are data, and print both."""
    checks.at_least("--noise", asked.noise, 0)
    torch.set_num_threads(threads)
    model, batch = _given(asked)
    exposure, refused = _counted(model, batch)
    measured = None if batch is None else _measured(model, batch, asked)
    about = _about(exposure, refused, measured)
    if as_json:
        typer.echo(json.dumps(about, indent=2, allow_nan=False))
    else:
        _show(exposure, refused, measured)
    if out is not None:
        _write(out, about, exposure, measured)


def _given(asked: Asked) -> tuple[Model, Batch | None]:
    if asked.data is None:
        return loading.whole_model(asked.model), None
    made = loading.model(asked.model)
    batch = auditing.batches_of(loading.called(asked.data), auditing.Plan())[0]
    model = auditing.model_of(made, batch)
    auditing.check(model.form, batch)
    if len(batch) < asked.examples:
        raise InvalidInput(
            f"--examples {asked.examples} is more than the {len(batch)} of the first batch."
        )
    return model, batch[: asked.examples]


def _counted(model: Model, batch: Batch | None) -> tuple[rank.Exposure | None, str]:
    """The count, at one example where there is one, or why there is none."""
    one = batch if batch is not None and len(batch) == 1 else None
    try:
        with screen.waiting("counting equations, and confirming small layers by numbers"):
            return rank.layers(model, batch=one), ""
    except InvalidInput as error:
        if batch is not None:
            return None, str(error)
        raise InvalidInput(f"{error} To measure it as it is, pass --data app.py:loader.") from None


def _measured(model: Model, batch: Batch, asked: Asked) -> Measured:
    basis = _basis(batch.x, asked.basis)
    exact, doubled = _doubled(model, batch)
    try:
        with screen.waiting("estimating the cost"):
            rank.cost(exact, doubled, basis)  # the first one also pays for what torch loads
            cost = rank.cost(exact, doubled, basis)
        screen.note(
            f"Measuring {cost.columns:,} directions: about {_time(cost.seconds)} and "
            f"{max(cost.gigabytes, 0.01):.2g} GB of memory beside the network."
        )
        with screen.counted(f"{cost.columns:,} directions of the input") as progress:
            found = rank.jacobian(exact, doubled, basis, progress=progress)
    except SeepageError:
        raise
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise Failed(
            f"{type(model.module).__name__} cannot be measured ({_first(error)}). Its operations "
            "must have derivatives of second order in float64."
        ) from None
    return Measured(found, asked.noise, batch.x.numel(), len(batch))


def _basis(x: Tensor, asked: int | None) -> int | None:
    """All directions of small inputs; the lowest cosines of each channel of large images."""
    if asked is not None or x.numel() <= _MOST:
        return asked
    if x.ndim != 4:
        return None
    n, channels, height, width = x.shape
    return min(max(1, math.isqrt(_MOST // (n * channels))), height, width)


def _doubled(model: Model, batch: Batch) -> tuple[Model, Batch]:
    """The same in float64: small singular values are lost in float32."""
    loss = copy.deepcopy(model.loss).double() if isinstance(model.loss, nn.Module) else model.loss
    exact = dataclasses.replace(
        model,
        module=copy.deepcopy(model.module).double(),
        params={name: _double(p) for name, p in model.params.items()},
        buffers={name: _double(b) for name, b in model.buffers.items()},
        loss=loss,
    )
    return exact, Batch(_double(batch.x), None if batch.y is None else _double(batch.y))


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().double() if tensor.is_floating_point() else tensor.detach()


def _about(
    exposure: rank.Exposure | None, refused: str, measured: Measured | None
) -> dict[str, Any]:
    counted = None
    if exposure is not None:
        first = exposure.rows[0]
        rows = [dataclasses.asdict(row) | {"deficit": row.deficit} for row in exposure.rows]
        counted = {
            "layers": rows,
            "network": {
                "unknowns": first.unknowns,
                "count": first.network,
                "deficit": first.network_deficit,
            },
            "tier": exposure.tier,
            "meaning": exposure.meaning,
            "advice": list(exposure.advice),
        }
    about = {
        "counted": counted,
        "not_counted": refused or None,
        "measured": None if measured is None else measured.about(),
    }
    made: dict[str, Any] = plain(about)
    return made


def _show(exposure: rank.Exposure | None, refused: str, measured: Measured | None) -> None:
    if exposure is None:
        screen.lines([f"Not counted: {refused}"])
    else:
        screen.out().print(_grid(exposure))
        screen.lines(_verdict(exposure))
    if measured is not None:
        screen.lines(["", *measured.lines()])


def _grid(exposure: rank.Exposure) -> Grid:
    grid = Grid(title="Equations that one gradient gives for each layer's input")
    for head in ("layer", "unknowns", "count", "confirmed", "deficit", "whole network"):
        grid.add_column(head, justify="left" if head == "layer" else "right", overflow="fold")
    for row in exposure.rows:
        confirmed = "not checked" if row.confirmed is None else f"{row.confirmed:,}"
        cells = (f"{row.unknowns:,}", f"{row.count:,}", confirmed)
        ends = (f"{row.deficit:,}", f"{row.network_deficit:,}")
        grid.add_row(Text(f"{row.name} ({row.kind})"), *cells, *ends)
    return grid


def _verdict(exposure: rank.Exposure) -> list[str]:
    first = exposure.rows[0]
    advice = [f"- {sentence}" for sentence in exposure.advice]
    short = f"{-first.network_deficit:,} too few" if first.network_deficit else "none missing"
    return [
        f"Whole network: at most {first.network:,} equations for {first.unknowns:,} unknowns of "
        f"the input ({short}).",
        f"{TIERS[exposure.tier]}: {exposure.meaning}",
        "",
        "What moves it:",
        *advice,
    ]


def _write(
    out: Path, about: dict[str, Any], exposure: rank.Exposure | None, measured: Measured | None
) -> None:
    names = ["rank.json"]
    try:
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(about, indent=2, allow_nan=False)
        (out / "rank.json").write_text(f"{text}\n", encoding="utf-8")
        if exposure is not None:
            charts.equations(exposure, out / "equations.png")
            names.append("equations.png")
        if measured is not None:
            charts.spectrum(measured.spectrum, measured.noise, out / "spectrum.png")
            names.append("spectrum.png")
        (out / "rank.html").write_text(exposure_page(out), encoding="utf-8")
        names.append("rank.html")
    except OSError as error:
        raise InvalidInput(f"cannot write {out}: {error.strerror}. Choose another --out.") from None
    screen.note(f"Written to {out}: {', '.join(names)}")


def _time(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds > 120 else f"{max(seconds, 0.1):.1f} s"


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _brief(values: Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
