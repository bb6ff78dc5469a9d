"""vLLM's own server as a process of ours: started, watched, started again when it ends, and gone with us.

It listens on loopback with a key that is made for it, so that no program on the machine goes past the front
end. While it is not there requests are answered 503: one that dies takes the turns under way with it, and
nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable

from stepwell.errors import StepwellError
from stepwell.gateway.processes import NodeProcess, Supervisor
from stepwell.gateway.upstream import NodeLost, Upstream
from stepwell.vllm.books import Count

log = logging.getLogger("stepwell.vllm")
ENGINE = "vllm"
"""Its name among the nodes of an ``Upstream``."""
START_S = 900.0
"""How long it may take until it answers: weights are loaded, and graphs are made, from a cold disk."""
LOOK_S = 0.2
HEALTH_S = 5.0
STOP_S = 30.0
LOG_BYTES = 200_000
_ENDINGS = ("Error: ", "Exception: ", "Exit: ")
"""Of the names of Python's errors."""
MEMORY = (
    "vLLM does not say more; on a CPU it wants 92 % of the machine's memory to be free unless "
    "VLLM_CPU_KVCACHE_SPACE (GiB of KV) is set"
)
_COUNTED = re.compile(rb"^vllm:(prompt|generation)_tokens_total\{[^}]*\} (\S+)$", re.MULTILINE)


class EngineProcess:
    """One vLLM server. Lives in the event loop."""

    def __init__(
        self, process: NodeProcess, upstream: Upstream, started: Callable[[], None], secret: str
    ) -> None:
        """``started`` is told of each new life, whose counters begin anew. ``secret``: the engine's key."""
        self._process, self._upstream, self._started = process, upstream, started
        self._headers = [("authorization", f"Bearer {secret}")]
        self._supervisor = Supervisor(process, self._lost, self._again)
        self._tasks: list[asyncio.Task[None]] = []
        self.up = False

    async def start(self) -> None:
        """Returns when it answers. Raises ``StepwellError`` with what it said last."""
        self._process.start()
        self._upstream.urls[ENGINE] = self._process.url
        deadline = time.monotonic() + START_S
        while not await self._answers():
            if not self._process.alive():
                raise StepwellError(f"vLLM has ended while it was starting: {self._why()}")
            if time.monotonic() > deadline:
                raise StepwellError(f"vLLM did not answer within {START_S:.0f} s")
            await asyncio.sleep(LOOK_S)
        self.up = True
        self._tasks = [asyncio.create_task(self._supervisor.run()), asyncio.create_task(self._watch())]

    async def stop(self) -> None:
        self._supervisor.stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._process.stop(STOP_S)
        self.up = False

    async def counted(self, headers: list[tuple[str, str]]) -> Count | None:
        """The tokens that it has counted in this life; None: it does not say."""
        try:
            async with self._upstream.open(ENGINE, "GET", "/metrics", headers) as response:
                data = await response.aread()
        except NodeLost:
            return None
        found = {b"prompt": 0, b"generation": 0}
        for name, value in _COUNTED.findall(data):
            found[name] += int(float(value))
        return Count(found[b"prompt"], found[b"generation"]) if b"vllm:prompt_tokens_total" in data else None

    def _why(self) -> str:
        """vLLM's last line points at an error above, in another process: the first error is the cause."""
        lines = self._process.log_tail(LOG_BYTES).split("\n")
        found = [words for line in lines if (words := _error_in(line))]
        why = next((words for words in found if "See root cause" not in words), self._process.last_words())
        return f"{why} {MEMORY}" if "WorkerProc initialization" in why else why

    def _lost(self) -> None:
        self.up = False
        self._upstream.lose(ENGINE)

    def _again(self) -> None:
        self._started()

    async def _watch(self) -> None:
        """Whether it answers, from one second to the next."""
        while True:
            await asyncio.sleep(1.0 if self.up else LOOK_S)
            self.up = self._process.alive() and await self._answers()

    async def _answers(self) -> bool:
        try:
            opened = self._upstream.open(ENGINE, "GET", "/health", self._headers, timeout_s=HEALTH_S)
            async with opened as response:
                await response.aread()
                return response.status_code == 200
        except NodeLost:
            return False


def _error_in(line: str) -> str:
    """From the name of an error to the end of the line; "" where none is named."""
    for at in sorted(line.find(ending) for ending in _ENDINGS):
        if at > 0 and line[at - 1].isalnum():
            return line[line.rfind(" ", 0, at) + 1 :].strip()
    return ""
