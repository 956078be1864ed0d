"""Guard the numerics: an operation that stays in the range of its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading, _training

_SAFE: Final = {
    "sqrt": "sqrt: write (x + 1e-12).sqrt(); its slope at 0 is infinite",
    "log": "log: write x.clamp(min=1e-12).log(), or log_softmax, logsigmoid, log1p",
    "div": "division: write x / (y + 1e-8), or x / y.clamp(min=1e-8)",
    "exp": "exp: above 88 it is infinite in float32; write x.clamp(max=30).exp(), or logsumexp",
    "acos": "acos: write x.clamp(-1 + 1e-6, 1 - 1e-6).acos()",
    "asin": "asin: write x.clamp(-1 + 1e-6, 1 - 1e-6).asin()",
    "pow": "pow: a power below 1 has an infinite slope at 0; add 1e-12 to its base",
    "norm": "norm: write (x.square().sum(-1) + 1e-12).sqrt(); its slope at 0 is 0 / 0",
    "std": "std: write (x.var(-1) + 1e-6).sqrt(); its slope is 0 / 0 where nothing varies",
    "softmax": "softmax: a row that is -inf altogether gives NaN; mask with -1e4, or leave it out",
    "where": "where: the branch that is not taken has a gradient, too; make its input safe before",
}
_ALIASES: Final = {"rsqrt": "sqrt", "linalgvectornorm": "norm", "reciprocal": "div", "log2": "log"}


@dataclass(frozen=True)
class GuardNumerics:
    """Keep logarithms, roots and divisions away from 0, and exponentials away from overflow.

    One element out of range is enough: its NaN reaches every weight one step later.

    Helps when: gradients are NaN at once, and were ordinary in the steps before.
    Does not help when: the numbers grew from step to step until they overflowed: then the rate or
    the initialisation is at fault. Which operation it was is the finding's to say: where it could
    not, anomaly detection says it.

    PyTorch's documentation: autograd mechanics, numerical accuracy; torch.autograd.detect_anomaly.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "guard-numerics"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Keep the operation in the range of its numbers"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset({("non-finite", "numerics")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return what to write for the operations that are called there."""
        if not _training.asked(finding, self):
            raise CannotPrescribe("nothing is not finite")
        layers = _reading.blamed(finding, self)
        kinds = [
            _reading.canonical(call.layer.kind)
            for call in record.calls
            if call.layer.functional
            and (call.layer.name in layers or call.layer.name.rpartition(":")[0] in layers)
        ]
        called = [_ALIASES.get(kind, kind) for kind in kinds]
        named = [kind for kind in dict.fromkeys(called) if kind in _SAFE]
        where = f"In {_code.mention(layers)}" if layers else "In the loss, or before it"
        return Prescription(
            self.name,
            self.title,
            "\n".join(
                [
                    f"# {where}:",
                    *(f"#   {_SAFE[kind]}" for kind in named or _SAFE),
                    "# Which one it is, in one slow step:",
                    "#   with torch.autograd.detect_anomaly():",
                    "#       loss_fn(model(inputs), targets).backward()",
                ]
            ),
            runnable=False,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (GuardNumerics(),)
CURES = ()
DOES_NOT_CURE = ()
