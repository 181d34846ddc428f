"""A made-up store for tests of the report: rows and artefacts as trials leave them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from seepage import files
from seepage.forms import Column, Form, Images, Table, Tokens, form_to

PEOPLE = Table(
    (
        Column("age", mean=40.0, std=12.0),
        Column("diagnosis", ("none", "asthma", "diabetes")),
        Column("smokes", ("no", "yes")),
        Column("income", mean=3200.0, std=900.0),
    ),
    classes=2,
)
WORDS = ("[PAD]", "the", "patient", "was", "seen", "on", "monday", "with", "chest", "pain")
WORDS += ("and", "sent", "home")
NOTES = Tokens(8, len(WORDS), pad=0, words=WORDS)
PHOTOS = Images((3, 64, 64), classes=10)


def photos(n: int, size: int = 64) -> Tensor:
    """Crops of a photograph that comes with scikit-image."""
    from skimage.data import astronaut

    picture = torch.from_numpy(astronaut()).permute(2, 0, 1) / 255
    places = [(20 + 57 * i % 400, 60 + 131 * i % 380) for i in range(n)]
    return torch.stack([picture[:, r : r + size, c : c + size] for r, c in places])


def row(**changed: Any) -> dict[str, Any]:
    """One finished trial of images, with the given fields changed."""
    made: dict[str, Any] = {
        "status": "done",
        "name": "ConvNet",
        "parameters": 113_738,
        "client": "FedSGD()",
        "attack": "Invert(steps=500)",
        "believed": "FedSGD()",
        "tell": ["n"],
        "seed": 0,
        "n": 2,
        "batch": "0123456789ab",
        "form": form_to(PHOTOS),
        "malicious": False,
        "scores": {"psnr": [41.5, 12.0], "ssim": [0.99, 0.2]},
        "recovered": [True, False],
        "labels": {"right": 1.0, "chance": 0.19},
        "residual": [1e-6, 0.4],
        "candidates": 2,
        "baselines": {"mid-grey": {"psnr": [11.0, 12.5], "recovered": [False, False]}},
        "trace": {},
        "note": "search budget exhausted",
        "error": None,
        "seconds": 1.0,
        "artefact": None,
        "shown": [0, 1],
        "version": "0.1.0",
    }
    made |= changed
    digest = hashlib.blake2b(json.dumps(made, sort_keys=True).encode(), digest_size=8)
    return {"key": digest.hexdigest(), **made}


def failed(**changed: Any) -> dict[str, Any]:
    """One trial that ended in an error."""
    kept = ("key", "name", "client", "attack", "believed", "tell", "seed", "n", "batch", "form")
    whole = row(**changed)
    error = changed.get("error", "InvalidInput: RGap: layer 'pool' (MaxPool2d) cannot be inverted.")
    return {name: whole[name] for name in kept} | {"status": "failed", "error": error}


def trial(
    folder: Path, form: Form, truth: Tensor, answer: Tensor, **changed: Any
) -> dict[str, Any]:
    """A finished trial with its artefact, scored here by a stand-in for the real metrics."""
    n = len(truth)
    values = _values(form, truth, answer)
    hits = [value > (30 if isinstance(form, Images) else 0.99) for value in values]
    name = "psnr" if isinstance(form, Images) else "columns_right"
    name = "tokens_right" if isinstance(form, Tokens) else name
    guess = [11.4 + i % 5 for i in range(n)] if name == "psnr" else [0.25] * n
    made = row(
        form=form_to(form),
        n=n,
        scores={name: values},
        recovered=hits,
        residual=[
            10 ** (-v / 12) if name == "psnr" else (1e-9 if h else 0.5)
            for v, h in zip(values, hits, strict=True)
        ],
        shown=list(range(n)),
        candidates=n,
        baselines={
            "mean of public": {name: guess, "recovered": [False] * n},
            "random": {name: [g * 0.7 for g in guess], "recovered": [False] * n},
        },
        **changed,
    )
    made["artefact"] = f"artefacts/{made['key']}.safetensors"
    files.write(folder / made["artefact"], {"truth/x": truth, "answer/x": answer.clone()}, {})
    return made


def store(folder: Path) -> list[dict[str, Any]]:
    """A whole audit: strong and weak attacks, many defenses, both kinds of attacker."""
    truth, rows = photos(8), []
    strengths = {0.5: 0.004, 0.9: 0.03, 0.99: 0.12, 0.999: 0.4}
    for seed in (0, 1):
        rng = Generator().manual_seed(seed)
        plain = {"seed": seed, "seconds": 4.1}
        rows += [
            trial(
                folder,
                PHOTOS,
                truth,
                _noisy(truth, 1e-6, rng),
                attack="BiasRatio()",
                note="8 rows certified",
                **plain,
            ),
            trial(folder, PHOTOS, truth, _noisy(truth, 0.012, rng), **plain),
            trial(
                folder,
                PHOTOS,
                truth,
                _noisy(truth, 3e-4, rng),
                attack="Imprint(bins=64)",
                malicious=True,
                **plain,
            ),
        ]
        for ratio, error in strengths.items():
            text = (
                "Prune(inner=FedSGD())"
                if ratio == 0.9
                else (f"Prune(inner=FedSGD(), ratio={ratio})")
            )
            for believed, worse in ((text, 1.0), ("FedSGD()", 6.0)):
                answer = _noisy(truth, error * worse, rng)
                rows.append(
                    trial(folder, PHOTOS, truth, answer, client=text, believed=believed, **plain)
                )
        text = "Noise(inner=Clip(inner=FedAvg(epochs=2, lr=0.1), norm=1.0), std=0.1)"
        rows.append(
            trial(
                folder,
                PHOTOS,
                truth,
                _noisy(truth, 0.5, rng),
                client=text,
                believed=text,
                note="not recovered: residual 0.61 above 1e-06",
                **plain,
            )
        )
        rows.append(failed(attack="RGap()", **plain))
    return rows


CHAIN = {
    "layers": [
        {
            "name": f"features.block{i}.convolution",
            "unknowns": 150_528,
            "deficit": -72,
            "residual": 3e-7,
            "iterations": 48_000,
            "ambiguous": 1_024,
        }
        for i in range(3)
    ],
    "candidates": [{"label": i, "residual": 1e-7, "kept": i == 0, "note": ""} for i in (0, 1)],
}
BINS = {"bins": [7, 2, 90], "certified": [True, True, False], "live": 3, "rows": 128}
COURSE = {"done": [0.25, 0.5, 0.75, 1.0], "objective": [0.4, 0.04, 0.004, 0.008]}
CERTIFICATE = {"rank": 3, "starts": 2, "residual": 4e-7, "enough": 2e-6, "predicted error": 3e-8}


def traced(
    folder: Path, trace: dict[str, Any], tensors: dict[str, Tensor], **changed: Any
) -> dict[str, Any]:
    """A finished trial of three images whose attack noted how it went."""
    truth = photos(3)
    made = trial(folder, PHOTOS, truth, truth + 1e-6, trace=trace, **changed)
    kept, about = files.read(folder / made["artefact"])
    files.write(folder / made["artefact"], {**kept, **tensors}, about)
    return made


def noted(folder: Path) -> list[dict[str, Any]]:
    """Trials with every kind of note."""
    frames = torch.rand(8, 3, 3, 64, 64, generator=Generator().manual_seed(0))
    places = {"matched": [1, 0, None]}
    return [
        traced(folder, CHAIN, {"trace/twins": photos(2)}, attack="Restarts(inner=RGap())"),
        traced(folder, BINS, {}, attack="Imprint()", malicious=True, **places),
        traced(folder, COURSE, {"trace/frames": frames}, attack="Invert()", **places),
        traced(folder, CERTIFICATE, {}, attack="Span()"),
    ]


def mixed(folder: Path) -> list[dict[str, Any]]:
    """Trials of tables and of sentences."""
    people = torch.tensor([[0.5, 0, 1, 0, 0, 1, -0.2], [-1.1, 0, 0, 1, 1, 0, 1.4]])
    guessed = people.clone()
    guessed[1, 0], guessed[1, 4:6] = 0.3, torch.tensor([0.2, 0.9])
    notes = torch.tensor([[1, 2, 3, 4, 5, 6, 0, 0], [2, 7, 8, 9, 10, 11, 12, 0]])
    read = notes.clone()
    read[1, 3], read[1, 5] = 1, 2
    return [
        trial(folder, PEOPLE, people, guessed, attack="Moments()", name="MLP"),
        trial(folder, NOTES, notes, read, attack="TokenSpan()", name="Bert"),
    ]


def _noisy(truth: Tensor, error: float, rng: Generator) -> Tensor:
    spread = torch.linspace(0.3, 2.5, len(truth)).view(-1, 1, 1, 1)
    return (truth + error * spread * torch.randn(truth.shape, generator=rng)).clamp(0, 1)


def _values(form: Form, truth: Tensor, answer: Tensor) -> list[float]:
    if isinstance(form, Images):
        mse = (truth - answer).square().mean((1, 2, 3)).clamp(min=1e-20)
        return [round(float(v), 3) for v in -10 * mse.log10()]
    if isinstance(form, Tokens):
        return [float(v) for v in (truth == answer).float().mean(1)]
    pairs = [(form.show(t), form.show(a)) for t, a in zip(truth, answer, strict=True)]
    return [sum(t[k] == a[k] for k in t) / len(t) for t, a in pairs]
