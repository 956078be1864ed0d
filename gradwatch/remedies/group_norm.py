"""Group normalisation: what batch normalisation does, without a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _normalise, _reading, _training

_REPLACED: Final = ("batchnorm", "syncbatchnorm", "instancenorm", "groupnorm")
_GROUPS: Final = "max(1, math.gcd({width}, 512) // 16)"
"""A number of groups that divides the width: up to 32, of 16 channels at least (both are the
paper's); of less than 16 channels, one."""


@dataclass(frozen=True)
class GroupNorm:
    """Put group normalisations where batch normalisations are, or where there is none between each
    hidden layer and its activation.

    The features of one sample are normalised in groups, each with mean 0 and variance 1 over its
    channels and positions. No sample depends on another, so that batches may be of any size and
    evaluation is as training.

    Helps when: batch normalisation stands on batches of a few samples, whose statistics are noise
    (of two samples, each is -1 or 1), or a normalisation has groups of one channel, which leave
    nothing of a vector; and where `batch-norm` helps.
    Does not help when: Linear layers work on sequences, whose second axis is the time (see
    `layer-norm`); layers have few channels.

    Wu and He 2018, "Group Normalization". Cost: about that of batch normalisation.
    """

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "group-norm"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Normalise in groups of channels"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        spread = {(finding, "normalisation") for finding in ("norm-statistics", "dead-units")}
        return _normalise.TREATS | spread

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        running = finding.name == "norm-statistics"
        norms = _reading.names(
            call
            for call in record.calls
            if _reading.canonical(call.layer.kind).startswith(_REPLACED)
            and call.layer.builtin
            and _reading.replaceable(record, call)
            and call.layer.weight_shape[:1] != (1,)  # of one without weights it is not known
            and (not running or "batch" in _reading.canonical(call.layer.kind))
        )
        if not norms and finding.name == "dead-units" and _training.asked(finding, self):
            return self._by_hand(finding)
        if norms:
            body = _code.replace_each(
                norms,
                "grouped = isinstance(module, torch.nn.GroupNorm)",
                "width = module.num_channels if grouped else module.num_features",
                f"norm = torch.nn.GroupNorm({_GROUPS.format(width='width')}, width)",
                "model.set_submodule(name, norm.to(next(model.parameters())))",
            )
            title = f"Replace {_code.counted(len(norms), 'normalisation')} by group normalisation"
        else:
            layers = _normalise.hidden_layers(record)
            if any(not _normalise.axes(call) for call in layers):
                _normalise.refuse_sequences(record)
            layers = tuple(call for call in layers if call.layer.weight_shape[0] > 1)
            if not layers:
                raise CannotPrescribe("the hidden layers have one feature each")
            body = _normalise.wrap(
                layers,
                lambda axes, width: f"torch.nn.GroupNorm({_GROUPS.format(width=width)}, {width})",
            )
            title = f"Add group normalisation to {_code.counted(len(layers), 'hidden layer')}"
        return Prescription(
            self.name,
            title,
            f"import math\n\n{body}",
            answers=_reading.answers(finding, self),
        )

    def _by_hand(self, finding: Finding) -> Prescription:
        """Where it is no norm of torch.nn, or not one that can be replaced."""
        layers = _code.mention(_reading.blamed(finding, self) or ("the normalisation",))
        return Prescription(
            self.name,
            "Normalise over more than one value",
            f"# {layers} subtracts from each value a mean of nothing else: what is left is 0.\n"
            "# Normalise over all features of a sample, of which there have to be several:\n"
            "#   torch.nn.LayerNorm(features)       # of vectors, and of sequences\n"
            "#   torch.nn.GroupNorm(1, channels)    # of pictures, also of 1 x 1 pixel\n"
            "# Over the batch it takes two samples or more: torch.nn.BatchNorm1d(features).",
            runnable=False,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (GroupNorm(),)
CURES = ("activation-square", "norm-zero-gamma-plain")
DOES_NOT_CURE = ("sigmoid-mlp",)
