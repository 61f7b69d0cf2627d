"""Colours: one for each method everywhere, and far enough apart for everybody."""

import re
from importlib import resources
from itertools import combinations

import numpy as np
import pytest

from mop.config import METHODS
from mop.report.palette import COLOURS, KNOWN, N_COLOURS, N_SERIES, series_colour, series_marker, series_of

STYLE = resources.files("mop.report").joinpath("templates", "report.css").read_text(encoding="utf-8")
# Machado, Oliveira and Fernandes 2009, severity 1: linear RGB as the colour blind see it.
SEEN = {
    "everybody": np.eye(3),
    "protanope": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranope": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanope": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour):
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(a, b):
    light = sorted(float(np.array([0.2126, 0.7152, 0.0722]) @ linear(c)) + 0.05 for c in (a, b))
    return light[1] / light[0]


def in_style(role):
    return re.search(rf"--{role}: light-dark\((#\w+), (#\w+)\)", STYLE).groups()


def test_the_page_has_the_colours_of_the_figures():
    for role in ("real", *(f"series-{i + 1}" for i in range(N_COLOURS))):
        assert in_style(role)[0] == COLOURS[role]


@pytest.mark.parametrize("theme", [0, 1])
@pytest.mark.parametrize("eye", SEEN)
def test_any_two_series_keep_apart_for_the_colour_blind(theme, eye):
    colours = [in_style(role)[theme] for role in ("real", *(f"series-{i + 1}" for i in range(N_COLOURS)))]
    seen = [lab(np.asarray(SEEN[eye]) @ linear(colour)) for colour in colours]
    assert min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2)) > 15


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_stand_out_from_the_page(theme):
    for role in ("real", *(f"series-{i + 1}" for i in range(N_COLOURS))):
        assert contrast(in_style(role)[theme], in_style("page")[theme]) >= 2.95
    for role in ("ink", "soft", "muted", "warn", "accent"):
        assert contrast(in_style(role)[theme], in_style("page")[theme]) >= 4.5


def test_every_colour_has_one_role():
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_series_differ_by_colour_or_marker():
    seen = {(series_colour(i), series_marker(i)) for i in range(N_SERIES)}
    assert len(seen) == N_SERIES == 48


def test_every_method_has_a_series_of_its_own():
    assert set(METHODS) | {"mop"} == set(KNOWN)
    assert len(set(KNOWN.values())) == len(KNOWN)


def test_a_method_has_the_same_series_whatever_it_is_beside():
    names = ["few-shot", "mine.py:Method", "mop", "zero-shot@0.7", "mop.no-exemplars", "zero-shot"]
    together = series_of(names)
    assert all(series_of([name]) == {name: together[name]} for name in names)
    assert list(together) == names


def test_many_unknown_methods_still_differ():
    names = [f"rival-{i}" for i in range(20)]
    assert len(set(series_of(names).values())) == 20
    assert all(slot % N_COLOURS for slot in series_of(names).values()), "the colour of mop is mop's"
    assert len(series_of([f"rival-{i}" for i in range(99)])) == 99
    assert series_of(["real", "mop"]) == {"mop": 0}
    assert series_of(["\ud800"])
