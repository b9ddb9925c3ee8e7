"""The owner of leases: this execution process, its heartbeat, and what it holds.

Heartbeats have their own thread and connection, so a step that blocks the event loop or the main thread does not
look dead. An owner that Redis has declared lost cancels all it runs and goes on under a new incarnation.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from ...orchestration.engine.leases import Held, Leases
from ...orchestration.model.errors import UmbelError
from ...orchestration.store.replies import Applied, Dispatch

logger = logging.getLogger("umbel.owner")


def _host() -> str:
    """This host, told apart from containers of the same host name by their process namespace."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = 0
    return f"{socket.gethostname()}.{namespace}"


def owner_name(worker: str) -> str:
    """`worker|host|pid|incarnation`: two workers of one name never fence each other."""
    return f"{worker}|{_host()}|{os.getpid()}|{secrets.token_hex(6)}"


def process_is_dead(owner: str) -> bool:
    """Whether the owner's process is known to be dead: it was on this very host, and its pid is no more."""
    _, host, pid, _ = owner.rsplit("|", 3)
    if host != _host():
        return False
    try:
        with open(f"/proc/{int(pid)}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] == b"Z"
    except FileNotFoundError:
        return os.path.isdir("/proc/self")
    except OSError:
        return False


class LeaseHolder:
    """What one execution process holds, and the thread that keeps its leases alive."""

    def __init__(
        self,
        worker: str,
        leases: Leases,
        cancel: Callable[[Held, str], None],
        ring: Callable[[str, Sequence[Dispatch]], None],
    ) -> None:
        """Args:
        worker: The worker's node name.
        leases: Lease verbs, on a connection of its own.
        cancel: Called from the heartbeat thread with a claim that is lost and why; must not block.
        ring: Rings for work of a run that was given back; may block, must not raise.
        """
        self.worker = worker
        self.name = owner_name(worker)
        self._upkeep = leases
        self._cancel, self._ring = cancel, ring
        self._lately: dict[int, float] = {}  # shard -> when something was last held there
        self._held: dict[Held, bool] = {}  # claim -> answered
        self._offered: set[str] = set()  # claim ids that commits under way may use
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def hold(self, held: Held) -> None:
        """Count a claim as held, before it is asked for: a heartbeat in between must not hand it back."""
        with self._lock:
            self._held[held] = False
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="umbel-heartbeat", daemon=True)
                self._thread.start()

    def confirm(self, held: Held) -> None:
        """The claim was answered: it is ours."""
        with self._lock:
            if held in self._held:
                self._held[held] = True

    def offer(self, claim_id: str) -> None:
        """A commit may claim something under this id: until it is answered a heartbeat must not hand that back."""
        with self._lock:
            self._offered.add(claim_id)

    def settle(self, claim_id: str, held: Held | None) -> None:
        """The commit was answered: it claimed this, or nothing."""
        with self._lock:
            self._offered.discard(claim_id)
            if held is not None:
                self._held[held] = True

    def drop(self, held: Held) -> None:
        """The claim was refused, committed or handed back."""
        with self._lock:
            if self._held.pop(held, None) is not None:
                self._lately[self._upkeep.store.locate(held.run_id).shard] = time.monotonic()

    def holds(self, held: Held) -> bool:
        """Whether the claim is still ours as far as is known."""
        with self._lock:
            return held in self._held or held.claim_id in self._offered

    def begin_new_incarnation(self, gone: str) -> None:
        """Begin a new incarnation, because `gone` was declared lost; everything it ran is cancelled."""
        with self._lock:
            if self.name != gone:
                return
            self.name = owner_name(self.worker)
            lost, self._held = list(self._held), {}
        logger.warning(
            "this process was taken for dead; %d steps are cancelled here and run elsewhere",
            len(lost),
            extra={"action": "owner_gone", "owner": gone},
        )
        for held in lost:
            self._cancel(held, "its lease ran out")

    def close(self) -> None:
        """Stop the heartbeat, and give back what is left: no process has died, so nothing is counted as a loss."""
        self._stop.set()
        if self._thread is None:
            return
        self._thread.join(5)
        with self._lock:
            shards = {self._upkeep.store.locate(each.run_id).shard for each in self._held} | set(self._lately)
        try:
            pulse = self._upkeep.heartbeat(self.name, (), shards=shards)
        except UmbelError as error:
            about = {"action": "heartbeat_failed", "owner": self.name}
            logger.info("leases are left to run out: %s", error, extra=about)
            return
        self._dispatch_all(pulse.handed_back)

    def _dispatch_all(self, handed_back: Iterable[tuple[str, Applied]]) -> None:
        for run_id, applied in handed_back:
            self._ring(run_id, applied.dispatches)

    def _beat(self) -> None:
        pause = self._upkeep.settings.heartbeat_seconds
        while not self._stop.wait(pause):
            with self._lock:
                name, held = self.name, dict(self._held)
                since = time.monotonic() - 2 * self._upkeep.settings.lease_seconds
                self._lately = {shard: at for shard, at in self._lately.items() if at > since}
                lately = list(self._lately)
            if not held and not lately:
                continue
            try:
                pulse = self._upkeep.heartbeat(name, held, shards=lately, is_held=self.holds)
            except UmbelError as error:
                logger.warning("heartbeat failed: %s", error, extra={"action": "heartbeat_failed", "owner": name})
                continue
            if pulse.handed_back:  # in a thread of its own: a broker that is away must not hold up the heartbeat
                ringing = (pulse.handed_back,)
                threading.Thread(target=self._dispatch_all, args=ringing, name="umbel-ring", daemon=True).start()
            if pulse.gone:
                self.begin_new_incarnation(name)
            for each in pulse.lost:
                # A claim that was still on its way when the heartbeat was asked is not lost: Redis did not know it yet.
                if held[each] and self.holds(each):
                    self.drop(each)
                    self._cancel(each, "it was given to another process")
