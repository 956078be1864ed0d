"""Layer-sequential unit variance: weights whose size is measured and not derived."""

from __future__ import annotations

from dataclasses import dataclass

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import Prescription
from gradwatch.remedies import _code, _reading

_FROM_BATCHES = """\
from gradwatch.checking.batch import forward, fresh


def look():
    return forward(model, fresh(batches[0]))


"""
_FROM_INPUTS = """\
# With `inputs` that the model gets in one step: some hundred samples.
def look():
    return model(inputs)


"""


@dataclass(frozen=True)
class LSUVInit:
    """Draw orthogonal weights, then scale each layer until its output has variance 1 on a batch.

    Layer by layer from the input to the output, so that each is measured behind layers that are
    right already. No formula for the activations is needed: what a sine, a square or an own layer
    does to the size is seen in the numbers.

    Helps when: the signal fades or grows from layer to layer and no formula fits: unusual
    activations, layers of mixed kinds, inputs in units of their own.
    Does not help when: activations saturate at any size (sigmoids), the batch is not typical, or
    weights have to stay, as in a trained model. Biases become 0.

    Mishkin and Matas 2016, "All you need is a good init". Cost: some forward passes, once.
    """

    tolerance: float = 0.1
    """How far from 1 the variance may be: the paper's value."""
    tries: int = 10
    """Most forward passes for one layer: the paper's value."""

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "lsuv-init"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Initialise to unit variance, layer by layer"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset(
            {("signal-scale", "activation"), ("exploding-gradient", "activation")}
            | {
                (finding, "init")
                for finding in (
                    "vanishing-gradient",
                    "exploding-gradient",
                    "non-finite",
                    "signal-scale",
                    "saturated-activation",
                    "symmetric-units",
                    "learns-nothing",
                )
            }
        )

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        names = _reading.names(_reading.to_initialise(finding, self, record))
        body = f"""\
names = {_code.listing(names)}
variances = []
with torch.no_grad():
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    for name in names:
        layer = model.get_submodule(name)
        torch.nn.init.orthogonal_(layer.weight)
        if getattr(layer, "bias", None) is not None:
            torch.nn.init.zeros_(layer.bias)
    for name in names:  # in the order in which they are called
        layer = model.get_submodule(name)
        hook = layer.register_forward_hook(
            lambda _, inputs, output: variances.append(float(output.float().var()))
        )
        for _ in range({self.tries}):
            variances.clear()
            look()
            variance = variances[0] if variances else 0.0
            if not 1e-30 < variance < 1e30 or abs(variance - 1) < {self.tolerance}:
                break
            layer.weight.div_(variance**0.5)
        hook.remove()
    for buffer, before in buffers:  # running statistics of the old weights
        buffer.copy_(before)"""
        return Prescription(
            self.name,
            f"Initialise {_code.counted(len(names), 'layer')} to unit variance",
            "\n".join([_code.BEFORE_TRAINING, _FROM_INPUTS + body]),
            runs=_FROM_BATCHES + body,
            answers=_reading.answers(finding, self),
        )


REMEDIES = (LSUVInit(),)
CURES = ("activation-softmax-inside", "init-too-large-relu")
DOES_NOT_CURE = ("activation-deep-sigmoid",)
