"""Signal scale: what goes in is off, or on its way forward the signal fades or grows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History
from gradwatch.core.progress import Progress, progress
from gradwatch.core.record import Record
from gradwatch.detectors import _depth, _groups, _inputs, _outcome, _sizes, _slopes
from gradwatch.detectors._depth import Signal
from gradwatch.detectors._inputs import Input


@dataclass(frozen=True, slots=True)
class SignalScale:
    """The numbers that run through the model are of the wrong size, from the input on or by and by.

    The input: every initialisation assumes numbers near one (LeCun et al. 1998). What goes in is
    told from what the first layer makes of it; inputs of thousands, inputs that hardly differ
    between samples, a column in other units. The cause is then `data-scale`.

    The way forward: with weights that are too small or too large for their fan-in every layer
    scales the signal by the same factor (Glorot & Bengio 2010, He et al. 2015, Mishkin & Matas
    2016): cause `init`, with the factor. Where the weights are as they should be it is a function
    that grows without bound between them (`activation`), or branches or neighbours that add up
    (`normalisation`).

    Judged on what the model was born with, in the light of what became of it: at the start it is a
    prediction; critical when the loss stays where it is or runs away; silent as soon as it learns.
    """

    name: ClassVar[str] = "signal-scale"

    decades: float = 1.5
    """Change of the outputs' root mean square from the first weighted layer to the last."""
    layers: int = 4
    """Fewer weighted layers are no trend: one layer with large inputs looks the same."""
    factor: float = 1.3
    """The weights must miss the size that keeps the signal by this factor, where it is known."""
    monotony: float = 0.6
    """Kendall's tau of that size against depth."""
    young: int = 20
    """Steps that a training with large inputs gets before it is judged: Adam lives with pixels."""
    flat: float = 0.1
    """Mean slope under which a bounded activation counts as saturated by the inputs."""
    flat_steps: int = 40
    """Steps after which it is critical if the loss is flat."""
    much: float = 0.8
    """Skill from which on huge inputs have done no harm; smaller ones do none where it learns."""
    thrown: float = 0.1
    """... unless its first step changes the first layer by such a part of its size."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Judge the first exam: weights that move later, biases first, hide the trend long before
        they repair it."""
        born = next(iter(history.records), None)
        if born is None:
            return ()
        going = progress(history)
        off = _inputs.off_scale(born)
        huge = off is not None and off.size >= _inputs.HUGE and going.skill is not None
        if _outcome.learns(history, going) and not (huge and (going.skill or 0.0) < self.much):
            return ()
        if off is not None:
            if self._waits(off, born, history) or _slopes.flat(born, self.flat):
                return ()  # activations that the inputs saturate are told of as such
            return (self._enters(off, history, going),)
        fitted = self._runs_away(born)
        if fitted is None:
            return ()
        moving = _outcome.move(born, fitted.layers)
        heals = fitted.decades < 0 and moving is not None and moving >= _outcome.MOVES
        if heals and history.last_step < _outcome.YOUNG:
            return ()
        cause = self._cause(born, fitted)
        return () if cause is None else (self._carries(cause, fitted, history, going),)

    def _waits(self, off: Input, born: Record, history: History) -> bool:
        if not off.large or off.size >= _inputs.HUGE or history.last_step >= _outcome.YOUNG:
            return False
        return (_outcome.move(born, off.layers) or 0.0) < self.thrown

    def _enters(self, off: Input, history: History, going: Progress) -> Finding:
        severity, confidence = self._severity(history, going)
        return Finding(
            self.name,
            severity,
            off.text[0].lower() + off.text[1:-1],
            off.layers,
            history.records[0].step,
            history.last_step,
            (Cause(off.cause, off.text, off.layers, share=1.0),),
            confidence,
            {"size": off.size, "differing": off.differing},
        )

    def _runs_away(self, record: Record) -> Signal | None:
        fitted = _depth.signal(record)
        if fitted is None or abs(fitted.decades) < self.decades:
            return None
        enough = len(fitted.layers) + fitted.overflows >= self.layers
        steady = fitted.decades * fitted.monotony >= self.monotony * abs(fitted.decades)
        return fitted if enough and steady else None

    def _cause(self, born: Record, fitted: Signal) -> Cause | None:
        size = "small" if fitted.decades < 0 else "large"
        sign = math.copysign(1, fitted.decades)
        weights = _sizes.Sizes(born)
        explained = max(0.0, weights.explain(fitted.layers))
        functions = _groups.functions(born)
        branches = _groups.branches(born)
        if functions and not branches and explained < 0.5 * fitted.decades:
            return Cause(
                "activation",
                f"The weights explain {explained:.1f} decades of it: {_depth.listed(functions)} "
                "grow faster than what they are given.",
                functions,
                share=1.0,
            )
        sums = _groups.sums(born)
        if sums and fitted.decades > 0 and explained < 0.5 * fitted.decades:
            return Cause(
                "normalisation",
                f"The weights explain {explained:.1f} decades of it: {_depth.listed(sums)} add up "
                "where a mean would keep the size.",
                sums,
                share=1.0,
            )
        factor = weights.mean
        if factor is None:
            return Cause("init", f"The weights are too {size}.", fitted.layers, share=1.0)
        missing = weights.missing(sign)
        if sign < 0 and len(missing) == 1:
            return None  # its own gradient is as large as ever: it grows, and the others follow
        if factor**sign >= self.factor:
            return Cause(
                "init",
                f"The weights are too {size}: {max(factor, 1 / factor):.3g} times too {size} to "
                "keep the signal's size.",
                missing or fitted.layers,
                share=1.0,
            )
        if fitted.decades > 0 and branches:
            return Cause(
                "normalisation",
                "The weights are of ordinary size, but every branch adds to the sum and no norm "
                "keeps it.",
                fitted.layers,
                share=1.0,
            )
        return None  # the weights are as they should be: it is what comes in that fades

    def _carries(self, cause: Cause, fitted: Signal, history: History, going: Progress) -> Finding:
        growth, layers = fitted.decades, fitted.layers
        severity, confidence = self._severity(history, going)
        return Finding(
            self.name,
            severity,
            f"the signal {'fades' if growth < 0 else 'grows'} by {abs(growth):.1f} decades "
            f"from `{layers[0] or '(model)'}` to `{layers[-1] or '(model)'}` at the start"
            + (", and then overflows" if fitted.overflows else ""),
            layers,
            history.records[0].step,
            history.last_step,
            (cause,),
            confidence,
            {"decades": growth},
        )

    def _severity(self, history: History, going: Progress) -> tuple[Severity, str]:
        late = _outcome.lasting(history) and history.last_step >= self.flat_steps
        if going.diverged or (going.moving is False and late):
            return Severity.CRITICAL, f"It was born so, and {going.text}."
        if history.records[-1].step == 0:
            return Severity.WARNING, "A prediction at initialisation."
        return Severity.WARNING, f"It was born so; {going.text}."


DETECTORS = (SignalScale(),)
HEALTHY = ("digits-mlp", "resnet", "pre-norm-transformer", "he-relu-mlp", "tanh-mlp")
SICK = ("small-tanh-mlp", "large-relu-mlp")
