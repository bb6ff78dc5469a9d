"""``stepwell run --library`` over real servers of ours, on the null engine: what is attached, what is not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.agents.served import served
from tests.server.libraries import CONFIG, LIMITS, library_node, uploaded

from stepwell import cli
from stepwell.server.run import BackgroundServer

CREW = """
[crew]
name = "shelf"
entry = "planner"
drop = ["planner", "writer"]
[roles.planner]
may_spawn = ["reader"]
splits = false
[roles.reader]
instructions = "{instructions}"
samples = 3
max_tokens = 4
"""
SHORT = "A queen paid for the well at Patan, in memory of her husband. " * 40
LONG = "Seven steps lead down to the water, and seven lead up to the road. " * 80
BEGINS = '<document name="{}">'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for name, instructions in (("shelf", "Answer."), ("other", "Say it in few words.")):
        (tmp_path / f"{name}.toml").write_text(CREW.format(instructions=instructions))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BackgroundServer]:
    with library_node(tmp_path / "served", config=replace(CONFIG, answer=b"yes")) as node:
        yield node


def turns(*flags: str, crew: str = "shelf.toml", code: int = 0) -> list[dict[str, Any]]:
    """The usage of every turn of a run."""
    trace = Path("trace.jsonl")
    trace.unlink(missing_ok=True)
    assert cli.run(["run", crew, "--ask", "Who paid?", "--trace", str(trace), *flags]) == code
    events = [json.loads(line) for line in trace.read_text().splitlines()] if trace.exists() else []
    return [event["usage"] for event in events if event["event"] == "turn_ended"]


def computed(usages: list[dict[str, Any]]) -> int:
    return sum(one["prompt_tokens"] - one["cached_tokens"] for one in usages)


def test_a_short_document_is_computed_once_for_all_agents_of_all_runs(
    server: BackgroundServer, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = uploaded(server, "well.txt", SHORT)["tokens"]
    flags = ["--library", "well.txt", "--server", server.base_url]
    first = turns(*flags)
    assert f"well.txt is attached for roles that read: {tokens:,} tokens." in capsys.readouterr().err
    assert len(first) == 3
    assert min(one["prompt_tokens"] for one in first) > tokens
    assert tokens < computed(first) < 1.5 * tokens
    # Another crew, whose readers are told something else: their prompts begin alike.
    second = turns(*flags, crew="other.toml")
    assert min(one["cached_tokens"] for one in second) > 0.9 * tokens


def test_what_is_too_long_is_read_in_passages_beside_what_is_attached(
    server: BackgroundServer, capsys: pytest.CaptureFixture[str]
) -> None:
    short, long = (
        uploaded(server, name, text)["tokens"] for name, text in (("well.txt", SHORT), ("steps.txt", LONG))
    )
    assert short < CONFIG.context_tokens // 2 < long
    usages = turns("--library", "steps.txt", "--library", "well.txt", "--server", server.base_url)
    said = capsys.readouterr().err
    room = CONFIG.context_tokens // 2
    assert (
        f"steps.txt has {long:,} tokens, more than the {room:,} that are left for documents: passages" in said
    )
    assert "well.txt is attached" in said
    assert all(short < one["prompt_tokens"] < short + long for one in usages)
    assert min(one["prompt_tokens"] for one in usages) > short + 500  # two passages of it


def test_one_may_insist_or_forbid(server: BackgroundServer, capsys: pytest.CaptureFixture[str]) -> None:
    short = uploaded(server, "well.txt", SHORT)["tokens"]
    uploaded(server, "steps.txt", LONG)
    uploaded(server, "twice.txt", LONG + LONG)
    at = ["--server", server.base_url, "--attach"]
    assert max(one["prompt_tokens"] for one in turns("--library", "well.txt", *at, "never")) < short
    assert turns("--library", "steps.txt", *at, "always")[0]["cached_tokens"] >= 0
    assert "steps.txt is attached" in capsys.readouterr().err
    turns("--library", "twice.txt", *at, "always", code=2)
    assert "--attach always: twice.txt has" in capsys.readouterr().err
    turns(*at, "always", code=2)
    assert "--attach always: there is no document of the library" in capsys.readouterr().err


def test_agents_of_a_resumed_session_have_it_too(
    server: BackgroundServer, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = uploaded(server, "well.txt", SHORT)["tokens"]
    crew = (home / "shelf.toml").read_text()
    (home / "shelf.toml").write_text(crew + "[crew.limits]\nconcurrent = 1\ntokens = 1\n")
    flags = ["--library", "well.txt", "--server", server.base_url]
    assert len(turns(*flags, code=1)) == 1
    session = re.findall(r"--resume (\S+)", capsys.readouterr().err)[0]
    (home / "shelf.toml").write_text(crew + "[crew.limits]\nconcurrent = 1\n")
    assert cli.run(["run", "shelf.toml", "--resume", session, "--trace", "more.jsonl", *flags]) == 0
    events = [json.loads(line) for line in (home / "more.jsonl").read_text().splitlines()]
    later = [event["usage"] for event in events if event["event"] == "turn_ended"]
    assert len(later) == 2
    assert min(one["cached_tokens"] for one in later) > 0.9 * tokens


def test_servers_of_its_own_attach_documents_of_the_library_here(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEPWELL_ENGINE_KIND", "null")
    (home / "well.txt").write_text(SHORT)
    assert cli.run(["library", "add", "well.txt"]) == 0
    usages = turns("--library", "well.txt")
    assert "well.txt is attached for roles that read: " in capsys.readouterr().err
    assert computed(usages) < 1.5 * len(SHORT)
    assert min(one["prompt_tokens"] for one in usages) > len(SHORT)


def test_a_server_that_is_not_ours_is_given_passages_and_one_line_says_so(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "well.txt").write_text(SHORT)
    assert cli.run(["library", "add", "well.txt"]) == 0
    with served(lambda body: "A queen.") as other:
        assert len(turns("--library", "well.txt", "--server", other.url)) == 3
        said = capsys.readouterr().err
        assert said.count("not attached") == 1
        assert f"{other.url} keeps no documents: well.txt comes from the library here, not attached." in said
        assert all(text.startswith("Passages:\nA queen paid") for text in other.said("user"))
        turns("--library", "well.txt", "--server", other.url, "--attach", "always", code=2)
    assert "--attach always: " in capsys.readouterr().err


def test_readers_on_another_server_than_the_document_have_passages(
    server: BackgroundServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uploaded(server, "well.txt", SHORT)
    with library_node(tmp_path / "second", limits=LIMITS, config=replace(CONFIG, answer=b"no")) as second:
        text = (tmp_path / "shelf.toml").read_text()
        (tmp_path / "apart.toml").write_text(text + 'model = "elsewhere"\n')
        flags = ["--server", f"here={server.base_url}", "--server", f"elsewhere={second.base_url}"]
        usages = turns("--library", "well.txt", *flags, "--model", "here", crew="apart.toml")
        said = capsys.readouterr().err
        assert f"well.txt is not in the library of {second.base_url}: passages are given" in said
    assert len(usages) == 3
