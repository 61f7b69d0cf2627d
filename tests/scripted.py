"""A generator that answers by a rule that the test writes down: requests in, texts out, all of them kept."""

from collections.abc import Callable

from mop.backends.base import Failure
from mop.types import Generation, Prompt


def words_of(prompt: Prompt) -> str:
    """The whole prompt as text."""
    return "\n".join("".join(part.text for part in turn.segments) for turn in prompt.turns)


class Scripted:
    """Answers request number i with ``rule(i, prompt text)``; requests are numbered over all calls.

    A rule that returns a failure gives that request up.
    """

    name = "scripted"
    generate_identity = "scripted/1"

    def __init__(self, rule: Callable[[int, str], str | Failure]) -> None:
        self.rule = rule
        self.prompts: list[str] = []
        self.requests: list = []
        self.failures: dict[int, Failure] = {}

    def generate(self, requests, decoding):
        self.failures = {}
        for i, request in enumerate(requests):
            prompt = words_of(request.branches[0].prompt)
            text = self.rule(len(self.prompts), prompt)
            self.prompts.append(prompt)
            self.requests.append(request)
            if isinstance(text, Failure):
                self.failures[i] = text
            else:
                yield [(i, Generation(text, len(text.split()), "stop", -1.0))]
