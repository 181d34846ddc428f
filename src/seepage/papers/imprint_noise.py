"""Figure 6 of Robbing the Fed: what counts of noise is its size beside the gradient's.

The server sets the size of the rows' gradient by the weight of their output, so a noise that is
fixed beforehand says nothing; the paper's range is printed, and then noise relative to the root
mean square of the whole gradient, and clipping, which takes the server's scale away.
"""

from collections.abc import Iterator
from pathlib import Path

from torch import nn

from seepage import tree, zoo
from seepage.attacks import Imprint
from seepage.clients import FedSGD, Given, SecureSum
from seepage.core import Client, stream
from seepage.defenses import Clip, Noise
from seepage.papers.claims import Claim
from seepage.papers.imprint_plots import curves
from seepage.papers.imprint_rounds import Round, answered, crops
from seepage.tree import Tensors

_ABSOLUTE = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
_RELATIVE = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_MULTIPLIERS = (1e-4, 1e-3, 1e-2)
_BESIDE = "Laplace noise relative to the whole gradient"


def noise(net: nn.Module, folder: Path | None) -> Iterator[Claim]:
    """Images above 20 dB of 64 at each noise, for rows of small and of large output weights."""
    public = zoo.photos(600, 32, split="both", seed=905).normalised()
    sample = crops(64, 32, 71, 100)
    lines: dict[str, list[float]] = {}
    for out in (1.0, 128.0):
        attack = Imprint(measure="randn", connection="linear", out=out, public=public.x)
        crafted = attack.craft(sample.model(net), stream(0, "craft"))
        update = SecureSum(FedSGD(), 8)(crafted, sample.batch, stream(0, "client"))
        given = Given(update)
        clipped = Clip(given, norm=1.0)
        kinds: dict[str, dict[float, Client]] = {
            "Laplace noise": {s: Noise(given, s, "laplace") for s in _ABSOLUTE},
            _BESIDE: {s: Noise(given, s, "laplace", relative=True) for s in _RELATIVE},
            "clip 1, Gaussian noise z/n": {z: Noise(clipped, z / 64) for z in _MULTIPLIERS},
        }
        for kind, clients in kinds.items():
            rounds = {
                size: answered(attack, crafted, sample.batch, client)
                for size, client in clients.items()
            }
            yield Claim(
                f"figure 6: {kind}, output weights {out:g}",
                "robust up to 1e-4" if kind == "Laplace noise" else "not available",
                _said(rounds),
                "measured",
                _sizes(update),
            )
            if kind == _BESIDE:
                lines[f"output weights {out:g}"] = [one.above(20) for one in rounds.values()]
    if folder is not None:
        labels = "Laplace noise / rms of the whole gradient", "images above 20 dB, of 64"
        curves(folder / "figure6.png", _RELATIVE, lines, labels)


def _sizes(update: Tensors) -> str:
    rows = float(update["block.linear.weight"].square().mean().sqrt())
    whole = tree.norm(update) / tree.size(update) ** 0.5
    return f"rms of the rows' gradient {rows:.2g}, of the whole gradient {whole:.2g}"


def _said(rounds: dict[float, Round]) -> str:
    each = (f"{size:g}: {one.above(20)} ({one.certified})" for size, one in rounds.items())
    return "above 20 dB (certified) at " + ", ".join(each)
