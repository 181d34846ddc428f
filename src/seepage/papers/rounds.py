"""One round of the papers on gradient matching: network, batch, client, attack and score."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from seepage.clients import FedSGD
from seepage.core import Attack, Client, Reconstruction, observe, stream
from seepage.forms import Images
from seepage.metrics.score import Context, score
from seepage.values import value
from seepage.zoo import Sample


@value
class Setting:
    """Who shares what: the private sample, the network, the client and what the server knows."""

    sample: Sample
    module: nn.Module
    client: Client = FedSGD()
    believed: Client | None = None
    labels: bool = False


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came out of one round."""

    answer: Reconstruction
    psnr: list[float]
    recovered: list[bool]
    labels: float | None
    seconds: float

    @property
    def decibels(self) -> float:
        """The mean over examples."""
        return sum(self.psnr) / len(self.psnr)


def played(setting: Setting, attack: Attack, seed: int = 0) -> Outcome:
    """Observe, attack, score: each with a stream of its own."""
    model = setting.sample.model(setting.module)
    batch, rng = setting.sample.batch, stream(seed, "client")
    told = ("n", "y") if setting.labels else ("n",)
    seen = observe(model, batch, setting.client, rng, setting.believed, told)  # type: ignore[arg-type]
    began = time.process_time()
    answer = attack(seen, stream(seed, "attack"))
    spent = time.process_time() - began
    context = Context(None, stream(seed, "score"))
    found = score(model.form, batch, answer.x, answer.y, context)
    share = None if found.labels is None else found.labels["right"]
    return Outcome(answer, found.scores["psnr"], found.recovered, share, spent)


def trained(module: nn.Module, sample: Sample, accuracy: float, seed: int = 0) -> nn.Module:
    """The network trained by Adam on a sample until it is this accurate there."""
    x, y = sample.x, sample.y
    solver, rng = torch.optim.Adam(module.parameters(), 1e-3), stream(seed, "training")
    module.train()
    for _ in range(2000):
        chosen = torch.randint(len(x), (64,), generator=rng)
        risk = nn.functional.cross_entropy(module(x[chosen]), y[chosen])
        solver.zero_grad()
        risk.backward()  # type: ignore[no-untyped-call]
        solver.step()
        with torch.no_grad():
            right = (module.eval()(x).argmax(1) == y).float().mean()
        if float(right) >= accuracy:
            break
        module.train()
    return module.eval()


def strip(folder: Path | None, name: str, form: Images, rows: list[Tensor]) -> None:
    """Save rows of pictures as one file, where a folder is given."""
    if folder is None:
        return
    from skimage.io import imsave

    folder.mkdir(parents=True, exist_ok=True)
    shown = [torch.cat(list(form.show(row)), dim=-1) for row in rows]
    picture = (torch.cat(shown, dim=-2) * 255).round().to(torch.uint8).permute(1, 2, 0)
    imsave(folder / f"{name}.png", picture.squeeze(-1).cpu().numpy(), check_contrast=False)
