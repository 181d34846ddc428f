"""The attacks of the papers, each as one value with its published settings.

Figures marked "another implementation" could not be checked against the paper.
"""

import dataclasses

from seepage.attacks.labels import IDLG, Counts, Joint, Yin
from seepage.attacks.matching.group import Group
from seepage.attacks.matching.invert import Invert
from seepage.attacks.matching.objectives import L2, TAG, Cosine
from seepage.attacks.matching.optimisers import LBFGS, Adam
from seepage.attacks.matching.priors import TV, BatchStats, Features, L2Prior
from seepage.attacks.matching.restarts import Restarts
from seepage.attacks.matching.starts import Pattern, Small


def dlg(steps: int = 300) -> Invert:
    """Deep leakage from gradients: L2, L-BFGS, labels searched with the data.

    Zhu, Liu and Han 2019, arXiv 1906.08935.

    >>> dlg().steps
    300
    """
    return Invert(
        L2(),
        priors=(),
        labels=Joint(),
        optimiser=LBFGS(),
        schedule="constant",
        steps=steps,
        box=False,
        units="raw",
    )


def idlg(steps: int = 300) -> Invert:
    """Improved deep leakage: `dlg` with the label read off the last layer first.

    Zhao, Mopuri and Bilen 2020, arXiv 2001.02610.
    """
    return dataclasses.replace(dlg(steps), labels=IDLG())


def inverting_gradients(tv: float = 1e-6, starts: int = 1, steps: int = 24000) -> Invert | Restarts:
    """Cosine, signed Adam with three drops, total variation.

    Geiping et al. 2020, arXiv 2003.14053: tv=0.1 and 8 starts on trained ImageNet networks, 1e-2
    and 4 for a batch of CIFAR-100, 1e-6 on untrained networks, which a large one ruins.

    >>> inverting_gradients(steps=100).optimiser
    Adam(sign='hard')
    """
    one = Invert(Cosine(), (TV(tv),), Counts(), optimiser=Adam(0.1, sign="hard"), steps=steps)
    return one if starts == 1 else Restarts(one, starts)


def see_through(
    steps: int = 20000, members: int = 4, statistics: float = 0.1, group: float = 0.01
) -> Group | Invert:
    """GradInversion: BatchNorm statistics and a group of searches that agree on one picture.

    Yin et al. 2021, arXiv 2104.07586; weights from another implementation (Langevin noise 0.01
    there, 0.2 in the paper).
    """
    priors = TV(1e-4), L2Prior(1e-6)
    one = Invert(
        L2(scale=5e-5),
        (*priors, BatchStats(statistics)) if statistics else priors,
        Yin(),
        optimiser=Adam(0.1, noise=0.01),
        schedule="cosine",
        warmup=50,
        steps=steps,
    )
    return Group(one, group, members) if members > 1 else one


def tag(steps: int = 1000) -> Invert:
    """TAG: L2 and L1 with the first layers first, for transformers.

    Deng et al. 2021, arXiv 2103.06819; settings from another implementation.
    """
    return Invert(
        TAG(0.1),
        (),
        Joint(),
        Small(),
        Adam(0.05, eps=1e-6, decay=0.01, clip=1.0),
        schedule="linear",
        warmup=50,
        steps=steps,
        box=False,
        units="raw",
    )


def modern(steps: int = 24000, features: float = 0.1) -> Invert:
    """What later work settled on: soft signs, isotropic colour variation, feature matching.

    Settings from another implementation, partly its guesses. Feature matching needs the last
    layer's bias: features=0 leaves it out.
    """
    colour = TV(0.1, p=2, q=0.5, colour=True)
    return Invert(
        Cosine(),
        (colour, Features(features)) if features else (colour,),
        Counts(),
        Pattern(4),
        Adam(0.1, sign="soft"),
        schedule="cosine",
        warmup=50,
        steps=steps,
    )
