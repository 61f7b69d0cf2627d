"""What inspect-ai's provider for OpenAI-like servers asks, checked; prints one JSON document."""

import os
import sys
import tempfile
from functools import partial

os.environ["TOY_BASE_URL"], os.environ["TOY_API_KEY"] = sys.argv[1], "none-needed"

from client_check import check, report  # noqa: E402
from inspect_ai import Task, eval  # noqa: E402 - reads the environment
from inspect_ai.dataset import Sample  # noqa: E402
from inspect_ai.scorer import includes  # noqa: E402
from inspect_ai.solver import generate  # noqa: E402

WISHES = {
    "drawn": ({"max_tokens": 12, "temperature": 0.8, "seed": 1}, lambda one: True),
    "log-probabilities": (
        {"max_tokens": 6, "logprobs": True, "top_logprobs": 2}, lambda one: bool(one.choices[0].logprobs),
    ),
    "choices": ({"max_tokens": 6, "num_choices": 3}, lambda one: len(one.choices) == 3),
    "stop": ({"max_tokens": 40, "stop_seqs": ["e"]}, lambda one: "e" not in one.completion),
    "temperature 0": ({"max_tokens": 6, "temperature": 0}, lambda one: True),
}  # fmt: skip
"""Name to the settings of a run and whether an answer is as they say."""
task = Task(
    dataset=[Sample(input=f"Say {letter}", target=letter) for letter in "kmz"], solver=generate(), scorer=includes()
)


def tried(args, wish, is_good):
    """All three samples are answered as wished."""
    with tempfile.TemporaryDirectory() as logs:
        log = eval(task, model="openai-api/toy/toy", model_args=args, log_dir=logs, display="none", **wish)[0]
        good = [is_good(sample.output) for sample in log.samples or []]
    return (log.status == "success" and good == [True] * 3) or f"{log.status}: {log.error}"


for name, (wish, is_good) in WISHES.items():
    check(name, partial(tried, {}, wish, is_good))
    check(f"{name}, streamed", partial(tried, {"stream": True}, wish, is_good))
report("inspect-ai")
