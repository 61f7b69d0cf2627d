"""What inspect-ai's provider for OpenAI-like servers asks, checked; prints one JSON document."""

import json
import os
import sys
import tempfile
from importlib.metadata import version

os.environ["TOY_BASE_URL"], os.environ["TOY_API_KEY"] = sys.argv[1], "none-needed"

from inspect_ai import Task, eval  # noqa: E402 - reads the environment
from inspect_ai.dataset import Sample  # noqa: E402
from inspect_ai.scorer import includes  # noqa: E402
from inspect_ai.solver import generate  # noqa: E402

WISHES = {
    "drawn": {"max_tokens": 12, "temperature": 0.8, "seed": 1},
    "log-probabilities": {"max_tokens": 6, "logprobs": True, "top_logprobs": 2},
    "choices": {"max_tokens": 6, "num_choices": 3},
    "stop": {"max_tokens": 40, "stop_seqs": ["e"]},
    "temperature 0": {"max_tokens": 6, "temperature": 0},
}
task = Task(
    dataset=[Sample(input=f"Say {letter}", target=letter) for letter in "kmz"], solver=generate(), scorer=includes()
)
checks = {}
for name, wish in WISHES.items():
    for args in ({}, {"stream": True}):
        title = name + (", streamed" if args else "")
        try:
            with tempfile.TemporaryDirectory() as logs:
                log = eval(task, model="openai-api/toy/toy", model_args=args, log_dir=logs, display="none", **wish)[0]
                outputs = [sample.output for sample in log.samples or []]
            good = log.status == "success" and len(outputs) == 3
            if name == "choices":
                good = good and all(len(output.choices) == 3 for output in outputs)
            if name == "log-probabilities":
                good = good and all(output.choices[0].logprobs for output in outputs)
            if name == "stop":
                good = good and not any("e" in output.completion for output in outputs)
            checks[title] = "" if good else f"{log.status}: {log.error}"[:200]
        except Exception as error:  # noqa: BLE001 - every failure is a finding
            checks[title] = f"{type(error).__name__}: {error}"[:200]
print(json.dumps({"version": version("inspect-ai"), "checks": checks}))
