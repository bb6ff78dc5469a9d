"""One of several models of a server: its loop, and whether its weights are in memory.

    loaded --> leaving --> unloaded --> loading --> loaded
    any of them --> broken

While it is not loaded its requests are held in its inbox. Before its memory is given back its KV goes down to
the host, to disk where the host is full, and is lost only where neither has room.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field

from stepwell.engines.base import EngineError
from stepwell.engines.reloadable import ReloadableEngine
from stepwell.errors import StepwellError
from stepwell.loop.driver import Driver
from stepwell.loop.snapshot import ModelView, Snapshot
from stepwell.policy.types import DemoteIdle, KvTier, Unloading
from stepwell.tiers.local import LocalTiers

log = logging.getLogger("stepwell.loop")

LOADED, LEAVING, UNLOADED, LOADING, BROKEN = "loaded", "leaving", "unloaded", "loading", "broken"
_FIRST_PAUSE_US, _MOST_PAUSE_US = 5_000_000, 300_000_000


@dataclass(slots=True, eq=False)
class ServedModel:
    """All but ``view`` is for the loop's thread."""

    name: str
    driver: Driver
    engine: ReloadableEngine
    tiers: LocalTiers
    need_bytes: int
    """Of memory while it is loaded: weights and KV on the device."""
    host_bytes: int
    """What it may hold of the host pool now."""
    disk_bytes: int
    """What its records may take of the disk now."""
    state: str = LOADED
    wake_at_us: int | None = 0
    ended_us: int = 0
    """When its last step ended."""
    used_us: int = 0
    """When it last had a turn."""
    loaded_us: int = 0
    _descent: list[DemoteIdle | Unloading] = field(default_factory=list)
    """What is still to be tried until nothing is on the device."""
    _thread: threading.Thread | None = None
    _failure: str = ""
    _retry_us: int = 0
    _pause_us: int = _FIRST_PAUSE_US

    @property
    def in_memory(self) -> bool:
        return self.state not in (UNLOADED, BROKEN)

    @property
    def wanted(self) -> bool:
        """Whether requests wait for it to be loaded."""
        return self.state == UNLOADED and self.driver.inbox.held > 0

    @property
    def idle(self) -> bool:
        """Whether it is loaded and does nothing, nor is about to."""
        return self.state == LOADED and not self.driver.busy and not self.driver.inbox.rung

    def is_due(self, now_us: int) -> bool:
        if self.driver.broken:
            return False
        return self.driver.inbox.rung or (self.wake_at_us is not None and self.wake_at_us <= now_us)

    def view(self, picture: Snapshot) -> ModelView:
        """For screens and metrics; from any thread."""
        return ModelView(
            self.state,
            picture.running,
            picture.waiting + self.driver.inbox.held,
            self.engine.loads,
            self.host_bytes,
            self.disk_bytes,
            picture.counters,
        )

    # --- out of memory and back ---------------------------------------------------------------

    def is_unloaded(self) -> None:
        """From the start: there was no memory for it."""
        self.state = UNLOADED
        self.driver.inbox.hold(True)

    def leave(self) -> None:
        """Begin to give the memory back."""
        log.info("the model %s is unloaded", self.name)
        self.state = LEAVING
        self.driver.inbox.hold(True)
        self._descent = [DemoteIdle(KvTier.HOST), DemoteIdle(KvTier.DISK), Unloading()]
        self.driver.inbox.put(self._descent.pop(0))

    def stay(self) -> None:
        """It was about to leave, and is wanted."""
        self.state = LOADED
        self.driver.inbox.hold(False)

    def go_on_leaving(self) -> None:
        """Called while it leaves: the next stage, once the one before is through."""
        scheduler = self.driver.scheduler
        if self.driver.busy or self.driver.inbox.rung or scheduler.demoting is not None:
            return
        if scheduler.block_manager.device_used and self._descent:
            self.driver.inbox.put(self._descent.pop(0))
            return
        self.engine.unload()
        self.state = UNLOADED

    def has_broken(self) -> None:
        """Its loop serves no more, whatever it was about: its memory is for the others."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._thread = None
        if self.state != BROKEN:
            self.driver.inbox.take_held()  # they were told when it broke
            self.engine.unload()
            self.state = BROKEN

    def refuses(self, now_us: int) -> bool:
        """After a failure it is not loaded at once again, and no other makes room for it: requests
        that wait are told."""
        if now_us >= self._retry_us:
            return False
        self.driver.refuse_held("server_error", self._failure)
        return True

    def come(self) -> None:
        """Begin to load it."""
        log.info("the model %s is loaded", self.name)
        self.state = LOADING
        self._thread = threading.Thread(target=self._load, name="stepwell-load", daemon=True)
        self._thread.start()

    def _load(self) -> None:
        self._failure = ""
        try:
            self.engine.bring_back()
        except (EngineError, StepwellError, OSError) as error:
            self._failure = f"The model {self.name} cannot be loaded now: {error}"
        except Exception:
            log.exception("the model %s was not loaded", self.name)
            self._failure = f"The model {self.name} cannot be loaded now."
        self.driver.inbox.ring()

    def has_come(self, now_us: int) -> None:
        """Called while it loads: go on once it is there."""
        if self._thread is None or self._thread.is_alive():
            return
        self._thread = None
        if not self.engine.loaded:
            log.error("%s", self._failure)
            self.state = UNLOADED
            self.driver.refuse_held("server_error", self._failure)
            self._retry_us = now_us + self._pause_us
            self._pause_us = min(2 * self._pause_us, _MOST_PAUSE_US)
            return
        self.state, self.used_us, self.loaded_us = LOADED, now_us, now_us
        self._pause_us = _FIRST_PAUSE_US
        self.driver.inbox.hold(False)

    def join(self) -> None:
        """Wait for a load that is under way."""
        if self._thread is not None:
            self._thread.join()
