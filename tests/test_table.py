"""The tables of a comparison: figures, intervals, the best in bold, the floor, and names that are hostile."""

from mop.report.table import Row, best_names, cell, latex, latex_table, markdown_table

ROWS = [
    Row("mop", {"fid": 0.26, "fid_interval": [0.25, 0.27], "mauve": 0.7, "n_seeds": 3, "lm_calls": 1200,
                "sees_real": True}),
    Row("a|b_c&d", {"fid": 0.31, "mauve": 0.8, "n_seeds": 1, "lm_calls": 1000, "sees_real": False}),
]  # fmt: skip
FLOOR = {"fid": 0.195, "mauve": 0.99}


def test_the_whole_markdown_table():
    assert markdown_table(ROWS, FLOOR) == (
        "| method | FID ↓ | MAUVE ↑ | seeds | LM calls | sees real texts |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| mop | **0.260** (0.250 to 0.270) | 0.700 | 3 | 1,200 | yes |\n"
        r"| a\|b_c&d | 0.310 | **0.800** | 1 | 1,000 | no |" + "\n"
        "| other real texts | 0.195 | 0.990 |  |  |  |\n"
    )


def test_the_whole_latex_table():
    assert latex_table(ROWS, FLOOR) == "\n".join(
        [
            r"\begin{tabular}{lrrrr}",
            r"\toprule",
            r"method & FID $\downarrow$ & MAUVE $\uparrow$ & seeds & LM calls \\",
            r"\midrule",
            r"mop & \textbf{0.260} {\scriptsize (0.250 to 0.270)} & 0.700 & 3 & 1,200 \\",
            r"a|b\_c\&d & 0.310 & \textbf{0.800} & 1 & 1,000 \\",
            r"\midrule",
            r"other real texts & 0.195 & 0.990 &  &  \\",
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def test_only_ranked_figures_of_several_methods_have_a_best():
    assert best_names(ROWS) == {"fid": "mop", "mauve": "a|b_c&d"}
    by_sense = [Row(name, {"sense": sense}) for name, sense in (("a", -3.0), ("b", -4.0))]
    assert best_names(by_sense) == {}
    assert best_names(ROWS[:1]) == {}


def test_a_missing_figure_is_a_dash():
    assert cell({}, "f1") == ("–", "")


def test_every_special_character_of_latex_is_printed():
    assert latex("\\{}~^<>#$%") == (
        r"\textbackslash{}\{\}\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\#\$\%"
    )
