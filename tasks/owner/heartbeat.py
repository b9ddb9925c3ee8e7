"""The heartbeat of an execution process, which owns the leases of the work it holds.

An owner that Redis has declared lost cancels everything it runs and continues under a new incarnation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future

from ...orchestration.connection.portal import Portal
from ...orchestration.engine.leases import Counts
from ...orchestration.engine.protocol import Engine
from ...orchestration.model.errors import UmbelError
from ...orchestration.model.work_item import Held
from ...orchestration.store.replies import Applied
from .histograms import Histograms
from .names import owner_name

logger = logging.getLogger("umbel.owner")


class LeaseHolder:
    """What one execution process holds, and the heartbeat that keeps its leases alive.

    The heartbeat runs on a portal of its own, so a step that blocks the event loop or the main thread does not look
    dead. The other methods may be called from any thread.
    """

    def __init__(self, worker: str, engine: Engine, portal: Portal, cancel: Callable[[Held, str], None]) -> None:
        """Args:
        worker: The worker's node name.
        engine: On the heartbeat's portal, with a connection that times out before a lease expires.
        portal: Where the heartbeat runs; user code never does.
        cancel: Called with a lost claim and the reason, from any thread; must not block.
        """
        self.worker = worker
        self.name = owner_name(worker)
        #: How long steps took and waited here; sent to Redis with the heartbeat, and when the process ends.
        self.histograms = Histograms()
        self._engine, self._portal, self._cancel = engine, portal, cancel
        self._lately: dict[int, float] = {}  # shard -> when something was last held there
        self._held: dict[Held, bool] = {}  # claim -> answered
        self._offered: set[str] = set()  # claim ids that commits under way may use
        self._lock = threading.Lock()
        self._beating: Future[None] | None = None

    def hold(self, held: Held) -> None:
        """Count a claim as held before it is requested: a heartbeat in between must not hand it back."""
        with self._lock:
            self._held[held] = False
            if self._beating is None:
                self._beating = self._portal.submit(self._beat())

    def confirm(self, held: Held) -> None:
        """The claim was granted."""
        with self._lock:
            if held in self._held:
                self._held[held] = True

    def offer(self, claim_id: str) -> None:
        """A commit may claim work under this id: until its reply arrives, a heartbeat must not hand that work back."""
        with self._lock:
            self._offered.add(claim_id)

    def settle(self, claim_id: str, held: Held | None) -> None:
        """The commit was answered: it claimed `held`, or nothing."""
        with self._lock:
            self._offered.discard(claim_id)
            if held is not None:
                self._held[held] = True

    def drop(self, held: Held) -> None:
        """The claim was refused, committed or handed back."""
        with self._lock:
            if self._held.pop(held, None) is not None:
                self._lately[self._shard(held)] = time.monotonic()

    def holds(self, held: Held) -> bool:
        """Whether the claim is still ours, as far as this process knows."""
        with self._lock:
            return held in self._held or held.claim_id in self._offered

    def begin_new_incarnation(self, fenced: str) -> None:
        """Continue under a new name, because `fenced` was declared lost; everything it ran is cancelled."""
        with self._lock:
            if self.name != fenced:
                return
            self.name = owner_name(self.worker)
            lost, self._held = list(self._held), {}
        logger.warning(
            "lease lost: this process was declared dead; %d steps are cancelled here and run elsewhere",
            len(lost),
            extra={"action": "owner_gone", "owner": fenced},
        )
        for held in lost:
            self._cancel(held, "its lease ran out")

    def close(self) -> None:
        """Stop the heartbeat and hand back what is left: no process has died, so nothing is counted as a loss."""
        if self._beating is None:
            return
        self._beating.cancel()
        with contextlib.suppress(UmbelError):
            self._portal.call(self._give_back())

    async def _give_back(self) -> None:
        with self._lock:
            name, shards = self.name, {self._shard(each) for each in self._held} | set(self._lately)
        await self._hand_back_all(name, shards, self.histograms.batch())

    async def _hand_back_all(self, name: str, shards: Collection[int], counts: Counts | None = None) -> None:
        try:
            pulse = await self._engine.leases.heartbeat(name, (), shards=shards, counts=counts)
        except UmbelError as error:
            about = {"action": "heartbeat_failed", "owner": name}
            logger.info("cannot release the leases, they will expire: %s", error, extra=about)
            return
        await self._dispatch_all(pulse.handed_back)

    async def _dispatch_all(self, handed_back: Iterable[tuple[str, Applied]]) -> None:
        for run_id, applied in handed_back:
            try:
                await self._engine.dispatch(run_id, applied.dispatches)
            except UmbelError as error:
                about = {"action": "dispatch_failed", "run_id": run_id}
                logger.warning("returned work is left to the sweep: %s", error, extra=about)

    def _shard(self, held: Held) -> int:
        return self._engine.store.locate(held.run_id).shard

    async def _beat(self) -> None:
        settings = self._engine.store.settings
        handing_back: set[asyncio.Task[None]] = set()
        spent = 0.0  # waiting for the reply: the interval between heartbeats stays the same
        while True:
            await asyncio.sleep(max(0.0, settings.heartbeat_seconds - spent))
            began = time.monotonic()
            with self._lock:
                name, held = self.name, dict(self._held)
                since = time.monotonic() - 2 * settings.lease_seconds
                self._lately = {shard: at for shard, at in self._lately.items() if at > since}
                lately = list(self._lately)
            if not held and not lately and not self.histograms:
                spent = 0.0
                continue
            try:
                pulse = await self._engine.leases.heartbeat(
                    name, held, shards=lately, is_held=self.holds, counts=self.histograms.batch()
                )
            except UmbelError as error:
                logger.warning("heartbeat failed: %s", error, extra={"action": "heartbeat_failed", "owner": name})
                continue
            except Exception:
                logger.exception("heartbeat failed", extra={"action": "heartbeat_failed", "owner": name})
                continue
            finally:
                spent = time.monotonic() - began
            if pulse.counted:
                self.histograms.arrived()
            left = [self._dispatch_all(pulse.handed_back)] if pulse.handed_back else []
            if pulse.unreached is not None:
                about = {"action": "heartbeat_failed", "owner": name}
                logger.warning("heartbeat failed in some shards: %s", pulse.unreached, extra=about)
            if pulse.fenced:
                self.begin_new_incarnation(name)
                # Shards that have not declared it lost get its work back now, instead of when the lease expires.
                left.append(self._hand_back_all(name, {self._shard(each) for each in held}))
            for task in map(asyncio.ensure_future, left):  # not awaited: an unreachable broker must not delay this loop
                handing_back.add(task)
                task.add_done_callback(handing_back.discard)
            for each in pulse.lost:
                # A claim that was still in flight when the heartbeat was sent is not lost: Redis did not know it yet.
                if held[each] and self.holds(each):
                    self.drop(each)
                    self._cancel(each, "another process has taken it over")
