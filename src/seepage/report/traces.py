"""What an attack noted on its way: layers it solved, bins it read, how its search went."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from seepage.errors import SeepageError
from seepage.forms import Form, Images
from seepage.report import artefacts, pictures, words
from seepage.report.given import items, mapping, number, whole
from seepage.report.pictures import Picture
from seepage.report.results import Result

FRAMES, TWINS, LAYERS, BINS, POINTS = 8, 4, 24, 512, 100
SIDE = 96  # pictures on the way to an answer are no larger
_WIDTH, _HEIGHT = 320.0, 88.0


@dataclass(frozen=True)
class Layer:
    """One step of a recursion."""

    name: str
    unknowns: str
    short: str
    residual: str
    steps: str
    unclear: str


@dataclass(frozen=True)
class Frame:
    """A picture on the way, or one of several answers, and what is known of it."""

    picture: Picture
    about: str


@dataclass(frozen=True)
class Bin:
    """A row of a planted layer: idle, live, or read and certified."""

    number: int
    state: str


@dataclass(frozen=True)
class Course:
    """How far the simulated update was from the observed one, step by step."""

    points: str
    about: str
    nearness: str = ""  # the decibels on the way, which only a scorer knows


@dataclass(frozen=True)
class Trace:
    """All that a case shows of its trace; what a trace lacks is empty."""

    layers: tuple[Layer, ...] = ()
    hidden: int = 0
    twins: tuple[Frame, ...] = ()
    bins: tuple[Bin, ...] = ()
    read: str = ""
    course: Course | None = None
    strip: tuple[Frame, ...] = ()
    strip_of: int = 0
    certificate: str = ""
    sources: tuple[str, ...] = ()
    """For each original, where its answer was read from."""

    def source(self, i: int) -> str:
        """Where the answer to one original was read from."""
        return self.sources[i] if i < len(self.sources) else ""


NOTHING = Trace()


def pictured(result: Result) -> int:
    """How many pictures a trace may bring: known before any file is read."""
    noted = mapping(result.row.get("trace"))
    return FRAMES * ("objective" in noted) + TWINS * ("layers" in noted)


def trace(
    result: Result, form: Form, path: Path, first: int, side: int, *, pictured: bool
) -> Trace:
    """What a trial's trace shows; `first` is the example that stands first in its gallery."""
    noted = mapping(result.row.get("trace"))
    layers, hidden = _layers(noted)
    bins, read = _bins(noted)
    known = _known(result, first)
    course, side = _course(noted, known), min(side, SIDE)
    return Trace(
        layers=layers,
        hidden=hidden,
        twins=_twins(noted, form, path, side) if layers and pictured else (),
        bins=bins,
        read=read,
        course=course,
        strip=_strip(result, form, path, first, side, known) if pictured and course else (),
        strip_of=first + 1,
        certificate=_certificate(noted),
        sources=_sources(result, noted) if bins else (),
    )


def _layers(noted: Mapping[str, Any]) -> tuple[tuple[Layer, ...], int]:
    rows = [mapping(row) for row in items(noted.get("layers"))]
    made = tuple(
        Layer(
            name=words.cut(f"{row.get('name', '')}", 40),
            unknowns=_count(row.get("unknowns")),
            short=_count(_negative(row.get("deficit"))),
            residual=words.small(number(row.get("residual"))),
            steps=_count(row.get("iterations")),
            unclear=_count(row.get("ambiguous")),
        )
        for row in rows[:LAYERS]
    )
    return made, len(rows) - len(made)


def _twins(noted: Mapping[str, Any], form: Form, path: Path, side: int) -> tuple[Frame, ...]:
    """Several answers that explain the gradient alike: within a factor of ten, as RGap counts."""
    if not isinstance(form, Images):
        return ()
    found = _tensor(path, "trace/twins", TWINS)
    if found is None or len(found) < 2 or found[0].numel() != math.prod(form.shape):
        return ()
    told = [row for row in map(mapping, items(noted.get("candidates"))) if not row.get("note")]
    residuals = [number(row.get("residual")) for row in told]
    alike = 10 * min(residuals, default=math.inf)
    made = []
    for x, row, size in zip(found, told, residuals, strict=False):
        if not size <= alike:
            continue
        label = "" if row.get("label") is None else f"label {_count(row.get('label'))}, "
        likely = "as likely" if row.get("kept") is True else "its twin"
        kept = "the answer" if row.get("best") is True else likely
        residual = f"residual {words.small(number(row.get('residual')))}"
        shaped = x.reshape(form.shape)
        low, high = form.box(shaped)
        inside = float(((shaped >= low) & (shaped <= high)).double().mean())
        where = "" if inside > 0.5 else ", outside the range of images"
        frame = pictures.picture(form, shaped, side)
        made.append(Frame(frame, f"{label}{residual}, {kept}{where}"))
    return tuple(made) if len(made) > 1 else ()


def _bins(noted: Mapping[str, Any]) -> tuple[tuple[Bin, ...], str]:
    """Every bin of a planted layer, and what came out of them in a sentence."""
    numbers, rows = [whole(b) for b in items(noted.get("bins"))], whole(noted.get("rows"))
    if not numbers or rows <= 0:
        return (), ""
    sure = [flag is True for flag in items(noted.get("certified"))]
    sure += [False] * (len(numbers) - len(sure))
    state: dict[int, str] = {}
    for at, certified in zip(numbers, sure, strict=False):
        state[at] = "certified" if certified or state.get(at) == "certified" else "live"
    read = (
        f"The planted layer sorts examples into {rows:,} bins. {whole(noted.get('live')):,} "
        f"caught something; {words.count(sum(sure), 'answer')} read from them "
        f"{'is' if sum(sure) == 1 else 'are'} certified."
    )
    cells = range(rows) if rows <= BINS else ()
    return tuple(Bin(i, state.get(i, "idle")) for i in cells), read


def _sources(result: Result, noted: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = items(noted.get("bins"))
    return tuple(
        f"from bin {whole(numbers[at]):,}" if type(at) is int and at < len(numbers) else ""
        for at in items(result.row.get("matched"))
    )


def _known(result: Result, first: int) -> list[float]:
    """The decibels of the answer for one original at each picture of a search, or nothing."""
    rows = items(result.row.get("frames_psnr"))[first : first + 1]
    row = [number(v) for row in rows for v in items(row)][:FRAMES]
    return row if all(math.isfinite(v) for v in row) else []


def _nearness(known: Sequence[float]) -> tuple[str, str]:
    """The decibels as a line over the search, and in words."""
    if len(known) < 2:
        return "", ""
    low, spread = min(known), max(known) - min(known) or 1.0
    drawn = " ".join(
        f"{_WIDTH * (i + 1) / len(known):.1f},{4 + (_HEIGHT - 8) * (1 - (v - low) / spread):.1f}"
        for i, v in enumerate(known)
    )
    ends = f"{known[0]:.1f} dB at the first picture, {known[-1]:.1f} at the last"
    return drawn, f" Dashed, and known to the scorer alone: the answer's PSNR, {ends}."


def _course(noted: Mapping[str, Any], known: Sequence[float]) -> Course | None:
    """The misfit as a line, on a logarithmic scale where it has one."""
    values = [number(v) for v in items(noted.get("objective"))][:POINTS]
    done = [number(d) for d in items(noted.get("done"))][:POINTS]
    points = [
        (d, v) for d, v in zip(done, values, strict=False) if math.isfinite(v) and 0 <= d <= 1
    ]
    if len(points) < 2:
        return None
    logarithmic = all(v > 0 for _, v in points)
    heights = [math.log(v) if logarithmic else v for _, v in points]
    low, high = min(heights), max(heights)
    spread = high - low or 1.0
    drawn = " ".join(
        f"{_WIDTH * d:.1f},{4 + (_HEIGHT - 8) * (high - h) / spread:.1f}"
        for (d, _), h in zip(points, heights, strict=True)
    )
    lowest = min(v for _, v in points)
    about = (
        f"Misfit of the simulated update over the search: {words.small(points[0][1])} at the "
        f"start, {words.small(lowest)} at its lowest, {words.small(points[-1][1])} at the end"
        f"{' (logarithmic)' if logarithmic else ''}."
    )
    nearness, told = _nearness(known)
    return Course(drawn, about + told, nearness)


def _strip(
    result: Result, form: Form, path: Path, first: int, side: int, known: Sequence[float]
) -> tuple[Frame, ...]:
    """What the search held at several times, of the candidate for one original."""
    if not isinstance(form, Images):
        return ()
    matched = items(result.row.get("matched"))
    at = matched[first] if first < len(matched) else first
    found = _tensor(path, "trace/frames", FRAMES)
    usable = found is not None and found.ndim == 1 + 1 + len(form.shape)
    if (
        not usable
        or found is None
        or tuple(found.shape[1:]) != (max(len(found[0]), 1), *form.shape)
    ):
        return ()
    place = at if type(at) is int and 0 <= at < found.shape[1] else 0
    shares = [f"{100 * (i + 1) / len(found):.0f} %" for i in range(len(found))]
    told = [f", {v:.1f} dB" for v in known] if len(known) == len(found) else [""] * len(found)
    return tuple(
        Frame(pictures.picture(form, x[place], side), share + near)
        for x, share, near in zip(found, shares, told, strict=True)
    )


def _certificate(noted: Mapping[str, Any]) -> str:
    """Why an exact method believes in its answer, or does not."""
    residual, enough = number(noted.get("residual")), number(noted.get("enough"))
    if math.isnan(residual) or math.isnan(enough):
        return ""
    holds = residual <= enough
    parts = [
        f"Certificate: the answer leaves {words.small(residual)} of the equations unexplained, "
        f"and {words.small(enough)} is {'allowed' if holds else 'all that is allowed'}: it "
        f"{'holds' if holds else 'does not hold'}."
    ]
    rank = whole(noted.get("rank"))
    if rank:
        span = words.count(rank, "dimension")
        parts.append(f"The rows of the gradient span {span}.")
    tries = whole(noted.get("starts")) or whole(noted.get("restarts"))
    if tries:
        parts.append(f"It took {words.count(tries, 'start')}.")
    predicted = number(noted.get("predicted error"))
    if not math.isnan(predicted) and holds:
        parts.append(f"Rounding should leave an error of {words.small(predicted)}.")
    return " ".join(parts)


def _tensor(path: Path, name: str, most: int) -> Tensor | None:
    try:
        return artefacts.tensor(path, name, most)
    except SeepageError:
        return None


def _negative(given: object) -> object:
    return -given if isinstance(given, int) and not isinstance(given, bool) else None


def _count(given: object) -> str:
    known = isinstance(given, int) and not isinstance(given, bool)
    return f"{given:,}" if known else "–"
