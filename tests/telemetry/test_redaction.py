"""No password gets out in a text, whatever it is made of."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell import cli
from stepwell.errors import BadInput
from stepwell.settings.file import load
from stepwell.telemetry.redaction import RedactingFormatter, redacted

SECRETS = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x24F, blacklist_categories=("Zs", "Cc")), min_size=8
)


@given(SECRETS, st.sampled_from(["postgresql", "postgres", "https"]))
def test_the_password_of_a_url(secret: str, scheme: str) -> None:
    text = redacted(f"cannot open {scheme}://books:{secret}@db.example:5432/ledger?sslmode=require: refused")
    assert secret not in text
    assert "cannot open" in text and "db.example" in text and "refused" in text


@given(st.text(st.characters(min_codepoint=48, max_codepoint=122), min_size=8))
def test_a_password_by_its_name(secret: str) -> None:
    assert secret not in redacted(f"host=db password={secret} dbname=ledger")


NAMES = (
    "password={}", "PGPASSWORD={}", "sslpassword = '{}'", "LANGFUSE_SECRET_KEY={}",
    "AWS_SECRET_ACCESS_KEY={}", '{{"password": "{}"}}', "{{'api_key': '{}'}}", "OPENAI_API_KEY={}",
    "http://db/?user=a&password={}&b=c",
    "Authorization: Bearer {}", "authorization: Basic {}", '{{"authorization": "Bearer {}"}}',
    "with bearer {}", "sk-{}", "pk-lf-{}", "Authorization: token {}", "x-api-key: {}", "X-Goog-Api-Key: {}",
)  # fmt: skip


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789_", min_size=10, max_size=40), st.sampled_from(NAMES))
def test_however_a_secret_is_named(secret: str, name: str) -> None:
    said = redacted(f"refused: {name.format(secret)}, try again")
    assert secret not in said
    assert said.startswith("refused: ") and said.endswith("try again")


def test_a_long_token_goes_whole() -> None:
    assert redacted(f"Authorization: Bearer {'ey' * 5_000} and on") == "Authorization: Bearer *** and on"


@pytest.mark.parametrize(
    "text",
    [
        "tenant=acme key=key_9f86d081884c prompt_tokens=911 generated_tokens=48",
        "the header Authorization is missing; an API key is needed",
        "[library] embeddings_key, keys[1].key and key_sha256 are settings",
        "http://127.0.0.1:8000/v1",
        "postgresql://books@db/ledger",
        "user:x@host",
        "the password is wrong",
    ],
)
def test_what_holds_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


PLACES = (
    "[[keys]]\ntenant = 'a'\nkey = [{}]", "[[keys]]\ntenant = 7\nkey = {}",
    "[library]\nembeddings_key = [{}]", "[[keys]]\ntenant = 'a'\nkey_sha256 = {}", "[ledger]\npath = [{}]",
    "[ledger]\npasword = {}",
    "[[keys]]\ntenant = 'a'\nky = {}", "[library]\nembeddings_key = {}\nquota = 'x'",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_wrong_settings_are_refused_without_their_secrets(place: str, tmp_path: Path) -> None:
    config = tmp_path / "stepwell.toml"
    config.write_text(place.format("'geheim7x'"))
    with pytest.raises(BadInput) as refused:
        load(config, None, {})
    assert "geheim7x" not in redacted(str(refused.value))


PASSWORD = "geheim7x"
LEDGER = f"postgresql://books:{PASSWORD}@127.0.0.1:9/ledger?password={PASSWORD}"
SERVER = f"http://user:{PASSWORD}@127.0.0.1:9"
COMMANDS = (
    ["serve", "--check", "--ledger", LEDGER], ["serve", "--check", "--json", "--ledger", LEDGER],
    ["ledger", "statement", "--ledger", LEDGER], ["ledger", "margin", "--json", "-", "--ledger", LEDGER],
    ["ledger", "verify", "--ledger", LEDGER], ["ledger", "export", "x.csv", "--ledger", LEDGER],
    ["why", "x", "--server", SERVER, "--key", f"sk-{PASSWORD}"], ["library", "list", "--server", SERVER],
    ["trace", "trace.jsonl", "--otlp", f"{SERVER}/v1/traces"],
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_says_the_password_of_what_it_does_not_reach(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    (tmp_path / "trace.jsonl").write_text('{"event": "trace", "at_us": 0, "crew": "data"}')
    assert cli.run(command) != 0
    said = "".join(capsys.readouterr())
    assert said and PASSWORD not in said


def test_log_lines_and_their_tracebacks() -> None:
    try:
        raise ValueError("postgresql://books:geheim99@db/ledger")
    except ValueError as error:
        record = logging.LogRecord("x", 30, "f", 1, "failed: %s", ("password=geheim99",), None)
        record.exc_info = (ValueError, error, error.__traceback__)
    assert "geheim99" not in RedactingFormatter("%(message)s").format(record)
