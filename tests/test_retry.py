"""When to call again: waits, pauses, load and the breaker, all with the time passed in."""

from __future__ import annotations

import pytest

from mop.backends.retry import (
    CallError,
    CallKind,
    Endpoint,
    RetryPolicy,
    Tries,
    backoff_s,
    choose_endpoint,
    classify_status,
    parse_retry_after,
    wait_before_retry,
)

POLICY = RetryPolicy()
NO_JITTER = RetryPolicy(jitter=0.0)


def failure(kind: CallKind, retry_after_s: float | None = None) -> CallError:
    return CallError("it failed", kind=kind, code="test", retry_after_s=retry_after_s)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "12"}, 12.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Fri, 15 Jan 2027 08:00:30 GMT"}, 30.0),
        ({"retry-after": "Friday, 15-Jan-27 08:00:30 GMT"}, 30.0),
        ({"retry-after": "Fri, 15 Jan 2027 07:00:00 GMT"}, 0.0),
        ({"retry-after": "Fri, 15 Jan 2027 09:00:30 +0100"}, 30.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e3"}, None),
        ({"retry-after": "٣"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "soon", "x-ratelimit-reset-requests": "2s"}, 2.0),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-reset-tokens": "1d"}, 86400.0),
        ({"x-ratelimit-reset": "1800000042"}, 42.0),
        ({"x-ratelimit-reset": "17"}, 17.0),
        ({"anthropic-ratelimit-tokens-reset": "2027-01-15T08:01:00Z"}, 60.0),
        ({"x-ratelimit-reset-a": "3s", "x-ratelimit-reset-b": "5s", "x-ratelimit-reset-c": "?"}, 5.0),
        ({"x-ratelimit-remaining-tokens": "5"}, None),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "6s"}, None),
        # A request may want more tokens than remain.
        ({"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "6s"}, 6.0),
        (
            {
                "x-ratelimit-remaining-requests": "9000",
                "x-ratelimit-reset-requests": "23h59m0s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "1.2s",
            },
            1.2,
        ),
        (
            {
                "anthropic-ratelimit-tokens-reset": "2027-01-15T08:01:00Z",
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2027-01-15T09:00:00Z",
                "anthropic-ratelimit-requests-remaining": "49",
            },
            60.0,
        ),
    ],
)
def test_every_form_of_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    found = parse_retry_after(headers, utc_s=1_800_000_000.0)  # Fri, 15 Jan 2027 08:00:00 GMT
    assert found == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("statuses", "kind"),
    [
        ((200, 201, 204), None),
        ((429,), "throttled"),
        ((408, 409, 425, 500, 502, 503, 504, 529), "transient"),
        ((400, 413, 422), "item"),
        ((301, 307, 401, 402, 403, 404, 405), "fatal"),
    ],
)
def test_statuses_have_their_meaning(statuses: tuple[int, ...], kind: CallKind | None) -> None:
    assert {classify_status(status) for status in statuses} == {kind}


def test_waits_double_up_to_a_minute_and_give_up_after_eight_tries() -> None:
    tries = Tries()
    waits = []
    for _ in range(8):
        tries.calls += 1
        waits.append(wait_before_retry(failure("transient"), tries, NO_JITTER, seed=1))
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, None]
    assert backoff_s(40, NO_JITTER, seed=0) == 60.0


def test_jitter_shortens_a_wait_by_a_quarter_at_most_and_differs_between_items() -> None:
    waits = [backoff_s(3, POLICY, seed=seed) for seed in range(200)]
    assert 1.5 <= min(waits) < 1.55
    assert 1.95 < max(waits) <= 2.0
    assert len(set(waits)) == 200
    assert waits == [backoff_s(3, POLICY, seed=seed) for seed in range(200)]


def test_an_answer_that_is_none_is_asked_for_three_times_more() -> None:
    tries = Tries()
    waits = [wait_before_retry(failure("protocol"), tries, POLICY, seed=1) for _ in range(4)]
    assert [wait is None for wait in waits] == [False, False, False, True]


@pytest.mark.parametrize("kind", ["item", "fatal"])
def test_what_cannot_change_is_not_retried(kind: CallKind) -> None:
    assert wait_before_retry(failure(kind), Tries(), POLICY, seed=1) is None
    assert not failure(kind).retryable


def test_being_asked_to_slow_down_costs_no_try_but_time() -> None:
    tries = Tries()
    for _ in range(50):
        assert wait_before_retry(failure("throttled"), tries, POLICY, seed=1) is not None
    assert wait_before_retry(failure("throttled", 890.0), tries, POLICY, seed=1) is None


def test_a_server_that_names_a_wait_gets_it() -> None:
    assert wait_before_retry(failure("transient", 33.0), Tries(), POLICY, seed=1) == 33.0


def test_an_item_is_given_up_after_fifteen_minutes() -> None:
    assert wait_before_retry(failure("transient"), Tries(spent_s=899.9), NO_JITTER, seed=1) is None
    assert wait_before_retry(failure("transient"), Tries(spent_s=899.0), NO_JITTER, seed=1) == 0.5


def endpoint(limit: float = 20.0) -> Endpoint:
    return Endpoint("http://a", limit, 100)


def refuse(
    one: Endpoint,
    wait_s: float | None,
    *,
    at: float,
    n: int = 1,
    policy: RetryPolicy = POLICY,
    sent_s: float | None = None,
    is_old: bool = False,
) -> None:
    """Send so many calls and have all refused, or a call refused that was sent before all others."""
    for _ in range(n):
        sent_s = at if sent_s is None else sent_s
        number = 0 if is_old else one.note_sent(sent_s)
        one.in_flight -= not is_old
        one.note_throttled(failure("throttled", wait_s), policy, number=number, sent_s=sent_s, now_s=at, seed=0)


def serve(one: Endpoint, *, at: float) -> None:
    """Send a call that works."""
    one.note_sent(at)
    one.in_flight -= 1
    one.note_success(at)


def test_load_doubles_per_round_until_the_first_complaint_and_then_grows_by_one() -> None:
    one = endpoint()
    for _ in range(20):
        one.note_success(0.0)
    assert one.limit == 40.0
    for _ in range(6):
        refuse(one, 1.0, at=1.0, sent_s=0.0)
    assert one.limit == 32.0
    for _ in range(32):
        one.note_success(2.0)
    assert one.limit == pytest.approx(33.0, abs=0.02)
    for _ in range(9999):
        one.note_success(3.0)
    assert one.limit == 100.0


def test_load_is_cut_once_in_fifteen_seconds_and_never_below_one() -> None:
    one = endpoint()
    for now in (0.0, 1.0, 14.9, 15.0):
        for _ in range(6):
            refuse(one, 0.1, at=now)
    assert one.limit == pytest.approx(20 * 0.8 * 0.8)
    for now in range(100, 10_000, 20):
        for _ in range(6):
            refuse(one, 0.1, at=now)
    assert one.limit == 1.0


def test_server_errors_do_not_cut_the_load() -> None:
    one = endpoint()
    for now in range(10):
        one.note_failure(POLICY, now_s=now)
    assert one.limit == 20.0


def test_a_complaint_pauses_the_endpoint_for_the_wait_it_names() -> None:
    one = endpoint()
    refuse(one, 30.0, at=1.0, sent_s=0.0)
    assert one.room(30.9) == 0
    assert one.room(31.1) == 16
    # A late answer to a call of before the pause neither shortens nor repeats it.
    refuse(one, None, at=2.0, sent_s=0.5)
    assert one.paused_until_s == 31.0


def test_complaints_without_a_wait_pause_longer_and_longer() -> None:
    one = endpoint()
    pauses = []
    now = 0.0
    for _ in range(5):
        refuse(one, None, at=now, policy=NO_JITTER)
        pauses.append(one.paused_until_s - now)
        now = one.paused_until_s
    assert pauses == pytest.approx([0.5, 1.0, 2.0, 4.0, 8.0])


def test_after_a_complaint_calls_are_spaced_as_the_server_served() -> None:
    one = endpoint()
    for i in range(40):
        one.note_sent(i * 0.1)
        one.in_flight -= 1
        one.note_success(i * 0.1)
    for _ in range(6):
        assert one.interval_s == 0.0
        refuse(one, 1.0, at=4.0)
    assert one.interval_s == pytest.approx(0.2)  # twice as wide, at first
    one.note_sent(6.0)
    assert one.room(6.15) == 0
    assert one.room(6.21) > 0
    for _ in range(40):
        one.note_success(7.0)
    assert one.interval_s == pytest.approx(0.1, rel=0.05)


@pytest.mark.audit("M8")
def test_complaints_that_come_alone_neither_pause_nor_slow_the_address() -> None:
    one = endpoint()
    one.in_flight = 10
    for i in range(200):
        if i % 20 == 0:
            refuse(one, 1.0, at=i * 0.1)
        serve(one, at=i * 0.1)
        assert one.room(i * 0.1) > 0
    assert one.interval_s == 0.0


def test_one_complaint_at_the_start_of_a_run_is_no_limit() -> None:
    one = endpoint()
    one.in_flight = 1
    refuse(one, 1.0, at=0.1, sent_s=0.0)
    assert (one.interval_s, one.limit) == (0.0, 20.0)


def test_the_pace_recovers_quickly_once_the_limit_is_gone() -> None:
    one = endpoint()
    for i in range(10):
        one.note_sent(i * 1.0)
        one.in_flight -= 1
        one.note_success(i * 1.0)
    for _ in range(6):
        refuse(one, 1.0, at=10.0)
    assert one.interval_s == pytest.approx(1.0)
    for _ in range(300):
        one.note_success(11.0)
    assert one.interval_s < 0.05


@pytest.mark.audit("M8")
def test_a_pace_that_does_not_help_is_given_up() -> None:
    one = endpoint()
    one.in_flight = 10
    for i in range(30):
        serve(one, at=i * 0.1)
    for _ in range(6):  # by chance
        refuse(one, 1.0, at=3.0)
    assert one.interval_s > 0.15  # the server had served ten in a second
    for i in range(10):
        serve(one, at=5.0 + i)
    refuse(one, 1.0, at=15.0)
    assert one.interval_s < 0.08


def test_the_breaker_opens_after_twenty_failures_that_last() -> None:
    one = endpoint()
    one.note_success(0.0)
    for i in range(100):
        one.note_failure(POLICY, now_s=i * 0.01)  # a restart: many at once, soon over
    assert one.set_aside_until_s is None
    one.note_failure(POLICY, now_s=31.0)
    with pytest.raises(CallError, match="stopped: 101 calls in a row failed at http://a") as caught:
        choose_endpoint([one], now_s=31.0)
    assert caught.value.kind == "fatal"
    assert one.room(90.9) == 0
    assert one.room(91.1) == 1


def test_a_pause_in_calls_is_no_failure_of_the_server() -> None:
    one = endpoint()
    one.note_success(0.0)
    for i in range(100):
        one.note_failure(POLICY, now_s=600.0 + i * 0.1)
    assert one.set_aside_until_s is None
    one.note_failure(POLICY, now_s=630.0)
    assert one.set_aside_until_s == 690.0


def test_an_endpoint_that_refuses_every_call_for_fifteen_minutes_is_set_aside() -> None:
    one = endpoint()
    one.note_success(0.0)
    now = 5000.0  # nothing was asked for long
    while now <= 5900.0:
        refuse(one, None, at=now)
        assert one.set_aside_until_s is None
        now = one.paused_until_s
    refuse(one, None, at=now)
    assert one.set_aside_until_s == now + 60.0
    with pytest.raises(CallError, match=r"stopped: every call was refused \(429\) for 1[56] min at http://a; a wor"):
        choose_endpoint([one], now_s=now)
    one.note_success(now + 61.0)
    assert one.set_aside_until_s is None


def test_refusals_long_apart_with_no_call_between_are_no_row() -> None:
    one = endpoint()
    for now in (0.0, 1000.0, 2000.0):
        refuse(one, 5.0, at=now)
    assert one.set_aside_until_s is None


def test_an_endpoint_set_aside_gets_one_trial_and_comes_back_by_success() -> None:
    bad, good = endpoint(), Endpoint("http://b", 20.0, 100)
    bad.note_success(0.0)
    for i in range(25):
        bad.note_failure(POLICY, now_s=i * 2.0)
    assert choose_endpoint([bad, good], now_s=50.0) == (good, None)
    assert bad.room(49.0 + 60.0) == 1
    bad.note_sent(120.0)
    assert bad.room(120.0) == 0
    bad.in_flight -= 1
    bad.note_success(121.0)
    assert bad.set_aside_until_s is None
    assert bad.room(121.0) == 22  # two successes, of before and now


def test_the_emptiest_endpoint_is_chosen() -> None:
    one, two = endpoint(), Endpoint("http://b", 20.0, 100)
    one.in_flight = 5
    assert choose_endpoint([one, two], now_s=0.0) == (two, None)
    two.in_flight = 12
    assert choose_endpoint([one, two], now_s=0.0) == (one, None)


def test_without_room_the_wait_is_that_of_the_first_pause_to_end_or_unknown() -> None:
    one, two = endpoint(), Endpoint("http://b", 20.0, 100)
    one.paused_until_s, two.paused_until_s = 7.0, 5.0
    assert choose_endpoint([one, two], now_s=1.0) == (None, 4.0)
    two.paused_until_s, two.in_flight = 0.0, 20
    assert choose_endpoint([one, two], now_s=1.0) == (None, 6.0)
    one.paused_until_s, one.in_flight = 0.0, 20
    assert choose_endpoint([one, two], now_s=1.0) == (None, None)
