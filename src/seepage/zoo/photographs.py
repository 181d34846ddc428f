"""Random squares of the colour photographs that scikit-image carries inside its package."""

import functools
from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.nn import functional

from seepage.core import stream
from seepage.errors import Failed

PRIVATE = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
PUBLIC = ("hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "retina.jpg")
ALL = (*PRIVATE, *PUBLIC)


@functools.cache
def photograph(name: str) -> Tensor:
    """One photograph as (3, height, width) bytes, from the installed package, never a download."""
    import skimage
    from skimage import io

    path = Path(skimage.__file__).parent / "data" / name
    if not path.exists():
        raise Failed(
            f"the installed scikit-image does not carry {name}. "
            "Install another version: pip install 'scikit-image>=0.22'."
        )
    return torch.from_numpy(io.imread(path)[..., :3].copy()).permute(2, 0, 1).contiguous()


def crop(names: tuple[str, ...], size: int, rng: Generator) -> tuple[Tensor, int]:
    """One crop with values k/255, and the number of its photograph among all."""
    while True:
        name = names[int(torch.randint(len(names), (), generator=rng))]
        square = _square(photograph(name), rng)
        # Black sky and dark margins give squares of one colour, which are no test of anything.
        if square.std() > 0.02:
            return resized(square, size), ALL.index(name)


def resized(image: Tensor, size: int) -> Tensor:
    """An image of values in [0, 1] at this side, antialiased and rounded to 8 bit."""
    sides = (size, size)
    shown: Tensor = functional.interpolate(image[None], sides, mode="bilinear", antialias=True)[0]
    return (shown * 255).round().clamp(0, 255).div(255)


def _square(picture: Tensor, rng: Generator) -> Tensor:
    # One draw of six numbers whatever the size: the same seed gives the same squares at each size.
    side, down, right, flip, contrast, brightness = torch.rand(6, generator=rng).tolist()
    height, width = picture.shape[1:]
    edge = round((0.15 + 0.75 * side) * min(height, width))
    top, left = round(down * (height - edge)), round(right * (width - edge))
    square = picture[:, top : top + edge, left : left + edge].float() / 255
    square = square.flip(-1) if flip < 0.5 else square
    middle = square.mean()
    jittered = (square - middle) * (0.8 + 0.4 * contrast) + middle + 0.2 * (brightness - 0.5)
    return torch.clamp(jittered, 0, 1)


def crops(n: int, size: int, names: tuple[str, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Several crops, each from a stream of its own: more of them begin with the fewer."""
    made = [crop(names, size, stream(seed, f"zoo photo {names[0]} {i}")) for i in range(n)]
    return torch.stack([image for image, _ in made]), torch.tensor([label for _, label in made])
