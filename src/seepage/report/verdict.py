"""The verdict: what was shown, under which assumptions, by what, and what was not tried.

Nothing here may say that a setup can be trusted. The most that is said is that nothing was
recovered by these attacks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from seepage.report import limits, words
from seepage.report.results import Failure, Group, Result, grouped

NONE = "Not recovered by these attacks"
LIMIT = (
    "What was not recovered by these attacks may be recovered by others, by more computing time, "
    "or by combining several rounds: each trial here is a single round."
)


@dataclass(frozen=True)
class Level:
    """A step of the severity scale, told by its word and by how many marks of four are filled."""

    rank: int
    word: str
    says: str


LEVELS = (
    Level(0, NONE, "No example was recovered by the attacks that were run."),
    Level(1, "Traces", "No example was recovered, but the attacker learned more than by guessing."),
    Level(1, "No better than a guess", "A guess without the update recovers as many."),
    Level(2, "Some recovered", "Fewer than half of the examples were recovered."),
    Level(3, "Half or more recovered", "Half of the examples or more were recovered."),
    Level(4, "All recovered", "Every example was recovered."),
)
NOISY = 3
"""Of how many clients with noise the ceilings are told in words."""
MARGIN = 3.0
"""By how many decibels an attack must beat every guess to have left traces."""


def level(result: Result) -> Level:
    """How bad one result is."""
    if result.guessed:
        return LEVELS[2]
    if result.share >= 1:
        return LEVELS[5]
    if result.share >= 0.5:
        return LEVELS[4]
    return LEVELS[3 if result.hits else 1 if _traces(result) else 0]


def _traces(result: Result) -> bool:
    guesses = [b.best for b in result.baselines if not math.isnan(b.best)]
    margin = MARGIN if result.metric == "psnr" else 0.1
    ahead = bool(guesses) and result.best > max(guesses) + margin
    return ahead or 2 * sum(result.identified) > result.n


def headline(found: Sequence[Result]) -> str:
    """The one sentence that must be read."""
    if not found:
        return "Nothing was measured: no trial finished."
    worst = Group(tuple(found)).worst
    what = f"private {words.noun(worst.kind)}"
    several = words.count(worst.n, what)
    some = f"{worst.hits} of {several}" if worst.share < 1 else f"All {several}"
    who = some if worst.n > 1 else f"The {what}"
    if worst.guessed:
        return f"{who} could be matched, and a guess without the update does as well."
    if worst.hits:
        return f"{who} could be read back from one update."
    if worst.n > 1:
        return f"None of {several} was recovered by these attacks."
    return f"{who} was not recovered by these attacks."


def paragraphs(found: Sequence[Result], failed: Sequence[Failure]) -> list[str]:
    """The verdict, one thought a paragraph."""
    if not found:
        return [*_failed(failed, 0), "Look at the errors, repair them, and run again."]
    worst = Group(tuple(found)).worst
    parts = [
        _shown(worst, found),
        _certain(worst),
        _guess(worst),
        _learned(found, worst),
        _honest(found, worst),
        _others(found, worst),
        _knowing(found),
        *_bounded(found),
    ]
    return [part for part in parts if part] + _failed(failed, len(found))


def text(found: Sequence[Result], failed: Sequence[Failure]) -> str:
    """The verdict as one text."""
    limits = " ".join(untried(found))
    parts = [*paragraphs(found, failed), *([f"Not tried: {limits}", LIMIT] if found else [])]
    return "\n\n".join(words.plain(part) for part in (headline(found), *parts))


def untried(found: Sequence[Result]) -> list[str]:
    """What these trials leave open, each a sentence."""
    seeds, batches = {r.seed for r in found}, {r.batch for r in found}
    blind = [g for g in _by_client(found) if not any(r.adaptive for r in g.results)]
    gaps = {
        "No server that manipulates the model was tried.": not any(r.malicious for r in found),
        "No attacker was told the labels.": not any("y" in r.tell for r in found),
        f"Against {_clients(blind)}, only attackers that ignore what the client does were tried.": (
            bool(blind)
        ),
        "Some searches stopped when their budget was spent; a longer one may recover more.": (
            any("budget" in r.note for r in found)
        ),
        "Each attack ran with one random seed only.": len(seeds) < 2,
        "Only one private batch was used; others may leak more.": len(batches) < 2,
        **_kinds(found),
        "Only one attack was run.": len({r.attack for r in found}) < 2,
        f"Only batches of {words.count(found[0].n, 'example')} were used." if found else "": (
            len({r.n for r in found}) == 1
        ),
        "Attacks over several rounds were not tried.": True,
    }
    return [sentence for sentence, open_ in gaps.items() if open_ and sentence]


def _kinds(found: Sequence[Result]) -> dict[str, bool]:
    """Kinds of attack that no trial had, where one is known to matter."""
    text = " ".join(r.attack for r in found)
    defended = [g for g in _by_client(found) if words.defended(g.worst.client)]
    images = all(r.kind == "Images" for r in found)
    return {
        f"No attack made for the defenses of {_clients(defended)} was tried (Adaptive).": bool(
            defended and "Adaptive" not in text
        ),
        "No attack that searches for the examples was tried (Invert).": images
        and not any(name in text for name in ("Invert", "Adaptive", "Restarts", "Group")),
        "No attack that solves equations was tried (BiasRatio, RGap, Span).": images
        and not any(name in text for name in ("BiasRatio", "RGap", "Span", "Moments", "Imprint")),
    }


def _shown(worst: Result, found: Sequence[Result]) -> str:
    server = (
        "a malicious server, which manipulated the model before sending it,"
        if worst.malicious
        else "an honest server, which only looks at what it receives,"
    )
    best = words.score(worst.metric, worst.best)
    device = " ".join(words.client(worst.client))
    return (
        f"This is the worst case of {words.count(len(found), 'trial')}: client "
        f"{words.expression(worst.client, 400)}, attack {words.expression(worst.attack, 400)}"
        f"{_strongest(found)}, "
        f"{'best match' if worst.hits else 'closest answer'} {best}. What the client "
        f"does: {device} The attacker is {server} "
        f"and was told {words.told(worst.tell)}. {words.CRITERIA.get(worst.kind, '')}"
    ).strip()


def _strongest(found: Sequence[Result]) -> str:
    """Of which attacks the worst is the strongest."""
    attacks = list(dict.fromkeys(r.attack for r in found))
    if len(attacks) < 2:
        return ""
    more = [f"{len(attacks) - 4} more"] if len(attacks) > 5 else []
    named = [words.expression(text) for text in (attacks[:4] if more else attacks)]
    return f" (the strongest of {words.listed(named + more)})"


def _certain(worst: Result) -> str:
    if not worst.certain:
        return ""
    sure = words.count(worst.certain, "answer")
    which = {worst.n: "every answer", 1: "one answer"}.get(worst.certain, f"each of {sure}")
    return (
        f"The attacker holds a certificate for {'the answer' if worst.n == 1 else which}, computed "
        "without the original: it explains the update to better than one part in a thousand."
    )


def _guess(worst: Result) -> str:
    guess = worst.baseline
    if guess is None:
        return "No baseline was recorded, so it is not known what a guess would have reached."
    reached = f"{guess.recovered} of {worst.n}"
    compared = (
        f"A guess that never looks at the update ({guess.name}) recovers {reached}, at best "
        f"{words.score(worst.metric, guess.best)}."
    )
    if worst.guessed:
        return f"{compared} The attack does no better: this result does not show a leak."
    return compared


def _learned(found: Sequence[Result], worst: Result) -> str:
    """What leaked beside whole examples: which one it was, and the labels."""
    parts, noun = [], words.noun(worst.kind)
    if not worst.hits and any(worst.identified):
        parts.append(
            f"{sum(worst.identified)} of {worst.n} answers lie closer to their own original than "
            f"to any other {noun} of a public pool."
        )
    untold = [r.labels for r in found if r.labels and "y" not in r.tell]
    right, chance = max(untold, key=lambda pair: pair[0] - pair[1], default=(0.0, 0.0))
    if right > chance:
        parts.append(
            f"Labels leak too: up to {100 * right:.0f} % of them were inferred, where chance "
            f"gives {100 * chance:.0f} %."
        )
    return " ".join(parts)


def _honest(found: Sequence[Result], worst: Result) -> str:
    """What remains when the server follows the protocol, where the worst case does not."""
    honest = tuple(result for result in found if not result.malicious)
    if not worst.malicious or not honest:
        return ""
    best = Group(honest).worst
    return (
        f"An honest server recovers {best.hits} of {best.n} at most: client "
        f"{words.expression(best.client)}, attack {words.expression(best.attack)}."
    )


def _others(found: Sequence[Result], worst: Result) -> str:
    groups = [group for group in _by_client(found) if group.worst.client != worst.client]
    hit = [group.worst for group in groups if group.worst.hits]
    spared = [group for group in groups if not group.worst.hits]
    traced = [group for group in spared if level(group.worst).rank]
    parts = []
    if hit:
        shown = [f"{words.expression(r.client)}: {r.hits} of {r.n}" for r in hit[:3]]
        rest = f"; and {len(hit) - 3} more" if len(hit) > 3 else ""
        parts.append(f"From other clients too examples were recovered ({'; '.join(shown)}{rest}).")
    if spared:
        parts.append(f"No example was recovered by these attacks from {_clients(spared)}.")
    if traced:
        left = _clients(traced) if len(traced) < len(spared) else "each of these"
        parts.append(f"Still, more than by guessing was learned from {left}.")
    return " ".join(parts)


def _knowing(found: Sequence[Result]) -> str:
    """A defense that stops only the attacker who does not know of it."""
    fooled = []
    for group in _by_client(found):
        knowing = [r.share for r in group.results if r.adaptive]
        naive = [r.share for r in group.results if not r.adaptive]
        if knowing and naive and max(knowing) > max(naive):
            fooled.append(group)
    if not fooled:
        return ""
    return (
        f"Against {_clients(fooled)}, an attacker who knows what the client does recovers more "
        "than one who does not. Count on the attacker knowing."
    )


def _bounded(found: Sequence[Result]) -> list[str]:
    """Both sides of each client that adds noise; others have one side only."""
    groups = _by_client(found)
    noisy = [group for group in groups if limits.noisy(group)]
    plain = [g for g in groups if g not in noisy and all("ceilings" in r.row for r in g.results)]
    said = [limits.paragraph(group) for group in noisy[:NOISY]]
    if len(noisy) > NOISY:
        said.append(f"{words.count(len(noisy) - NOISY, 'more client')} with noise: see the table.")
    if plain:
        limit = f"Nothing limits what an attacker may recover from {_clients(plain)}: "
        said.append(f"{limit}no noise is added, so all that was not found may still leak.")
    return said


def _failed(failed: Sequence[Failure], finished: int) -> list[str]:
    if not failed:
        return []
    total = words.count(len(failed) + finished, "trial")
    return [f"{len(failed):,} of {total} failed. They say nothing about privacy."]


def _by_client(found: Sequence[Result]) -> list[Group]:
    return grouped(found, lambda result: result.client)


def _clients(groups: Sequence[Group]) -> str:
    names = [words.expression(group.worst.client) for group in groups]
    more = [f"{len(names) - 3} more"] if len(names) > 4 else []
    return words.listed((names[:3] if more else names) + more)
