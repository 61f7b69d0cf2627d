"""Secrets do not show, in any spelling; messages do not quote people."""

from __future__ import annotations

import base64
import copy
import json
import logging
import pickle
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mop import redact as module
from mop.errors import ConfigError
from mop.redact import RedactingFilter, Secret, redact, withhold_quotes, without_password

KEY = "canary/key+with=odd&chars\"'<>42"


def test_a_secret_shows_its_source_and_nothing_else() -> None:
    secret = Secret(KEY, source="MY_KEY")
    for shown in (repr(secret), str(secret), f"{secret}", f"{[secret]}", "%s" % secret):  # noqa: UP031
        assert "MY_KEY" in shown
        assert "canary" not in shown
    assert secret.reveal() == KEY


@pytest.mark.parametrize("copier", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_secret_is_not_written_or_copied(copier: object) -> None:
    with pytest.raises(TypeError, match="is not written to disk or sent to another process"):
        copier(Secret(KEY, source="MY_KEY"))  # type: ignore[operator]


def test_a_secret_comes_from_a_named_variable() -> None:
    assert Secret.from_env("MY_KEY", {"MY_KEY": KEY}).reveal() == KEY
    with pytest.raises(ConfigError, match="the environment variable MY_KEY is not set or empty"):
        Secret.from_env("MY_KEY", {"MY_KEY": ""})


def test_a_key_given_instead_of_a_name_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match="must be the name of an environment variable") as caught:
        Secret.from_env("sk-proj-abcdefghijklmnop", {})
    assert "abcdefgh" not in str(caught.value)


@pytest.mark.parametrize("value", ["short", "has space in it", "line\nend-of-it", "umlaut-ä-key", "x" * 5000])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(value: str) -> None:
    with pytest.raises(ConfigError, match="the key in MY_KEY cannot be used") as caught:
        Secret(value, source="MY_KEY")
    assert value not in str(caught.value)


@pytest.mark.parametrize(
    "spelling",
    [
        KEY,
        quote(KEY, safe=""),
        json.dumps(KEY),
        json.dumps({"a": KEY}),
        base64.b64encode(KEY.encode()).decode(),
        f"https://host/v1?key={quote(KEY, safe='')}",
    ],
)
def test_a_known_secret_is_hidden_in_every_spelling(spelling: str) -> None:
    Secret(KEY, source="MY_KEY")
    shown = redact(f"before {spelling} after")
    assert shown.startswith("before ")
    assert "canary" not in shown
    assert base64.b64encode(KEY.encode()).decode()[:12] not in shown


@pytest.mark.audit("H1")
@pytest.mark.parametrize(
    "spelling",
    [
        base64.b64encode(b"Bearer " + KEY.encode()).decode(),
        base64.urlsafe_b64encode(b"xx" + KEY.encode()).decode(),
        KEY.encode().hex(),
        KEY.encode().hex().upper(),
        KEY.upper(),
        KEY.lower(),
        KEY[::-1],
        KEY[:20],
        KEY[-14:],
    ],
)
def test_a_secret_is_hidden_in_odd_spellings_and_in_part(spelling: str) -> None:
    Secret(KEY, source="MY_KEY")
    for text in (redact(f"got {spelling}."), withhold_quotes(f"got {spelling}.", ())):
        assert not any(spelling[i : i + 12] in text for i in range(len(spelling) - 11))


@pytest.mark.audit("H1")
def test_a_secret_spelt_with_points_between_is_withheld() -> None:
    Secret(KEY, source="MY_KEY")
    assert withhold_quotes(f"key {'.'.join(KEY)}", ()).startswith("[withheld")


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcdefghijkl",
        "api_key=abcdefghijkl",
        'x {"api-key": "abcdefghijkl"}',
        "sk-abcdefghijklmnopqrstu is wrong",
        "hf_abcdefghijklmnopqrstu",
    ],
)
def test_what_looks_like_a_secret_is_hidden_too(text: str) -> None:
    assert "abcdefghijkl" not in redact(text)


def test_plain_text_is_left_alone() -> None:
    text = "the tokens of item 7: 12 in, 30 out; keys and bearers are words"
    assert redact(text) == text


def test_no_log_line_leaves_with_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    Secret(KEY, source="MY_KEY")
    logger = logging.getLogger("mop.test_redact")
    handler = logging.StreamHandler()
    handler.addFilter(RedactingFilter())
    logger.addHandler(handler)
    logger.propagate = False
    try:
        logger.warning("key %s and %r", KEY, {"h": KEY})
        try:
            raise RuntimeError(f"with {KEY}")
        except RuntimeError:
            logger.exception("it failed")
        logger.warning("plain %d%%", 5)
    finally:
        logger.removeHandler(handler)
    written = capsys.readouterr().err
    assert "canary" not in written
    assert written.count("[hidden]") >= 3
    assert "RuntimeError: with [hidden]" in written
    assert "plain 5%" in written


def test_a_record_with_arguments_that_do_not_fit_passes_without_them() -> None:
    Secret(KEY, source="MY_KEY")
    record = logging.LogRecord("other", 20, "", 0, f"%d items of {KEY}", (KEY,), None)
    assert RedactingFilter().filter(record)
    assert record.getMessage() == "%d items of [hidden] [its arguments do not fit and are left out]"


@pytest.mark.parametrize("password", ["hunter2", "a@hunter2", "a/hunter2", "a,hunter2 b"])
def test_a_password_in_an_address_is_cut_out_whatever_it_holds(password: str) -> None:
    name = f"openai:org/m@https://user:{password}@host:8000/v1,https://other/v1"
    assert without_password(name) == "openai:org/m@https://[hidden]@host:8000/v1,https://other/v1"
    assert without_password("openai:m@user:se@cret@host:80") == "openai:m@[hidden]@host:80"
    plain = "openai:org/m@http://127.0.0.1:8000/v1"
    assert without_password(plain) == plain


WORDS = "I lost my job in May, and my son José left."


@pytest.mark.parametrize(
    "message",
    [
        f"invalid input: {WORDS}",
        f"invalid input: {json.dumps(WORDS)}",
        f"invalid input: {WORDS!r}"[:40],
        "INVALID: LOST MY JOB IN MAY",
        "got 'lost  my\\njob in may'",
        "got 'my son Jos\\u00e9 left'",
    ],
)
def test_a_message_that_quotes_a_record_is_withheld(message: str) -> None:
    assert withhold_quotes(message, [WORDS]) == "[withheld: the server's message repeats the request]"


@pytest.mark.audit("H1")
@pytest.mark.parametrize(
    "message",
    [
        "mysonjose",
        "lostmyjob",
        "cannot parse 'my son'",
        "bad value `lost my`",
        "I%20lost%20my%20job%20in%20May",
        "m&#121; son Jos&eacute; left",
    ],
)
def test_a_code_or_a_quotation_from_a_record_is_withheld(message: str) -> None:
    assert withhold_quotes(message, [WORDS]).startswith("[withheld")


@pytest.mark.audit("H1")
def test_a_number_from_a_record_is_withheld() -> None:
    assert withhold_quotes("call 0441992 again", ["ring me at (04) 41 99 27"]).startswith("[withheld")
    assert withhold_quotes("at most 4096 tokens", ["ring me at 04 40 96"]) == "at most 4096 tokens"


@pytest.mark.audit("M7")
def test_no_more_of_a_foreign_message_is_looked_at_than_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr(module, "_letters", lambda text: looked.append(len(text)) or text)
    withhold_quotes("ab " * 300_000, ["cd " * 1000])
    assert sum(looked) < 30_000


def test_a_short_text_is_withheld_when_it_occurs_whole() -> None:
    assert withhold_quotes("cannot read 'Marie!'", ["Marie"]).startswith("[withheld")
    assert withhold_quotes("max_tokens must be positive", ["no", "Marie"]) == "max_tokens must be positive"


def test_a_message_becomes_one_short_line_without_secrets() -> None:
    Secret(KEY, source="MY_KEY")
    shown = withhold_quotes(f"a\n\x1b[31mb\u202e {KEY} " + "word " * 99, [])
    assert shown.startswith("a [31mb [hidden] word")
    assert len(shown) == 200
    assert shown.isprintable()


@given(st.text(min_size=5), st.text(max_size=30), st.text(max_size=30))
def test_a_record_quoted_whole_never_comes_through(text: str, before: str, after: str) -> None:
    shown = withhold_quotes(f"{before} {text} {after}", [text])
    letters = [c for c in text if c.isalnum()]
    assert len(letters) < 5 or shown.startswith("[withheld") or text not in shown
