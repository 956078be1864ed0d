"""The laws of the rows: whatever is merged in whatever order is the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradwatch.core.stats import OCTAVE_LOW, OCTAVES, WIDTH, Active, Stats

# Magnitudes up to 2^60 and integers for the sums, so that float64 adds them without rounding.
counts = st.integers(0, 2**40)
exact = st.integers(-(2**40), 2**40).map(float)
stats = st.builds(
    Stats,
    counts,
    counts,
    counts,
    counts,
    exact,
    exact.map(abs),
    st.lists(counts, min_size=OCTAVES, max_size=OCTAVES).map(lambda n: np.asarray(n, np.int64)),
    exact.map(abs),
)
values = st.lists(
    st.one_of(
        st.floats(width=32),
        st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, 2.0**-80, 2.0**15]),
    ),
    max_size=40,
)


def measure(data: NDArray[np.float64]) -> Stats:
    """The slow and obvious reference: one pass in float64."""
    finite = data[np.isfinite(data)]
    magnitudes = np.abs(finite[finite != 0])
    octaves = np.zeros(OCTAVES, np.int64)
    for magnitude in magnitudes:
        exponent = math.frexp(magnitude)[1] - 1  # frexp's mantissa is in [0.5, 1)
        octaves[min(max(exponent - OCTAVE_LOW, 0), OCTAVES - 1)] += 1
    return Stats(
        data.size,
        int((data == 0).sum()),
        int(np.isnan(data).sum()),
        int(np.isinf(data).sum()),
        math.fsum(finite),
        math.fsum(np.square(finite)),
        octaves,
        float(magnitudes.max(initial=0.0)),
    )


def same(left: Stats, right: Stats) -> bool:
    return left.pack().tobytes() == right.pack().tobytes()


@given(stats, stats, stats)
@settings(max_examples=40)
def test_merging_is_associative(a: Stats, b: Stats, c: Stats) -> None:
    """Micro-batches, calls and ranks may be merged in any grouping."""
    assert same((a + b) + c, a + (b + c))


@given(stats, stats)
@settings(max_examples=40)
def test_merging_is_commutative(a: Stats, b: Stats) -> None:
    """Ranks may arrive in any order."""
    assert same(a + b, b + a)


@given(stats)
@settings(max_examples=40)
def test_empty_is_the_zero(a: Stats) -> None:
    """Merging the statistics of nothing changes nothing."""
    assert same(a + Stats.empty(), a)
    assert same(Stats.empty() + a, a)


@given(stats)
@settings(max_examples=40)
def test_a_row_is_packed_and_unpacked_without_loss(a: Stats) -> None:
    """What the kernel packs is what the waist reads."""
    row = a.pack()
    assert row.shape == (WIDTH,)
    assert same(Stats.unpack(row), a)


@given(values, st.integers(0, 40))
@settings(max_examples=150)
def test_a_tensor_split_anywhere_merges_to_the_whole(data: list[float], at: int) -> None:
    """A shard or a micro-batch more or less does not change what is measured."""
    array = np.asarray(data, np.float64)
    whole, parts = measure(array), measure(array[:at]) + measure(array[at:])
    for name in ("count", "zeros", "nans", "infs", "peak"):
        assert getattr(parts, name) == getattr(whole, name)
    assert parts.octaves.tolist() == whole.octaves.tolist()
    # The sums are exact but for the rounding of one addition.
    size = float(np.abs(array[np.isfinite(array)]).sum())
    assert parts.total == pytest.approx(whole.total, rel=1e-12, abs=1e-12 * size)
    assert parts.squares == pytest.approx(whole.squares, rel=1e-12)


@given(values)
@settings(max_examples=150)
def test_every_element_is_counted_once(data: list[float]) -> None:
    """Zeros, non-finite elements and octaves add up to the count."""
    found = measure(np.asarray(data, np.float64))
    assert found.zeros + found.nonfinite + int(found.octaves.sum()) == found.count


@given(values, st.floats(0, 1, exclude_min=True))
@settings(max_examples=150)
def test_a_quantile_is_right_within_its_octave(data: list[float], q: float) -> None:
    """Quantiles are within a factor of two of the exact ones, and never above the peak."""
    array = np.asarray(data, np.float64)
    magnitudes = np.sort(np.abs(array[np.isfinite(array)]))
    found = measure(array).quantile(q)
    rank = math.ceil(q * magnitudes.size) - 1
    exact = magnitudes[max(rank, 0)] if magnitudes.size else 0.0
    assert found <= measure(array).peak
    if 2.0**OCTAVE_LOW <= exact < 2.0 ** (OCTAVE_LOW + OCTAVES):
        assert exact / 2 < found < exact * 2


def test_the_ratios_of_a_known_tensor() -> None:
    """Norm, rms, mean, std and shares are those of the finite elements."""
    found = measure(np.asarray([3.0, -4.0, 0.0, math.nan, math.inf]))
    assert found.norm == 5.0
    assert found.rms == pytest.approx(5 / math.sqrt(3))
    assert found.mean == pytest.approx(-1 / 3)
    assert found.std == pytest.approx(math.sqrt(25 / 3 - 1 / 9))
    assert (found.finite, found.nonfinite, found.peak) == (3, 2, 4.0)
    assert found.share_below(2) == 0.5


def test_what_is_empty_has_no_ratio() -> None:
    """No element means 0 and not a division by zero."""
    empty = Stats.empty()
    assert (empty.norm, empty.rms, empty.mean, empty.std, empty.quantile(0.5)) == (0, 0, 0, 0, 0)
    assert empty.share_below(0) == 0


def test_fp16_flushes_what_is_below_its_smallest_subnormal() -> None:
    """`share_below(-24)` is the share that fp16 turns to zero."""
    assert measure(np.asarray([2.0**-25, 2.0**-24, 1.0, 0.0])).share_below(-24) == 1 / 3


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_a_quantile_outside_of_0_to_1_is_refused(q: float) -> None:
    """The error names the argument and its value."""
    with pytest.raises(ValueError, match=r"q must be in \[0, 1\], got"):
        Stats.empty().quantile(q)


units = st.lists(counts, min_size=3, max_size=3).map(lambda n: np.asarray(n, np.int64))
actives = st.builds(Active, counts, units)


@given(actives, actives, actives)
@settings(max_examples=40)
def test_active_counts_merge_by_the_same_laws(a: Active, b: Active, c: Active) -> None:
    """The ragged part is associative and commutative too."""
    for left, right in ((a + b, b + a), ((a + b) + c, a + (b + c))):
        assert left.samples == right.samples
        assert left.units.tolist() == right.units.tolist()


def test_a_unit_is_dead_when_it_was_never_active() -> None:
    """A unit that was active once in any part is alive in the whole."""
    one = Active(4, np.asarray([0, 4, 0]))
    two = Active(4, np.asarray([0, 0, 1]))
    assert (one.dead, two.dead, (one + two).dead) == (2, 2, 1)
    assert Active(0, np.zeros(3, np.int64)).dead == 0


def test_different_units_do_not_merge() -> None:
    """Counts of different modules are never added up by accident."""
    with pytest.raises(ValueError, match="must count 3 units"):
        Active(1, np.zeros(3, np.int64)) + Active(1, np.zeros(2, np.int64))
