"""Batches at work: validated, run below everything else, and put into files of answers.

A batch takes what others leave: several lines at once on an idle server, one while other requests are served.
One batch of each tenant runs at a time, so that a long one makes no other tenant wait.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.types import ASGIApp

from stepwell.loop.rarely import Rarely
from stepwell.server.batches.charges import charged_lines, reconcile
from stepwell.server.batches.lines import LineError, ordered, read
from stepwell.server.batches.store import CANCELLED, EXPIRED, Answered, Batch, BatchStore, Pending
from stepwell.server.callers import inner
from stepwell.server.callers.keys import ApiKey
from stepwell.server.service import Service

log = logging.getLogger("stepwell.server")

PAGE = 256
LOOK_S = 0.02
BACK_OFF_S = (0.25, 10.0)
TENANTS_AT_ONCE = 4
BOOKS_PATIENCE_S = 60.0
TRY_AGAIN = frozenset(
    {"rate_limit_exceeded", "flex_unavailable", "server_overloaded", "ledger_unavailable", "overloaded_error"}
)
"""Refusals that pass: a batch waits for them."""
NO_KEY = {"error": {"message": "The key of this batch is gone.", "type": "invalid_request_error"}}
LATE = {"code": "batch_expired", "message": "This request was not run before the batch expired."}
STOPPED = {"code": "batch_cancelled", "message": "This request was not run: the batch was cancelled."}


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Upper bounds."""

    max_bytes: int = 200 * 2**20
    max_lines: int = 50_000
    quota_bytes: int = 2**30
    """Files of one tenant, requests and answers."""
    max_batches: int = 64
    """Of one tenant, that have not ended."""
    at_once: int = 8
    """Lines at once while no other request is served."""


@dataclass(slots=True)
class ServedBatches:
    """All batches of one server. Lives in its event loop, but for the store."""

    store: BatchStore
    limits: BatchLimits = field(default_factory=BatchLimits)
    service_tier: str = ""
    """As what lines run and are charged; empty: as the key's requests do."""
    by_prefix: bool = True
    """Lines that begin alike run one after the other. Off in measurements alone."""
    _service: Service | None = None
    _app: ASGIApp | None = None
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _running: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """By tenant."""
    _stopped: set[str] = field(default_factory=set)
    """Batches that were cancelled since they began."""
    _inside: int = 0
    _supervisor: asyncio.Task[None] | None = None
    _to_reconcile: set[str] = field(default_factory=set)
    _complain: Rarely = field(default_factory=lambda: Rarely(log))

    def start(self, app: ASGIApp, service: Service) -> None:
        """Go on with what is there."""
        self._app, self._service = app, service
        self._to_reconcile = {batch.id for batch in self.store.unfinished()}
        self._supervisor = asyncio.get_running_loop().create_task(self._supervise())

    async def stop(self) -> None:
        """What runs is left as it is, and goes on at the next start."""
        tasks = [task for task in (self._supervisor, *self._running.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self) -> None:
        """There is a new batch, or one was cancelled."""
        self._wake.set()

    def cancel(self, batch: Batch, now_s: int) -> None:
        """Lines under way end; no further one begins."""
        states = ("validating", "in_progress")
        if self.store.mark(batch.id, "cancelling", now_s, only_from=states):
            self._stopped.add(batch.id)
            self.wake()

    @property
    def service(self) -> Service:
        assert self._service is not None
        return self._service

    # --- which batch --------------------------------------------------------------------------

    async def _supervise(self) -> None:
        while True:
            self._wake.clear()
            for batch in await asyncio.to_thread(self.store.unfinished):
                task = self._running.get(batch.tenant)
                if (task is None or task.done()) and self._busy() < TENANTS_AT_ONCE:
                    made = asyncio.get_running_loop().create_task(self._one(batch))
                    self._running[batch.tenant] = made
            await self._wake.wait()

    def _busy(self) -> int:
        return sum(not task.done() for task in self._running.values())

    async def _one(self, batch: Batch) -> None:
        try:
            await self._advance(batch)
        except Exception as error:  # noqa: BLE001
            self._complain.warning(self._now_us(), f"batch {batch.id} cannot go on", error)
            await asyncio.sleep(BACK_OFF_S[1])
        finally:
            asyncio.get_running_loop().call_soon(self.wake)

    async def _advance(self, batch: Batch) -> None:
        """From where it is to its end."""
        if batch.status == "validating":
            await asyncio.to_thread(self._validate, batch)
            found = self.store.get(None, batch.id)
            if found is None or found.ended:
                return
            batch = found
        if batch.id in self._to_reconcile:
            await self._reconcile(batch)
            self._to_reconcile.discard(batch.id)
        if batch.status == "in_progress":
            await self._run_lines(batch)
        await self._finish(batch)

    def _validate(self, batch: Batch) -> None:
        if batch.input_file is None:  # Anthropic's come with their lines
            self.store.mark(batch.id, "in_progress", self._now_s(), only_from=("validating",))
            return
        try:
            data = self.store.path(batch.input_file).read_bytes()
        except OSError:
            errors = [LineError("file_not_found", "The input file is gone.", "input_file_id")]
            self._fail(batch, errors)
            return
        models = sorted(self.service.models)
        lines, errors = read(data, batch.endpoint, models, self.limits.max_lines)
        if errors:
            self._fail(batch, errors)
            return
        self.store.put_lines(batch.id, lines, ordered(lines, by_prefix=self.by_prefix))
        model = json.loads(lines[0].body)["model"]
        self.store.mark(batch.id, "in_progress", self._now_s(), only_from=("validating",), model=model)

    def _fail(self, batch: Batch, errors: Sequence[LineError]) -> None:
        said = json.dumps([one.shown() for one in errors])
        self.store.mark(batch.id, "failed", self._now_s(), only_from=("validating",), errors=said)

    # --- its lines ----------------------------------------------------------------------------

    async def _run_lines(self, batch: Batch) -> None:
        key = self._key(batch)
        tasks: set[asyncio.Task[None]] = set()
        rank = -1
        try:
            while not self._over(batch):
                page = await asyncio.to_thread(self.store.pending, batch.id, rank, PAGE)
                if not page:
                    break
                for at, line in page:
                    rank = at
                    await self._room(batch)
                    if self._over(batch):
                        break
                    task = asyncio.get_running_loop().create_task(self._line(batch, line, key))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                    if line.leader:  # what it shares with the next ones is computed before they begin
                        await asyncio.wait({task})
            if tasks:
                await asyncio.wait(set(tasks))
        finally:
            for task in tasks:
                task.cancel()

    def _over(self, batch: Batch) -> bool:
        return batch.id in self._stopped or self._now_s() >= batch.expires_at

    async def _room(self, batch: Batch) -> None:
        """Until one more line may run."""
        while not self._over(batch):
            others = self.service.gate.inside - self._inside
            if self._inside < (self.limits.at_once if others <= 0 else 1) and not self.service.draining:
                self._inside += 1
                return
            await asyncio.sleep(LOOK_S)

    async def _line(self, batch: Batch, line: Pending, key: ApiKey | None) -> None:
        """Run it until there is an answer that counts; one that passes is asked again later."""
        pause_s = BACK_OFF_S[0]
        try:
            while True:
                status, text, request = await self._ask(batch, line, key)
                if not (status in (429, 503, 529) and _passes(text)):
                    self.store.answer(batch.id, line.number, status, request, text)
                    return
                if self._over(batch):
                    return
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, BACK_OFF_S[1])
        finally:
            self._inside -= 1

    async def _ask(self, batch: Batch, line: Pending, key: ApiKey | None) -> tuple[int, str, str]:
        if key is None:
            return 401, json.dumps(NO_KEY), ""
        assert self._app is not None
        body = json.loads(line.body)
        body.pop("service_tier", None)
        headers = {
            "x-session-id": batch.id,
            "x-agent-id": f"{line.number:06d}",
            "x-agent-name": "batch",
            "x-session-final": "true",
        }
        if batch.tenant != key.tenant:
            headers["openai-project"] = batch.tenant.removeprefix(f"{key.tenant}/")
        answered = await inner.post(self._app, batch.endpoint, json.dumps(body).encode(), key, headers)
        return answered[0], answered[1].decode("utf-8", "replace"), answered[2]

    def _key(self, batch: Batch) -> ApiKey | None:
        """The key that it came with, as far as it still counts, below everything that it may do."""
        key = self.service.keys.by_id(batch.key, batch.tenant)
        if key is None:
            return None
        tier = self.service_tier or key.default_service_tier
        return replace(
            key,
            service_tiers=(tier,),
            default_service_tier=tier,
            operator=False,
            max_concurrent_requests=None,
        )

    # --- its end ------------------------------------------------------------------------------

    async def _finish(self, batch: Batch) -> None:
        stopped = batch.status == "cancelling" or batch.id in self._stopped
        late = not stopped and self._now_s() >= batch.expires_at
        if not (stopped or late):
            self.store.mark(batch.id, "finalizing", self._now_s())
        self.store.give_up(batch.id, CANCELLED if stopped else EXPIRED)
        await self._in_the_books(batch)
        files = await asyncio.to_thread(self._files, batch) if batch.face == "openai" else {}
        end = "cancelled" if stopped else "expired" if late else "completed"
        self.store.mark(batch.id, end, self._now_s(), **files)
        self._stopped.discard(batch.id)

    def _files(self, batch: Batch) -> dict[str, Any]:
        """A file of answers and one of errors; None for one that would be empty."""
        made: dict[str, Any] = {}
        for name, wanted in (("output", True), ("error", False)):
            rows = (_row(one) for one in self.store.every_answer(batch.id) if one.succeeded is wanted)
            filename = f"{batch.id}_{name}.jsonl"
            file = self.store.write_file(batch.tenant, filename, rows, "batch_output", self._now_s())
            made[f"{name}_file"] = None if file is None else file.id
        return made

    async def _in_the_books(self, batch: Batch) -> None:
        """Until the charges of its lines are written: only then no kill can separate the two. A ledger that
        cannot be written holds a batch up for a while, and not for ever."""
        ledger, give_up_us = self.service.ledger, self._now_us() + int(BOOKS_PATIENCE_S * 1e6)
        if ledger is None:
            return
        while ledger.owes(batch.id) and self._now_us() < give_up_us:
            await asyncio.sleep(LOOK_S)
        await asyncio.to_thread(ledger.flush)

    async def _reconcile(self, batch: Batch) -> None:
        books, ledger = self.service.books, self.service.ledger
        if books is None or ledger is None or batch.status == "validating":
            return
        charged = await books.ask(charged_lines, batch.id)
        now_us = int(self.service.now_s() * 1e6)
        again = await asyncio.to_thread(reconcile, ledger, charged, batch, self.store, now_us)
        if again:
            log.warning("batch %s: %d lines were cut off by the last end and run again", batch.id, again)

    def _now_s(self) -> int:
        return int(self.service.now_s())

    def _now_us(self) -> int:
        return self.service.driver.now_us()


def _passes(text: str) -> bool:
    try:
        error = json.loads(text)["error"]
        return bool({error.get("code"), error.get("type")} & TRY_AGAIN)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _row(one: Answered) -> bytes:
    """A line of OpenAI's files of answers."""
    if one.answer is None:
        response, error = None, LATE if one.state == EXPIRED else STOPPED
    else:
        try:
            body = json.loads(one.answer)
        except ValueError:
            body = {"error": {"message": one.answer[:500]}}
        response, error = {"status_code": one.status, "request_id": one.request, "body": body}, None
    row = {
        "id": f"batch_req_{one.number:06d}",
        "custom_id": one.custom_id,
        "response": response,
        "error": error,
    }
    return json.dumps(row, ensure_ascii=False).encode()
