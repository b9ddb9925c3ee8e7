"""Places where a test can make this process die, hang or lose a reply: before and after each outgoing operation.

Inactive unless `UMBEL_FAILPOINTS` is set, which only the chaos suite does (docs/reliability.md). A rule has the form
`name=action[@when][*most]`, rules are separated by `;`, and the first one that matches a place applies:

- name: verb and moment of the place, `*` and `?` as in file names: `commit.after`, `dispatch.before`, `*.before`
- action: `kill`, `stop` (SIGSTOP), `sleep:ms`, `raise` (the connection is lost), `drop` or `dup` (a publish is
  skipped, or done twice), `hit` (no effect)
- when: `1/20` with this probability, `#3` at the third hit in this process; if left out, always
- most: the maximum number of times, counted over all processes with the same `log`

`seed=7` seeds the random choices, per process and place. `log=/path` names a file that gets one line for each place
that is hit (once per process) and for each action, so that a test can see which places a run has reached.
"""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from redis.exceptions import ConnectionError

from ..model.errors import ConfigurationError

VARIABLE = "UMBEL_FAILPOINTS"

_RULE = re.compile(
    r"(?P<name>[a-z_*?.]+)=(?P<action>kill|stop|sleep:(?P<ms>\d+)|raise|drop|dup|hit)"
    r"(@(?:1/(?P<chance>\d+)|#(?P<nth>\d+)))?(\*(?P<most>\d+))?"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """The action at the places that `name` matches."""

    name: str
    action: str
    sleep_ms: int
    chance: int | None
    nth: int | None
    most: int | None


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


@dataclass(slots=True)
class Failpoints:
    """The rules of one process and its hit counts."""

    rules: tuple[Rule, ...]
    seed: str = "0"
    log: str | None = None
    hits: Counter[str] = field(default_factory=Counter)
    chances: dict[str, random.Random] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    forks: int = 0

    @staticmethod
    def parse(spec: str) -> Failpoints:
        """Parse a specification in the format above.

        Raises:
            ConfigurationError: It is invalid.
        """
        rules, options = [], {"seed": "0"}
        for part in filter(None, spec.split(";")):
            name, _, value = part.partition("=")
            if name in ("seed", "log"):
                options[name] = value
                continue
            found = _RULE.fullmatch(part)
            if found is None:
                raise ConfigurationError(
                    f"{VARIABLE} has a rule {part!r}: expected name=action[@1/chance or @#nth][*most] with an action "
                    "kill, stop, sleep:ms, raise, drop, dup or hit, or seed=… or log=…."
                )
            most, chance, nth = (_number(found[name]) for name in ("most", "chance", "nth"))
            rules.append(Rule(found["name"], found["action"], int(found["ms"] or 0), chance, nth, most))
        return Failpoints(tuple(rules), options["seed"], options.get("log"))

    def reach(self, name: str) -> int:
        """Apply the rules to a place. Returns how many times to perform the operation that follows."""
        self.hits[name] += 1
        if self.hits[name] == 1:
            self._note(name, "hit")
        rule = next((rule for rule in self.rules if fnmatchcase(name, rule.name)), None)
        if rule is None or rule.action == "hit":
            return 1
        with self.lock:
            if not self._is_due(rule, name):
                return 1
            self._note(name, rule.action)
            if rule.action == "kill":  # under the lock: no other thread may use up a rule while this one kills
                os.kill(os.getpid(), signal.SIGKILL)
        match rule.action:
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "raise":
                raise ConnectionError(f"Failpoint {name}: the connection is lost.")
            case "drop":
                return 0
            case "dup":
                return 2
            case _:
                time.sleep(rule.sleep_ms / 1000)
        return 1

    def _is_due(self, rule: Rule, name: str) -> bool:
        if rule.nth is not None and self.hits[name] != rule.nth:
            return False
        if rule.chance is not None:
            # Seeded by the number of forks before this child: its pid would differ each time.
            chances = self.chances.setdefault(name, random.Random(f"{self.seed}|{self.forks}|{name}"))
            if chances.randrange(rule.chance):
                return False
        return rule.most is None or any(self._is_first(f"{rule.name}.{rule.action}.{n}") for n in range(rule.most))

    def _is_first(self, what: str) -> bool:
        """Whether this process is the first to do this: only one can create the file."""
        try:
            os.close(os.open(f"{self.log}.{what.replace('*', '@')}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        return True

    def _note(self, name: str, what: str) -> None:
        if self.log is not None:
            descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, f"{name} {what} {os.getpid()} {time.time():.3f}\n".encode())
            finally:
                os.close(descriptor)

    def begin_in_child(self) -> None:
        """Start counting from zero in a forked child."""
        self.lock = threading.Lock()
        self.hits.clear()
        self.chances.clear()

    def count_fork(self) -> None:
        """Count a fork, so that each child gets random choices of its own."""
        self.forks += 1


def armed_by(environ: Mapping[str, str]) -> Failpoints | None:
    """The failpoints of a process with this environment; None if it has none.

    Raises:
        ConfigurationError: `UMBEL_FAILPOINTS` is invalid.
    """
    spec = environ.get(VARIABLE)
    if not spec:
        return None
    made = Failpoints.parse(spec)
    os.register_at_fork(before=made.count_fork, after_in_child=made.begin_in_child)
    return made


_armed = armed_by(os.environ)


def failpoint(verb: str, moment: Literal["before", "after"]) -> int:
    """Mark a place. Costs almost nothing unless the process is armed.

    Returns:
        How many times to perform the operation that follows: 1; 0 or 2 where a publish is dropped or duplicated.

    Raises:
        redis.exceptions.ConnectionError: A rule says so.
    """
    return 1 if _armed is None else _armed.reach(f"{verb}.{moment}")
