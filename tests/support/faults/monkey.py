"""What a soak does to a deployment while it works: one fault of many kinds at a time, each healed by itself."""

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

#: What workers of a soak are armed with, by chance: rare, so that they get something done in between.
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
#: Failpoints that lose a connection are for scripts: elsewhere Celery's own answer to a lost connection is at work.
NOT_RAISED = ("dispatch", "push", "deliver", "ack", "file", "acks", "announce", "trim")

POOLS = {"prefork": 2, "asyncio": 30}


class Monkey:
    """Injects faults, and remembers whom it killed and when."""

    def __init__(self, deployment: ChaosDeployment, server: RedisUnderTest, seed: int) -> None:
        self.deployment, self.server = deployment, server
        self.random = random.Random(f"monkey {seed}")
        self.done: Counter[str] = Counter()
        #: Process -> when it was killed, on the monotonic clock.
        self.deaths: dict[int, float] = {}
        self._meddler = Meddler(deployment.settings, self.random)
        self._to_heal: list[tuple[float, Callable[[], None]]] = []
        self._stopped: set[int] = set()
        #: Workers that were asked to end.
        self.leaving: set[int] = set()
        #: What was done when.
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
        """Start a worker, armed by chance, going on past the broker or not."""
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
        """Start a worker for each that was killed; names of those that ended by themselves."""
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
        """Keep for finding out what went wrong."""
        self.diary.append(f"{datetime.now():%H:%M:%S.%f} {what}")

    def _note_death(self, *pids: int) -> None:
        self.note(f"kills {sorted(pids)}")
        self.deaths.update(dict.fromkeys(pids, time.monotonic()))

    def kill_child(self) -> None:
        """SIGKILL to one process of a prefork pool."""
        worker = self._worker()
        children = sorted(descendants(worker.pid)) if worker is not None else []
        if children:
            pid = self.random.choice(children)
            self._note_death(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_main(self) -> None:
        """SIGKILL to a worker's main process; its children die with it."""
        if (worker := self._worker()) is not None:
            self._note_death(worker.pid, *descendants(worker.pid))
            worker.kill_main()

    def kill_group(self) -> None:
        """SIGKILL to all of a worker at once."""
        if (worker := self._worker()) is not None:
            self._note_death(worker.pid, *descendants(worker.pid))
            worker.kill_group()

    def terminate(self) -> None:
        """SIGTERM: the worker ends as in a rolling deploy."""
        if (worker := self._worker()) is not None:
            self._note_death(worker.pid)
            self.leaving.add(worker.pid)
            worker.terminate()

    def pause_worker(self) -> None:
        """SIGSTOP to all of a worker, for less or more than its lease."""
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
        """SIGSTOP to one process of a pool."""
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
        """SIGKILL to Redis, which comes back on its append-only file."""
        self.server.kill()
        time.sleep(self.random.uniform(0.0, 1.0))
        self.server.start()

    def freeze_redis(self) -> None:
        """SIGSTOP to Redis: connections stay, answers do not come."""
        self.server.freeze()
        time.sleep(self.random.uniform(0.2, 2.0))
        self.server.thaw()

    def reset_connections(self) -> None:
        """All connections, or all subscriptions, are closed by Redis."""
        self.deployment.store.client.client_kill_filter(_type=self.random.choice(["normal", "pubsub"]))

    def forget_scripts(self) -> None:
        """FUNCTION FLUSH."""
        self.deployment.store.client.function_flush()

    # -- the broker's queue ----------------------------------------------------------------------------------------

    def drop_messages(self) -> None:
        """A part of what waits in the queue is lost."""
        self._meddler.drop(self.random.choice([0.2, 1.0]))

    def double_messages(self) -> None:
        """All that waits is there two to four times."""
        self._meddler.double(self.random.randint(2, 4))

    def shuffle_messages(self) -> None:
        """What waits is served in any order."""
        self._meddler.shuffle()

    # -- the whole -------------------------------------------------------------------------------------------------

    def strike(self) -> None:
        """Inject one fault, chosen by chance."""
        faults, weights = zip(*self._kinds, strict=True)
        fault = self.random.choices(faults, weights)[0]
        self.done[fault.__name__] += 1
        self.note(fault.__name__)
        with suppress(RedisError):  # a fault that an earlier one got in the way of
            fault()

    def heal_what_is_due(self) -> None:
        """Let go on what has been paused long enough."""
        now = time.monotonic()
        due = [heal for at, heal in self._to_heal if at <= now]
        self._to_heal = [(at, heal) for at, heal in self._to_heal if at > now]
        for heal in due:
            heal()

    def heal(self) -> None:
        """Let go on all that is paused."""
        self._to_heal = [(0.0, heal) for _, heal in self._to_heal]
        self.heal_what_is_due()

    def _heal_in(self, seconds: float, heal: Callable[[], None]) -> None:
        self._to_heal.append((time.monotonic() + seconds, heal))

    def close(self) -> None:
        """Heal, and disconnect."""
        self.heal()
        self._meddler.close()
