"""When to call a server again: pure decisions about waiting, load and giving up; no clock, no network.

Every function takes the time as an argument, so a test can live through a day in a millisecond.
`mop.backends.remote` is the caller.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from mop.errors import BackendError
from mop.randomness import derive_seed, uniforms

CallKind = Literal["throttled", "transient", "protocol", "item", "fatal"]
"""What a failed call means: the server asks for patience; it may work next time; the answer was no
answer; this one item has failed; the run makes no sense any more."""


class CallError(BackendError):
    """One call to a server failed; the message holds no secret and nobody's words.

    ``code`` is a short stable name for counts (``http-503``, ``timeout``, ``nulls``), ``retry_after_s`` the wait that
    the server asked for, seconds.
    """

    def __init__(self, message: str, *, kind: CallKind, code: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, retryable=kind in ("throttled", "transient", "protocol"))
        self.kind = kind
        self.code = code
        self.retry_after_s = retry_after_s


# The time between calls shrinks by a five-hundredth with each success and grows by a twentieth with each complaint: in
# balance, one call in twenty-five is refused. Away from the limit that was met it shrinks by a fiftieth.
_FASTER, _SLOWER, _RECOVERING = 1.0 - 1.0 / 500.0, 1.05, 1.0 - 1.0 / 50.0
_SLOWEST_S = 1.0  # a server that takes less than a call a second says so by Retry-After
_MET = ((6, 10), (9, 30))
"""Refused calls, and of how many in the order of sending, that are a limit. Where one call in twenty is refused at
random, six of ten are once in 400,000 calls and nine of thirty once in 40,000; above a true limit both come soon."""
_BELOW = 2.0
"""Time between calls after a limit was met, in times of that which was served: so no call should be refused for the
load, and one that is tells of chance."""
_LONG_WAIT_S = 5.0  # who names a longer one speaks of a limit


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How patient a run is. The defaults suit a job that runs for hours without anyone watching."""

    first_wait_s: float = 0.5
    """Wait before the second try; doubles with every try."""
    jitter: float = 0.25
    """Share by which a wait is shortened at random, so that callers do not come back in step."""
    longest_wait_s: float = 60.0
    max_tries: int = 8
    """Tries per item when the server fails; being asked to slow down does not count."""
    max_protocol_retries: int = 3
    """Further tries after an answer that is cut, garbled or not to be trusted."""
    item_limit_s: float = 900.0
    """Time for one item: its calls and the waits between them. An endpoint that refuses every call
    for so long is set aside."""
    breaker_failures: int = 20
    """So many failures in a row, and `breaker_s` since the first of them, set an endpoint aside."""
    breaker_s: float = 30.0
    """A restart of a server with a hundred calls in flight is a hundred failures in a row, but a short one."""
    retrial_s: float = 60.0
    """An endpoint that was set aside gets one trial call after this time, as long as another one works."""
    first_limit: int = 20
    """Calls in flight at the start."""
    cut: float = 0.8
    """Factor on the calls in flight when throttled."""
    cut_every_s: float = 15.0
    """At most one cut in this time: one overload makes many complaints."""


@dataclass(slots=True)
class Refusals:
    """Whether a server refuses not one item but all of them: in the same words, from the first dozen calls on."""

    begun: int = 0
    _words: str = ""
    _in_row: int = 0
    _is_mixed: bool = False
    """Whether some call ended otherwise; from then on it takes more of them."""

    def may_begin(self) -> bool:
        """Whether another item may be begun: not before one of the first dozen ended well, or each in its own words."""
        return self._is_mixed or self.begun < _FIRST_CALLS

    def note(self, error: CallError | None) -> bool:
        """Note how an item ended; True if the run should stop."""
        words = ""
        if error is not None and (_REFUSAL.fullmatch(error.code) or error.code == "reasoning"):
            words = error.code + re.sub(r"\d+", "0", str(error))
        self._in_row = self._in_row + 1 if words and words == self._words else bool(words)
        self._is_mixed |= not words or bool(self._words and words != self._words)
        self._words = words
        return self._in_row >= (_MANY_CALLS if self._is_mixed else _FIRST_CALLS)


_REFUSAL = re.compile(r"(?:http|error)-(?:400|405|413|415|422|501)")
_FIRST_CALLS, _MANY_CALLS = 12, 100


@dataclass(slots=True)
class Tries:
    """What one item has been through."""

    spent_s: float = 0.0
    """Time in calls and in waits of its own; standing in line for a busy server does not count."""
    calls: int = 0
    transient: int = 0
    protocol: int = 0


def classify_status(status: int) -> CallKind | None:
    """Say what an HTTP status means for the run; None for success.

    Notes
    -----
    401, 403 and 404 are the same for every item, so they stop the run; 400, 413 and 422 concern one
    item.

    Examples
    --------
    >>> classify_status(200), classify_status(429), classify_status(503), classify_status(401)
    (None, 'throttled', 'transient', 'fatal')
    """
    if 200 <= status < 300:
        return None
    if status == 429:
        return "throttled"
    if status in (408, 409, 425) or status >= 500:
        return "transient"
    if status in (400, 413, 422):
        return "item"
    return "fatal"


def wait_before_retry(error: CallError, tries: Tries, policy: RetryPolicy, *, seed: int) -> float | None:
    """Count a failure in ``tries`` and say how long to wait before the next one, seconds; None means give up.

    The jitter is a function of ``seed`` (64-bit) and of the number of calls.
    """
    if error.kind in ("item", "fatal"):
        return None
    if error.kind == "transient":
        tries.transient += 1
    if error.kind == "protocol":
        tries.protocol += 1
    if tries.transient >= policy.max_tries or tries.protocol > policy.max_protocol_retries:
        return None
    wait = backoff_s(max(tries.transient + tries.protocol, 1), policy, seed=derive_seed(seed, tries.calls))
    if error.retry_after_s is not None:
        wait = max(wait, error.retry_after_s)
    tries.spent_s += wait
    return wait if tries.spent_s <= policy.item_limit_s else None


def backoff_s(failures: int, policy: RetryPolicy, *, seed: int) -> float:
    """Return the wait after so many failures, at least one: doubling, capped, shortened at random.

    Examples
    --------
    >>> [backoff_s(n, RetryPolicy(jitter=0.0), seed=0) for n in (1, 2, 3, 30)]
    [0.5, 1.0, 2.0, 60.0]
    """
    full = min(policy.first_wait_s * 2.0 ** min(failures - 1, 60), policy.longest_wait_s)
    return full * (1.0 - policy.jitter * float(uniforms(seed, 0, 1)[0]))


_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?!s))?"
                       r"(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")  # fmt: skip


def parse_retry_after(headers: Mapping[str, str], *, utc_s: float) -> float | None:
    """Return how long a server asks us to wait, seconds, or None if it does not say.

    Names of headers are in lower case; ``utc_s`` is the time, seconds since 1970, for the forms that name a date.

    Notes
    -----
    In this order: ``retry-after-ms``; ``retry-after`` as seconds or as an HTTP date; the largest of
    the headers that end in ``-reset`` or contain ``ratelimit-reset``, as a duration (``6m0s``,
    ``20ms``), seconds, seconds since 1970, or an ISO date. A limit on requests of which something
    remains, by the header with ``remaining`` for ``reset``, is not the one that was met (of tokens
    a large request may want more than remain). What cannot be read is
    passed over; a time that has passed is a wait of 0.

    Examples
    --------
    >>> parse_retry_after({"retry-after": "7"}, utc_s=0.0)
    7.0
    >>> parse_retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:30 GMT"}, utc_s=60.0)
    30.0
    >>> parse_retry_after({"x-ratelimit-reset-tokens": "1m0.5s", "x-ratelimit-reset-a": "20ms"}, utc_s=0.0)
    60.5
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000.0
    if (plain := headers.get("retry-after")) is not None:
        wait = _number(plain)
        wait = _http_date(plain, utc_s) if wait is None else wait
        if wait is not None:
            return wait
    resets = [
        wait
        for name, text in headers.items()
        if name.endswith("-reset") or "ratelimit-reset" in name
        if "token" in name or not _number(headers.get(name.replace("reset", "remaining")))
        if (wait := _reset(text, utc_s)) is not None
    ]
    return max(resets) if resets else None


def _number(text: str | None) -> float | None:
    """A plain count that is not negative, or None."""
    if text is None or not re.fullmatch(r"\s*\d{1,12}(\.\d+)?\s*", text, re.ASCII):
        return None
    return float(text)


def _http_date(text: str, utc_s: float) -> float | None:
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - utc_s)
    except (ValueError, TypeError, OverflowError):
        return None


def _reset(text: str, utc_s: float) -> float | None:
    text = text.strip()
    if (number := _number(text)) is not None:
        # Nobody asks for a wait of thirty years: a number this large is a date.
        return max(0.0, number - utc_s) if number > 1e9 else number
    if text and (found := _DURATION.fullmatch(text)):
        units = (86400.0, 3600.0, 60.0, 1.0, 0.001)
        return math.fsum(float(n) * unit for n, unit in zip(found.groups(), units, strict=True) if n)
    try:
        return max(0.0, datetime.fromisoformat(text).timestamp() - utc_s)
    except (ValueError, OverflowError):
        return None


@dataclass(slots=True)
class Endpoint:
    """One server address: how many calls it may have in flight, how fast, and until when it is left alone.

    Notes
    -----
    A call that is refused with a 429 waits as long as the answer says; whether the *address* slows down depends on the
    other calls. Refusals that come from the load come together, while those that do not (a full shard of a service, a
    lottery) come alone, and slowing down for them costs time and changes nothing. So a limit is concluded from six
    of ten calls, or nine of thirty, in the order of sending, or from a wait of more than 5 s. Then nothing is sent
    until the pause is over, calls in flight are cut by a fifth (at most once in 15 s), and from then on calls are
    spaced, at first twice as wide as the server had served them. The pace grows with each success and shrinks with each
    complaint: additive increase and multiplicative decrease (Chiu and Jain 1989). A complaint at a pace well below that
    of the limit does not come from the load, as TCP Veno tells losses apart (Fu and Liew 2003): calls are then sent
    faster than they were served.
    """

    url: str
    limit: float
    """Calls allowed in flight; grows by success, shrinks at a limit."""
    max_limit: int
    in_flight: int = 0
    paused_until_s: float = -math.inf
    set_aside_until_s: float | None = None
    """Not None once the breaker has opened; a success closes it."""
    why_set_aside: str = ""
    failures_in_row: int = 0
    complaints_in_row: int = 0
    """Separate throttling episodes since the last success."""
    calls: int = 0
    interval_s: float = 0.0
    """Least time between two calls; 0 until the server was found to have a limit."""
    is_unchecked: bool = False
    """Whether it missed the last check of its model: it takes no items while another one works."""
    _refused: set[int] = field(default_factory=set)
    """Which of the latest calls were, by their numbers, in the order of sending: a refusal comes sooner than work."""
    _last_of_limit: int = 0
    """The call that was sent last when a limit was met: what is refused up to it belongs to that."""
    _limit_s: float = 0.0
    """Time between calls at which it last complained, or as it had served them when it met a limit."""
    _next_send_s: float = field(default=-math.inf)
    _window_start_s: float | None = field(default=None)
    _window_successes: int = field(default=0)
    _failing_since_s: float = field(default=-math.inf)
    _refusing_since_s: float = field(default=-math.inf)
    _last_cut_s: float = field(default=-math.inf)

    def note_sent(self, now_s: float) -> int:
        """Take a place for a call that goes out now; returns its number."""
        self.in_flight += 1
        self.calls += 1
        self._next_send_s = now_s + self.interval_s
        if self._window_start_s is None:
            self._window_start_s = now_s
        return self.calls

    def note_success(self, now_s: float) -> None:
        """A call worked: the breaker closes and the load may grow."""
        self.failures_in_row = 0
        self.complaints_in_row = 0
        self.set_aside_until_s = None
        self._window_successes += 1
        is_near = 0.8 * self._limit_s < self.interval_s < 1.05 * self._limit_s
        self.interval_s *= _FASTER if is_near else _RECOVERING
        # Until the first complaint the limit doubles per round of calls, after it it grows by one per round.
        step = 1.0 if self._last_cut_s == -math.inf else 1.0 / self.limit
        self.limit = min(float(self.max_limit), self.limit + step)

    def note_throttled(
        self, error: CallError, policy: RetryPolicy, *, number: int, sent_s: float, now_s: float, seed: int
    ) -> None:
        """The server asked for patience; at a limit nothing goes there until the pause is over.

        One that asks for nothing else is set aside in the end, as if it failed. ``number``, ``sent_s`` and ``now_s``
        are the call's, when it was sent and when the answer came: complaints about calls that were already on their way
        when the last limit was met belong to that. ``seed`` is for the jitter of a pause whose length was not said.
        """
        is_new = number > self._last_of_limit
        if is_new:
            self._refused = {one for one in self._refused if one > number - 100} | {number}
        # A row of refusals ends by a success, or when for long nothing was asked.
        if self.complaints_in_row == 0 or sent_s > self.paused_until_s + policy.longest_wait_s:
            self._refusing_since_s = now_s
        refused_s = now_s - self._refusing_since_s
        if refused_s > policy.item_limit_s:
            self._set_aside(f"every call was refused (429) for {refused_s / 60:.0f} min", policy, now_s)
        wait = error.retry_after_s
        is_limit = (wait or 0.0) > _LONG_WAIT_S or any(
            sum(number - n < one <= number for one in self._refused) >= least for least, n in _MET
        )
        if is_new:
            self.complaints_in_row += 1
        if wait is None:
            wait = backoff_s(max(self.complaints_in_row, 1), policy, seed=derive_seed(seed, self.complaints_in_row))
            if not is_new:
                wait = 0.0
        if is_limit or self.in_flight == 0:  # with nobody else on the way, who is refused is all there is
            self.paused_until_s = max(self.paused_until_s, now_s + wait)
        if not is_limit:
            if is_new:
                self._slow_down()
            return
        if is_new:
            self._last_of_limit = self.calls
            self._adopt_pace(now_s)
        if now_s - self._last_cut_s >= policy.cut_every_s:
            self.limit = max(1.0, self.limit * policy.cut)
            self._last_cut_s = now_s

    def _slow_down(self) -> None:
        """After a complaint that is no limit by itself: a little, or not at all if slowing down did not help."""
        if self.interval_s > 1.5 * self._limit_s:
            self.interval_s = self._limit_s / 1.5
        self.interval_s = self._limit_s = min(self.interval_s * _SLOWER, _SLOWEST_S)

    def _adopt_pace(self, now_s: float) -> None:
        """Send slower than the server has served since it last met a limit, that pause included.

        Without this, every pause ends in a burst, and most of the burst is refused.
        """
        elapsed = now_s - (now_s if self._window_start_s is None else self._window_start_s)
        served = elapsed / self._window_successes if self._window_successes else _SLOWEST_S
        if self.interval_s > 0:
            served = min(max(served, self.interval_s * _SLOWER), self.interval_s * 2.0)
        self._limit_s = served if self._window_successes else math.inf
        self.interval_s = min(served * _BELOW, _SLOWEST_S)
        self._window_start_s, self._window_successes = now_s, 0

    def note_failure(self, policy: RetryPolicy, *, now_s: float) -> None:
        """The server failed; enough of that and it is set aside."""
        if self.failures_in_row == 0:
            self._failing_since_s = now_s
        self.failures_in_row += 1
        failing_s = now_s - self._failing_since_s
        if self.failures_in_row >= policy.breaker_failures and failing_s >= policy.breaker_s:
            self._set_aside(f"{self.failures_in_row} calls in a row failed", policy, now_s)

    def _set_aside(self, why: str, policy: RetryPolicy, now_s: float) -> None:
        self.set_aside_until_s = now_s + policy.retrial_s
        self.why_set_aside = why

    def due_s(self) -> float:
        """Return the time from which calls may be sent, if there is a place."""
        return max(self.paused_until_s, self._next_send_s, self.set_aside_until_s or -math.inf)

    def room(self, now_s: float) -> int:
        """Further calls that may be sent now; 0 while paused, set aside or not yet due."""
        if now_s < max(self.paused_until_s, self._next_send_s):
            return 0
        if self.set_aside_until_s is not None:
            return 0 if now_s < self.set_aside_until_s else 1 - self.in_flight
        return int(self.limit) - self.in_flight


def choose_endpoint(endpoints: Sequence[Endpoint], *, now_s: float) -> tuple[Endpoint | None, float | None]:
    """Return the endpoint with most room, or else how long to wait for one.

    Returns
    -------
    endpoint : Endpoint or None
    wait_s : float or None
        If there is no endpoint: seconds until the first pause ends, or None if all are merely full.
        A finished call may make room before that.

    Raises
    ------
    CallError
        Of kind ``fatal``, if all endpoints are set aside.
    """
    best = max(endpoints, key=lambda endpoint: endpoint.room(now_s) / max(endpoint.limit, 1.0))
    if best.room(now_s) > 0:
        return best, None
    if all(endpoint.set_aside_until_s is not None for endpoint in endpoints):
        reasons = "; ".join(f"{e.why_set_aside} at {e.url}" for e in endpoints)
        raise CallError(
            f"stopped: {reasons}; a working server is needed; what is finished is kept, so run the same command again "
            "once it answers",
            kind="fatal",
            code="breaker",
        )
    waits = [endpoint.due_s() - now_s for endpoint in endpoints]
    return None, min((wait for wait in waits if wait > 0), default=None)
