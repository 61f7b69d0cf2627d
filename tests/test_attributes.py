"""The released lists: their sizes, and the catch-all value of those that depend on the label."""

import pytest

from mop.errors import DataError
from mop.rivals.attributes import ATTRIBUTES, FILMS, NEWS, RESTAURANTS


@pytest.mark.parametrize(
    ("attributes", "label", "sizes"),
    [
        (NEWS, "World", [16, 2, 5, 30]),
        (NEWS, "Sports", [21, 2, 5, 30]),
        (NEWS, "Business", [18, 2, 5, 30]),
        (NEWS, "Sci/Tech", [20, 2, 5, 30]),
        (FILMS, "positive", [11, 10, 2, 4]),
        (FILMS, "negative", [11, 10, 2, 4]),
        (RESTAURANTS, "positive", [11, 30, 2, 5]),
        (RESTAURANTS, "negative", [11, 30, 2, 5]),
    ],
)
def test_lists_have_the_released_sizes_plus_the_catch_all(attributes, label, sizes):
    lists = list(attributes.of(label).values())
    assert [len(values) for values in lists] == sizes
    assert all(len(set(values)) == len(values) for values in lists)
    assert lists[0][-1] == "others"


def test_every_list_has_a_name():
    assert list(ATTRIBUTES) == ["news", "films", "restaurants"]


def test_a_label_without_values_is_named():
    with pytest.raises(DataError, match="no values for the label 'meh'; it has them for positive"):
        FILMS.of("meh")
    with pytest.raises(DataError, match="no values for the label None"):
        FILMS.of(None)
