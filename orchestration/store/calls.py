"""How a verb is called: one script on one run, with its keys, its arguments and the limits of the deployment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache
from typing import Any, TypeVar

from ..connection.keys import RunKeys, state_id_of
from ..model.commands import Command, Resume, TakeFromInbox
from ..model.decide import Decision, Staged
from ..model.plan import Plan
from ..model.waiters import Surroundings
from ..model.work_item import Work
from . import record as work_record
from .asks import ScriptCall
from .reads import StoreReads
from .replies import STUCK
from .scripts import load, pack

T = TypeVar("T")

_STUCK = STUCK.to_bytes()


@lru_cache(2048)
def fixed_keys(keys: RunKeys, names: tuple[str, ...]) -> tuple[str, ...]:
    """The keys of a run by their logical names. Cached: a process that continues a run needs the same keys again."""
    state_id = state_id_of(keys.run_id)
    own = {name: f"{name}:{state_id}" for name in ("state", "handler", "line", "session", "session_runs")}
    own |= {name: f"state:{state_id}:{name}" for name in ("versions", "lock")}
    return tuple(keys[own.get(name, name)] for name in names)


class StoreCalls(StoreReads):
    """Calling verbs; reading is inherited."""

    def script(
        self,
        verb: str,
        run_id: str,
        names: dict[str, str] | None = None,
        /,
        *,
        read: Callable[[Any], T],
        keys: RunKeys | None = None,
        **args: Any,
    ) -> ScriptCall[T]:
        """One script on one run, ready to be sent.

        Args:
            verb: The Lua file.
            run_id: The run; the script's keys are built from it.
            names: Logical key of the script -> logical name with its parameter (`owner` -> `owner:w1`).
            read: Converts the reply into a value.
            keys: Keys to use instead of those of the run.
            **args: The script's arguments; None is left out. `extra` lists dynamic keys by logical name;
                `body` is the list of commands, or that list packed.
        """
        script = load(verb)
        keys = keys or self.locate(run_id)
        named = list(fixed_keys(keys, script.keys))
        for name, renamed in (names or {}).items():
            if name in script.positions:
                named[script.positions[name]] = keys[renamed]
        extra: dict[str, str] = args.pop("extra", {})
        if extra:
            args["x"] = list(extra)
            named.extend(extra.values())
        if "scopes" in script.keys:
            args["stuck"] = _STUCK
        args |= self.limits
        args["run"] = run_id
        body = args.pop("body", None)
        blob = [pack({name: value for name, value in args.items() if value is not None})]
        if body is not None:
            blob.append(body if isinstance(body, bytes) else pack(body))
        return ScriptCall(f"{verb} run {run_id!r}", script, named, blob, read)

    async def verb(self, verb: str, run_id: str, names: dict[str, str] | None = None, /, **args: Any) -> list[Any]:
        """Run one script on one run, retrying until Redis answers; arguments as in `script`."""
        return await self.send_script(self.script(verb, run_id, names, read=list, **args))

    async def send_script(self, call: ScriptCall[T]) -> T:
        """Send a script, retrying until Redis answers. Every verb passes through here.

        Raises:
            StoreUnavailable: No answer within `patience_seconds`.
        """
        return await self.connection.run(call, patience_seconds=self.patience_seconds)

    @cached_property
    def limits(self) -> dict[str, Any]:
        """Arguments of every script on a run."""
        settings = self.settings
        return {
            "redispatch": round(settings.redispatch_seconds * 1000),
            "smax": settings.stream_max_events,
            "jmax": settings.journal_max_entries,
            "jbytes": settings.journal_max_bytes,
            "ibytes": settings.inbox_max_bytes,
            "keep": round(settings.retention_seconds * 1000),
            "skeep": round((settings.session_retention_seconds or settings.retention_seconds) * 1000),
            "full": settings.history == "full" or None,
            "windex": settings.waiters_indexed_from,
            "channels": self.keys.channel("") or None,
        }

    @cached_property
    def lease_ms(self) -> int:
        """How long a lease lasts without a heartbeat."""
        return round(self.settings.lease_seconds * 1000)

    async def shard_verb(self, verb: str, shard: int, names: dict[str, str], /, **args: Any) -> list[Any]:
        """Run one script on the keys of a shard rather than of a run; `names` as in `verb`, None is left out."""
        script = load(verb)
        keys = [self.keys.in_shard(shard, names.get(key, key)) for key in script.keys]
        blob = [pack({name: value for name, value in args.items() if value is not None})]
        return await self.send_script(ScriptCall(verb, script, keys, blob, list))


def staged_item(item: Staged) -> dict[str, Any]:
    """One event of a large fan-out as `stage.lua` takes it."""
    if item.deliver is not None:
        record = work_record.delivered(item.deliver)
        about = {"i": item.index, "e": item.event_id, "d": item.event.to_bytes(), "uses": item.uses, "rec": record}
        if item.more:
            about["more"] = dict(zip(item.deliver.event_ids, (event.to_bytes() for event in item.more), strict=True))
        return about
    return {"at": item.index, "d": item.event.to_bytes()}


def commit_entry(work: Work, decision: Decision) -> dict[str, Any]:
    """What the journal says about a commit; the script adds what the commit led to.

    `staged` is the number of events per step that are in Redis already: their work items are not named one by one.
    """
    staged = {step: len(items) for step, items in decision.staged.items() if decision.scope_id is not None}
    return {"w": work.work_id, "s": work.step, "a": work.attempt} | ({"staged": staged} if staged else {})


def checks(
    on: Surroundings, commands: Sequence[Command], sensitive: bool = True, found_nothing: bool = False, *, own: str = ""
) -> dict[str, Any]:
    """What a script checks before it applies commands that were decided on surroundings; see `lua/lib/waiters.lua`.

    Args:
        on: The surroundings.
        commands: What was decided.
        sensitive: Whether the decision depends on the waiters.
        found_nothing: Whether it found no event in the inbox.
        own: The work item that begins to wait; its waiter does not exist yet.
    """
    answers = [
        f"{command.work_id}|{command.waiter_id}"
        for command in commands
        if isinstance(command, Resume) and command.work_id != own
    ]
    early = next((command.event_id for command in commands if isinstance(command, TakeFromInbox)), None)
    seen = None if on.seen is None else {"kinds": on.seen.kinds, "counts": on.seen.counts}
    return {
        "wv": on.version if sensitive else None,
        "seen": seen if sensitive else None,
        "answers": answers or None,
        "iv": on.inbox_version if found_nothing else None,
        "early": early,
    }


def touched_keys(keys: RunKeys, plan: Plan, work: Work, decision: Decision, taken: Iterable[str]) -> dict[str, str]:
    """The dynamic keys a commit may touch: its own, and the members of every fan-out it is in or opens."""
    names = [f"sent:{work.work_id}", *taken]
    if work.scope_id is not None:
        names.append(f"members:{work.scope_id}:{work.step}")
    around = [(scope_id, opener) for scope_id, opener, _ in work.scope.levels()]
    for scope_id, opener in (*around, *decision.opens):
        names.extend(f"members:{scope_id}:{step}" for step in plan.by_name[opener].collected_by)
    return {name: keys[name] for name in names}
