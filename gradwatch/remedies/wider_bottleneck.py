"""A wider bottleneck: more units where the whole signal has to pass few."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from gradwatch.core.finding import Finding
from gradwatch.core.record import Record
from gradwatch.core.remedy import CannotPrescribe, Prescription
from gradwatch.remedies import _code, _reading
from gradwatch.remedies._reading import Place


@dataclass(frozen=True)
class WiderBottleneck:
    """Give a hidden layer that is much narrower than both of its neighbours as many units as the
    narrower of the two has.

    All that the later layers know of the input, and all gradient that the earlier ones get, passes
    these few units; with two or three of them a few dead or saturated ones are the end.

    Helps when: a width was mistyped or chosen too small, and what the layers behind it need does
    not fit through.
    Does not help when: the bottleneck is what the model is for (an autoencoder's code, a low-rank
    adapter). It is said and not done where something between the two layers has their width, too.

    Hanin 2018, "Which Neural Net Architectures Give Rise to Exploding and Vanishing Gradients?".
    Cost: the parameters of the two layers grow with the width.
    """

    factor: float = 4.0
    """How many times narrower than either neighbour a bottleneck is: halving the width from layer
    to layer is usual."""

    @property
    def name(self) -> str:
        """Name for the command line."""
        return "wider-bottleneck"

    @property
    def title(self) -> str:
        """What it does, as an imperative."""
        return "Widen the bottleneck"

    @property
    def treats(self) -> frozenset[tuple[str, str]]:
        """The (finding, cause) pairs it answers."""
        return frozenset({("vanishing-gradient", "depth"), ("dead-units", "depth")})

    def prescribe(self, finding: Finding, record: Record) -> Prescription:
        """Return the change for this model; raises `CannotPrescribe` with the reason."""
        every = _reading.own_weights(record)
        narrow = {
            place.layer.name: (place, following, width)
            for place, following in pairwise(every)
            if (width := self._wider(place, following))
        }
        if not narrow:
            raise CannotPrescribe(f"no hidden Linear layer is {self.factor:g} times too narrow")
        plain = all(_plain(record, place, following) for place, following, _ in narrow.values())
        sizes: dict[str, tuple[int, int]] = {}
        for place, following, width in narrow.values():
            inputs = sizes.get(place.layer.name, place.layer.weight_shape[::-1])[0]
            sizes[place.layer.name] = inputs, width
            sizes[following.layer.name] = width, following.layer.weight_shape[0]
        return Prescription(
            self.name,
            f"Widen {_code.counted(len(narrow), 'hidden layer')} that all has to pass",
            _widen(sizes) if plain else _advice(sizes),
            runnable=plain,
            answers=_reading.answers(finding, self),
        )

    def _wider(self, place: Place, following: Place) -> int:
        """The width that it should have; 0 where it is no bottleneck."""
        if place.layer.kind != "Linear" or following.layer.kind != "Linear":
            return 0
        width, inputs = place.layer.weight_shape
        outputs, its_inputs = following.layer.weight_shape
        neighbour = min(inputs, outputs)
        return neighbour if its_inputs == width and self.factor * width <= neighbour else 0


def _plain(record: Record, place: Place, following: Place) -> bool:
    """Whether nothing but the two layers has to know of the width between them."""
    calls = record.calls
    begin, end = calls.index(place.call), calls.index(following.call)
    return all(
        _reading.replaceable(record, call)
        and call.layer.builtin
        and call.cut
        and call.parent == place.call.parent
        and sum(other.layer.name == call.layer.name for other in calls) == 1
        for call in (place.call, following.call)
    ) and all(
        _reading.is_activation(call.layer) or "dropout" in _reading.canonical(call.layer.kind)
        for call in calls[begin + 1 : end]
    )


def _widen(sizes: dict[str, tuple[int, int]]) -> str:
    return "\n".join(
        [
            "sizes = {  # of which layer: inputs and outputs",
            *(f"    {name!r}: {size}," for name, size in sizes.items()),
            "}",
            "for name, (inputs, outputs) in sizes.items():",
            "    old = model.get_submodule(name)",
            "    new = torch.nn.Linear(inputs, outputs, bias=old.bias is not None)",
            '    torch.nn.init.kaiming_normal_(new.weight, nonlinearity="relu")',
            "    model.set_submodule(name, new.to(old.weight))",
            _code.NEW_OPTIMIZER,
        ]
    )


def _advice(sizes: dict[str, tuple[int, int]]) -> str:
    return "\n".join(
        [
            "# To change by hand, since something between the layers has their width, too:",
            *(
                f"#   {name!r} should have {inputs} inputs and {outputs} outputs."
                for name, (inputs, outputs) in sizes.items()
            ),
        ]
    )


REMEDIES = (WiderBottleneck(),)
CURES = ()
DOES_NOT_CURE = ("depth-plain-large-tanh",)
