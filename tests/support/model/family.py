"""The child runs of a run, as they should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.store.driving import event
from umbel.orchestration.model.commands import AwaitChildren, Spawn

if TYPE_CHECKING:
    from support.model.items import Item
    from support.model.reference import ModelRun


@dataclass
class Child:
    """One child run."""

    work_id: str
    wait: str
    status: str
    place: int | None
    on_parent_end: str

    @property
    def is_asked_for(self) -> bool:
        """Whether it is running or about to run."""
        return self.status in ("starting", "running", "reviving", "unwanted")

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.is_asked_for or self.status == "held"


class Family:
    """The children of one run, and whether the run's end waits for them."""

    def __init__(self, run: ModelRun) -> None:
        self.run = run
        self.children: dict[str, Child] = {}
        self.has_end = False
        self._to_be_started: list[str] = []

    def to_be_started(self) -> list[str]:
        """Return the children that the caller of the script has to start."""
        found, self._to_be_started = self._to_be_started, []
        return found

    @property
    def keeps_run(self) -> bool:
        """Whether the run cannot complete yet."""
        return any(child.is_open and child.on_parent_end == "wait" for child in self.children.values())

    def _ask_to_start(self, child_id: str) -> None:
        self.children[child_id].status = "starting"
        self._to_be_started.append(child_id)

    def spawn(self, command: Spawn, item: Item) -> None:
        awaited = command.child
        if awaited.child_id in self.children:
            return
        child = Child(item.work_id, awaited.wait, "held", command.held, awaited.on_parent_end)
        self.children[awaited.child_id] = child
        if command.held is None:
            self._ask_to_start(awaited.child_id)

    def wait(self, command: AwaitChildren, item: Item) -> None:
        run = self.run
        run.vacate(item)
        item.state = "suspended"
        item.let_go()
        item.waits_until = None
        item.awaited = sum(self.children[child_id].is_open for child_id in command.child_ids)
        item.next_held = 1
        if not item.awaited:
            self._resume(item)

    def _resume(self, item: Item) -> None:
        item.awaited = None
        item.resumptions += 1
        self.run.place(item)

    def started(self, child_id: str) -> None:
        child = self.children[child_id]
        if child.status == "starting":
            child.status = "running"
            self.run.seq += self.run.status == "running"

    def ended(self, child_id: str, status: str) -> None:
        run, child = self.run, self.children[child_id]
        run.seq += child.status == "starting"
        child.status = status
        item = run.items.get(child.work_id)
        if item is None:
            return
        run.events[f"child|{child_id}"] = [event("End"), 1]
        item.answers[child.wait] = f"child|{child_id}"
        if item.state != "suspended" or item.awaited is None:
            return
        item.awaited -= 1
        held = [name for name, each in self.children.items() if each.work_id == item.work_id and each.status == "held"]
        following = [name for name in held if self.children[name].place == item.next_held]
        if following:
            item.next_held += 1
            self._ask_to_start(following[0])
        if not item.awaited:
            self._resume(item)

    def hold_end(self, status: str, item: Item | None) -> bool:
        """Return whether the end has to wait, and record it."""
        if item is None or not self.keeps_run or (status == "failed" and not self.has_end):
            return False
        self.has_end = True
        self.run.vacate(item)
        if status == "completed":
            item.state, item.is_at_end, item.waits_until = "suspended", True, None
            item.let_go()
        return True

    def give_up(self, work_id: str) -> None:
        """Cancel the children of a work item that no longer waits for them."""
        for child in self.children.values():
            if child.work_id == work_id and child.is_open and child.on_parent_end != "leave":
                child.status = "cancelled" if child.status == "held" else "unwanted"

    def revive(self) -> None:
        for child_id, child in self.children.items():
            item = self.run.items.get(child.work_id)
            if item is None or child.status in ("completed", "held"):
                continue
            if not child.is_open:
                if item.answers.pop(child.wait, None) is not None:
                    del self.run.events[f"child|{child_id}"]
                if item.awaited is not None:
                    item.awaited += 1
            child.status = "reviving"
