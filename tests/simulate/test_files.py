"""Trace files: every format is recognised, malformed lines are counted, named and refused past a share."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.economics.calibration import read_points
from stepwell.errors import BadInput
from stepwell.recording.file import open_recording
from stepwell.simulate.exchange import write_mooncake, write_sessions
from stepwell.simulate.files import is_recording, read_trace
from stepwell.simulate.generated import generated
from stepwell.simulate.traces import lines_of
from stepwell.simulate.workload import run_length
from stepwell.simulate.workloads import Wanted, times, workload_of

GOOD = {"timestamp": 5, "input_length": 600, "output_length": 3, "hash_ids": [0, 1]}
BAD = {
    "no JSON": "{",
    "a list": "[1]",
    "negative": json.dumps(GOOD | {"input_length": -4}),
    "nothing to read": json.dumps(GOOD | {"input_length": 0}),
    "text": json.dumps(GOOD | {"input_length": "many"}),
    "a bool": json.dumps(GOOD | {"output_length": True}),
    "missing": json.dumps({k: v for k, v in GOOD.items() if k != "timestamp"}),
    "not a number": json.dumps(GOOD | {"timestamp": float("nan")}),
    "endless": json.dumps(GOOD | {"output_length": float("inf")}),
    "names": json.dumps(GOOD | {"hash_ids": ["a"]}),
    "deep": "[" * 100_000,
    "no names": json.dumps(GOOD | {"hash_ids": None}),
    "a name beyond any table": json.dumps(GOOD | {"hash_ids": [10**13, 10**13 + 1]}),
    "a name of no width": json.dumps(GOOD | {"hash_ids": [10**40, 3]}),
    "names that are bools": json.dumps(GOOD | {"hash_ids": [True, False]}),
    "more names than tokens": json.dumps(GOOD | {"input_length": 2, "hash_ids": [1, 2, 3]}),
    "no context is so long": json.dumps(GOOD | {"input_length": 10**15}),
    "no answer is so long": json.dumps(GOOD | {"output_length": 10**9}),
}


def lines(path: Path, *texts: str) -> Path:
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("why", BAD)
def test_a_malformed_line_is_left_out_and_named(tmp_path: Path, why: str) -> None:
    good = [json.dumps(GOOD)] * 30
    found = read_trace(lines(tmp_path / "t.jsonl", *good[:2], BAD[why], *good[2:]))
    assert (found.kind, len(found.records), found.lines) == ("mooncake", 30, 31)
    assert len(found.bad) == 1 and found.bad[0].startswith("line 3: ")
    assert "1 of 31 lines" in found.bad_note()


def test_a_malformed_first_line_does_not_hide_the_format(tmp_path: Path) -> None:
    found = read_trace(lines(tmp_path / "t.jsonl", "{", *[json.dumps(GOOD)] * 30))
    assert found.kind == "mooncake" and found.bad == ["line 1: it is no JSON"]


def test_too_many_malformed_lines_are_refused(tmp_path: Path) -> None:
    file = lines(tmp_path / "t.jsonl", *[json.dumps(GOOD)] * 8, *[BAD["negative"]] * 2)
    with pytest.raises(BadInput, match=r"more than 5% is malformed: 2 of 10 lines.*line 9"):
        read_trace(file)
    assert len(read_trace(file, bad_share=0.2).records) == 8


CALL = {"session_id": "s", "t_ms": 4, "input_length": 80, "output_length": 2, "hash_rle": [[0, 5]]}
ASK = {"t": 0, "type": "n", "in": 90, "out": 3, "input_types": [], "stop": "", "hash_rle": [[0, 5]]}
SESSION = {"id": "a", "requests": [ASK]}
SHAPES = {
    "calls": ("", json.dumps(CALL), [CALL | {"t_ms": -1}, CALL | {"hash_rle": [[0, 0]]}, {"t_ms": 1}, []]),
    "agentic": (
        "",
        json.dumps(SESSION),
        [SESSION | {"requests": []}, SESSION | {"requests": [ASK | {"in": "x"}]}, {"id": 1}, 7],
    ),
    "azure": ("TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:17:03.97,374,44", []),
}
BAD_ROWS = ("yesterday,3,4", "2023-11-16 18:17:03.97,-3,44", "2023-11-16 18:17:03.97,many,44", "2023-11-16")


@pytest.mark.parametrize(
    "runs",
    [[[10**12, 2]], [[1, 10**9]], [[1.5, 2]], [["a", 2]], [[True, 2]], [[3]], [[0, 60], [99, 60]], None, 7],
)
def test_a_run_of_names_that_cannot_be_is_named(tmp_path: Path, runs: object) -> None:
    """One line once took all memory, or all time."""
    for good, bad in (
        (SESSION, SESSION | {"requests": [ASK | {"hash_rle": runs}]}),
        (CALL, CALL | {"hash_rle": runs}),
    ):
        found = read_trace(lines(tmp_path / "t", *[json.dumps(good)] * 30, json.dumps(bad)))
        assert len(found.records) == 30 and found.bad[0].startswith("line 31: hash_rle ")


def test_how_a_request_ended_and_whose_it_is_are_texts(tmp_path: Path) -> None:
    for good, bad, says in (
        (SESSION, SESSION | {"requests": [ASK | {"stop": [1]}]}, "line 31: stop is [1] and no text"),
        (CALL, CALL | {"session_id": None}, "line 31: session_id is None and no name"),
    ):
        found = read_trace(lines(tmp_path / "t", *[json.dumps(good)] * 30, json.dumps(bad)))
        assert found.bad == [says]


def test_a_mark_of_byte_order_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + b"\n".join([json.dumps(GOOD).encode()] * 3))
    assert (len(read_trace(file).records), read_trace(file).bad) == (3, [])


@pytest.mark.parametrize("kind", SHAPES)
def test_every_loader_counts_names_and_refuses(tmp_path: Path, kind: str) -> None:
    head, good, wrong = SHAPES[kind]
    bad = [json.dumps(record) for record in wrong] or list(BAD_ROWS)
    texts, file = [*([head] if head else []), *[good] * 100], tmp_path / "t"
    found = read_trace(lines(file, *texts, *bad))
    assert (found.kind, len(found.records), len(found.bad)) == (kind, 100, 4)
    assert found.bad[0].startswith(f"line {len(texts) + 1}: ") and "4 of 104 lines" in found.bad_note()
    with pytest.raises(BadInput, match="refused, more than 5% is malformed: 8 of 108"):
        read_trace(lines(file, *texts, *bad, *bad))


def test_clients_are_no_workload(tmp_path: Path) -> None:
    client = {
        "category": "c",
        "model": "m",
        "client": 1,
        "window_s": 600,
        "trace": [[0, 2.0, 1, "G", 1.0, 1.0]],
    }
    with pytest.raises(BadInput, match="--arrivals servegen:"):
        workload_of(Wanted(str(lines(tmp_path / "c", json.dumps(client)))))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("hello\n", "no known format"),
        (BAD["negative"] + "\n", "refused"),
        ("{}\n", "no known format"),
    ],
)
def test_what_is_no_trace_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=says):
        read_trace(file)
    with pytest.raises(BadInput, match="no such file or workload"):
        read_trace(tmp_path / "none.jsonl")


def test_a_cut_off_archive_is_one_sentence(tmp_path: Path) -> None:
    whole = gzip.compress(b"\n".join([json.dumps(GOOD).encode()] * 900))
    (tmp_path / "t.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="cannot be read"):
        read_trace(tmp_path / "t.jsonl.gz")


def test_a_damaged_archive_is_one_sentence(tmp_path: Path) -> None:
    """Damage within the stream is no ``OSError``."""
    whole = bytearray(gzip.compress(b"\n".join([json.dumps(GOOD | {"n": n}).encode() for n in range(900)])))
    whole[12:60] = b"\xff" * 48
    file = tmp_path / "t.jsonl.gz"
    file.write_bytes(bytes(whole))
    with pytest.raises(zlib.error):
        gzip.decompress(file.read_bytes())
    with pytest.raises(BadInput, match="cannot be read"):
        read_trace(file)
    with pytest.raises(BadInput, match="is damaged"):
        list(lines_of(tmp_path, file.name))
    with pytest.raises(BadInput, match="is not a Stepwell recording"):
        open_recording(file)
    assert not is_recording(file)
    with pytest.raises(BadInput, match="cannot be read"):
        read_points(file)


def test_azure_shares_nothing_and_begins_at_nought(tmp_path: Path) -> None:
    file = lines(
        tmp_path / "azure.csv",
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2023-11-16 18:15:46.6805900,1374,44",
        "2023-11-16 18:15:50.9951690,396,109",
    )
    workload, _ = workload_of(Wanted(str(file)))
    first, second = (session.turns[0] for session in workload.sessions)
    assert (first.prompt_tokens, first.new_tokens, second.prompt_tokens) == (1374, 44, 396)
    assert [session.start_us // 1000 for session in workload.sessions] == [0, 4314]
    assert first.prompt != second.prompt


def test_calls_become_sessions(tmp_path: Path) -> None:
    rows = [
        {
            "workload": "w",
            "session_id": s,
            "t_ms": t,
            "input_length": n,
            "output_length": 9,
            "hash_rle": [[1, n // 64]],
        }
        for s, t, n in (("a", 0, 128), ("b", 0, 64), ("a", 5000, 192))
    ]
    workload, trace = workload_of(Wanted(str(lines(tmp_path / "c.jsonl", *map(json.dumps, rows)))))
    assert trace is not None and trace.kind == "calls"
    assert sorted(len(session.turns) for session in workload.sessions) == [1, 2]


@given(seed=st.integers(1, 999))
def test_sessions_are_written_and_read_again(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    made = generated(sessions=3, seed=seed)
    file = tmp_path_factory.mktemp("w") / "w.sessions.jsonl"
    assert write_sessions(made, file) == 3
    again = read_trace(file)
    assert again.kind == "agentic" and not again.bad
    for session, record in zip(made.sessions, again.records, strict=True):
        own = [r for r in record["requests"] if r["type"] != "subagent"]
        children = [r for r in record["requests"] if r["type"] == "subagent"]
        assert [r["in"] for r in own] == [session.turns[n].prompt_tokens for n in session.agents[0].turns]
        assert len(children) == len(session.agents) - 1
        assert sum(len(c["requests"]) for c in children) + len(own) == len(session.turns)


def test_mooncake_is_written_and_read_again(tmp_path: Path) -> None:
    made = generated(sessions=4, seed=3)
    count = write_mooncake(made, tmp_path / "w.jsonl")
    workload, trace = workload_of(Wanted(str(tmp_path / "w.jsonl")))
    assert trace is not None and not trace.bad
    assert len(workload.sessions) == count == sum(1 for _ in made.turns())
    lengths = sorted((t.prompt_tokens, t.new_tokens) for t in made.turns())
    assert sorted((t.prompt_tokens, t.new_tokens) for t in workload.turns()) == lengths
    shared = {name for t in workload.turns() for first, n in t.prompt for name in range(first, first + n)}
    assert len(shared) < sum(run_length(t.prompt) for t in workload.turns()), "prefixes are shared"


def test_more_than_there_is_comes_again_under_other_names() -> None:
    made = generated(sessions=3, seed=3)
    more = times(made, 7)
    assert len({session.name for session in more.sessions}) == 7
    assert len({agent.name for session in more.sessions for agent in session.agents}) == sum(
        len(session.agents) for session in more.sessions
    )
    assert [s.turns for s in more.sessions[:3]] == [s.turns for s in more.sessions[3:6]]
    assert times(made, 2) == made
