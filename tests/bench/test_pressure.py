"""Pressure: the verdicts follow from the samples, failures included; the client measures what it says."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from rich.console import Console

from stepwell.bench.client import TurnSample, complete, run_clients
from stepwell.bench.server import pressure
from stepwell.bench.server.pressure import ArmResult, verdicts
from stepwell.bench.servers import ServerArm, llama_server, our_server, running
from stepwell.bench.workload import Pressure, next_prompt
from stepwell.console.progress import ticker
from stepwell.console.report import Report, Verdict
from stepwell.errors import BadInput, StepwellError

SMALL = Pressure(agents=3, turns=2, clients=2, document_words=5, role_words=5, output_tokens=4)


def sample(turn: int, ttft_s: float, error: str | None = None) -> TurnSample:
    return TurnSample(0, turn, 0.0, ttft_s, ttft_s + 0.1, 100, 40, 16, "text", error)


def result(name: str, total_s: float, ttft_s: float, *, ours: bool = True) -> ArmResult:
    samples = [sample(0, 5.0), sample(1, ttft_s), sample(2, ttft_s), sample(3, ttft_s)]
    return ArmResult(ServerArm(name, ("x",), 1, ours, 8192), [total_s], samples)


def judged(*results: ArmResult) -> list[Verdict]:
    return verdicts([8192], 65536, results)


ROOMY = result("stepwell everybody (65,536)", 20.0, 0.1)


def test_all_three_targets_reached() -> None:
    ours, peer = result("stepwell 8,192", 20.5, 0.2), result("llama.cpp 8,192", 60.0, 4.0, ours=False)
    found = judged(ours, ROOMY, peer)
    assert [verdict.reached for verdict in found] == [True, True, True]
    assert [verdict.measured for verdict in found] == pytest.approx([1.025, 0.05, 20.5 / 60])


def test_each_target_can_be_missed_alone() -> None:
    peer = result("llama.cpp 8,192", 60.0, 4.0, ours=False)
    slow = result("stepwell 8,192", 22.0, 0.2)
    late = result("stepwell 8,192", 20.0, 0.81)
    long = result("stepwell 8,192", 31.0, 0.2)
    assert [v.reached for v in judged(slow, ROOMY, peer)] == [False, True, True]
    assert [v.reached for v in judged(late, ROOMY, peer)] == [True, False, True]
    assert [v.reached for v in judged(long, replace(ROOMY, totals_s=[31.0]), peer)] == [True, True, False]


def test_first_turns_do_not_count_as_later_ones() -> None:
    one = result("stepwell 8,192", 20.0, 0.2)
    assert one.ttft_s(later_turns=False, percent=50) == 5.0
    assert one.ttft_s(later_turns=True, percent=95) == pytest.approx(0.2)


def test_a_turn_of_ours_that_failed_misses_every_target() -> None:
    ours, peer = result("stepwell 8,192", 1.0, 0.0), result("llama.cpp 8,192", 60.0, 4.0, ours=False)
    ours.samples.append(sample(1, 0.0, "HTTP 500"))
    assert [verdict.reached for verdict in judged(ours, ROOMY, peer)] == [False, False, False]


def test_a_peer_that_failed_or_was_not_asked_for_gives_no_verdict() -> None:
    peer = result("llama.cpp 8,192", 60.0, 4.0, ours=False)
    peer.error = "it did not start"
    ours = result("stepwell 8,192", 20.0, 0.2)
    assert [verdict.reached for verdict in judged(ours, ROOMY, peer)] == [True, None, None]
    assert [verdict.reached for verdict in judged(ours, ROOMY)] == [True, None, None]


def test_the_median_of_the_rounds_is_quoted() -> None:
    ours = result("stepwell 8,192", 20.0, 0.2)
    ours.totals_s = [20.0, 99.0, 21.0]
    assert ours.total_s == 21.0


@pytest.mark.parametrize("text", ["", "x", "100", "8192;4096", "-5"])
def test_sizes_that_make_no_sense_are_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(BadInput, match="--device-kv-tokens"):
        pressure.main(quick=True, flags=pressure.PressureFlags(device_kv_tokens=text))


@pytest.mark.parametrize(
    ("model", "flags"),
    [
        ("null", {"host_kv": "3x"}),
        ("null", {"disk_kv": "lots"}),
        ("no-such.gguf", {}),
        ("null", {"restarted": True}),
    ],
)
def test_bad_flags_are_one_sentence_before_anything_starts(model: str, flags: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        pressure.main(quick=True, model=model, flags=pressure.PressureFlags(**flags))


# --- the commands -----------------------------------------------------------------------------


def test_both_servers_get_the_same_memory_and_threads(tmp_path: Path) -> None:
    ours = our_server(
        "a", "gemma3", device_kv_tokens=8192, host_kv="8GiB", disk_kv="0", disk_dir=tmp_path, threads=2
    )
    flags = dict(zip(ours.command[4::2], ours.command[5::2], strict=True))
    assert flags["--device-kv-tokens"] == "8192"
    assert flags["--host-kv"] == "8GiB"
    assert flags["--threads"] == "2"
    options = json.loads(peer_arm(tmp_path, None).command[-1])
    assert (options["n_ctx"], options["cache_ram_mib"], options["threads"]) == (8192, 8192, 2)


def test_a_binary_gets_the_same_settings_as_the_package(tmp_path: Path) -> None:
    command = " ".join(peer_arm(tmp_path, tmp_path / "llama-server").command)
    for words in ("-c 8192", "-np 4", "--cache-ram 8192", "-t 2", "-fa on", "--kv-unified", "127.0.0.1"):
        assert words in command
    assert "--swa-full" not in command


def peer_arm(path: Path, binary: Path | None) -> ServerArm:
    return llama_server(
        "b",
        path,
        device_kv_tokens=8192,
        parallel=4,
        cache_ram_mib=8192,
        threads=2,
        binary=binary,
        tuned=False,
    )


def test_a_server_that_ends_at_once_is_named_with_its_last_words() -> None:
    import sys

    arm = ServerArm("doomed", (sys.executable, "-c", "print('no such model')"), 1, True, 0)
    with pytest.raises(StepwellError, match=r"doomed ended before it was ready: no such model"), running(arm):
        pass


# --- the client -------------------------------------------------------------------------------


class FakeServer(BaseHTTPRequestHandler):
    """Speaks just enough of the completions API; the class attributes say how it misbehaves."""

    prompts: list[str]
    status = 200
    broken = ""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).prompts.append(body["prompt"])
        self.send_response(self.status)
        self.end_headers()
        if self.status != 200:
            self.wfile.write(b'{"error": {"message": "nothing here"}}')
            return
        for event in self.events(body):
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()
        if self.broken != "no end":
            self.wfile.write(b"data: [DONE]\n\n")

    def events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        assert body["stream"]
        assert body["temperature"] == 0
        yield {"choices": [{"text": ""}]}
        yield {"choices": [{"text": " it"}]}
        if self.broken == "error":
            yield {"error": {"message": "lost"}}
        yield {"choices": [{"text": " rose"}]}
        if self.broken != "no usage":
            details = {"cached_tokens": 7}
            usage = {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": details}
            yield {"choices": [], "usage": usage}

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def serving(**behaviour: Any) -> Iterator[tuple[str, list[str]]]:
    handler = type("Handler", (FakeServer,), {"prompts": [], **behaviour})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", handler.prompts  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(url: str) -> TurnSample:
    with httpx2.Client(base_url=url, trust_env=False) as http:
        return complete(http, "m", "Tell", 2, "pressure-3", turn=1)


def test_the_client_reads_text_usage_and_cached_tokens() -> None:
    with serving() as (url, _):
        found = ask(url)
    assert (found.text, found.error, found.agent, found.turn) == (" it rose", None, 3, 1)
    assert (found.prompt_tokens, found.cached_tokens, found.output_tokens) == (10, 7, 2)
    assert 0 < found.ttft_s <= found.e2e_s


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ({"status": 429}, "HTTP 429"),
        ({"broken": "error"}, "lost"),
        ({"broken": "no end"}, "without"),
        ({"broken": "no usage"}, "no usage"),
    ],
)
def test_whatever_goes_wrong_is_a_failed_sample(behaviour: dict[str, Any], words: str) -> None:
    with serving(**behaviour) as (url, _):
        error = ask(url).error
    assert error is not None
    assert words in error


def test_nobody_there_is_a_failed_sample_too() -> None:
    assert ask("http://127.0.0.1:9").error is not None


def test_clients_run_every_turn_and_carry_answers_over() -> None:
    seen: list[TurnSample] = []
    with serving() as (url, prompts):
        samples, total_s = run_clients(url, "m", SMALL, seen.append)
    assert sorted((s.agent, s.turn) for s in samples) == [(a, t) for a in range(3) for t in range(2)]
    assert len(seen) == len(samples) == len(prompts)
    assert total_s > 0
    first = next_prompt(SMALL, 1, 0, "")
    assert next_prompt(SMALL, 1, 1, first + " it rose") in prompts


def test_turn_two_of_nobody_comes_before_turn_one_of_all_of_a_clients_agents() -> None:
    with serving() as (url, _):
        samples, _ = run_clients(url, "m", replace(SMALL, clients=1))
    assert [sample.turn for sample in samples] == [0, 0, 0, 1, 1, 1]


# --- our own server as a child process -----------------------------------------------------------


def test_our_arms_end_to_end_on_the_null_engine(tmp_path: Path) -> None:
    """Real servers, real HTTP: tokens are counted where they came from, and every turn succeeds."""
    plan = pressure._Plan(
        model="null",
        sizes=(512,),
        everybody_tokens=4096,
        host_kv="8MiB",
        disk_kv="64MiB",
        peer=False,
        peer_binary=None,
        peer_tuned=False,
        restarted=True,
        threads=1,
        clients=2,
        agents=3,
    )
    workload = Pressure(agents=3, turns=2, clients=2, document_words=8, role_words=30, output_tokens=4)
    with ticker() as progress:
        small, again, roomy, roomy_again = results = pressure._measure(plan, workload, 1, progress)
    assert small.error is None
    assert roomy.error is None
    assert small.usable
    assert roomy.usable
    assert len(small.samples) == 6
    prompt_tokens = sum(sample.prompt_tokens for sample in small.samples)
    assert sum(small.tokens_by_source.values()) == prompt_tokens
    assert roomy.tokens_by_source["device"] > 0
    report = Report("pressure", {})
    pressure.fill(report, plan, workload, 1, results)
    assert report.verdicts[0].measured is not None
    assert len(report.samples) == 24
    assert again.usable and again.arm.name == "stepwell 512, restarted"
    assert again.tokens_by_source["disk"] > 0, "what the first start left"
    assert report.verdicts[-1].target.startswith("512 tokens, restarted")
    assert report.verdicts[-1].measured == pytest.approx(again.total_s / roomy_again.total_s)


def test_the_null_engine_has_no_peer() -> None:
    with pytest.raises(BadInput, match="--peer"):
        pressure.main(model="null", flags=pressure.PressureFlags(peer=True))


# --- figures -------------------------------------------------------------------------------------


def test_metrics_are_summed_by_source() -> None:
    text = (
        "# HELP x y\n"
        'stepwell_prompt_tokens_total{source="host"} 5.0\n'
        'stepwell_prompt_tokens_total{source="disk"} 2.0\n'
        "stepwell_recomputed_tokens_total 3.0\n"
    )
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, text=text))
    with httpx2.Client(base_url="http://x", transport=transport) as http:
        found = pressure._metrics(http)
    assert found["stepwell_prompt_tokens_total:host"] == 5.0
    assert found["stepwell_recomputed_tokens_total"] == 3.0
    one = result("stepwell 8,192", 1.0, 0.1)
    pressure._note_sources(one, {}, found)
    assert one.tokens_by_source == {"computed": 0, "device": 0, "host": 5, "disk": 2}


def test_the_table_shows_failed_arms_without_figures() -> None:
    broken = result("llama.cpp 2,048", 1.0, 0.1, ours=False)
    broken.error = "it did not start"
    console = Console(record=True, width=200, file=io.StringIO())
    for shown in pressure._tables([ROOMY, broken]):
        console.print(shown)
    line = next(line for line in console.export_text().splitlines() if "llama.cpp" in line)
    assert "1.0" not in line
    assert "all" in line
    assert any("it did not start" in note for note in pressure._notes([broken]))
