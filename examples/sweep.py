"""Trials of one's own choice: how much noise it takes, on two networks, at two batch sizes.

    seepage sweep examples/sweep.py
    seepage sweep "examples/sweep.py:trials(stds=[0.0001, 0.01])" --workers 2 --store runs/noise

A sweep is plain Python that yields `seepage.Trial`. Stopped and started again, it goes on where it
was, since equal trials have equal keys.
"""

import itertools
from collections.abc import Iterator, Sequence

from seepage import BiasRatio, Clip, FedSGD, Noise, Trial, zoo


def trials(stds: Sequence[float] = (1e-5, 1e-3, 1e-1)) -> Iterator[Trial]:
    """One trial for each network, batch size and noise, by a server that knows of the noise."""
    for width, n, std in itertools.product((64, 256), (1, 4), stds):
        private = zoo.photos(n, 16)
        model = private.model(zoo.mlp(3 * 16 * 16, width, private.form.classes, seed=0))
        client = Noise(Clip(FedSGD(), norm=1.0), std=std)
        yield Trial(model, private.batch, client, BiasRatio())
