"""Figures in sentences: nothing wrong is no sentence, closed answers lead with what is valid."""

from mop.report.verdicts import closed_sentences, quality_sentence, respondent_sentence

METHODS = {
    name: {
        "valid_answers": valid, "valid_answers_interval": [valid - 0.1, valid + 0.1],
        "total_variation": 0.3, "total_variation_interval": [0.2, 0.4], "duplicates": 0.9, "empty": 0.0,
    }
    for name, valid in (("mop", 0.5), ("floor", 0.95))
}  # fmt: skip


def test_closed_answers_are_counted_and_other_metrics_warned_of():
    said = closed_sentences({"options": ["Yes", "No"], "n_real": 80, "shares": {}}, METHODS)
    assert "80 real answers know 2 options" in said[0]
    assert "MAUVE and KL-cosine are not meant for" in said[0]
    assert "50 % of mop (40 % to 60 %); 95 % of other real texts" in said[1]
    assert closed_sentences(None, METHODS) == []


def test_repeating_is_no_fault_of_closed_answers():
    assert "90 % repeat" in quality_sentence(METHODS)
    assert quality_sentence(METHODS, is_closed=True) == ""


def test_no_contradiction_is_no_sentence():
    assert respondent_sentence(None) == respondent_sentence({"contradict": 0}) == ""
