"""What every rival draws with: the settings of the run, the same for all."""

from conftest import ingredients
from mop.backends.fake import FakeModel
from mop.types import Decoding


def test_all_methods_draw_with_the_length_cap_truncation_and_share_of_the_run():
    given = ingredients(
        FakeModel(),
        "simulate.max_tokens=7",
        "simulate.min_tokens=2",
        "simulate.top_p=0.9",
        "simulate.top_k=5",
        "remote.max_failed_share=0.1",
        "data.task=a review",
        "seed=3",
        seed=4,
    )
    drawing = given.drawing
    assert drawing.decoding == Decoding(max_tokens=7, min_tokens=2, top_p=0.9, top_k=5)
    assert (drawing.generator, drawing.store) == (given.lm, given.store)
    assert (drawing.seed, drawing.task, drawing.max_failed_share) == (4, "a review", 0.1)
