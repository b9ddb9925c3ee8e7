"""The fault injector of a soak: many kinds of faults, one at a time, each of which heals by itself."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from redis.exceptions import RedisError

from support.chaos.deployment import ChaosDeployment, continue_group, stop_group
from support.faults.meddler import Meddler
from support.faults.redis_under_test import RedisUnderTest
from support.processes.driving import WorkerUnderTest, descendants

#: Failpoints of a soak's workers, chosen at random: rare, so that the workers make progress in between.
ARMS = (
    None,
    None,
    "*.after=kill@1/3000*1",
    "*.before=kill@1/3000*1",
    "*.after=raise@1/100",
    "*.before=raise@1/100",
    "dispatch.before=drop@1/20;push.before=drop@1/20;commit.after=raise@1/50",
    "dispatch.before=dup@1/5;push.before=dup@1/5;deliver.before=dup@1/50",
    "claim.after=sleep:200@1/100;commit.before=sleep:200@1/100",
)
#: The action `raise` stands for a lost connection and is meant for scripts: at these failpoints, Celery's own handling
#: of lost connections would take over.
NOT_RAISED = ("dispatch", "push", "deliver", "ack", "file", "acks", "announce", "trim")

POOLS = {"prefork": 2, "asyncio": 30}


class Monkey:
    """Injects faults, and records which processes it killed and when."""

    def __init__(self, deployment: ChaosDeployment, server: RedisUnderTest, seed: int) -> None:
        self.deployment, self.server = deployment, server
        self.random = random.Random(f"monkey {seed}")
        self.done: Counter[str] = Counter()
        #: Process -> time of its kill, on the monotonic clock.
        self.deaths: dict[int, float] = {}
        self._meddler = Meddler(deployment.settings, self.random)
        self._to_heal: list[tuple[float, Callable[[], None]]] = []
        self._stopped: set[int] = set()
        #: Workers that were asked to shut down.
        self.leaving: set[int] = set()
        #: The log of all actions with their times.
        self.diary: list[str] = []
        self._names = 0
        self._kinds: list[tuple[Callable[[], None], int]] = [
            (self.kill_child, 6),
            (self.kill_main, 3),
            (self.kill_group, 3),
            (self.terminate, 2),
            (self.pause_worker, 3),
            (self.pause_child, 2),
            (self.kill_redis, 3),
            (self.freeze_redis, 2),
            (self.reset_connections, 4),
            (self.forget_scripts, 3),
            (self.drop_messages, 4),
            (self.double_messages, 4),
            (self.shuffle_messages, 3),
        ]

    # -- workers ---------------------------------------------------------------------------------------------------

    def employ(self, pool: str) -> WorkerUnderTest:
        """Start a worker, with random failpoints and with or without local continuation."""
        self._names += 1
        more = {"UMBEL_CONTINUATION_SECONDS": self.random.choice(["0", "0.2"])}
        arms = self.random.choice(ARMS)
        if arms is not None:
            if "raise" in arms:
                arms = ";".join([*(f"{name}.*=hit" for name in NOT_RAISED), arms])
            self.done[f"armed with {arms.rpartition(';')[2]}"] += 1
            more["UMBEL_FAILPOINTS"] = self.deployment.armed(arms, f"{pool}{self._names}")
        return self.deployment.worker(f"{pool}{self._names}", pool=pool, concurrency=POOLS[pool], more=more)

    def replace_the_dead(self) -> list[str]:
        """Start a replacement for each worker that has ended; returns the errors of those that nobody killed."""
        unexplained = []
        ended = [worker for worker in self.deployment.workers if worker.process.poll() is not None]
        killed = self.deployment.killed_by_failpoints() if ended else {}
        for worker in ended:
            if worker.pid in killed:
                self.done["killed by failpoint"] += 1
                self.deaths.setdefault(worker.pid, killed[worker.pid])
            elif worker.pid not in self.deaths:
                unexplained.append(f"{worker.name} ended with {worker.process.returncode}: {worker.log()[-2000:]}")
            self.deployment.dismiss(worker)
            self.employ(worker.name.rstrip("0123456789"))
        return unexplained

    def _worker(self) -> WorkerUnderTest | None:
        alive = [each for each in self.deployment.workers if each.process.poll() is None]
        here = [each for each in alive if each.is_ready and each.pid not in self.leaving]
        return self.random.choice(here) if here else None

    def note(self, what: str) -> None:
        """Add to the log, for diagnosing failures."""
        self.diary.append(f"{datetime.now():%H:%M:%S.%f} {what}")

    def _note_death(self, *pids: int) -> None:
        self.note(f"kills {sorted(pids)}")
        self.deaths.update(dict.fromkeys(pids, time.monotonic()))

    def kill_child(self) -> None:
        """SIGKILL one process of a prefork pool."""
        worker = self._worker()
        children = sorted(descendants(worker.pid)) if worker is not None else []
        if children:
            pid = self.random.choice(children)
            self._note_death(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_main(self) -> None:
        """SIGKILL a worker's main process; its children die with it."""
        if (worker := self._worker()) is not None:
            self._note_death(worker.pid, *descendants(worker.pid))
            worker.kill_main()

    def kill_group(self) -> None:
        """SIGKILL all processes of a worker at once."""
        if (worker := self._worker()) is not None:
            self._note_death(worker.pid, *descendants(worker.pid))
            worker.kill_group()

    def terminate(self) -> None:
        """SIGTERM: the worker shuts down as in a rolling deploy."""
        if (worker := self._worker()) is not None:
            self._note_death(worker.pid)
            self.leaving.add(worker.pid)
            worker.terminate()

    def pause_worker(self) -> None:
        """SIGSTOP all processes of a worker, for less or more than its lease."""
        if (worker := self._worker()) is not None and worker.pid not in self._stopped:
            self._stopped.add(worker.pid)
            self.note(f"stops {worker.name}, {worker.pid}")
            stop_group(worker)

            def heal() -> None:
                self._stopped.discard(worker.pid)
                with suppress(ProcessLookupError):
                    continue_group(worker)

            self._heal_in(self.random.uniform(0.2, 2.5 * self.deployment.settings.lease_seconds), heal)

    def pause_child(self) -> None:
        """SIGSTOP one process of a pool."""
        worker = self._worker()
        children = sorted(descendants(worker.pid)) if worker is not None else []
        if children:
            pid = self.random.choice(children)

            def heal() -> None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

            self.note(f"stops {pid}")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
            self._heal_in(self.random.uniform(0.2, 2.5 * self.deployment.settings.lease_seconds), heal)

    # -- Redis -----------------------------------------------------------------------------------------------------

    def kill_redis(self) -> None:
        """SIGKILL Redis, which restarts on its append-only file."""
        self.server.kill()
        time.sleep(self.random.uniform(0.0, 1.0))
        self.server.start()

    def freeze_redis(self) -> None:
        """SIGSTOP Redis: connections stay open, but replies do not arrive."""
        self.server.freeze()
        time.sleep(self.random.uniform(0.2, 2.0))
        self.server.thaw()

    def reset_connections(self) -> None:
        """Have Redis close all connections, or all subscriptions."""
        self.deployment.store.client.client_kill_filter(_type=self.random.choice(["normal", "pubsub"]))

    def forget_scripts(self) -> None:
        """FUNCTION FLUSH."""
        self.deployment.store.client.function_flush()

    # -- the broker's queue ----------------------------------------------------------------------------------------

    def drop_messages(self) -> None:
        """Drop some of the messages in the queue."""
        self._meddler.drop(self.random.choice([0.2, 1.0]))

    def double_messages(self) -> None:
        """Put every message into the queue two to four times."""
        self._meddler.double(self.random.randint(2, 4))

    def shuffle_messages(self) -> None:
        """Shuffle the messages in the queue."""
        self._meddler.shuffle()

    # -- scheduling ------------------------------------------------------------------------------------------------

    def strike(self) -> None:
        """Inject one random fault."""
        faults, weights = zip(*self._kinds, strict=True)
        fault = self.random.choices(faults, weights)[0]
        self.done[fault.__name__] += 1
        self.note(fault.__name__)
        with suppress(RedisError):  # an earlier fault interfered
            fault()

    def heal_what_is_due(self) -> None:
        """Resume everything that has been paused long enough."""
        now = time.monotonic()
        due = [heal for at, heal in self._to_heal if at <= now]
        self._to_heal = [(at, heal) for at, heal in self._to_heal if at > now]
        for heal in due:
            heal()

    def heal(self) -> None:
        """Resume everything that is paused."""
        self._to_heal = [(0.0, heal) for _, heal in self._to_heal]
        self.heal_what_is_due()

    def _heal_in(self, seconds: float, heal: Callable[[], None]) -> None:
        self._to_heal.append((time.monotonic() + seconds, heal))

    def close(self) -> None:
        """Heal, and disconnect."""
        self.heal()
        self._meddler.close()
