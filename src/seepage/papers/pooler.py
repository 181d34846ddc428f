"""Beyond Gradient and Priors in Privacy Attacks: Leveraging Pooler Layer Inputs of Language Models.

Li et al. 2024, arXiv 2312.05720. What the pooler gives away of each sentence's state: with the
widened pooler of the paper, and, which the paper does not claim, without touching the model.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from seepage.attacks import Lamp, Pooler
from seepage.attacks.text.anatomy import Network
from seepage.attacks.text.pooler_states import pooled_states
from seepage.clients import FedSGD
from seepage.core import Model, observe, stream
from seepage.integrations.minilm import minilm, sentences
from seepage.metrics.text import cosine
from seepage.papers.claims import Claim

_TABLE = {
    "CoLA": "R1/R2/RL/CosS 15.5/2.6/14.4/.36 -> 17.4/3.8/15.9/.41",
    "SST2": "R1/R2/RL/CosS 20.1/2.2/15.9/.56 -> 19.7/2.1/16.8/.59",
    "Rotten Tomatoes": "R1/R2/RL/CosS 19.9/1.6/15.1/.48 -> 21.5/1.8/16.0/.51",
}


def reproduce(
    quick: bool,
    folder: Path | None = None,  # noqa: ARG001 - there are no pictures of text
) -> Iterator[Claim]:
    """The states of an unmodified and of a widened pooler; the talk's table is not re-measured."""
    model, tokenizer = minilm()
    for size in (1, 2, 4) if quick else (1, 2, 4, 8):
        batch = sentences(model, tokenizer, size, 0)
        seen = observe(model, batch, FedSGD(), stream(0, "client"))
        found = pooled_states(seen, Network.of(model), stream(0, "attack"), starts=20)
        score = cosine(found.states, _states(model, batch.x)).min()
        yield Claim(
            f"states from the unmodified pooler, B = {size}",
            "not available",
            f"least |cos| {score:.6f}, residual {found.residual:.1e}, {found.starts} starts",
            "measured",
            "MiniLM, float32, 2 classes",
        )
    attack = Pooler(width=3000 if quick else 30_000, lamp=Lamp(starts=1, steps=1))
    crafted = attack.craft(model, stream(0, "craft"))
    batch = sentences(model, tokenizer, 2, 0)
    seen = observe(crafted, batch, FedSGD(), stream(0, "client"))
    states = attack(seen, stream(0, "attack")).trace["states"]
    yield Claim(
        "states from the widened pooler, B = 2",
        "not available",
        f"least |cos| {cosine(states, _states(crafted, batch.x)).min():.6f}",
        "measured",
        f"tanh, width {attack.width}",
    )
    for name, figures in _TABLE.items():
        yield Claim(
            f"LAMP -> pooler-guided LAMP, {name} (published talk, B unstated)",
            figures,
            "not run: the guided search is built, its quality is not measured yet",
            "not run",
        )


def _states(model: Model, x: Tensor) -> Tensor:
    network = Network.of(model)
    return torch.cat([network.last(row[row != 0][None])[:, 0] for row in x])
