"""Collapsed router: nearly all samples go to the same few experts, and the others never learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gradwatch.core.finding import Cause, Finding, Severity
from gradwatch.core.history import History, Pulse
from gradwatch.core.progress import progress
from gradwatch.detectors import _depth, _experts


@dataclass(frozen=True, slots=True)
class CollapsedRouter:
    """Of the experts of a mixture, a few get all samples, and no gradient reaches the others.

    Experts are modules of one form in one container, behind a layer that gives one number for each
    of them. A router that favours some makes them better, and so favours them more (Shazeer et al.
    2017, section 4). Counted over the latest third of the steps: in healthy mixtures every expert
    is reached in nearly all of them, however sharply they specialise. Not judged while few samples
    have been sent; a note where the training has learnt its task all the same.
    """

    name: ClassVar[str] = "collapsed-router"

    steps: int = 20
    """Steps that must be known."""
    patience: int = 30
    """Steps after which a training is held back by it, if it gets nowhere."""
    used: float = 0.25
    """Share of the experts that are still used, up to which it has collapsed; one always may be."""
    faint: float = 1e-4
    """Gradient norm, relative to the most used expert's, that counts as none: all experts may be
    computed and multiplied with what the router gives them."""
    chances: float = 16.0
    """Samples that each expert should have had, had they been shared out evenly."""
    learnt: float = 0.8
    """Skill from which on a training needs no more experts."""

    def __call__(self, history: History) -> tuple[Finding, ...]:
        """Look at the mixtures of the latest exam, in all steps that are kept."""
        latest, pulses = history.latest, history.pulses
        pulses = tuple(p for p in pulses if p.columns.parameters == pulses[-1].columns.parameters)
        if latest is None or len(pulses) < self.steps:
            return ()
        recent = max(self.steps // 2, len(pulses) // 3)
        for mixture in _experts.mixtures(latest):
            reached = self._reached(mixture.experts, pulses)
            lately = np.asarray(reached[-recent:].any(0))
            count = len(mixture.experts)
            if not lately.any() or lately.sum() > max(1, self.used * count):
                continue
            if mixture.samples * recent < self.chances * count:
                continue
            return (self._finding(history, mixture, pulses, reached, lately),)
        return ()

    def _reached(self, experts: tuple[str, ...], pulses: tuple[Pulse, ...]) -> NDArray[np.bool_]:
        """Return by step and expert whether it got a gradient worth the name."""
        names = pulses[-1].columns.parameters
        norms = np.nan_to_num(np.stack([pulse.norms for pulse in pulses]), posinf=1e30)
        sizes = np.stack(
            [
                norms[:, [i for i, n in enumerate(names) if n.startswith(f"{one}.")]].max(
                    1, initial=-1.0
                )
                for one in experts
            ],
            1,
        )
        return np.asarray(sizes > np.maximum(0.0, self.faint * sizes.max(1, keepdims=True)))

    def _finding(
        self,
        history: History,
        mixture: _experts.Mixture,
        pulses: tuple[Pulse, ...],
        reached: NDArray[np.bool_],
        lately: NDArray[np.bool_],
    ) -> Finding:
        going = progress(history)
        idle = tuple(one for one, used in zip(mixture.experts, lately, strict=True) if not used)
        seen = np.flatnonzero(reached[:, ~lately].any(1))
        since = pulses[0].step if not seen.size else pulses[int(seen[-1]) + 1].step
        if going.skill is not None and going.skill >= self.learnt:
            severity = Severity.NOTE
        elif going.moving is False and len(pulses) >= self.patience:
            severity = Severity.CRITICAL
        else:
            severity = Severity.WARNING
        router = mixture.router.layer
        born = not seen.size
        text = (
            f"From the first step on `{router.label}` has sent nothing to them: its bias or its "
            "weights favour the others by more than any noise makes up for."
            if born
            else f"`{router.label}` sent samples to them until step {since}: what is chosen more "
            "often learns faster and is chosen more often, and nothing in the loss balances that."
        )
        return Finding(
            self.name,
            severity,
            f"{len(idle)} of {len(lately)} experts get no gradient: `{router.label}` sends all "
            f"samples to {_depth.listed([e for e in mixture.experts if e not in idle])}",
            (router.name, *idle),
            since,
            pulses[-1].step,
            (Cause("init" if born else "loss", text, (router.name,), share=1.0),),
            f"Counted in {len(pulses)} steps; {going.text}.",
            {"idle": float(len(idle)), "experts": float(len(lately))},
        )


DETECTORS = (CollapsedRouter(),)
HEALTHY = ("mixture-of-experts", "digits-mlp", "resnet", "pre-norm-transformer")
SICK = ("collapsed-router",)
