"""What a comparison of defenses shows, in tables and sentences."""

from dataclasses import asdict
from typing import Any

from seepage.analysis.tradeoff import Point, Reading, at_most, least, pareto
from seepage.tradeoffs.measure import ATTACKERS, Attacker, Outcome
from seepage.values import value

__all__ = ["COSTS", "Claimed", "about", "claims", "front", "lowest", "readings"]

COSTS = (1.0, 2.0, 5.0)
CLAIM = "pruning is the most effective"
_PRUNING = "Prune"


@value
class Claimed:
    """The claim at one cost and one attacker: confirmed, not confirmed, or not measured."""

    attacker: str
    cost: float
    verdict: str
    why: str


def front(outcome: Outcome, attacker: Attacker) -> list[Point]:
    """What no other strength of any family beats in both cost and leak."""
    return pareto([p for points in outcome.points(attacker).values() for p in points])


def readings(outcome: Outcome, attacker: Attacker) -> dict[str, dict[float, Reading]]:
    """The leak of each family at equal cost, or for less where none of it costs as much."""
    curves = outcome.points(attacker)
    return {
        name: {cost: at_most(points, cost) for cost in COSTS}
        for name, points in curves.items()
        if len(points) > 1
    }


def lowest(found: dict[str, dict[float, Reading]], cost: float) -> list[str]:
    """The families that leak least at one cost: the first, and those that tie with it."""
    return least({name: row[cost] for name, row in found.items()})


def claims(outcome: Outcome) -> list[Claimed]:
    """Whether pruning leaks least for its price, for each attacker at each cost."""
    if _PRUNING not in outcome.families:
        return []
    return [
        _claimed(attacker, cost, found)
        for attacker in ATTACKERS
        for found in [readings(outcome, attacker)]
        for cost in COSTS
    ]


def _claimed(attacker: Attacker, cost: float, rows: dict[str, dict[float, Reading]]) -> Claimed:
    best, found = lowest(rows, cost), {name: row[cost] for name, row in rows.items()}
    if not found[_PRUNING].known:
        return Claimed(attacker, cost, "not measured", "its curve does not reach this cost")
    if best == [_PRUNING]:
        return Claimed(attacker, cost, "confirmed", "it leaks less than all others")
    others = [name for name in best if name != _PRUNING]
    if _PRUNING in best:
        why = f"it cannot be told from {', '.join(others)}"
        return Claimed(attacker, cost, "not confirmed", why)
    leaks = f"{found[best[0]].leak:.3g} against {found[_PRUNING].leak:.3g}"
    return Claimed(attacker, cost, "not confirmed", f"{best[0]} leaks less ({leaks})")


def about(outcome: Outcome) -> dict[str, Any]:
    """All of it for programs."""
    fronts = {a: [point.name for point in front(outcome, a)] for a in ATTACKERS}
    equal = {
        attacker: {
            family: {f"{cost:g}": asdict(one) for cost, one in row.items()}
            for family, row in readings(outcome, attacker).items()
        }
        for attacker in ATTACKERS
    }
    return {
        "task": outcome.task,
        "metric": outcome.metric,
        "undefended": asdict(outcome.none),
        "families": {
            name: [asdict(one) for one in some] for name, some in outcome.families.items()
        },
        "front": fronts,
        "equal_cost": equal,
        "claim": {
            "text": CLAIM,
            "found": [
                {"attacker": c.attacker, "cost": c.cost, "verdict": c.verdict, "why": c.why}
                for c in claims(outcome)
            ],
        },
        "failed": outcome.failed,
    }
