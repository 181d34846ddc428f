"""`seepage attack`: one captured update, offline; there is no truth here, so nothing is scored."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib import image
from rich.table import Table as Grid
from rich.text import Text
from torch import Tensor

from seepage import files
from seepage.cli import loading, screen
from seepage.core import Observation, Reconstruction, stream
from seepage.errors import Failed, InvalidInput, SeepageError
from seepage.forms import Form, Images
from seepage.integrations import protocol
from seepage.store import plain
from seepage.values import describe

_MOST = 64


@dataclass(frozen=True)
class Known:
    """What the server knows of the round."""

    update: Path
    model: str
    params: Path | None
    client: str | None
    n: int | None
    labels: str | None

    def seen(self) -> Observation:
        """The observation that this makes."""
        model = loading.whole_model(self.model)
        if self.params is not None:
            model = loading.broadcast(model, self.params)
        believed = None if self.client is None else loading.client(self.client)
        seen = _trained(Observation.load(self.update, model, believed))
        y = seen.y if self.labels is None else loading.labels(self.labels)
        n = self.n or seen.n or (None if y is None else len(y))
        if y is not None and len(y) != n:
            raise InvalidInput(f"{len(y)} labels for n={n}. Give one for each example.")
        seen = dataclasses.replace(seen, n=n, y=y)
        return seen if believed or files.read(self.update)[1] else _inferred(seen)


def run(known: Known, attack: str, seed: int, threads: int, out: Path) -> None:
    """Attack, print the candidates with their certificates, and write them all."""
    method, seen = loading.attack(attack), known.seen()
    torch.set_num_threads(threads)
    with screen.waiting(f"{describe(method)} on {known.update.name}"):
        try:
            answer = method(seen, stream(seed, "attack"))
        except SeepageError:
            raise
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise Failed(f"{describe(method)} failed with {said}.") from error
    written = _write(answer, seen, describe(method), out)
    screen.out().print(_table(answer))
    if answer.note:
        screen.out().print(answer.note, markup=False)
    screen.note(f"Written to {out}: {', '.join(written)}")


def _trained(seen: Observation) -> Observation:
    """Without what did not change and is not trained: frozen parameters, idle statistics."""
    params = seen.model.params
    update = {name: u for name, u in seen.update.items() if name in params or bool(u.any())}
    return dataclasses.replace(seen, update=update)


def _inferred(seen: Observation) -> Observation:
    """The protocol as the update itself shows it, with what had to be assumed printed."""
    found = protocol.infer(seen, stream(0, "protocol"))
    screen.note("Nobody said how this update was made. Read off it, or assumed:")
    for line in (*found.assumptions, f"Believed: {describe(found.client)}"):
        screen.note(f"- {line}")
    y = found.y if seen.y is None else seen.y
    return dataclasses.replace(seen, client=found.client, n=seen.n or found.n, y=y)


def _write(answer: Reconstruction, seen: Observation, attack: str, out: Path) -> list[str]:
    tensors = {"x": answer.x, "belief": answer.belief, "residual": answer.residual}
    if answer.y is not None:
        tensors["y"] = answer.y
    about = {
        "attack": attack,
        "client": describe(seen.client),
        "n": seen.n,
        "candidates": len(answer),
        "note": answer.note,
        "belief": answer.belief,
        "residual": answer.residual,
    }
    copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    files.write(out / "reconstruction.safetensors", copies, {"attack": attack})
    best = _best(answer)[:_MOST]
    shown = _shown(seen.model.form, answer.x[best], out)
    text = json.dumps(plain(about), indent=2, allow_nan=False)
    (out / "summary.json").write_text(text + "\n", encoding="utf-8")
    return ["reconstruction.safetensors", "summary.json", *shown]


def _shown(form: Form, x: Tensor, out: Path) -> list[str]:
    """Pictures for images, and lines of JSON for rows and sentences, best candidates first."""
    if isinstance(form, Images):
        names = [f"candidate-{place + 1:02}.png" for place in range(len(x))]
        for name, picture in zip(names, form.show(x), strict=True):
            image.imsave(out / name, _pixels(picture))
        return names
    lines = [json.dumps(plain(form.show(one)), ensure_ascii=False) for one in x]
    (out / "candidates.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return ["candidates.jsonl"]


def _pixels(picture: Tensor) -> "Sequence[Sequence[Sequence[int]]]":
    channels = picture if picture.shape[0] == 3 else picture[:1].expand(3, -1, -1)
    pixels = (channels.permute(1, 2, 0).float().cpu() * 255).round().to(torch.uint8)
    shown: Sequence[Sequence[Sequence[int]]] = pixels.numpy()  # type: ignore[assignment]
    return shown


def _best(answer: Reconstruction) -> list[int]:
    order: list[int] = (
        answer.belief.double().nan_to_num(-float("inf")).argsort(descending=True).tolist()
    )
    return order


def _table(answer: Reconstruction) -> Grid:
    grid = Grid("candidate", "belief", "residual", "label", title=f"{len(answer)} candidates")
    for place, index in enumerate(_best(answer)[:10]):
        label = "" if answer.y is None else _label(answer.y[index])
        belief, residual = float(answer.belief[index]), float(answer.residual[index])
        grid.add_row(str(place + 1), f"{belief:.4g}", f"{residual:.4g}", Text(label))
    return grid


def _label(y: Tensor) -> str:
    return str(int(y.argmax()) if y.ndim == 1 and len(y) > 1 else y.tolist())
