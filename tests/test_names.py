"""Short names tell personas apart, and titles say what a page is about."""

import pytest

from mop.report.names import SHORT, page_title, short_names


def test_keyword_personas_are_named_by_their_first_three_keywords():
    start = "You are a writer whose typical words are"
    names = short_names(
        [f"{start} war II, flick, sting and dumb. Most of what you write is labelled 'rotten'.", f"{start} e.g and x."]
    )
    assert names == ["war II, flick, sting", "e.g, x"]


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (
            [f"You are a {who} aged {age}." for who in ("woman", "man") for age in ("45 or older", "18 to 44")],
            ["woman aged 45 or older", "woman aged 18 to 44", "man aged 45 or older", "man aged 18 to 44"],
        ),
        (
            [f"Answer in the words of the following person and do not hedge: {who}" for who in ("Anna, 34", "Bob, 61")],
            ["Anna, 34", "Bob, 61"],
        ),
        (
            ["日本語を話す人で猫が好き", "日本語を話す人で犬が好き", "日本語を話す人で鳥"],
            ["猫が好き", "犬が好き", "鳥"],
        ),
        (["one and only"], ["one and only"]),
        ([], []),
    ],
)
def test_what_all_have_in_common_names_nobody(texts, names):
    assert short_names(texts) == names


def test_long_names_that_begin_alike_are_cut_where_they_part():
    shared = "You are a nurse of a large hospital in the north who has three children and votes"
    names = short_names([f"{shared} red.", f"{shared} blue.", "You are a baker.", "You are a fisherman."])
    assert names[2:] == ["baker", "fisherman"]
    assert [name.split()[-1] for name in names[:2]] == ["red", "blue"]
    assert all(name.startswith("nurse of a") for name in names[:2])


def test_every_name_is_short_one_line_and_its_own():
    texts = ["", " ", "same", "same", "x" * 300, "\x00\u202e\n", "a\nb", *["You are y " * 30] * 3]
    names = short_names(texts)
    assert len(set(names)) == len(texts)
    assert all(name and "\n" not in name and "\u202e" not in name and len(name) <= SHORT + 5 for name in names)


def test_a_page_is_never_called_after_the_ending_of_a_file():
    assert page_title("", "clean.csv") == "Simulated responses: clean"
    assert page_title("", "") == "Simulated responses"
    assert page_title("an answer to a survey", "long.csv") == "An answer to a survey, simulated"
