"""What a suspicion is worth, by what became of the training: shared by most detectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import takewhile
from statistics import median
from typing import Final

from gradwatch.core.finding import Severity
from gradwatch.core.history import History
from gradwatch.core.progress import Progress
from gradwatch.core.record import Parameter, Record

LOST: Final = 2.0**-24
"""A relative update smaller than this rounds to no change at all in float32."""
LASTING_EXAMS: Final = 3
"""A thing counts as lasting when so many exams in a row show it ..."""
LASTING_STEPS: Final = 10
"""... and they span at least so many optimizer steps."""
LONG: Final = 80
"""Steps after which a training that has learnt little is slow, and not young."""
LITTLE: Final = 0.2
"""Skill under which a training has learnt little."""
SLOW: Final = 0.55
"""Skill under which it has, after `LONG` steps; the healthy ones in which anything is suspected had
0.58 and more."""
YOUNG: Final = 20
"""Steps in which weights that are seen to move may still heal what they were born with."""
MOVES: Final = 1e-3
"""Update-to-weight ratio from which on they move: the usual one (Karpathy's CS231n)."""
SMALL_FALL: Final = 0.1
"""Where no skill is known: a loss that has fallen by a smaller part has fallen little."""


def lasting(records: Iterable[Record]) -> bool:
    """Whether these exams are enough for more than a suspicion."""
    steps = [record.step for record in records]
    return len(steps) >= LASTING_EXAMS and steps[-1] - steps[0] >= LASTING_STEPS


def seen_enough(history: History, records: Iterable[Record]) -> bool:
    """Whether they last; a check-up has one exam, and what that shows is a prediction."""
    return history.checkup or lasting(records)


def latest_streak(history: History, bad: Callable[[Record], bool]) -> tuple[Record, ...]:
    """Return the exams at the end of the history that are all bad, oldest first."""
    return tuple(takewhile(bad, reversed(history.records)))[::-1]


def verdict(streak: tuple[Record, ...], going: Progress) -> tuple[Severity, str]:
    """Critical if it lasts while the training gets nowhere; a note if it learns all the same."""
    since = streak[0].step
    if going.moving and not going.diverged:
        return Severity.NOTE, f"It learns in spite of it: {going.text}."
    if lasting(streak) and going.moving is False:
        return Severity.CRITICAL, f"It has lasted since step {since}, and {going.text}."
    if streak[-1].step == 0:
        return Severity.WARNING, "A prediction at initialisation."
    return Severity.WARNING, f"Seen since step {since}; {going.text}."


def weights(record: Record) -> list[Parameter]:
    """Return the trainable parameters with at least two dimensions that backward reached: those
    of one dimension (biases, scales) move at a rate of their own."""
    return [
        parameter
        for parameter in record.parameters
        if parameter.trainable and parameter.reached and len(parameter.shape) > 1
    ]


def layer_of(name: str) -> str:
    """Return the name of the layer that a parameter of this name belongs to."""
    return name.rpartition(".")[0]


def layers_of(names: Iterable[str]) -> tuple[str, ...]:
    """Return the layers of some parameters, given by name, each once."""
    return tuple(dict.fromkeys(map(layer_of, names)))


def owner(parameter: Parameter) -> str:
    """Return the name of the layer that a parameter belongs to."""
    return layer_of(parameter.name)


def owners(parameters: Iterable[Parameter]) -> tuple[str, ...]:
    """Return the layers of some parameters, each once."""
    return layers_of(parameter.name for parameter in parameters)


def learns(history: History, going: Progress) -> bool:
    """Whether a training learns so much that what looks like a fault does it no harm: a loss that
    falls a little may well be held back."""
    if going.diverged or not going.moving:
        return False
    if going.skill is not None:  # of the latest exam: the loss may have left it since
        little = SLOW if history.last_step >= LONG or going.fall < 0 else LITTLE
        return going.skill >= little
    return going.fall >= SMALL_FALL * abs(going.begin)


def learns_little(history: History, going: Progress) -> bool:
    """Whether the answers are known to be poor after so many steps, moving or not."""
    known = going.skill is not None and history.last_step >= LONG
    return known and not learns(history, going)


def worthless(going: Progress) -> bool:
    """Whether the answers are known to be worth no more than a constant one, and do not improve."""
    return going.moving is False and going.skill is not None


def first_streak(history: History, bad: Callable[[Record], bool]) -> tuple[Record, ...]:
    """Return the exams at the beginning of the history that are all bad."""
    return tuple(takewhile(bad, history))


def move(record: Record, layers: Iterable[str]) -> float | None:
    """Return the median update-to-weight ratio of some layers' weights; None if not measured."""
    wanted = set(layers)
    ratios = [
        parameter.update_ratio
        for parameter in weights(record)
        if owner(parameter) in wanted and parameter.update_ratio is not None
    ]
    return median(ratios) if ratios else None


def changed(history: History) -> set[str]:
    """Return the parameters whose values differ between exams: somebody sets them, as those of a
    running average, or those that are copied from a master in single precision."""
    seen: dict[str, set[tuple[float, float]]] = {}
    for record in history:
        for parameter in record.parameters:
            if (weight := parameter.weight) is not None:
                seen.setdefault(parameter.name, set()).add((weight.squares, weight.total))
    return {name for name, weights in seen.items() if len(weights) > 1}
