"""Many readers of ``/v1/watch`` in a process of their own, so that what they compute is not the server's.

``-m stepwell.bench.server.watchers_child URL COUNT`` says ``ready`` once every reader has its first frame,
and how many bytes all of them have read when its input is closed.
"""

from __future__ import annotations

import asyncio
import sys

import httpx2

TIMEOUT_S = 300.0


async def main(url: str, count: int) -> None:
    """Read until told to end."""
    limits = httpx2.Limits(max_connections=count)
    read = [0] * count
    begun = asyncio.Event()

    async def reader(client: httpx2.AsyncClient, number: int) -> None:
        async with client.stream("GET", "/v1/watch") as answer:
            answer.raise_for_status()
            async for piece in answer.aiter_raw():
                read[number] += len(piece)
                if all(read):
                    begun.set()

    async with httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_S, trust_env=False, limits=limits) as client:
        tasks = [asyncio.create_task(reader(client, number)) for number in range(count)]
        if count:
            await begun.wait()
        _say("ready")
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    _say(str(sum(read)))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
