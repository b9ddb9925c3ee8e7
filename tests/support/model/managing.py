"""Management operations on runs: parking and unparking work; cancelling, reviving and retiring runs."""

from __future__ import annotations

from support.model.compare import agree, compare, expected_extra
from support.model.live_run import LiveRun
from support.model.world import World
from support.store.driving import event
from umbel.orchestration.connection.keys import RUN_KEYS


class ManagedWorld(World):
    """A world in which runs are managed from outside."""

    def park(self, run: LiveRun) -> None:
        model = run.model
        items = model.in_state("ready", "running")
        if items and self.rng.random() < 0.6:
            item = self.rng.choice(items)
            work = next((work for work in run.works if work.token == item.token), None)
            parked = self.leases.park(model.run_id, item.work_id, model.plan.workflow, item.step.name, work)
            agree("parking", parked, model.status == "running" and (item.state == "ready" or work is not None))
            if parked:
                item.state = "parked"
                model.seq += 1
                model.parked.add(item.work_id)
                if work is not None:
                    self.let_go(run, work)
                    run.works.remove(work)
        elif model.parked or self.rng.random() < 0.05:
            self.unpark(run)

    def unpark(self, run: LiveRun) -> None:
        model = run.model
        expected = {}
        for work_id in model.parked:
            item = model.items.get(work_id)
            if model.status == "running" and item is not None and item.state == "parked":
                model.dispatch(item)
            expected[model.run_id] = True
        done = self.leases.unpark(model.plan.workflow, list(model.plan.by_name))
        agree("runs with parked work", {run_id: True for run_id, _ in done}, expected)
        model.parked.clear()
        for _, applied in done:
            self.heard(run, applied, "unparking")

    def retire(self, run: LiveRun) -> None:
        """Cancel a run that is old enough, or revive or retire one that has ended."""
        model = run.model
        if model.status == "running":
            if run.age > 400 or not model.items:
                self.cancel(run)
        elif self.rng.random() < 0.4:
            self.revive(run)
        elif self.rng.random() < 0.3:
            self.leave(run)

    def cancel(self, run: LiveRun) -> None:
        compare(self.store, run.model)
        agree("cancelling", bool(self.store.finish(run.model.run_id, "cancelled", event("cancelled"))), True)
        run.model.finish("cancelled")
        agree("cancelling again", bool(self.store.finish(run.model.run_id, "timed_out", event("late"))), False)

    def revive(self, run: LiveRun) -> None:
        model = run.model
        self.note(f"{model.run_id} revive from {model.status}")
        reply = self.store.revive(model.run_id, timeout_seconds=3600)
        if model.status == "completed":
            agree("reviving", reply, "completed")
        elif not [item for item in model.items.values() if item.state != "queued"]:
            agree("reviving", reply, "nothing")
        else:
            run.age = 0
            run.stale += run.works
            run.works.clear()
            model.timers.add(model.timer("timeout"))
            model.revive()
            self.heard(run, reply, "reviving")

    def leave(self, run: LiveRun) -> None:
        """Check what must hold for a run that has ended, then retire it."""
        model = run.model
        compare(self.store, model)
        keys = self.store.locate(model.run_id)
        logs = [entry for name in ("stream", "trace") for entry in self.client.xrange(keys[name])]
        numbers = sorted(int(entry_id.split(b"-")[0]) for entry_id, _ in logs)
        agree("numbers of the streams", numbers, list(range(model.seq)))
        agree(
            "the last entry is the end",
            self.client.xrevrange(keys["stream"], count=1)[0][0],
            f"{model.seq - 1}-1".encode(),
        )
        self.leases.retire(model.run_id)
        names = [keys[name] for name in RUN_KEYS] + [keys["run"] + extra for extra in expected_extra(model)]
        pipe = self.client.pipeline(transaction=False)
        for name in names:
            pipe.pttl(name)
        forever = [name for name, milliseconds in zip(names, pipe.execute(), strict=True) if milliseconds == -1]
        agree("keys without a lifetime", forever, [])
        self.runs.remove(run)
