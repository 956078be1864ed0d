"""The statistics kernel against NumPy in float64, on everything that tensors can be."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gradwatch.core.stats import OCTAVE_LOW, OCTAVES, Active, Stats
from gradwatch.instrument import kernel
from gradwatch.instrument.kernel import count_active, measure, squares


def stats(tensor: Tensor) -> Stats:
    return Stats.unpack(measure(tensor).numpy())


def reference(values: np.ndarray) -> Stats:
    values = values.reshape(-1).astype(np.float64)
    finite = values[np.isfinite(values)]
    nonzero = np.abs(finite[finite != 0])
    octaves = np.clip(np.frexp(nonzero)[1] - 1 - OCTAVE_LOW, 0, OCTAVES - 1)
    return Stats(
        values.size,
        int((values == 0).sum()),
        int(np.isnan(values).sum()),
        int(np.isinf(values).sum()),
        math.fsum(finite),
        math.fsum(finite**2),
        np.bincount(octaves, minlength=OCTAVES),
        float(np.abs(finite).max(initial=0)),
    )


def assert_same(found: Stats, expected: Stats) -> None:
    exact = ("count", "zeros", "nans", "infs", "peak")
    assert [getattr(found, f) for f in exact] == [getattr(expected, f) for f in exact]
    assert found.squares == pytest.approx(expected.squares, rel=1e-12)
    scale = math.sqrt(expected.squares * max(1, expected.count)) or 1
    assert found.total == pytest.approx(expected.total, abs=1e-12 * scale)
    assert found.octaves.tolist() == expected.octaves.tolist()


INF, NAN = math.inf, math.nan
SPECIAL = torch.tensor(
    [0.0, -0.0, 1.0, -2.0, 1e-38, -1e-38, 3e38, -3e38, 1e-45, 1.2e-40, NAN, INF, -INF, 0.75, 2**-80]
)
TENSORS: dict[str, Callable[[], Tensor]] = {
    "special": lambda: SPECIAL,
    "all-nan": lambda: torch.full((5,), NAN),
    "all-inf": lambda: torch.full((5,), -INF),
    "zeros": lambda: torch.zeros(7, 3),
    "empty": lambda: torch.zeros(0, 4),
    "0-dim": lambda: torch.tensor(-3.5),
    "one": lambda: torch.tensor([1e30]),
    "tiny": lambda: torch.randn(1000) * 1e-30,
    "huge": lambda: torch.randn(1000) * 1e30,
    "subnormal": lambda: torch.full((9,), 1e-42),
    "transposed": lambda: torch.randn(5, 7).t(),
    "strided": lambda: torch.randn(20, 6)[::3, 1::2],
    "expanded": lambda: torch.randn(4, 1).expand(4, 6),
    "channels-last": lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "offset": lambda: torch.randn(50)[7:],
    "bf16": lambda: SPECIAL.bfloat16(),
    "fp16": lambda: torch.tensor([1.0, 6e-8, 65504, INF, NAN, 0]).half(),
    "fp64": lambda: torch.tensor([1e-300, 1e-100, 1e100, 1.0, NAN, INF, 0]).double(),
    "several-chunks": lambda: torch.randn(2 * kernel.CHUNK + 13),
}


@pytest.mark.parametrize("name", TENSORS)
def test_every_kind_of_tensor_is_measured_exactly(name: str) -> None:
    torch.manual_seed(0)
    tensor = TENSORS[name]()
    assert_same(stats(tensor), reference(tensor.double().numpy()))


@pytest.mark.parametrize("name", TENSORS)
def test_the_path_that_never_waits_for_the_device_gives_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What CUDA tensors take, on the CPU."""
    torch.manual_seed(0)
    tensor = TENSORS[name]()
    expected = measure(tensor)
    monkeypatch.setattr(kernel, "_may_ask", lambda device: False)
    assert torch.equal(measure(tensor), expected)


def test_sparse_tensors_count_the_zeros_that_are_not_stored() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: in beta, and invariants are not checked
        indices = torch.tensor([[0, 0, 2], [1, 1, 3]])
        sparse = torch.sparse_coo_tensor(indices, torch.tensor([1.0, 2.0, -4.0]), (3, 5))
        rows = torch.randn(4, 6).relu().to_sparse_csr()
    assert_same(stats(sparse), reference(sparse.to_dense().numpy()))
    assert_same(stats(rows), reference(rows.to_dense().numpy()))


def test_a_complex_element_counts_as_two() -> None:
    values = torch.tensor([3 + 4j, 0 + 1j])
    assert_same(stats(values), reference(torch.view_as_real(values).numpy()))
    assert_same(stats(values.conj()), reference(torch.view_as_real(values).numpy() * [1, -1]))


@pytest.mark.parametrize("tensor", [torch.ones(3, dtype=torch.int64), torch.ones(3, device="meta")])
def test_what_has_no_numbers_is_refused_by_name(tensor: Tensor) -> None:
    with pytest.raises(TypeError, match="tensor must hold floating-point numbers"):
        measure(tensor)


@given(
    st.lists(st.floats(width=32), max_size=40),
    st.lists(st.integers(0, 40), max_size=3),
)
def test_split_anywhere_equals_whole(values: list[float], places: list[int]) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    parts = torch.tensor_split(tensor, sorted(min(p, len(values)) for p in places))
    merged = Stats.empty()
    for part in parts:
        merged = merged + stats(part)
    assert_same(merged, stats(tensor))


def test_measuring_needs_no_gradient_and_leaves_none() -> None:
    tensor = torch.randn(4, requires_grad=True) * 2
    assert not measure(tensor).requires_grad
    assert not squares(tensor).requires_grad


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1.0, 1e20, 1e38])
def test_squares_hold_what_float32_cannot(scale: float) -> None:
    tensor = torch.full((10,), scale)
    assert math.sqrt(float(squares(tensor))) == pytest.approx(
        float(tensor[0]) * math.sqrt(10), rel=1e-12
    )
    assert not math.isfinite(float(squares(torch.tensor([1.0, INF]))))


@pytest.mark.parametrize(("shape", "channel"), [((5, 3), -1), ((5, 3, 4, 4), 1), ((2, 6, 3), -1)])
def test_active_units_are_counted_by_channel(shape: tuple[int, ...], channel: int) -> None:
    torch.manual_seed(0)
    tensor = torch.randn(shape).relu()
    tensor.select(channel, 0).zero_()
    row = count_active(tensor, channel)
    active = Active(int(row[-1]), row[:-1].numpy().astype(np.int64))
    others = tuple(a for a in range(len(shape)) if a != channel % len(shape))
    assert active.units.tolist() == (tensor != 0).sum(others).tolist()
    assert active.samples == tensor.numel() // shape[channel]
    assert active.dead == 1
