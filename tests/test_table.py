"""The tables of a comparison: figures, intervals, the best in bold, the floor, and names that are hostile."""

from mop.report.page import METRICS
from mop.report.table import compared_on, latex, latex_table, markdown_table

ROWS = {
    "mop": {"fid": 0.26, "fid_interval": [0.25, 0.27], "mauve": 0.7, "n_seeds": 3, "lm_calls": 1200, "sees_real": True},
    "a|b_c&d": {"fid": 0.31, "mauve": 0.8, "n_seeds": 1, "lm_calls": 1000, "sees_real": False},
}
FLOOR = {"fid": 0.195, "mauve": 0.99}
BEST = {"fid": "mop", "mauve": None}


def test_the_whole_markdown_table():
    assert markdown_table(ROWS, FLOOR, best=BEST) == (
        "| method | FID ↓ | MAUVE ↑ | seeds | LM calls | sees real texts |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| mop | **0.260** (0.250 to 0.270) | 0.700 | 3 | 1,200 | yes |\n"
        r"| a\|b_c&d | 0.310 | 0.800 | 1 | 1,000 | no |" + "\n"
        "| other real texts | 0.195 | 0.990 |  |  |  |\n"
    )


def test_the_whole_latex_table():
    assert latex_table(ROWS, FLOOR, best=BEST) == "\n".join(
        [
            r"\begin{tabular}{lrrrrr}",
            r"\toprule",
            r"method & FID $\downarrow$ & MAUVE $\uparrow$ & seeds & LM calls & sees real texts \\",
            r"\midrule",
            r"mop & \textbf{0.260} {\scriptsize (0.250 to 0.270)} & 0.700 & 3 & 1,200 & yes \\",
            r"a|b\_c\&d & 0.310 & 0.800 & 1 & 1,000 & no \\",
            r"\midrule",
            r"other real texts & 0.195 & 0.990 &  &  &  \\",
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def test_a_missing_figure_is_a_dash():
    assert "| b | – | 0.500 |" in markdown_table({"a": {"f1": 0.2}, "b": {"sense": 0.5}}, {}, best={})


def test_every_special_character_of_latex_is_printed():
    assert latex("\\{}~^<>#$%") == (
        r"\textbackslash{}\{\}\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\#\$\%"
    )


def test_the_short_table_has_at_most_seven_columns_and_no_cost():
    every = {"mop": dict.fromkeys(METRICS, 0.5) | {"lm_calls": 3, "n_seeds": 1}}
    for table in (markdown_table, latex_table):
        (head,) = [line for line in table(every, {}, best={}, is_short=True).split("\n") if "method" in line]
        assert head.strip("| ").count("|") + head.count("&") == 6
        assert "Valid answers" in head
        assert "LM calls" not in head


def test_the_method_that_has_few_texts_is_named_beside_the_number():
    assert compared_on({"n_responses": 40, "limited_by": "zerogen"}, 200) == (
        "Figures are of 40 texts of each method (zerogen has no more) against 200 real ones that no method saw."
    )
    assert "(other real texts has no more)" in compared_on({"n_responses": 4, "limited_by": "floor"}, 9)
