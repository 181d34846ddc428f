"""Which change of a chain's widths leaves directions of the input open, counted from shapes."""

import dataclasses
from collections.abc import Iterator

from seepage.chains import Chain, Layer, layer_rank, network_ranks

PRIORS = (
    "No count proves privacy: priors over images, further rounds and known labels add information."
)
_CONVOLUTION = "A larger stride in the first layer, or larger images, cut its equations too."
_DENSE = (
    "No width of a dense first layer opens anything: the gradient of each output's weights is a "
    "multiple of the input."
)


def advised(chain: Chain, deficit: int) -> Iterator[str]:
    """Sentences about the first layer, then the later ones, judged by the whole network."""
    if deficit < 0:
        yield f"One gradient leaves at least {-deficit} directions of the input open."
    if deficit == 0:
        yield from _widths(chain)
    short = [layer.name for layer in chain.layers if layer_rank(layer) < layer.unknowns]
    if short and deficit == 0:
        yield (
            f"That {' and '.join(short)} is short of equations stops only the recursion: judge a "
            "change by the last column, not by RA."
        )
    if deficit == 0:
        yield _DENSE if chain.layers[0].window is None else _CONVOLUTION
    yield PRIORS


def _widths(chain: Chain) -> Iterator[str]:
    closed = []
    for i, layer in enumerate(chain.layers[:-1]):
        width = None if layer.window is None else widest_open(chain, i)
        if layer.window is not None and width is None:
            closed.append(layer.name)
        if width is not None:
            opened = -_deficit(narrowed(chain, i, width))
            yield (
                f"Narrowing {layer.name} from {layer.outputs[0]} to {width} outputs opens the "
                f"first directions of the input: at least {opened}."
            )
    if closed:
        yield f"Narrowing {' or '.join(closed)} alone opens none by this count."


def widest_open(chain: Chain, i: int) -> int | None:
    """The most outputs of layer i with which the whole gradient no longer fixes the input."""
    groups = chain.layers[i].window.groups if chain.layers[i].window else 1  # type: ignore[union-attr]
    following = chain.layers[i + 1].window if i + 1 < len(chain.layers) else None
    step = max(groups, following.groups if following else 1)
    for width in range(chain.layers[i].outputs[0] - step, 0, -step):
        if _deficit(narrowed(chain, i, width)) < 0:
            return width
    return None


def narrowed(chain: Chain, i: int, width: int) -> Chain:
    """The same chain with fewer outputs of layer i; for counting only, as its weights stay."""
    layer, following = chain.layers[i], chain.layers[i + 1]
    thin = dataclasses.replace(layer, outputs=(width, *layer.outputs[1:]))
    fed = dataclasses.replace(following, inputs=_fed(thin, following))
    changed = (*chain.layers[:i], thin, fed, *chain.layers[i + 2 :])
    return dataclasses.replace(chain, layers=changed)


def _fed(thin: Layer, following: Layer) -> tuple[int, ...]:
    if following.window is None:
        count = 1
        for side in thin.outputs:
            count *= side
        return (count,)
    return (thin.outputs[0], *following.inputs[1:])


def _deficit(chain: Chain) -> int:
    return network_ranks(chain)[0] - chain.layers[0].unknowns
