"""The connection to the addresses of one served model: load, retries, ceilings, and what was found out.

Calls run concurrently in a thread of their own; finished items come back in batches. Whether and when to call again is
decided in `mop.backends.retry`, what an answer may be in `mop.backends.dialects`, and what may be spent in
`mop.backends.ledger`. `mop.backends.remote` says what to send.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import queue
import re
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import starmap
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import urlsplit

from mop.backends import dialects
from mop.backends.base import Failure
from mop.backends.dialects import Json, Meter, ServerKind
from mop.backends.ledger import CeilingError, Ledger, Spent
from mop.backends.probe import Conformance
from mop.backends.retry import (
    CallError,
    Endpoint,
    Refusals,
    RetryPolicy,
    Tries,
    choose_endpoint,
    classify_status,
    parse_retry_after,
    wait_before_retry,
)
from mop.config import RemoteSettings
from mop.errors import BackendError, MopError
from mop.randomness import derive_seed
from mop.redact import Secret, withhold_quotes

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LIST_BYTES = 4 * 2**20  # of a list of models: hundreds of them, each with its prices
_ERROR_BYTES = 2**18
"""What is read of an error: some repeat the request, and all that is wanted is a sentence."""
_MAY_BE_BILLED = frozenset(("timeout", "cut", "network", "http-408", "http-502", "http-504", "http-524"))
"""Failures behind which a server may have finished the work: only the answer did not get here."""
PROBE_EVERY = 500
"""Answered calls between two checks that the model behind an address is still the same."""
_LONG_PAUSE_S = 40.0  # backoff gets here after some minutes of refusals
_CHECK_LIMIT_S = 15.0  # for the check of one of several addresses; nobody waits longer for it
_CHECK_AGAIN_S = 10.0
"""Wait before the next check of an address that failed one and is neither paused nor set aside."""
_BATCH = 256  # finished items handed over at once at the most; with so many waiting, none is begun
_THREAD = "mop-remote"
_TURN_TO_BUSY = threading.Lock()  # not kept in the link, which may be copied


class Clock:
    """The time as the backend sees it; tests pass one that runs faster."""

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop whose time all waits and deadlines are measured in."""
        return asyncio.new_event_loop()

    def utc(self) -> float:
        """Return the time of day, seconds since 1970, for ``Retry-After`` dates."""
        return time.time()


@dataclass(slots=True)
class Findings:
    """What is known about a server; for the manifest and the report."""

    kind: ServerKind = "other"
    max_len: int | None = None
    """Context window that it states, tokens."""
    is_seeded: bool | None = None
    """Whether the same seed gave the same text twice; None if not asked."""
    reported_models: dict[str, str] = field(default_factory=dict)
    """Address to model name as its answers give it."""
    conformance: dict[str, Conformance] = field(default_factory=dict)
    """Address to what the scoring probe found."""
    touched_texts: int = 0
    """Texts of the data in which control strings were made harmless."""
    doubts: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """One item: what to send, how to read the answer, and the most it can cost."""

    index: int
    path: str
    body: Json
    read: Callable[[Json], tuple[T, Meter]]
    max_in: int
    max_out: int
    private: tuple[str, ...]
    """Texts that no message may quote."""
    seed: int
    is_counted: bool = True
    """Whether it belongs to the run, rather than to a probe."""
    max_bytes: int = 2**20
    """Of the answer; more than what was asked for can be."""


_Check = Callable[["httpx.AsyncClient", Endpoint], Awaitable[None]]
"""Raises `CallError`, with the code ``swapped`` if another model answers."""


async def _nothing_more(client: httpx.AsyncClient) -> None:
    """Do nothing after the last item."""


@dataclass(slots=True)
class _Work(Generic[T]):
    """What the workers of one `Link.stream` share."""

    jobs: Iterator[Job[T]]
    has_room: Callable[[], Awaitable[None]]
    """Awaited before an item is begun: so many may wait to be handed over and no more."""
    check: _Check | None
    group: asyncio.TaskGroup
    """For the checks of addresses that missed theirs; items go on beside them."""
    late_checks: list[asyncio.Task[None]] = field(default_factory=list)
    again: list[Job[T]] = field(default_factory=list)
    refusals: Refusals = field(default_factory=Refusals)
    ceiling: CeilingError | None = None
    checking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Link:
    """The connection to all addresses (``…/v1``) of one model: load, retries, cost and what was found out.

    ``name`` is the user's, ``model`` the one on the server; a ``transport`` stands for the network.
    """

    def __init__(
        self,
        *,
        name: str,
        model: str,
        urls: Sequence[str],
        settings: RemoteSettings,
        key: Secret | None,
        policy: RetryPolicy,
        clock: Clock,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        self.name = name
        self.model = model
        self.settings = settings
        self.policy = policy
        self.ledger = Ledger(settings)
        self.findings = Findings()
        self.failures: dict[int, Failure] = {}
        self.endpoints = [
            Endpoint(url, float(min(policy.first_limit, settings.max_concurrency)), settings.max_concurrency)
            for url in urls
        ]
        # Keeps the prefix cache of a shared server from telling others what our prompts begin with.
        self.salt = None if all(is_loopback(url) for url in urls) else secrets.token_hex(32)
        self._key = key
        self._clock = clock
        self._transport = transport
        self._models: dict[str, str] = {}
        self._fingerprints: dict[str, str] = {}
        self._is_busy = False
        self._checks = False  # whether the stream at work has a check
        self._is_detected = False
        self._warned: set[str] = set()
        # Since the last check; kept from stream to stream, since most are short.
        self._n_answered = 0

    # -------------------------------------------------------------- one call

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """Open the HTTP client; redirects, proxies and .netrc would all send records elsewhere."""
        import httpx

        for library in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2"):
            logging.getLogger(library).addFilter(_is_elsewhere)
        # Both belong to the event loop that runs now.
        self._turn = asyncio.Lock()
        self._finished = asyncio.Event()

        async with httpx.AsyncClient(
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": "mop",
                # Built here and kept in no variable: some tracebacks print variables.
                **({"Authorization": f"Bearer {self._key.reveal()}"} if self._key else {}),
            },
            timeout=None,  # a limit per read never fires on a slow drip; `fetch` limits the whole call
            follow_redirects=False,
            trust_env=False,
            transport=self._transport,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=self.settings.max_concurrency),
        ) as client:
            yield client

    async def fetch(self, client: httpx.AsyncClient, url: str, job: Job[Any] | None = None) -> Json:
        """Send one request, a GET without a ``job``, and return its parsed answer.

        Raises
        ------
        CallError
            For everything that can go wrong, without quoting the request.
        """
        import httpx

        method, content, headers = "GET", None, {}
        private: tuple[str, ...] = ()
        if job is not None:
            method, private, headers = "POST", job.private, {"Content-Type": "application/json"}
            content = json.dumps(job.body, ensure_ascii=True, allow_nan=False).encode("ascii")
        status: int | None = None
        failure: CallError
        try:
            async with (
                asyncio.timeout(self.settings.deadline_s),
                client.stream(method, url, content=content, headers=headers) as response,
            ):
                status = response.status_code
                if classify_status(status) is None:
                    raw = await _read_body(response, job.max_bytes if job is not None else _LIST_BYTES)
                    answer = dialects.read_json(raw)
                    if answer.get("error") is None or answer.get("choices"):
                        return answer
                    code, detail, _ = _error_detail(raw, private)  # routers put their errors here
                    is_status = re.fullmatch(r"[45]\d\d", code) is not None
                    raise CallError(
                        f"{url} answered {status} with an error: {detail}",
                        kind=(classify_status(int(code)) if is_status else None) or "protocol",
                        code=f"error-{code}" if _is_name(code, private) else "error",
                    )
                raw = await _read_body(response, _ERROR_BYTES, is_cut=True)
                failure = self._status_error(url, response, raw, private)
        except TimeoutError:
            failure = CallError(
                f"{url} did not finish its answer within {self.settings.deadline_s:g} s",
                kind="transient",
                code="timeout",
            )
        except httpx.TransportError as error:
            # Only the class is kept: the exception holds the request, with key and text.
            what, code = "could not be reached", "connect" if isinstance(error, httpx.ConnectError) else "network"
            if status is not None:
                what, code = "broke off its answer", "cut"
            failure = CallError(f"{url} {what} ({type(error).__name__})", kind="transient", code=code)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            failure = CallError(f"{url} could not be called ({type(error).__name__})", kind="fatal", code="http")
        # Raised here, outside the handlers, so that no traceback leads to the foreign exception.
        raise failure

    def _status_error(self, url: str, response: httpx.Response, raw: bytes, private: Iterable[str]) -> CallError:
        """Turn an HTTP status and its body into an error that quotes neither key nor records."""
        status = response.status_code
        kind = classify_status(status) or "protocol"
        code, detail, is_too_long = _error_detail(raw, private)
        headers: Mapping[str, str] = response.headers
        asked = {k: v for k, v in headers.items() if k.startswith("retry-after")}
        wait = parse_retry_after(asked, utc_s=self._clock.utc())
        if wait is None and kind == "throttled":
            # Reset headers may speak of a rate limit that was not met, so none stops a run.
            wait = parse_retry_after(headers, utc_s=self._clock.utc())
            if wait is not None and wait > self.policy.item_limit_s:
                wait = None
        if status == 429 and code in ("insufficient_quota", "billing_hard_limit_reached"):
            kind, detail = "fatal", f"{detail}; the account has no credit left"
        elif wait is not None and kind in ("throttled", "transient") and wait > self.policy.item_limit_s:
            kind, detail = (
                "fatal",
                f"it asks to wait {min(wait, 999_999):.0f} s; run the same command again after that",
            )
        elif status in (401, 403):
            source = self._key.source if self._key is not None else None
            advice = f"the key in {source} is not accepted" if source else "set api_key_env"
            detail = f"{detail}; {advice}"
        elif 300 <= status < 400:
            detail = "it redirects, and records are sent to no address but the one you named; correct the URL"
        elif status == 404:
            detail = f"{detail}; check the address and the model name {self.model!r}"
        elif is_too_long:
            return CallError(f"{url} answered {status}: {detail}", kind="item", code="too-long")
        return CallError(
            f"{url} answered {status}: {detail}",
            kind=kind,
            code=f"http-{status}",
            retry_after_s=wait if kind in ("throttled", "transient") else None,
        )

    # -------------------------------------------------------------- one item

    async def obtain(
        self, client: httpx.AsyncClient, job: Job[T], only: Endpoint | None = None, *, is_brief: bool = False
    ) -> T:
        """Call until the item is had or given up, within the ceilings; ``only`` this endpoint and no other, if given.

        What ``is_brief`` is tried a few times within seconds, and does not wait until the pause of ``only`` is over.

        Raises
        ------
        CallError
            The last error; of kind ``fatal`` if the run should stop.
        CeilingError
            If the call cannot be afforded.
        """
        loop = asyncio.get_running_loop()
        tries = Tries()
        policy = self.policy
        if is_brief:
            policy = replace(policy, max_tries=4, item_limit_s=_CHECK_LIMIT_S)
        while True:
            endpoint, number = await self._enter(job, only, is_brief=is_brief)
            used: Meter | None = None
            answer: Json | None = None
            failure: CallError | None = None
            is_lost = True
            sent = loop.time()
            tries.calls += 1
            try:
                root = endpoint.url if job.path.startswith("/v1/") else endpoint.url.removesuffix("/v1")
                answer = await self.fetch(client, root + job.path.removeprefix("/v1"), job)
                result, used = _read(job, answer, endpoint.url)
                is_lost = False
                self._check_model(endpoint, used, job.private)
                if job.is_counted:
                    self.ledger.finish_item(used)
                self._n_answered += 1
                return result
            except CallError as error:
                failure = error
                if answer is None:
                    is_lost = error.kind == "protocol" or error.code in _MAY_BE_BILLED
                elif used is None:
                    # What was declined was worked on and billed. If the answer cannot be trusted,
                    # neither can its count, unless it is more than was set aside.
                    with contextlib.suppress(CallError):
                        used = dialects.read_meter(answer)
                    is_lost = used is None or error.kind != "item"
            finally:
                tries.spent_s += loop.time() - sent
                is_answered = used is not None and (failure is None or failure.kind != "protocol")
                self._leave(endpoint, failure, number, sent_s=sent, is_answered=is_answered)
                self.ledger.settle(job.max_in, job.max_out, used, lost=is_lost, is_probe=not job.is_counted)
                self._finished.set()
            wait = wait_before_retry(failure, tries, policy, seed=job.seed)
            if wait is None:
                raise failure
            self.ledger.spent += Spent(retries=1)
            logger.info("call %d of item %d failed (%s), again in %.1f s", tries.calls, job.index, failure.code, wait)
            await asyncio.sleep(wait)

    async def _enter(self, job: Job[Any], only: Endpoint | None, *, is_brief: bool) -> tuple[Endpoint, int]:
        """Wait, in line, until the call can be afforded and an endpoint has room; take both, and a number."""
        loop = asyncio.get_running_loop()
        # One looks, the others stand behind: nobody is overtaken or woken in vain. What is brief
        # does not stand behind those who wait for another address.
        async with contextlib.nullcontext() if is_brief else self._turn:
            while not self.ledger.reserve(job.max_in, job.max_out):
                if self.ledger.is_idle:
                    raise self.ledger.ceiling_error()
                await self._change()
            endpoint: Endpoint | None = None
            try:
                while endpoint is None:
                    if is_brief and only is not None and only.paused_until_s > loop.time():
                        raise CallError(f"{only.url} is paused", kind="throttled", code="paused")
                    endpoints = self._in_use() if only is None else [only]
                    endpoint, wait = choose_endpoint(endpoints, now_s=loop.time())
                    if endpoint is None:
                        await self._change(wait)
                return endpoint, endpoint.note_sent(loop.time())
            finally:
                if endpoint is None:
                    self.ledger.release(job.max_in, job.max_out)

    def _in_use(self) -> list[Endpoint]:
        """Endpoints that may have items: those that missed a check only if all others are set aside."""
        if not self._checks:
            return self.endpoints
        checked = [endpoint for endpoint in self.endpoints if not endpoint.is_unchecked]
        is_any_left = any(endpoint.set_aside_until_s is None for endpoint in checked)
        return checked if is_any_left else self.endpoints

    async def _change(self, limit_s: float | None = None) -> None:
        """Wait until some call has finished, or so long."""
        self._finished.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._finished.wait()

    def _leave(
        self, endpoint: Endpoint, failure: CallError | None, number: int, *, sent_s: float, is_answered: bool
    ) -> None:
        """Give the place back and let the endpoint know how it went."""
        now = asyncio.get_running_loop().time()
        endpoint.in_flight -= 1
        if is_answered or (failure is not None and failure.kind == "item"):
            endpoint.note_success(now)
        elif failure is not None and failure.kind == "throttled":
            seed = derive_seed(0, "pause", endpoint.url, endpoint.calls)
            endpoint.note_throttled(failure, self.policy, number=number, sent_s=sent_s, now_s=now, seed=seed)
        elif failure is not None:
            endpoint.note_failure(self.policy, now_s=now)
            if failure.retry_after_s is not None:  # a 503 that names a time means the whole server
                endpoint.paused_until_s = max(endpoint.paused_until_s, now + failure.retry_after_s)
        pause_s = endpoint.paused_until_s - now
        if pause_s >= _LONG_PAUSE_S and endpoint.url not in self._warned:
            self._warned.add(endpoint.url)
            logger.warning(
                "%s asks for patience (%s): nothing goes there for %.0f s; its further pauses are not reported",
                endpoint.url,
                failure.code if failure is not None else "",
                pause_s,
            )

    def _check_model(self, endpoint: Endpoint, meter: Meter, private: Iterable[str]) -> None:
        """Stop if another model answers than before."""
        if meter.model is not None:
            # A foreign text like any other, unless it is the name that was asked for.
            own = () if meter.model == self.model else private
            name = withhold_quotes(meter.model, own, limit=80)
            shown = self.findings.reported_models.setdefault(endpoint.url, name)
            if self._models.setdefault(endpoint.url, meter.model) != meter.model:
                raise CallError(
                    f"stopped: {endpoint.url} answered as {shown!r} and now as {name!r}; one run needs one model "
                    "throughout; start a new run for the new one",
                    kind="fatal",
                    code="swapped",
                )
        if meter.fingerprint is not None:
            before = self._fingerprints.setdefault(endpoint.url, meter.fingerprint)
            if before != meter.fingerprint:
                self._fingerprints[endpoint.url] = meter.fingerprint
                self.doubt(f"{endpoint.url} changed its fingerprint during the run: its settings may have changed")

    def doubt(self, text: str) -> None:
        """Keep a doubt for the report, once."""
        if text not in self.findings.doubts:
            self.findings.doubts.append(text)
            logger.warning("%s", text)

    # -------------------------------------------------------------- many items

    def stream(
        self,
        jobs: Callable[[], Iterable[Job[T]]],
        prepare: Callable[[httpx.AsyncClient], Awaitable[None]],
        check: _Check | None = None,
        finish: Callable[[httpx.AsyncClient], Awaitable[None]] = _nothing_more,
    ) -> Iterator[list[tuple[int, T]]]:
        """Run all jobs concurrently in a thread; yield finished (index, result) pairs in batches.

        Parameters
        ----------
        jobs : callable
            Makes the items; they are taken one by one.
        prepare : callable
            Awaited before the first item, such as a probe.
        check : callable, optional
            Awaited for each address every `PROBE_EVERY` answered calls of this link; no item is begun meanwhile. Of
            several addresses, one whose check fails or takes long has no more items of streams with a check until it is
            made up for; with the code ``swapped`` it ends the run.
        finish : callable, optional
            Awaited after the last item, unless a ceiling was met.

        Raises
        ------
        CeilingError
            After everything finished has been handed over.
        BackendError
            If items failed for good beyond what is allowed, likewise; or at once if the run makes
            no sense, or another stream of this link is open.
        """
        finished: queue.SimpleQueue[tuple[int, T] | BaseException | None] = queue.SimpleQueue()
        is_taken = asyncio.Event()
        cancel: list[Callable[[], object]] = []
        wake: list[Callable[[], object]] = []
        is_closed = threading.Event()

        async def has_room() -> None:
            while finished.qsize() >= _BATCH:
                is_taken.clear()
                await is_taken.wait()

        async def main() -> None:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None
            cancel.append(lambda: loop.call_soon_threadsafe(task.cancel))
            wake.append(lambda: loop.call_soon_threadsafe(is_taken.set))
            if is_closed.is_set():
                return
            async with self.client() as client:
                await prepare(client)
                await self._run(client, jobs(), finished.put, has_room, check)
                await finish(client)

        def run() -> None:
            outcome: BaseException | None = None
            try:
                with asyncio.Runner(loop_factory=self._clock.new_loop) as runner:
                    runner.run(main())
            except asyncio.CancelledError:
                pass
            except MopError as error:
                # Without the frames of this thread: their variables hold people's words, which some
                # tracebacks print, and the message says all there is to say.
                outcome = error.with_traceback(None)
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
                outcome = error
            finished.put(outcome)

        thread = threading.Thread(target=run, name=_THREAD, daemon=True)

        def tell(calls: Iterable[Callable[[], object]]) -> None:
            for call in calls:
                with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                    call()

        def halt() -> None:
            is_closed.set()
            tell(cancel)
            thread.join(timeout=10.0)

        with self._alone():
            thread.start()
            try:
                yield from _batches(finished, lambda: tell(wake), halt)
            finally:
                halt()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Refuse a second use beside the first: they would share a line, an account and failures."""
        with _TURN_TO_BUSY:
            if self._is_busy:
                raise BackendError(
                    f"{self.name} is still at work on an earlier call, and a served model takes one "
                    "at a time; finish or close that one first, or open the model a second time"
                )
            self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False

    async def _run(
        self,
        client: httpx.AsyncClient,
        jobs: Iterable[Job[T]],
        emit: Callable[[tuple[int, T]], None],
        has_room: Callable[[], Awaitable[None]],
        check: _Check | None,
    ) -> None:
        """Work through all jobs; those stopped by bad luck alone get a second round at the end."""
        self.failures.clear()
        self._checks = check is not None
        try:
            async with asyncio.TaskGroup() as group_of_late:
                work = _Work(iter(jobs), has_room, check, group_of_late)
                for endpoint in self.endpoints:
                    if endpoint.is_unchecked:
                        self._check_late(client, endpoint, work, after_s=0.0)
                for is_last_round in (False, True):
                    async with asyncio.TaskGroup() as group:
                        for _ in range(self.settings.max_concurrency * len(self.endpoints)):
                            group.create_task(self._take_jobs(client, work, emit, is_last_round=is_last_round))
                    work.jobs, work.again = iter(work.again), []
                for task in work.late_checks:
                    task.cancel()
        except BaseExceptionGroup as group_of_errors:
            # Not except*: until Python 3.11.3 what is raised there comes out in a group of its own.
            errors, others = group_of_errors.split(MopError)
            if errors is None or others is not None:
                raise
            raise _first(errors) from None
        if work.ceiling is not None:
            raise work.ceiling

    async def _take_jobs(
        self, client: httpx.AsyncClient, work: _Work[T], emit: Callable[[tuple[int, T]], None], *, is_last_round: bool
    ) -> None:
        """Take one job after the other, beside others who do the same."""
        for job in work.jobs:
            await work.has_room()
            await self._check_all(client, work)
            while not work.refusals.may_begin():
                await self._change()
            if work.ceiling is not None:
                return
            work.refusals.begun += 1
            try:
                emit((job.index, await self.obtain(client, job)))
                work.refusals.note(None)
            except CallError as error:
                if error.kind == "fatal":
                    raise
                if work.refusals.note(error):
                    raise CallError(
                        f"stopped: call after call is refused in the same words, so asking on cannot help: {error}; "
                        "see what the server takes with mop doctor --probe; a field that it refuses is left out with "
                        "remote.fields.NAME = false",
                        kind="fatal",
                        code="refused",
                    ) from None
                # A bad answer to the same question with the same seed was asked for often enough.
                if error.kind in ("transient", "throttled") and not is_last_round:
                    work.again.append(job)
                else:
                    self.failures[job.index] = Failure(error.code, str(error), is_final=error.kind == "item")
            except CeilingError as error:
                work.ceiling = error
            self._finished.set()

    async def _check_all(self, client: httpx.AsyncClient, work: _Work[Any]) -> None:
        """Check every address, if enough was answered since the last time."""
        async with work.checking:  # no new item while a check is going on
            if work.check is None or self._n_answered < PROBE_EVERY:
                return
            for endpoint in self.endpoints:
                if endpoint.is_unchecked or await self._passes(client, endpoint, work.check):
                    continue
                endpoint.is_unchecked = True
                self._check_late(client, endpoint, work, after_s=_CHECK_AGAIN_S)
            self._n_answered = 0

    async def _passes(self, client: httpx.AsyncClient, endpoint: Endpoint, check: _Check) -> bool:
        """Whether an address passes its check now; one of several may also be busy or gone."""
        if len(self.endpoints) == 1:
            await check(client, endpoint)
            return True
        try:
            async with asyncio.timeout(_CHECK_LIMIT_S):
                await check(client, endpoint)
        except TimeoutError:
            why = f"no answer in {_CHECK_LIMIT_S:g} s"
        except CallError as error:
            if error.code == "swapped":
                raise
            why = str(error)
        else:
            return True
        logger.info("%s has no items until it is checked: %s", endpoint.url, why)
        return False

    def _check_late(self, client: httpx.AsyncClient, endpoint: Endpoint, work: _Work[Any], *, after_s: float) -> None:
        if work.check is not None:
            coroutine = self._catch_up(client, endpoint, work.check, after_s)
            work.late_checks.append(work.group.create_task(coroutine))

    async def _catch_up(self, client: httpx.AsyncClient, endpoint: Endpoint, check: _Check, after_s: float) -> None:
        """Check an address that missed its check as soon as it may be called, until it passes."""
        while endpoint.is_unchecked:
            wait = endpoint.due_s() - asyncio.get_running_loop().time()
            await asyncio.sleep(wait if wait > 0 else after_s)
            after_s = _CHECK_AGAIN_S
            endpoint.is_unchecked = not await self._passes(client, endpoint, check)
        self._finished.set()

    def detect(self) -> ServerKind:
        """Ask every address what it is, once; free of charge.

        Raises
        ------
        BackendError
            If an address does not answer, or does not have the model; or if a stream is open.
        """
        for _ in self.stream(lambda: (), self.find_kind):
            pass
        return self.findings.kind

    async def find_kind(self, client: httpx.AsyncClient) -> None:
        """Fill `findings` from ``/v1/models``, as `detect`; a server without that list is of kind ``other``."""
        if self._is_detected:
            return
        kinds: list[ServerKind] = []
        windows: list[int] = []
        for endpoint in self.endpoints:
            entry = await self._model_entry(client, endpoint)
            kinds.append(_kind_of(entry))
            meta = entry.get("meta")
            window = entry.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else 0)
            if type(window) is int and window > 0:
                windows.append(window)
        if len(set(kinds)) > 1:
            raise BackendError(f"the addresses are of different kinds ({', '.join(kinds)}); give servers of one kind")
        self.findings.kind = kinds[0]
        self.findings.max_len = min(windows) if windows else None
        self._is_detected = True

    async def _model_entry(self, client: httpx.AsyncClient, endpoint: Endpoint) -> Json:
        """Return what a server's list says about our model; empty if it has no list."""
        tries = Tries()
        # A wrong address should be found out in seconds, not after all the patience of a long run.
        short = RetryPolicy(max_tries=4, max_protocol_retries=1, item_limit_s=60.0)
        while True:
            try:
                answer = await self.fetch(client, f"{endpoint.url}/models")
                break
            except CallError as error:
                if error.code in ("http-404", "http-405", "http-501"):
                    return {}
                tries.calls += 1
                wait = wait_before_retry(error, tries, short, seed=derive_seed(0, "list", endpoint.url))
                if wait is None and error.code.startswith("http-5"):
                    self.doubt(f"{endpoint.url} cannot list its models ({error.code})")
                    return {}
                if wait is None:
                    raise
            await asyncio.sleep(wait)
        listed = answer.get("data")
        entries: list[Json] = [e for e in listed if isinstance(e, dict)] if isinstance(listed, list) else []
        for entry in entries:
            # Ollama lists "name:latest" for "name"; llama.cpp answers to any name and lists its file.
            if entry.get("id") in (self.model, f"{self.model}:latest"):
                return entry
        if not entries or _kind_of(entries[0]) == "llamacpp":
            return entries[0] if entries else {}
        names = ", ".join(withhold_quotes(str(entry.get("id"))[:800], (), limit=80) for entry in entries[:8])
        raise BackendError(
            f"{endpoint.url} does not serve {self.model!r}; it serves {names}; use one of these names before the @"
        )


def _read(job: Job[T], answer: Json, url: str) -> tuple[T, Meter]:
    """Read an answer; an error names the address."""
    try:
        return job.read(answer)
    except CallError as error:
        raise CallError(f"{url}: {error}", kind=error.kind, code=error.code) from None


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own, judged by its text alone.

    Examples
    --------
    >>> [is_loopback(f"http://{host}:80") for host in ("127.0.0.1", "[::1]", "localhost.evil.com")]
    [True, True, False]
    """
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _kind_of(entry: Json) -> ServerKind:
    owner = str(entry.get("owned_by", "")).lower()
    kinds: dict[str, ServerKind] = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llamacpp", "library": "ollama"}
    return kinds.get(owner, "other")


async def _read_body(response: httpx.Response, limit: int, *, is_cut: bool = False) -> bytes:
    """Read a body up to ``limit``: what is longer is refused, or cut; compressed ones are refused, as not asked for."""
    encoding = response.headers.get("content-encoding", "identity").lower()
    if encoding not in ("", "identity"):
        raise CallError("an answer came compressed, which was not asked for", kind="protocol", code="encoding")
    chunks, size = [], 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        chunks.append(chunk)
        if size > limit and is_cut:
            break
        if size > limit:
            raise CallError(
                f"an answer is larger than {limit >> 10} KiB, more than what was asked for can be",
                kind="protocol",
                code="too-large",
            )
    return b"".join(chunks)[:limit]


_TOO_LONG = ("context length", "context window", "context size", "too long")


def _error_detail(raw: bytes, private: Iterable[str]) -> tuple[str, str, bool]:
    """Take code, message, and whether it is about the window out of an error body.

    The message is fit to be shown; the code is foreign, for comparisons only (see `_is_name`).
    """
    try:
        body = dialects.read_json(raw)
    except CallError:
        return "", "no readable reason", False
    block = body.get("error", body)
    block = block if isinstance(block, dict) else {"message": block}
    code = block.get("code") or block.get("type") or ""
    code = str(code)[:60] if isinstance(code, (str, int)) else ""
    message = block.get("message") or block.get("detail") or ""
    message = message if isinstance(message, str) else json.dumps(message)
    is_too_long = code == "context_length_exceeded" or any(words in message[:2000].lower() for words in _TOO_LONG)
    return code, withhold_quotes(message, private) or "no reason given", is_too_long


def _is_name(code: str, private: Iterable[str]) -> bool:
    """Whether a foreign code may be shown: it looks like one, and quotes nothing."""
    return re.fullmatch(r"[A-Za-z0-9_-]{1,40}", code) is not None and withhold_quotes(code, private) == code


def _is_elsewhere(record: logging.LogRecord) -> bool:
    """Whether a log record of a library is about somebody else's call: those of ours quote the server's headers."""
    return record.threadName != _THREAD


def _batches(
    finished: queue.SimpleQueue[tuple[int, T] | BaseException | None],
    wake: Callable[[], None],
    halt: Callable[[], None],
) -> Iterator[list[tuple[int, T]]]:
    """Hand over what is there, waiting for the first; then raise what ended the run, if anything.

    ``wake`` is called whenever some was taken. A signal that raises while waiting (Ctrl-C, or SIGTERM under the command
    line) calls ``halt``, and what has come until then is handed over first: it is paid for.
    """
    while True:
        taken: list[Any] = []
        interrupt: BaseException | None = None
        try:
            _take(finished, taken)
            while isinstance(taken[-1], tuple) and len(taken) < _BATCH and not finished.empty():
                _take(finished, taken)
            wake()
        except BaseException as error:  # noqa: BLE001 - raised again below
            interrupt = error
            halt()
            while not finished.empty():
                _take(finished, taken)
        batch: list[tuple[int, T]] = [item for item in taken if isinstance(item, tuple)]
        if batch:
            yield batch
        if interrupt is not None:
            raise interrupt
        if isinstance(taken[-1], BaseException):
            raise taken[-1]
        if taken[-1] is None:
            return


def _take(finished: queue.SimpleQueue[Any], taken: list[Any]) -> None:
    """Move an item to a list without a step of Python between, where a Ctrl-C could lose it."""
    taken.extend(starmap(finished.get, [()]))


def _first(group: BaseExceptionGroup[MopError]) -> MopError:
    """Return one error out of a group; the others are its echoes."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, MopError)
    return error
