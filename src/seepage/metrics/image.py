"""How like two pictures are: the peak signal-to-noise ratio and structural similarity."""

import torch
from torch import Tensor

from seepage.metrics.match import check_paired

CAP = 200.0
"""The most decibels reported: an exact hit would have infinitely many."""

RECOVERED = 30.0
"""Above this many decibels a person sees the same picture."""

_WINDOW, _SIGMA = 11, 1.5


def psnr(x: Tensor, truth: Tensor) -> Tensor:
    """-10 log10 mean (x - truth)^2 of each picture, clamped to [0, 1], and capped at `CAP` dB.

    >>> psnr(torch.full((1, 3, 4, 4), 0.6), torch.full((1, 3, 4, 4), 0.5)).round(decimals=4)
    tensor([20.], dtype=torch.float64)
    """
    check_paired("psnr", x, truth)
    gap = x.double().clamp(0, 1) - truth.double().clamp(0, 1)
    error = gap.flatten(1).square().mean(1)
    return -10 * error.clamp_min(10 ** (-CAP / 10)).log10()


def ssim(x: Tensor, truth: Tensor) -> Tensor:
    """The mean structural similarity of each pair of (channels, height, width) pictures in [0, 1].

    (2 m_x m_t + c1)(2 s_xt + c2) / ((m_x^2 + m_t^2 + c1)(s_x^2 + s_t^2 + c2)) under a Gaussian
    window of 11 pixels, sigma 1.5; pictures smaller than that get the same window scaled down.
    Wang, Bovik, Sheikh and Simoncelli 2004.

    >>> picture = torch.rand(1, 1, 8, 8)
    >>> float(ssim(picture, picture).round(decimals=6))
    1.0
    """
    check_paired("ssim", x, truth)
    left, right = (t.double().clamp(0, 1).cpu().numpy() for t in (x, truth))
    from skimage.metrics import structural_similarity

    window = _window(min(x.shape[-2:]))
    values = [
        structural_similarity(  # type: ignore[no-untyped-call]
            a,
            b,
            win_size=window,
            sigma=_SIGMA * window / _WINDOW,
            gaussian_weights=True,
            use_sample_covariance=False,
            data_range=1.0,
            channel_axis=0,
        )
        for a, b in zip(left, right, strict=True)
    ]
    return torch.tensor(values, dtype=torch.float64)


def _window(side: int) -> int:
    """The longest odd window that fits."""
    return min(_WINDOW, side - 1 + side % 2)
