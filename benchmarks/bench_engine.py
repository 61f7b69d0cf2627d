"""Scoring and drawing against what people use otherwise; both sides in one run, on this machine.

Prints a table and writes ``benchmarks/results/engine.json``. Every figure is a ratio of medians
over interleaved rounds; rates count the tokens of the requests as asked, shared or not.

    python benchmarks/bench_engine.py                # all rows, for a quiet machine
    python benchmarks/bench_engine.py --size 64 --rounds 1 --rows score_vs_loop_f32 curve_cost

lm-evaluation-harness and llama.cpp are optional: `make bench-engine` installs them beside, and a
row whose rival is missing says so. AG News is used if a ``shared`` folder lies beside this one; the
results say which sources there were. Rows that another run of the same code left in the results,
under the same conditions, stay there.

The rivals of scoring get a part of the requests (an eighth for the loops, a quarter for
lm-evaluation-harness), drawn with a seed: what they do with one does not depend on the others.
Where both sides are float32, their log-likelihoods must agree within 2e-3 nats a response.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import ctypes
import gc
import gzip
import hashlib
import json
import os
import random
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llama_file import gguf_file
from mop.backends.curve import BETAS, ONE
from mop.backends.local import ENGINE_VERSION, LocalModel, default_device, default_dtype
from mop.backends.tokens import load_tokenizer
from mop.backends.tree import Node, plan
from mop.data import pull
from mop.prompts import simulation_prompt
from mop.types import Branch, Decoding, GenerateRequest, Record, ScoreRequest
from results_file import machine, write_results_file

ROOT = Path(__file__).resolve().parent.parent
MODEL = "smollm2-135m"
TARGETS = {
    "score_vs_loop_f32": 6.0,
    "score_vs_loop_bf16": 3.0,
    "score_vs_lm_eval": 2.0,
    "score_unshared_vs_lm_eval": 1.3,
    "score_roofline": 0.6,
    "curve_cost": 1.15,
    "simulate_vs_generate": 2.0,
    "simulate_vs_llamacpp": 4.0,
}
TOLERANCE = 2e-3
"""Nats a response by which two float32 sides may differ. A float32 log-softmax over 49,152 words, as the
rivals take it, is itself off by up to 8e-4 a response (against float64); ours by 8e-5."""
SCORING = ("score_vs_loop_f32", "score_vs_loop_bf16", "score_vs_lm_eval", "score_roofline")
PERSONAS = (
    "You are a grumpy critic who has seen everything. You write short, dry and a little unfair.",
    "You love cinema and you are easily moved. You praise the actors and forgive the plot.",
    "You are a reporter at a wire agency: plain words, facts first, never an opinion.",
    "You are a student who watches films for the jokes. You compare everything to other films.",
    "You write for a business paper and care about companies, markets and what things cost.",
    "You are a scholar of style. You look at the camera, the rhythm and the lighting first.",
    "You follow sports more than anything else and you write with haste and excitement.",
    "You are a patient reader who wants to understand. You weigh both sides before you judge.",
)


@dataclass(frozen=True)
class Load:
    """Requests with their token ids, for those who take ids."""

    requests: list[ScoreRequest]
    prompts: list[list[int]]
    responses: list[list[int]]

    @property
    def tokens(self) -> int:
        """As asked: prompt and response of every request."""
        return sum(map(len, self.prompts)) + sum(map(len, self.responses))


@dataclass
class Claim:
    """One row of the table."""

    value: float | None
    against: str
    note: str = ""
    memory: str = ""
    difference: float | None = None
    """Largest difference of a response's log-likelihood between the two sides, nats."""


# ---------------------------------------------------------------------------------- the work


def records(encoder: Any) -> tuple[list[Record], list[Record]]:
    """Return reviews and news whose response has 25 to 60 tokens."""
    folder = Path(pull.resolve("rotten-tomatoes", kind="data"))
    rows = list(csv.DictReader((folder / "records.csv").open(encoding="utf-8")))
    reviews = [
        Record(key=row["key"], context=f"Film: {row['film']}. Verdict: {row['verdict']}.",
               response=row["text"])
        for row in rows[::3]
    ]  # fmt: skip
    news = []
    file = Path(os.environ.get("MOP_SHARED", ROOT.parent / "shared")) / "data/agnews/train.jsonl.gz"
    if file.exists():
        with gzip.open(file, "rt", encoding="utf-8") as stream:
            lines = [json.loads(line) for line in stream]
        news = [
            Record(key=line["id"], context=f"Write {line['context']}.", response=line["response"]) for line in lines
        ]

    def fits(record: Record) -> bool:
        return 25 <= len(encoder.response_ids(record.response)) <= 60

    return list(filter(fits, reviews)), list(filter(fits, news))


def shared_load(encoder: Any, size: int) -> Load:
    """Return `size` requests; eight records each share a (persona, exemplar) pair."""
    sources = [source for source in records(encoder) if source]
    each = size // len(sources)
    found = []
    for source in sources:
        pairs = max(1, each // 8)
        examples, asked = source[:64], source[64:]
        for place in range(each):
            pair = place % pairs
            found.append(_request(
                asked[place], PERSONAS[pair % len(PERSONAS)], examples[pair // len(PERSONAS)]
            ))  # fmt: skip
    return _load(encoder, found)


def unshared_load(encoder: Any, size: int) -> Load:
    """Return `size` requests without a common beginning beyond the template's."""
    sources = [source for source in records(encoder) if source]
    found = []
    for place in range(size):
        source = sources[place % len(sources)]
        example, asked, about = source[place], source[-1 - place], source[len(source) // 2 + place]
        persona = f"{about.response[:60]} ... is how you write. {PERSONAS[place % len(PERSONAS)]}"
        found.append(_request(asked, persona, example))
    return _load(encoder, found)


def sample(load: Load, n: int) -> list[int]:
    """Return the places of `n` requests, drawn with a fixed seed: strides would keep to few personas."""
    return random.Random(0).sample(range(len(load.requests)), min(n, len(load.requests)))


def part_of(load: Load, places: Sequence[int]) -> Load:
    """Return the requests at these places."""
    return Load(*([column[i] for i in places] for column in (load.requests, load.prompts, load.responses)))


def _request(record: Record, persona: str, example: Record) -> ScoreRequest:
    task = "a short text, one or two sentences"
    prompt = simulation_prompt(record.context, persona=persona, exemplars=[example], task=task)
    return ScoreRequest(prompt, record.response)


def _load(encoder: Any, requests: list[ScoreRequest]) -> Load:
    return Load(
        requests,
        [encoder.prompt_ids(request.prompt) for request in requests],
        [encoder.response_ids(request.response) for request in requests],
    )


# ---------------------------------------------------------------------------------- the sides


def ours(load: Load, model: LocalModel) -> list[float]:
    """Score everything; returns log p at τ = 1."""
    place = model.betas.index(1.0)
    found = [0.0] * len(load.requests)
    for batch in model.score(load.requests):
        for index, score in batch:
            found[index] = float(score.log_lik[place])
    return found


def loop(load: Load, model: Any) -> list[float]:
    """The plain way: one request at a time, whole logits, log-softmax, gather."""
    found = []
    with torch.inference_mode():
        for prompt, response in zip(load.prompts, load.responses, strict=True):
            ids = torch.tensor([prompt + response], device=model.device)
            logits = model(ids).logits[0, len(prompt) - 1 : -1].float()
            log_probs = torch.log_softmax(logits, dim=-1)
            chosen = log_probs.gather(1, ids[0, len(prompt) :, None])
            found.append(float(chosen.sum()))
    return found


def lm_eval_side(model: Any, tokenizer: Any, batch: int) -> Callable[[Load], list[float]]:
    """Return lm-evaluation-harness as a function of the load, on the same ids."""
    from lm_eval.models.huggingface import HFLM

    judge = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch)

    def run(load: Load) -> list[float]:
        asked = [(("", ""), prompt, response) for prompt, response in zip(load.prompts, load.responses, strict=True)]
        return [value for value, _ in judge._loglikelihood_tokens(asked, disable_tqdm=True)]

    return run


def draw(prompts: Sequence[Any], model: LocalModel, n_tokens: int) -> int:
    """Draw one response per prompt; returns the tokens drawn."""
    asked = [GenerateRequest((Branch(p, 1.0),), seed=i) for i, p in enumerate(prompts)]
    decoding = Decoding(max_tokens=n_tokens, min_tokens=n_tokens)
    return sum(one.n_tokens for batch in model.generate(asked, decoding) for _, one in batch)


def generate(prompts: Sequence[list[int]], model: Any, n_tokens: int, batch: int) -> int:
    """Draw with transformers; left-padded batches, pure temperature sampling."""
    drawn = 0
    for low in range(0, len(prompts), batch):
        part = prompts[low : low + batch]
        longest = max(map(len, part))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in part]).to(model.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in part])
        found = model.generate(
            ids, attention_mask=mask.to(model.device), do_sample=True, temperature=1.0, top_k=0,
            top_p=1.0, max_new_tokens=n_tokens, min_new_tokens=n_tokens, pad_token_id=0,
        )  # fmt: skip
        drawn += (found.shape[1] - longest) * len(part)
    return drawn


class LlamaCpp:
    """llama.cpp's own server inside this process, with slots for parallel requests."""

    def __init__(self, gguf: Path, slots: int, context: int) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(gguf)
        params.n_parallel = slots
        params.n_ctx = slots * context
        params.cont_batching = True
        params.cpuparams.n_threads = torch.get_num_threads()
        params.cpuparams_batch.n_threads = torch.get_num_threads()
        self._server = xllamacpp.Server(params)
        self._slots = slots

    def draw(self, prompts: Sequence[list[int]], n_tokens: int) -> int:
        """Draw with as many requests at a time as there are slots."""
        from concurrent.futures import ThreadPoolExecutor

        def one(prompt: list[int]) -> int:
            answer = self._server.handle_completions({
                "prompt": prompt, "n_predict": n_tokens, "temperature": 1.0, "top_k": 0,
                "top_p": 1.0, "min_p": 0.0, "ignore_eos": True, "cache_prompt": True,
                "samplers": ["temperature"],
            })  # fmt: skip
            return int(answer.get("tokens_predicted") or answer["usage"]["completion_tokens"])

        with ThreadPoolExecutor(self._slots) as pool:
            return sum(pool.map(one, prompts))


# ---------------------------------------------------------------------------------- measuring


class Peak:
    """By how much memory rises while a block runs, MiB: resident, or CUDA's own.

    Weights that are there before do not count.
    """

    def __enter__(self) -> Peak:
        self._stop = threading.Event()
        gc.collect()
        _give_back()
        self._before = self._highest = _resident()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated() / 2**20
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self._highest = max(self._highest, _resident())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._highest = max(self._highest, _resident())
        if torch.cuda.is_available():
            self._highest = torch.cuda.max_memory_allocated() / 2**20
        self.mib = self._highest - self._before


def _resident() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * resource.getpagesize() / 2**20


def _give_back() -> None:
    """Let the allocator return what is free, so that one side does not live on another's."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def race(sides: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, float], dict[str, float], dict[str, Any]]:
    """Run every side once per round, in turn; returns median seconds, peak memory and results by side."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    peaks: dict[str, float] = {}
    results: dict[str, Any] = {}
    for turn in range(rounds):
        order = list(sides) if turn % 2 == 0 else list(sides)[::-1]
        for name in order:
            with Peak() as peak:
                begin = time.perf_counter()
                results[name] = sides[name]()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                times[name].append(time.perf_counter() - begin)
            peaks[name] = max(peaks.get(name, 0.0), peak.mib)
            print(f"    {name}: {times[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return {name: statistics.median(values) for name, values in times.items()}, peaks, results


def turn_by_turn(loads: Sequence[Load], work: Callable[[Load], Any]) -> Callable[[], Any]:
    """A side that takes the next load each time."""
    left = iter(loads)
    return lambda: work(next(left))


def largest_difference(ours: Sequence[float], places: Sequence[int], theirs: Sequence[float]) -> float:
    """Return by how much two sides' log-likelihoods of the same responses differ at most, nats."""
    return max(abs(ours[i] - other) for i, other in zip(places, theirs, strict=True))


def ceiling(dtype: torch.dtype, device: str) -> float:
    """Return the best rate of a large matrix product with this model's widths, FLOP/s."""
    best = 0.0
    for inner, outer in ((576, 960), (576, 3072), (1536, 576), (576, 49152)):
        left = torch.randn(2048, inner, dtype=dtype, device=device)
        right = torch.randn(outer, inner, dtype=dtype, device=device)
        for _ in range(6):
            begin = time.perf_counter()
            torch.nn.functional.linear(left, right)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            best = max(best, 2 * 2048 * inner * outer / (time.perf_counter() - begin))
    return best


def needed(load: Load, config: Any) -> float:
    """Return the floating-point operations that scoring the load cannot do without.

    Matrix products of the layers for every distinct token, attention of these to what is before
    them, and the output layer at response positions. In the last layer only response positions
    need more than keys and values.
    """
    sequences = [p + r[:-1] for p, r in zip(load.prompts, load.responses, strict=True)]
    root = plan(sequences, [len(prompt) - 1 for prompt in load.prompts])
    width, inner, head = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    per_token = 2 * (width * (queries + 2 * keys) + queries * width + 3 * width * inner)
    tokens = looks = 0

    def visit(node: Node) -> None:
        nonlocal tokens, looks
        spans = [(node.start, node.end)] + [(node.end, len(sequences[i])) for i in node.leaves]
        for low, high in spans:
            tokens += high - low
            looks += sum(range(low + 1, high + 1))
        for child in node.children:
            visit(child)

    visit(root)
    upper = config.num_hidden_layers - 1
    positions = sum(map(len, load.responses))
    last_looks = sum(
        sum(range(len(prompt), len(prompt) + len(response)))
        for prompt, response in zip(load.prompts, load.responses, strict=True)
    )
    known = 2 * width * 2 * keys  # what keys and values of a token take
    last = tokens * known + positions * (per_token - known) + 4 * last_looks * queries
    return upper * (tokens * per_token + 4 * looks * queries) + last + 2 * positions * width * config.vocab_size


# ---------------------------------------------------------------------------------- the table


class Bench:
    """What the rows share: models are opened once, loads are made once."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.device = default_device()
        self.dtype = default_dtype(self.device)
        self.folder = pull.resolve(MODEL, kind="lm")
        self.tokenizer = load_tokenizer(self.folder)
        self._models: dict[tuple[str, tuple[float, ...]], LocalModel] = {}
        self._plain: dict[str, Any] = {}
        self.encoder = self.model().encoder
        self.load = shared_load(self.encoder, arguments.size)
        self.unshared = unshared_load(self.encoder, max(16, arguments.size // 4))
        self.claims: dict[str, Claim] = {}

    def model(self, betas: tuple[float, ...] = BETAS) -> LocalModel:
        """Our model at the machine's own dtype."""
        key = (self.dtype, betas)
        if key not in self._models:
            self._models[key] = LocalModel(
                lambda: self.plain(self.dtype), self.tokenizer, name=MODEL,
                revision=pull.revision(MODEL), device=self.device, dtype=self.dtype, betas=betas,
            )  # fmt: skip
        return self._models[key]

    def plain(self, dtype: str) -> Any:
        """The transformers model."""
        from transformers import AutoModelForCausalLM

        if dtype not in self._plain:
            model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=getattr(torch, dtype))
            self._plain[dtype] = model.to(self.device).eval()
        return self._plain[dtype]

    def conditions(self) -> dict[str, Any]:
        """Return what rows must have in common to stand in one table."""
        news = "AG News" if records(self.encoder)[1] else None
        return {
            "engine": ENGINE_VERSION,
            "src": source_digest(),
            "machine": machine(),
            "device": self.device,
            "dtype": self.dtype,
            "sources": [source for source in ("Rotten Tomatoes", news) if source],
            "requests": len(self.load.requests),
            "responses": self.arguments.responses,
        }

    def wants(self, *names: str) -> bool:
        """Whether any of these rows was asked for."""
        return any(name in self.arguments.rows for name in names)

    def scoring(self) -> None:
        """Compare scoring with the loops and lm-evaluation-harness, shared and not."""
        sides: dict[str, Callable[[], Any]] = {}
        mine = self.model()
        list(mine.score(self.load.requests[:8]))  # weights and buffers
        sides["ours"] = lambda: ours(self.load, mine)
        loops = sample(self.load, len(self.load.requests) // 8)
        # Without bfloat16 instructions this loop takes ten times as long.
        few = loops if self.dtype == "bfloat16" else loops[: max(1, len(loops) // 8)]
        if self.wants("score_vs_loop_f32"):
            plain, part = self.plain("float32"), part_of(self.load, loops)
            sides["loop_float32"] = lambda: loop(part, plain)
        if self.wants("score_vs_loop_bf16"):
            rough, tiny = self.plain("bfloat16"), part_of(self.load, few)
            sides["loop_bfloat16"] = lambda: loop(tiny, rough)
        judged = sample(self.load, len(self.load.requests) // 4)
        judge_size = (
            self._judge("score_vs_lm_eval", part_of(self.load, judged), sides)
            if self.wants("score_vs_lm_eval")
            else None
        )
        tops: list[float] = []
        if self.wants("score_roofline"):
            # In every round, for it varies with what else the machine does.
            kind = getattr(torch, self.dtype)
            sides["ceiling"] = lambda: tops.append(ceiling(kind, self.device))
        seconds, peaks, results = race(sides, self.arguments.rounds)
        rate = self.load.tokens / seconds["ours"]
        rivals = {
            "loop_float32": ("score_vs_loop_f32", loops, "one-by-one loop, float32"),
            "loop_bfloat16": ("score_vs_loop_bf16", few, "one-by-one loop, bfloat16"),
            "lm_eval": ("score_vs_lm_eval", judged, f"HFLM.loglikelihood, {self.dtype}"),
        }
        for name, (row, places, against) in rivals.items():
            if name not in seconds:
                continue
            other = part_of(self.load, places).tokens / seconds[name]
            size = f", batch size {judge_size}" if name == "lm_eval" else ""
            note = f"{rate:.0f} against {other:.0f} tokens/s{size}; ours in {self.dtype}"
            difference = largest_difference(results["ours"], places, results[name])
            memory = _mib(peaks, "ours", name)
            self.claims[row] = Claim(rate / other, against, note, memory, difference)
        if tops:
            top = statistics.median(tops)
            work = needed(self.load, self.plain(self.dtype).config)
            share = work / top / seconds["ours"]
            note = f"{work / 1e12:.2f} TFLOP needed, ceiling {top / 1e9:.0f} GFLOP/s"
            self.claims["score_roofline"] = Claim(share, "measured matrix-product ceiling", note)

    def _judge(self, row: str, load: Load, sides: dict[str, Callable[[], Any]]) -> int | None:
        """Add lm-evaluation-harness at its best batch size; None if it is not installed."""
        try:
            import lm_eval  # noqa: F401
        except ImportError:
            self.claims[row] = Claim(None, "lm-evaluation-harness", "not installed")
            return None
        best, highest = 1, 0.0
        for batch in self.arguments.batches:
            run = lm_eval_side(self.plain(self.dtype), self.tokenizer, batch)
            run(part_of(load, range(min(2, len(load.requests)))))  # buffers
            tried = part_of(load, range(min(max(32, batch), len(load.requests))))
            begin = time.perf_counter()
            run(tried)
            rate = tried.tokens / (time.perf_counter() - begin)
            print(f"    lm_eval, batch size {batch}: {rate:.0f} tokens/s", file=sys.stderr, flush=True)
            if rate > highest:
                best, highest = batch, rate
        run = lm_eval_side(self.plain(self.dtype), self.tokenizer, best)
        sides["lm_eval"] = lambda: run(load)
        return best

    def unshared_scoring(self) -> None:
        """Compare scoring with nothing shared."""
        row = "score_unshared_vs_lm_eval"
        sides: dict[str, Callable[[], Any]] = {}
        sides["ours"] = lambda: ours(self.unshared, self.model())
        size = self._judge(row, self.unshared, sides)
        if size is None:
            return
        seconds, peaks, results = race(sides, self.arguments.rounds)
        rates = {name: self.unshared.tokens / spent for name, spent in seconds.items()}
        note = f"{rates['ours']:.0f} against {rates['lm_eval']:.0f} tokens/s, batch size {size}"
        self.claims[row] = Claim(
            rates["ours"] / rates["lm_eval"],
            f"HFLM.loglikelihood, {self.dtype}",
            note,
            _mib(peaks, "ours", "lm_eval"),
            largest_difference(results["ours"], range(len(results["ours"])), results["lm_eval"]),
        )

    def curve(self) -> None:
        """Compare the whole curve with τ = 1 alone."""
        single = self.model(ONE)
        list(single.score(self.load.requests[:8]))
        # Every other (persona, exemplar) pair with all its records: as much is shared as in the whole.
        half = part_of(self.load, range(0, len(self.load.requests), 2))
        sides = {"curve": lambda: ours(half, self.model()), "single": lambda: ours(half, single)}
        seconds, peaks, _ = race(sides, max(3, self.arguments.rounds))
        note = f"{seconds['curve']:.2f} s against {seconds['single']:.2f} s; at most"
        self.claims["curve_cost"] = Claim(
            seconds["curve"] / seconds["single"], "scoring at τ = 1 only", note, _mib(peaks, "curve", "single")
        )

    def simulation(self) -> None:
        """Compare drawing with generate and llama.cpp."""
        n, n_tokens, rounds = self.arguments.responses, 40, self.arguments.rounds
        # Other prompts in every round: llama.cpp remembers those that it has seen, and nobody draws twice.
        order = sample(self.load, len(self.load.requests))
        places = [[order[i % len(order)] for i in range(t * n, (t + 1) * n)] for t in range(rounds)]
        turns = [part_of(self.load, part) for part in places]
        mine = self.model()
        draw([request.prompt for request in turns[0].requests[:4]], mine, 2)
        sides: dict[str, Callable[[], Any]] = {}
        sides["ours"] = turn_by_turn(
            turns, lambda load: draw([request.prompt for request in load.requests], mine, n_tokens)
        )
        size = 0
        if self.wants("simulate_vs_generate"):
            ids, plain, spent = turns[0].prompts, self.plain(self.dtype), {}
            generate(ids[:2], plain, 2, 2)  # buffers
            for batch in [b for b in (16, 32, 64, 128) if b <= n] or [n]:
                begin = time.perf_counter()
                generate(ids[:batch], plain, n_tokens // 2, batch)
                spent[batch] = (time.perf_counter() - begin) / batch
            size = min(spent, key=lambda batch: spent[batch])
            sides["generate"] = turn_by_turn(turns, lambda load: generate(load.prompts, plain, n_tokens, size))
        if self.wants("simulate_vs_llamacpp"):
            try:
                with Peak() as opened:
                    server = LlamaCpp(gguf_file(MODEL), 32, 320)
                sides["llamacpp"] = turn_by_turn(turns, lambda load: server.draw(load.prompts, n_tokens))
            except ImportError:
                self.claims["simulate_vs_llamacpp"] = Claim(None, "llama.cpp", "xllamacpp is not installed")
        seconds, peaks, _ = race(sides, self.arguments.rounds)
        if "llamacpp" in peaks:  # its slots and weights are taken when it opens
            peaks["llamacpp"] += opened.mib
        # The wheel of the registry is built for processors.
        where = "" if self.device == "cpu" else f", on the processor; ours on {self.device}"
        rates = {name: n * n_tokens / spent for name, spent in seconds.items()}
        for name, row, against in (
            ("generate", "simulate_vs_generate", f"transformers generate, batch size {size}, {self.dtype}"),
            ("llamacpp", "simulate_vs_llamacpp", f"llama.cpp, 32 slots, Q4_1{where}"),
        ):
            if name in rates:
                note = f"{rates['ours']:.0f} against {rates[name]:.0f} drawn tokens/s"
                self.claims[row] = Claim(rates["ours"] / rates[name], against, note, _mib(peaks, "ours", name))


def _mib(peaks: dict[str, float], *names: str) -> str:
    return " / ".join(f"{peaks[name]:.0f}" for name in names)


def main() -> None:
    """Run the rows that were asked for, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=512, help="requests to score")
    parser.add_argument("--responses", type=int, default=128, help="responses to draw")
    parser.add_argument("--rounds", type=int, default=3, help="runs of every side")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--rows", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/engine.json")
    arguments = parser.parse_args()
    begin = time.monotonic()
    torch.manual_seed(0)
    bench = Bench(arguments)
    conditions = bench.conditions()
    length = (statistics.mean(map(len, bench.load.prompts)), statistics.mean(map(len, bench.load.responses)))
    print(
        f"{len(bench.load.requests)} requests of {length[0]:.0f} + {length[1]:.0f} tokens from "
        f"{' and '.join(conditions['sources'])}, {bench.dtype} on {bench.device}",
        file=sys.stderr,
    )
    parts = (
        (bench.scoring, SCORING),
        (bench.unshared_scoring, ("score_unshared_vs_lm_eval",)),
        (bench.curve, ("curve_cost",)),
        (bench.simulation, ("simulate_vs_generate", "simulate_vs_llamacpp")),
    )
    for part, rows in parts:
        if bench.wants(*rows):
            part()
            keep(bench.claims, arguments.out, time.monotonic() - begin, conditions)
    print(
        "| ID | value | aim | against | figures | peak MiB beyond the weights (ours / theirs) |\n"
        "| --- | --- | --- | --- | --- | --- |"
    )
    for name in arguments.rows:
        claim = bench.claims.get(name)
        if claim is None:
            continue
        value = "skipped" if claim.value is None else f"{claim.value:.2f}"
        sign = "≤" if name == "curve_cost" else "≥"
        note = claim.note
        if claim.difference is not None:
            note += f"; log-likelihoods differ by at most {claim.difference:.1g} nats a response"
        print(f"| `{name}` | {value} | {sign} {TARGETS[name]} | {claim.against} | {note} | {claim.memory} |")
    check_agreement(bench.claims, bench.dtype)


def check_agreement(claims: Mapping[str, Claim], dtype: str) -> None:
    """Stop with an error if two sides in float32 do not say the same."""
    for name, claim in claims.items():
        exact = dtype == "float32" and "bfloat16" not in claim.against
        if exact and claim.difference is not None and not claim.difference <= TOLERANCE:
            sys.exit(f"{name}: the sides differ by {claim.difference:.2g} nats, above {TOLERANCE}")


def keep(claims: Mapping[str, Claim], out: Path, seconds: float, conditions: Mapping[str, Any]) -> None:
    """Write what is measured so far: a run may be ended at any time.

    Rows that are there already stay if they were measured under the same conditions.
    """
    rows: dict[str, Any] = {}
    if out.exists():
        there = json.loads(out.read_text(encoding="utf-8"))
        if there.get("conditions") == conditions:
            rows = there["claims"]
    rows |= {
        name: {
            "value": claim.value,
            "unit": "ratio",
            "against": claim.against,
            "note": claim.note,
            "peak_mib": claim.memory,
            "max_difference_nats": claim.difference,
        }
        for name, claim in claims.items()
    }
    write_results_file(out, rows, seconds, conditions=dict(conditions))


def source_digest(folder: Path = ROOT / "src") -> str:
    """Return what changes with any source file of the package."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    main()
