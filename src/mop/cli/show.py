"""What a verb has found, as text for a terminal; nothing is computed here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mop.shown import visible


def print_text(text: str) -> None:
    """Print to standard output, at once."""
    sys.stdout.write(visible(text) + "\n")
    sys.stdout.flush()


def _line(text: str) -> str:
    """A text of data on one line."""
    return text.replace("\n", "\\n")


def run(result: dict[str, Any]) -> str:
    """Of the stages, what was done and what they made; of a whole run, the figures too."""
    if "method" in result:
        return f"{result['file']}: {result['n_responses']} responses by {result['method']}{_lost(result)}"
    from mop.pipeline import STAGES

    run, done, reused = result["run"], result["done"], result["skipped"]
    lines = [f"{run}: done {', '.join(done)}" + (f"; reused {', '.join(reused)}" if reused else "")]
    if not done:
        lines = [f"{run} is up to date ({_n(len(reused), 'stage')})"]
    metrics = result.get("metrics")
    lines += [
        f"{name}: {line(result[name])}"
        for name, line in _STAGE_LINES.items()
        if name in result and (name != "evaluate" or metrics is None)  # which then has a table
    ]
    if metrics is None:
        following = next(name for name in list(STAGES)[len(done) + len(reused) :] if name != "tune")  # done on the way
        return "\n".join([*lines, f"next: mop {following} {run}"])
    if metrics["is_surrogate"]:
        lines.append(f"written by {metrics['written_by']}, fitted to {metrics['scored_by']} (a surrogate)")
    held = metrics["held_out"]
    lines += [
        *([result["fit"]["says"]] if "says" in result["fit"] else []),
        *_said_first(metrics),
        *_metric_lines(metrics["methods"], 18, is_closed=bool(metrics.get("closed"))),
        *_metric_notes(metrics),
        f"log-likelihood of {held['n_records']} test records, which the fit never saw: {held['mop']:.2f} nats a "
        f"record, {held['gain']:+.2f} over equal weights (95 % interval {_range(held['gain_interval'], '+.2f')})",
        *_reference_lines(held),
        f"report: {run}/report.html",
        f"next: open {run}/report.html, or: mop sample {run} -n 1000 --out FILE.jsonl",
    ]
    return "\n".join(lines)


def _records_line(info: Mapping[str, Any]) -> str:
    return (f"{left_out}\n" if (left_out := info.get("left_out")) else "") + (
        f"{info['usable']:,} of {info['rows']:,} rows are usable · {info['exemplars']} exemplars, "
        f"{info['train']} + {info['valid']} to fit, {info['test']} to simulate, {info['golden']} to compare with"
    )


def _personas_line(info: Mapping[str, Any]) -> str:
    doubtful = f", {info['doubtful']} of them doubtful" if info["doubtful"] else ""
    return f"{_n(info['n_personas'], 'persona')}{doubtful} · read or edit them in personas.jsonl"


CHOSEN = {"uniform": "equal weights", "unconditional": "weights that ignore the context"}
"""What a fit chose, in words."""


def _fit_line(info: Mapping[str, Any]) -> str:
    taus, rounds = info["temperatures"], info.get("n_rounds")
    if taus[0] == taus[1]:
        temperature = f", one temperature {taus[0]:.2f}"
    else:
        temperature = f", temperatures {taus[0]:.2f} to {taus[1]:.2f}"
    gain = info.get("gain_over_uniform")
    bound = info.get("certificate")
    chosen = CHOSEN.get(info["chosen"], info["chosen"])
    return (
        f"{chosen}{temperature}, {_n(info['n_personas'], 'persona')} · {info['n_cells']:,} scores"
        + (f" in {_n(rounds, 'round')}" if rounds else "")
        + f" · cross-validated on its own records {info['valid']:.2f} nats a record"
        + ("" if gain is None else f", {gain:+.2f} over equal weights")
        + ("" if bound is None else f" · other fixed weights could add at most {bound:.2f}")
    )


def _tune_line(info: Mapping[str, Any]) -> str:
    kept = ", ".join(f"{name} = {value}" for name, value in info["way"].items())
    return f"drawn with {kept or 'the fitted sampler'} · " + "\n".join(info["says"])


def _simulate_line(info: Mapping[str, Any]) -> str:
    cut = ", ".join(f"{name} {share:.0%}" for name, share in info.get("cut_share", {}).items())
    of = info["n_responses"]
    empty = ", ".join(f"{name} {count} of {of}" for name, count in info.get("empty", {}).items() if count)
    return (
        f"{of} responses by each of {info['methods']} methods"
        + (f" · cut at the length limit: {cut}" if cut else "")
        + (f" · empty: {empty}" if empty else "")
    )


def _evaluate_line(info: Mapping[str, Any]) -> str:
    figures = ", ".join(f"{title} {info[name]:{form}}" for name, title, form in _SHOWN if name in info)
    return (
        f"{figures} · test records: {info['held_out_gain']:+.2f} nats a record over equal weights "
        f"(95 % interval {_range(info['held_out_gain_interval'], '+.2f')})"
    )


_STAGE_LINES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "records": _records_line,
    "personas": _personas_line,
    "fit": _fit_line,
    "tune": _tune_line,
    "simulate": _simulate_line,
    "evaluate": _evaluate_line,
}
"""What a stage has made, in a line."""


def _n(count: int, noun: str) -> str:
    """A number of things in words: 1 persona, 2 personas."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _lost(result: Mapping[str, Any]) -> str:
    """How many draws gave no text, and how many texts were cut; nothing if none."""
    found = "".join(
        f", {result[key]} of {result['n_responses']} {what}"
        for key, what in (("empty", "empty"), ("failed", "refused or failed"))
        if result[key]
    )
    if result["cut"]:
        share = result["cut"] / (result["n_responses"] - result["failed"])
        found += f", {result['cut']} ({share:.0%}) cut at the length limit"
    return found


_SHOWN = (
    ("valid_answers", "valid ↑", ".1%"), ("total_variation", "TV ↓", ".3f"), ("energy", "energy ↓", ".4f"),
    ("fid_excess", "FID excess ↓", ".3f"), ("fid", "FID ↓", ".3f"),
    ("mauve", "MAUVE ↑", ".3f"), ("kl_cosine", "KL-cos ↓", ".3f"), ("sense", "sense", ".2f"),
    ("improbable", "improbable", ".1%"), ("mean_words", "words", ".1f"),
)  # fmt: skip
"""(figure, title, form) of a table in the terminal."""


def _metric_lines(rows: Mapping[str, Mapping[str, Any]], width: int, *, is_closed: bool) -> list[str]:
    """A head, and a line for each method."""
    from mop.report.verdicts import FOR_FREE_TEXTS

    left_out = FOR_FREE_TEXTS if is_closed else ()
    shown = [(name, title, form) for name, title, form in _SHOWN if _has(rows, name) and name not in left_out]
    lines = [f"{'method':<{width}}" + "".join(f"{title:>{len(title) + 2}}" for _, title, _ in shown)]
    for method, row in rows.items():
        cells = [
            f"{'–' if row.get(name) is None else format(row[name], form):>{len(title) + 2}}"
            for name, title, form in shown
        ]
        lines.append(f"{'other real texts' if method == 'floor' else method:<{width}}{''.join(cells)}")
    return lines


def _has(rows: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    return any(row.get(name) is not None for row in rows.values())


def _said_first(metrics: Mapping[str, Any]) -> list[str]:
    """What a reader has to know before any distance: how many texts have something wrong."""
    from mop.report.verdicts import closed_sentences, quality_sentence, respondent_sentence

    closed, methods = metrics.get("closed"), metrics["methods"]
    said = [*closed_sentences(closed, methods), quality_sentence(methods, is_closed=bool(closed))]
    return [*filter(None, [*said, respondent_sentence(metrics.get("respondents"))])]


def _metric_notes(metrics: Mapping[str, Any]) -> list[str]:
    """What to know about the table of a run."""
    from mop.report.page import way_closed

    way = way_closed(metrics["methods"])
    judge = metrics["judged_by"]
    wrote = ", which wrote them" if judge == metrics["written_by"] else ""
    return [
        *([f"from zero-shot to other real texts mop went {way}, by energy distance"] if way else []),
        f"sense: nats per token under {judge}{wrote}; real texts are the mark, neither above nor below",
    ]


def compare(result: dict[str, Any]) -> str:
    """Of a comparison, its tables."""
    from mop.report.table import compared_on

    place, lines = f"{result['run']}/compare", []
    tables = [("comparison", result)]
    if "ablations" in result:
        tables.append(("ablations", result["ablations"]))
    for _, found in tables:
        rows = {**found["methods"], "floor": found["floor"]}
        head, *shown = _metric_lines(rows, 20, is_closed=bool(result.get("closed")))
        lines.append(f"{head}{'F1 ↑':>8}{'LM tokens':>12}")
        for line, row in zip(shown, rows.values(), strict=True):
            f1 = f"{row['f1']:>8.3f}" if row.get("f1") is not None else f"{'':>8}"
            tokens = f"{row['lm_tokens']:>12,}" if "lm_tokens" in row else ""
            lines.append(f"{line}{f1}{tokens}".rstrip())
        lines += [compared_on(found, result["n_golden"]), *found.get("verdicts", [])]
        lines += [f"- {note}" for note in found["notes"]]
    lines += [f"table: {place}/{name}.md, .tex; short: {name}-short.md, .tex" for name, _ in tables]
    return "\n".join([*lines, f"page: {place}/comparison.html, all figures: comparison.json"])


def _reference_lines(held: dict[str, Any]) -> list[str]:
    """A table of what the mixture gains over simpler models."""
    from mop.evaluate.likelihood import reference_name

    rows = held.get("references") or {}
    head = f"{'compared with':<24}{'nats/record':>12}{'gain':>9}{'95 % interval':>20}{'per token':>11}"
    lines = [head] if rows else []
    for name, row in rows.items():
        lines.append(
            f"{reference_name(name, row):<24}{row['log_lik']:>12.2f}{row['gain']:>+9.2f}"
            f"{_range(row['gain_interval'], '+.2f'):>20}{row['gain_per_token']:>+11.4f}"
        )
    return lines


def pull(result: dict[str, Any]) -> str:
    """Of embedded models and data: a list, or where they are now."""
    if "known" not in result:
        return "\n".join(f"{item['notice']}\n  here:    {item['folder']}" for item in result["pulled"].values())
    return "\n".join(
        f"{name:<16}{item['kind']:<9}{'here' if item['pulled'] else '-':<6}{item['what']} Licence: {item['licence']}."
        for name, item in result["known"].items()
    )


def _range(interval: Sequence[float] | None, form: str) -> str:
    """An interval in words; records of one group have none."""
    if interval is None:
        return "unknown: one group"
    return f"{interval[0]:{form}} to {interval[1]:{form}}"


def score(result: dict[str, Any]) -> str:
    """Of records, how likely they are, and under simpler models."""
    kind = "exact" if result["is_exact"] else f"estimated from {result['n_components']} components each"
    with_lm = f" with {result['lm']}" if result["lm"] else ""
    if result["refitted_on"]:
        with_lm += f", temperatures refitted on {result['refitted_on']} records"
    lines = [
        f"mean log-likelihood of {result['n_records']} records{with_lm}, {kind}, nats a record:",
        f"  mixture          {result['mop']:10.3f}  (95 % interval {_range(result['mop_interval'], '.3f')})",
    ]
    if not result["is_exact"]:
        lines.append(f"  lower bound      {result['lower_bound']:10.3f}  (on average, from the scored components)")
    lines += [
        f"  equal weights    {result['mop-uniform']:10.3f}",
        f"  gain             {result['gain']:+10.3f}  (95 % interval {_range(result['gain_interval'], '+.3f')})",
        *_reference_lines(result),
    ]
    if result["scored_at"]:
        lines.append(
            f"all at temperature {result['scored_at']:g}, the only one that {result['scored_by']} scores at: the "
            "personas' own differ"
        )
    return "\n".join([*lines, *_surrogate_line(result)])


def _surrogate_line(result: dict[str, Any]) -> list[str]:
    """Say so where the model that scores is not the one that writes."""
    scored, written = result["scored_by"], result["written_by"]
    if scored == written:
        return []
    return [f"likelihoods are those of {scored}, a surrogate: {written} writes in this run"]


def explain(result: dict[str, Any]) -> str:
    """Of a text, the personas, exemplars and components it is likely from."""
    lines = [
        f"record   {_line(result['key'])}",
        f"context  {_line(result['context'])}",
        f"response {_line(result['response'])}",
        f"log-lik  {result['log_lik']:.2f} nats in {result['n_tokens']} tokens, "
        + ("exact" if result["is_exact"] else f"estimated with standard error {result['standard_error']:.2f}")
        + f" from {result['n_scored']} components"
        + ("" if result["is_exact"] else f", all that are different among {result['n_drawn']} drawn"),
        "",
    ]
    lines += [f"{row['posterior']:7.1%}  {row['persona']}  {_line(row['description'])}" for row in result["personas"]]
    lines += ["", "likeliest exemplars:"]
    lines += [f"{row['posterior']:7.1%}  {row['exemplar']}  {_line(row['response'])}" for row in result["exemplars"]]
    lines += ["", f"{'posterior':>9}  {'log-lik':>9}  {'log weight':>10}  {'tau':>5}  component (persona, exemplar)"]
    lines += [
        f"{row['posterior']:9.1%}  {row['log_lik']:9.2f}  {row['log_weight']:10.2f}  {row['temperature']:5.2f}  "
        f"{row['persona']}, {row['exemplar']}"
        for row in result["components"]
    ]
    return "\n".join([*lines, *_surrogate_line(result)])


def match(result: dict[str, Any]) -> str:
    """Of personas, their weights before and now."""
    about = result["persona_weights"]
    lines = [
        f"mixture weights of the personas (shares of simulated responses) for {about['model']}, {about['kind']}: "
        f"{about['samples_per_persona']} samples a persona, {about['n_targets']} real responses",
        f"  {'before':>7} {'now':>7}",
    ]
    lines += [
        f"  {row['before']:7.1%} {row['weight']:7.1%}  {row['key']}  {_line(row['description'])}"
        + (f" ({row['failed']} samples refused or failed)" if row["failed"] else "")
        for row in result["personas"]
    ]
    lines += [
        f"distance of samples and real responses (squared MMD): {about['mmd2']:.4f} now, "
        f"{about['mmd2_before']:.4f} with the weights before, {about['mmd2_uniform']:.4f} with equal ones",
        f"mixture: {result['out']}",
        f"next: mop sample {result['run']} --mixture {result['out']} -n 1000 --out FILE.jsonl",
    ]
    return "\n".join(lines)


def sample(result: dict[str, Any]) -> str:
    """Of samples, where they are, and who wrote them."""
    other = "" if result["fitted_to"] == result["lm"] else f"; weights: {result['fitted_to']}"
    before = f", in place of {result['replaced']} that were there" if result["replaced"] else ""
    return (
        f"{result['file']}: {result['n_responses']} responses by {_n(result['personas'], 'persona')}{_lost(result)}"
        f"{before}\n"
        f"written by {result['lm']}{other}\n{_of_real_people(result)}"
    )


def _of_real_people(result: Mapping[str, Any]) -> str:
    """What a file of responses has of the people whose records were given."""
    names = " and ".join(result["key_columns"])
    return (
        f"exemplars are real records: audit before publishing; {result['near_copies']} of "
        f"{result['n_responses']} texts repeat a real one"
        + (f"; the columns {names} hold the keys of real people: leave them out before publishing" if names else "")
    )


def calibrate(result: dict[str, Any]) -> str:
    """Of calibrated texts, where they are, and what the weights cost and gain."""
    lines = [
        f"{result['file']}: {result['n_responses']} of {result['n_drawn']} texts{_lost(result)}",
        f"weights: an effective {result['effective']:.0f} of {result['n_drawn']} draws "
        f"({result['effective_share']:.0%}), the largest {result['largest']:.1f} times the mean, "
        f"{result['divergence']:.2f} nats from equal ones",
    ]
    if "coverage" in result:
        lines.append(
            f"{result['coverage']:.0%} of the target's texts have a draw near them · telling draws from real texts: "
            f"{result['log_loss']:.3f} nats (0.693: nobody can)"
        )
    lines.append(
        f"energy distance to {result['n_golden']} golden texts, which the weights have not seen: "
        f"{result['energy_raw']:.4f} as drawn, {result['energy']:.4f} calibrated"
    )
    return "\n".join([*lines, _of_real_people(result)])


def config(result: dict[str, Any]) -> str:
    """Of settings, values and meanings, as a TOML file that can be used."""
    from mop.config import SECTIONS, describe

    lines = [f"seed = {result['seed']}"]
    for section, cls in SECTIONS.items():
        lines += ["", f"[{section}]"]
        for name, meaning in describe(cls).items():
            value = result[section][name]
            given = json.dumps("" if value is None else value, ensure_ascii=False)
            line = f"{'# ' if value is None else ''}{name} = {given}"
            lines.append(line.ljust(44) + f" # {meaning}")
    return "\n".join(lines)


def verify(result: dict[str, Any]) -> str:
    """Of a run, what is damaged."""
    if result["problems"]:
        return "\n".join(["damaged:", *result["problems"], "mop run with this folder makes anew what is damaged"])
    stored = ", ".join(_n(count, kind) for kind, count in result["counts"].items() if kind != "conflict")
    return f"undamaged: all files, {stored}"


def doctor(result: dict[str, Any]) -> str:
    """Of a machine, what is there and what to do."""
    from mop.runs.doctor import describe

    return describe(result)


def fake_server(result: dict[str, Any]) -> str:
    """Of the fake server, its dialects, lies and faults."""
    lines = []
    for option, names in (
        ("--dialect", result["dialects"]),
        ("--broken", result["lies"]),
        ("--faults", result["faults"]),
    ):
        lines.append(option)
        lines += [f"  {name:<16}{meaning}" for name, meaning in names.items()]
    return "\n".join(lines)
