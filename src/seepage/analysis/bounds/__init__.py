"""What no attacker can exceed, and under which assumptions: each answer is a `Bound`."""

from seepage.analysis.bounds.bound import Bound, Label
from seepage.analysis.bounds.candidates import best_identification, fano, le_cam, pair_accuracy
from seepage.analysis.bounds.channel import Channel, Linearised
from seepage.analysis.bounds.collision import collide, hidden
from seepage.analysis.bounds.cramer_rao import certificate, cheap, lanczos, plug_in, unbiased
from seepage.analysis.bounds.prior import Gaussian, Spectrum
from seepage.analysis.bounds.rate import any_network, bits, private_records, water_filled
from seepage.analysis.bounds.robustness import (
    drawn,
    equal_candidates,
    optimal_naming,
    public_chance,
    pure,
    rero,
)

__all__ = [
    "Bound",
    "Channel",
    "Gaussian",
    "Label",
    "Linearised",
    "Spectrum",
    "any_network",
    "best_identification",
    "bits",
    "certificate",
    "cheap",
    "collide",
    "drawn",
    "equal_candidates",
    "fano",
    "hidden",
    "lanczos",
    "le_cam",
    "optimal_naming",
    "pair_accuracy",
    "plug_in",
    "private_records",
    "public_chance",
    "pure",
    "rero",
    "unbiased",
    "water_filled",
]
