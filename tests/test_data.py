"""The shipped data set is whole."""

from __future__ import annotations

import numpy as np

from gradwatch.data import digits


def test_digits_are_1797_images_from_0_to_1_and_their_labels() -> None:
    images, labels = digits()
    assert images.shape == (1797, 8, 8)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (0, 1)
    assert labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
