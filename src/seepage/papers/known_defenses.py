"""One way around one defense on digits: what the papers on broken defenses share."""

from seepage import zoo
from seepage.attacks import Adaptive
from seepage.core import Client, observe, stream


def averaged(client: Client, way: str, seeds: range) -> float:
    """The mean PSNR of one way over single digits, a tanh network at its start, labels told."""
    found = []
    for seed in seeds:
        sample = zoo.digits(1, seed=seed)
        model = sample.model(zoo.mlp(64, 128, 64, 10, activation="tanh", seed=seed))
        rng = stream(seed, "client")
        seen = observe(model, sample.batch, client, rng, tell=("n", "y"))
        answer = Adaptive(only=(way,))(seen, stream(seed, "attack"))
        found.append(float(-10 * (answer.x - sample.x).square().mean().log10()))
    return sum(found) / len(found)
