"""Two nodes of llama.cpp, one after the other, with a disk each and one object store: as served."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.commands.test_serve import WITHOUT_SETTINGS, served

pytest.importorskip("obstore")

PROMPT = "The stepwell of the village has seven storeys and a long story. " * 20


@contextmanager
def node(disk: Path, objects: Path, *flags: str, engine: str = "llamacpp") -> Iterator[httpx2.Client]:
    """Until the block ends; then it is told to stop, and has stopped."""
    places = ("--ledger", "none", "--disk-dir", str(disk), "--objects", str(objects), "--objects-kv", "1GiB")
    sizes = ("--disk-kv", "256MiB", "--host-kv", "64MiB")
    with served(*flags, *places, *sizes, engine=engine) as (process, url, _):
        with httpx2.Client(base_url=url, timeout=300.0, trust_env=False) as client:
            yield client
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0


def ask(client: httpx2.Client, prompt: str = PROMPT, **more: Any) -> tuple[str, int]:
    """The answer, and how many of its prompt's tokens were found."""
    model = client.get("/v1/models").json()["data"][0]["id"]
    body = {"model": model, "prompt": prompt, "max_tokens": 12, "temperature": 0, **more}
    answer = client.post("/v1/completions", json=body, headers={"x-session-id": "s", "x-agent-id": "a"})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    return said["choices"][0]["text"], said["usage"]["prompt_tokens_details"]["cached_tokens"]


def flip_a_bit_of_every_object(objects: Path) -> int:
    found = sorted(objects.glob("kv1/*.kv"))
    for one in found:
        data = bytearray(one.read_bytes())
        data[len(data) - 5_000] ^= 4
        one.write_bytes(data)
    return len(found)


def test_an_agent_goes_on_at_another_node_when_the_first_and_its_disk_are_gone(
    smollm2_path: Path, tmp_path: Path
) -> None:
    objects, model = tmp_path / "objects", ("--model", str(smollm2_path), "--context-tokens", "1024")
    with node(tmp_path / "a", objects, *model) as a:
        first, cached = ask(a)
        assert cached == 0
    shutil.rmtree(tmp_path / "a")
    assert len(list(objects.glob("kv1/*.kv"))) >= 4
    with node(tmp_path / "b", objects, *model) as b:
        again, cached = ask(b)
        assert again == first
        assert cached >= 192
    assert flip_a_bit_of_every_object(objects) >= 4
    with node(tmp_path / "c", objects, *model) as c:
        rotten, cached = ask(c)
        assert rotten == first
        assert cached == 0


def test_tenants_find_nothing_of_each_other(tmp_path: Path) -> None:
    keys = tmp_path / "stepwell.toml"
    keys.write_text(
        '[[keys]]\nkey = "sk-one"\ntenant = "one"\n[[keys]]\nkey = "sk-two"\ntenant = "two"\n',
        encoding="utf-8",
    )
    flags = ("--config", str(keys))
    with node(tmp_path / "a", tmp_path / "objects", *flags, engine="null") as a:
        a.headers["authorization"] = "Bearer sk-one"
        assert ask(a)[1] == 0
    with node(tmp_path / "b", tmp_path / "objects", *flags, engine="null") as b:
        b.headers["authorization"] = "Bearer sk-two"
        assert ask(b)[1] == 0
        b.headers["authorization"] = "Bearer sk-one"
        assert ask(b)[1] >= 128


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--disk-kv", "0"), "objects: a node shares what lies on its disk: give it some (--disk-kv)"),
        (("--objects", "ftp://nowhere/kv"), "is no object store: write s3://bucket/folder"),
    ],
)
def test_what_cannot_be_shared_is_one_sentence(flags: tuple[str, ...], says: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stepwell", "serve", "--engine", "null", "--port", "0"]
    given = ["--disk-dir", str(tmp_path / "kv"), *flags]
    given += [] if "--objects" in flags else ["--objects", str(tmp_path / "objects")]
    done = subprocess.run(
        [*command, *given], capture_output=True, text=True, env=WITHOUT_SETTINGS, timeout=120, check=False
    )
    assert done.returncode == 2
    assert says in done.stderr, json.dumps(done.stderr)
