"""The engine as a process: up when it answers, started again when it dies, gone when its parent is."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stepwell.errors import StepwellError
from stepwell.gateway.processes import NodeProcess
from stepwell.gateway.upstream import Upstream
from stepwell.server.run import listen
from stepwell.vllm.books import Count
from stepwell.vllm.child import ENGINE, EngineProcess

ANSWERS = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        data = b'vllm:prompt_tokens_total{e="0"} 7.0\\nvllm:generation_tokens_total{e="0"} 1.2e+03\\n'
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def free_port() -> int:
    with listen("127.0.0.1", 0) as listener:
        port: int = listener.getsockname()[1]
        return port


def node(folder: Path, port: int, script: str) -> NodeProcess:
    command = [sys.executable, "-c", script, str(port)]
    return NodeProcess("vllm", folder, "127.0.0.1", port, dict(os.environ), command)


def test_one_that_dies_is_started_again_and_its_counters_begin_anew(tmp_path: Path) -> None:
    async def acts() -> None:
        upstream, again = Upstream(60.0), asyncio.Event()
        process = node(tmp_path, free_port(), ANSWERS)
        engine = EngineProcess(process, upstream, again.set, "k")
        await engine.start()
        assert engine.up
        assert await engine.counted([]) == Count(7, 1200)
        assert process.pid is not None
        first = process.pid
        os.kill(first, signal.SIGKILL)
        await again.wait()
        while not engine.up:
            await asyncio.sleep(0.05)
        assert process.pid != first
        await engine.stop()
        assert not engine.up
        assert not process.alive()
        assert await engine.counted([]) is None
        await upstream.close()

    asyncio.run(asyncio.wait_for(acts(), 120))


FAR_ABOVE = """
print("(EngineCore pid=7) ERROR 11-30 [core.py:1] ValueError: too few KV blocks for one context")
raise RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")
"""


def test_the_cause_is_said_and_not_that_there_is_one(tmp_path: Path) -> None:
    async def acts() -> None:
        upstream = Upstream(60.0)
        process = node(tmp_path, free_port(), FAR_ABOVE)
        with pytest.raises(StepwellError, match="starting: ValueError: too few KV blocks for one context"):
            await EngineProcess(process, upstream, lambda: None, "k").start()
        await upstream.close()

    asyncio.run(asyncio.wait_for(acts(), 120))


def test_one_that_cannot_start_says_why(tmp_path: Path) -> None:
    async def acts() -> None:
        upstream = Upstream(60.0)
        process = node(tmp_path, free_port(), "raise SystemExit('no such model')")
        with pytest.raises(StepwellError, match="ended while it was starting: no such model"):
            await EngineProcess(process, upstream, lambda: None, "k").start()
        assert ENGINE in upstream.urls
        await upstream.close()

    asyncio.run(asyncio.wait_for(acts(), 120))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise is Linux's")
def test_the_engine_does_not_outlive_a_server_that_is_killed() -> None:
    engine = "import time; print('here', flush=True); time.sleep(600)"
    command = [sys.executable, "-m", "stepwell.vllm.launch", sys.executable, "-c", engine]
    server = f"import subprocess; subprocess.run({command!r})"
    parent = subprocess.Popen([sys.executable, "-c", server], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"here\n"
    parent.kill()
    parent.wait()
    assert parent.stdout.read() == b""  # the end of its output: the last that held it has gone
    parent.stdout.close()
