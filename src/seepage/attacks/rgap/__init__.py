"""R-GAP: closed-form recovery through depth, after Zhu & Blaschko 2021, arXiv 2010.07733."""

from seepage.attacks.rgap.attack import RGap

__all__ = ["RGap"]
