"""Figures: where the enlarged box of a crop is."""

import numpy as np

from smnet import figures


def test_the_box_is_where_the_detail_is():
    picture = np.full((100, 120, 3), 128, np.uint8)
    picture[40:60, 70:90] = np.random.default_rng(0).integers(0, 255, (20, 20, 3))
    row, column, side = figures.busiest_box(picture)
    assert figures.busiest_box(picture[:1]) == (0, 0, 1)
    assert side == 20 and abs(row - 40) <= 1 and abs(column - 70) <= 1
    assert figures.fit_box([95, 500, 30], picture.shape) == (70, 90, 30)
    assert figures.fit_box([0, 0, 999], picture.shape) == (0, 0, 100)
