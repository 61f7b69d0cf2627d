"""What the fake server can be: kinds of servers, lies that one may tell, and what goes wrong on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mop.errors import ConfigError
from mop.randomness import uniforms

DIALECTS: Mapping[str, str] = {
    "vllm": "token ids or chat; scores by prompt_logprobs and by echo",
    "sglang": "token ids or chat; scores by /generate with return_logprob",
    "llamacpp": "token ids or chat; takes echo and gives generated tokens only",
    "ollama": "chat; drops echo and logprobs without a word",
    "openai": "chat; refuses echo together with logprobs",
    "legacy": "the old completions form with a working echo",
    "fireworks": "completions with a working echo that returns token ids",
    "together": "chat; completions for prompts as text only",
    "tgi": "chat; no completions",
}
"""What each kind of server does."""

LIES: Mapping[str, str] = {
    "none": "tells the truth",
    "silent": "leaves the scores out",
    "generated-only": "gives the first generated token's score as if it were all that was asked for",
    "nulls": "every score is null",
    "zeros": "every score is 0",
    "constant": "every score is -2",
    "positive": "scores with the wrong sign",
    "sentinel": "every score is -9999",
    "text": "scores are strings",
    "stale": "every third answer holds the scores of the one before",
    "shifted": "everything is one place off",
    "wrong-ids": "works on other tokens than were sent",
    "short": "one score is missing",
    "truncates": "cuts what is longer than its window",
    "no-usage": "does not count tokens",
    "two-choices": "answers twice",
    "runs-on": "draws one token more than max_tokens",
    "renamed": "after 30 calls the model has another name",
    "swapped": "after 30 calls it is another model",
    "greedy": "takes temperature and seed and ignores both",
}
"""What a broken server does; the word goes to ``broken``."""

FAULTS: Mapping[str, str] = {
    "ok": "a good answer",
    "400": "bad request",
    "401": "no valid key",
    "403": "not allowed",
    "404": "no such page",
    "413": "too large",
    "429": "too many requests; 429:2 with Retry-After: 2",
    "500": "server error",
    "502": "bad gateway",
    "503": "not available; 503:5 with Retry-After: 5",
    "504": "gateway timeout",
    "529": "overloaded",
    "reset": "the connection closes without an answer",
    "cut": "the connection closes after 40 bytes; cut:100 after 100",
    "slow": "16 bytes every 0.1 s; slow:0.5 every 0.5 s",
    "hang": "no answer within the hour",
    "garbage": "a web page instead of JSON",
    "filter": "finish_reason is content_filter",
    "unfinished": "no finish_reason",
    "quote": "an error that repeats the request and its key",
    "redirect": "another address",
    "bomb": "an endless body",
}
"""What can go wrong on the way, by the name that `Faults` takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong, call by call.

    A fault is written as its name, see `FAULTS`, with a number where one makes sense: ``429:2``.
    """

    script: tuple[str, ...] = ()
    """Faults of the first calls, in order; calls after the script are good."""
    rate: float = 0.0
    """Share of further calls that get a fault of `kinds`."""
    kinds: tuple[str, ...] = ("429:1", "500", "502", "503", "reset", "cut:40", "garbage")
    """What the random faults are, all equally likely."""
    seed: int = 0
    """The fault of call i is a function of (seed, i)."""

    def __post_init__(self) -> None:
        """Reject a script that could not be played."""
        for fault in (*self.script, *self.kinds):
            name, _, number = fault.partition(":")
            if name not in FAULTS or (number and not number.replace(".", "", 1).isdigit()):
                raise ConfigError(
                    f"a fault is called {fault!r}; it must be one of {', '.join(sorted(FAULTS))}, with a number after "
                    "a colon where one makes sense, like 429:2"
                )
        if not 0 <= self.rate <= 1:
            raise ConfigError(f"the rate of faults must be 0 to 1, got {self.rate}; try 0.3")

    def of_call(self, number: int) -> str:
        """Return the fault of call ``number``, counted from 0."""
        if number < len(self.script):
            return self.script[number]
        chance, which = uniforms(self.seed, 2 * number, 2)
        return self.kinds[int(which * len(self.kinds))] if chance < self.rate else "ok"
