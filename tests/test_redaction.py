"""No password gets out in a text, whatever it is made of."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.redaction import RedactingFormatter, redacted

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
    "with bearer {}", "sk-{}", "pk-lf-{}",
)  # fmt: skip


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789_", min_size=10, max_size=40), st.sampled_from(NAMES))
def test_however_a_secret_is_named(secret: str, name: str) -> None:
    said = redacted(f"refused: {name.format(secret)}, try again")
    assert secret not in said
    assert said.startswith("refused: ") and said.endswith("try again")


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


def test_log_lines_and_their_tracebacks() -> None:
    try:
        raise ValueError("postgresql://books:geheim99@db/ledger")
    except ValueError as error:
        record = logging.LogRecord("x", 30, "f", 1, "failed: %s", ("password=geheim99",), None)
        record.exc_info = (ValueError, error, error.__traceback__)
    assert "geheim99" not in RedactingFormatter("%(message)s").format(record)
