"""A small generator of pictures, trained on crops of the public photographs and bundled.

`python -c "from seepage.zoo.generators import bundle; bundle()"` trains it again and writes the
file beside this one: about 90 seconds of CPU time.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from seepage.core import stream
from seepage.files import read, write
from seepage.zoo.build import seeded
from seepage.zoo.data import photos

__all__ = ["generator", "trained_generator"]

_LATENT, _WIDTH = 96, 32
_FILE = Path(__file__).with_name("generator.safetensors")


class Decoder(nn.Module):
    """From numbers that are about standard normal to a picture of 32x32 with values in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(_LATENT, _WIDTH * 16)
        self.convs = nn.ModuleList(nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1) for _ in range(3))
        self.last = nn.Conv2d(_WIDTH, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.first(z).unflatten(1, (_WIDTH, 4, 4))
        for conv in self.convs:
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = functional.silu(conv(x))
        picture: Tensor = torch.sigmoid(self.last(x))
        return picture


class Encoder(nn.Module):
    """The way back, only for training."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, _WIDTH, _WIDTH, _WIDTH)
        convs = [nn.Conv2d(a, _WIDTH, 4, 2, 1) for a in widths[:3]]
        layers = [layer for conv in convs for layer in (conv, nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(_WIDTH * 16, _LATENT))

    def forward(self, x: Tensor) -> Tensor:
        code: Tensor = self.layers(x - 0.5)
        return code


def generator() -> nn.Module:
    """The bundled generator: `Learned(zoo.generator(), (96,))` searches its input.

    >>> generator()(torch.zeros(1, 96)).shape
    torch.Size([1, 3, 32, 32])
    """
    with seeded(0):
        network = Decoder()
    network.load_state_dict({name: t.float() for name, t in read(_FILE)[0].items()})
    return network.eval().requires_grad_(False)


def trained_generator(steps: int = 1500, crops: int = 1000, seed: int = 0) -> nn.Module:
    """An autoencoder's second half: squared error, noise on the code, and a pull to unit size."""
    x, rng = photos(crops, 32, "public", seed).x, stream(seed, "generator")
    with seeded(seed):
        network, encoder = Decoder(), Encoder()
    parameters = [*network.parameters(), *encoder.parameters()]
    solver = torch.optim.Adam(parameters, 2e-3)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(solver, steps)
    for _ in range(steps):
        batch = x[torch.randint(len(x), (32,), generator=rng)]
        code = encoder(batch)
        noisy = code + 0.1 * torch.randn(code.shape, generator=rng)
        error = (network(noisy) - batch).square().mean()
        size = (code.square().mean(0) - 1).square().mean()
        solver.zero_grad()
        (error + 1e-3 * size).backward()
        solver.step()
        fall.step()
    return network.eval().requires_grad_(False)


def bundle(path: Path = _FILE) -> None:
    """Train the generator and write it: half the digits are plenty for a prior."""
    write(path, {name: t.half() for name, t in trained_generator().state_dict().items()}, {})
