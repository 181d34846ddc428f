"""Published attacks on text as settings of `Lamp`."""

from seepage.attacks.text.bigram import Bigram
from seepage.attacks.text.lamp import Descent, Lamp


def lamp_cos(language: Bigram | None = None, large: bool = False) -> Lamp:
    """LAMP with the cosine distance, Balunovic et al. 2022, arXiv 2202.08827."""
    base = Lamp(language=language)
    return _enlarged(base) if large else base


def lamp_l1l2(language: Bigram | None = None, large: bool = False) -> Lamp:
    """LAMP with TAG's distance, Balunovic et al. 2022, arXiv 2202.08827."""
    base = Lamp("tag", regularity=25, fluency=60, language=language)
    return _enlarged(base) if large else base


def text_tag(large: bool = False) -> Lamp:
    """TAG, Deng et al. 2021: squares and absolute values, one start, no moves."""
    rule, steps = Descent(lr=0.1), 2500
    if large:
        rule, steps = Descent(lr=0.03, decay=None, weight_decay=0.01, clip=1.0), 10_000
    return Lamp("tag", starts=1, rescale=False, descent=rule, steps=steps, regularity=0, every=0)


def text_dlg() -> Lamp:
    """Deep leakage on text, Zhu et al. 2019: squares only, one start, no moves."""
    rule = Descent(lr=0.1)
    return Lamp("l2", starts=1, rescale=False, descent=rule, steps=2500, regularity=0, every=0)


def tag_scaled() -> Lamp:
    """TAG with weights that fall with depth, from a truncated normal start."""
    rule = Descent(lr=0.05, decay=None, weight_decay=0.01, clip=1.0, warm=50)
    return Lamp(
        "tag_scaled",
        starts=1,
        rescale=False,
        start="truncated",
        descent=rule,
        steps=1000,
        regularity=0,
        every=0,
    )


def _enlarged(base: Lamp) -> Lamp:
    rule = Descent(lr=0.01, decay=None, weight_decay=0.01, clip=0.5, until=10_000)
    return Lamp(
        base.distance,
        descent=rule,
        steps=5000,
        regularity=base.regularity,
        fluency=base.fluency,
        every=200,
        language=base.language,
    )
