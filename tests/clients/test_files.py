"""The openai package, unmodified, uploads, lists, reads, attaches and deletes files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stepwell.server.callers.keys import KeyEntry, KeyRing
from stepwell.server.run import BackgroundServer
from tests.server.fakes import MODEL
from tests.server.libraries import library_node

openai = pytest.importorskip("openai")


def api(server: BackgroundServer, key: str = "none") -> Any:
    return openai.OpenAI(base_url=server.base_url + "/v1", api_key=key, max_retries=0)


def test_the_life_of_a_file(tmp_path: Path) -> None:
    with library_node(tmp_path) as server, api(server) as client:
        made = [
            client.files.create(file=(f"n{n}.md", f"# Note {n}\n".encode()), purpose="user_data")
            for n in range(5)
        ]
        assert made[0].object == "file"
        assert (made[0].filename, made[0].bytes, made[0].status) == ("n0.md", 9, "processed")
        assert client.files.retrieve(made[1].id) == made[1]
        assert client.files.content(made[2].id).read() == b"# Note 2\n"
        listed = [file.id for file in client.files.list(limit=2)]  # pages follow by themselves
        assert listed == [file.id for file in reversed(made)]
        rising = [file.id for file in client.files.list(limit=3, order="asc", purpose="user_data")]
        assert rising == [file.id for file in made]
        assert client.files.delete(made[0].id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(made[0].id)
        with pytest.raises(openai.BadRequestError, match="empty"):
            client.files.create(file=("none.txt", b""), purpose="user_data")


def test_a_file_is_attached_in_chat_and_in_responses(tmp_path: Path) -> None:
    with library_node(tmp_path) as server, api(server) as client:
        file = client.files.create(file=("well.txt", b"The well is deep. " * 50), purpose="user_data")
        parts = [{"type": "text", "text": "How deep?"}, {"type": "file", "file": {"file_id": file.id}}]
        chat = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": parts}], max_tokens=2
        )
        inputs = [
            {"type": "input_text", "text": "How deep?"},
            {"type": "input_file", "file_id": file.id},
        ]
        response = client.responses.create(
            model=MODEL, input=[{"role": "user", "content": inputs}], max_output_tokens=2
        )
        assert chat.usage.prompt_tokens == response.usage.input_tokens > 900
        assert response.usage.input_tokens_details.cached_tokens > 800


def test_a_stranger_finds_nothing_and_a_full_quota_is_no_retry(tmp_path: Path) -> None:
    keys = KeyRing([KeyEntry("acme", "sk-a"), KeyEntry("blue", "sk-b")])
    with (
        library_node(tmp_path, keys, quota_bytes=1_000) as server,
        api(server, "sk-a") as acme,
        api(server, "sk-b") as blue,
    ):
        file = acme.files.create(file=("a.txt", b"a" * 900), purpose="user_data")
        assert list(blue.files.list()) == []
        for ask in blue.files.retrieve, blue.files.content, blue.files.delete:
            with pytest.raises(openai.NotFoundError):
                ask(file.id)
        with pytest.raises(openai.PermissionDeniedError, match="remove files first"):
            acme.files.create(file=("b.txt", b"b" * 900), purpose="user_data")
        blue.files.create(file=("b.txt", b"b" * 900), purpose="user_data")
