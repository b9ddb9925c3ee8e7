"""Where the time of a step goes: processor time of worker and Redis per step, and a profile of a solo worker.

    python -m benchmarks.step_cost                # chains of ten
    python -m benchmarks.step_cost --shape fan    # fan-outs

Processor time hardly depends on other load. The profiler slows everything down, so look at the shares only.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import sys
import tempfile
import time
from pathlib import Path

from celery import signals

from umbel import Settings, create_app
from umbel.workers.cli.targets import load_target
from umbel.workers.embedded.redis_server import EmbeddedRedis
from umbel.workers.embedded.supervisor import Supervisor
from umbel.workers.local.command_process import process_environment

from .contend_umbel import SHAPES_UMBEL, Umbel
from .processor_time import processor_seconds
from .shapes_umbel import CHAIN_STEPS

#: Functions whose share of the profile is printed, by file and name.
PHASES = [
    ("claim", "orchestration/store/verbs.py", "claim"),
    ("decode and bind events", "tasks/attempt/step_call.py", "input_events"),
    ("the whole call of the step", "tasks/attempt/step_call.py", "call_step"),
    ("decide", "orchestration/model/decide.py", "decide"),
    ("commit", "orchestration/store/verbs.py", "commit"),
    ("dispatch", "tasks/messages/dispatcher.py", "dispatch_soon"),
    ("deliver, all of the above", "tasks/attempt/executor.py", "deliver"),
]


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser("python -m benchmarks.step_cost", description=__doc__)
    parser.add_argument("--shape", choices=["chain", "fan"], default="chain")
    parser.add_argument(
        "--pool", default="asyncio", help="of the worker whose processor time is printed (default asyncio)"
    )
    parser.add_argument("--runs", type=int, default=200, metavar="N", help="chains (default 200)")
    parser.add_argument(
        "--width", type=int, default=100, metavar="N", help="of fan-outs, which together make 2,000 steps"
    )
    parser.add_argument("--lines", type=int, default=30, metavar="N", help="lines of the profile")
    parser.add_argument("--sort", default="tottime", choices=["tottime", "cumulative"], help="order of the profile")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve)
        return
    with tempfile.TemporaryDirectory() as folder:
        steps, seconds, worker, redis_server = measured(options, None)
        print(f"{steps} steps in {seconds:.2f} s: {steps / seconds:,.0f} steps/s with one worker")
        print(f"processor time per step: worker {worker:,.0f} us, Redis {redis_server:,.0f} us")
        profile = Path(folder, "profile")
        steps, *_ = measured(options, profile)
        report(pstats.Stats(str(profile)), steps, options.sort, options.lines)


def serve(profile: Path) -> None:
    """Run a solo worker until SIGTERM; its attempts run under the profiler."""
    app = create_app(Settings.from_environment(), *load_target(SHAPES_UMBEL))
    controller = app.Worker(
        pool_cls="solo",
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        quiet=True,
        hostname="profiled@%h",
    )
    portal = app.umbel.executor().portal
    profiler = cProfile.Profile()

    async def stop() -> None:
        profiler.disable()

    def save(**_: object) -> None:
        portal.call(stop())
        profiler.dump_stats(profile)

    signals.worker_shutting_down.connect(save)
    portal.loop.call_soon_threadsafe(profiler.enable)
    controller.start()


def measured(options: argparse.Namespace, profile: Path | None) -> tuple[int, float, float, float]:
    """Number of steps, seconds, and microseconds of processor time per step of worker and of Redis."""
    with Supervisor() as supervisor, EmbeddedRedis.temporary(supervisor=supervisor) as server:
        environment = process_environment(Settings.from_environment(redis_url=server.url))
        command = [sys.executable, "-m", "umbel.workers.cli", "worker", SHAPES_UMBEL, "--pool", options.pool]
        command += ["--loglevel", "WARNING"]
        if profile is not None:
            command = [sys.executable, "-m", "benchmarks.step_cost", "--serve", str(profile)]
        with open(os.devnull, "wb") as silence:
            process = supervisor.spawn(command, env=environment, output=silence.fileno(), grace_seconds=30)
        umbel = Umbel(processes=1)
        umbel.connect(server.url)
        for _ in range(5):
            umbel.single()
        assert server.pid is not None
        umbel.redis.config_resetstat()
        before = processor_seconds([process.pid]) or 0.0, processor_seconds([server.pid]) or 0.0
        started = time.perf_counter()
        if options.shape == "chain":
            steps = options.runs * CHAIN_STEPS
            for _ in umbel.chains(options.runs):
                pass
        else:
            fans = max(1, 2000 // options.width)
            steps = fans * (options.width + 2)
            umbel.fans(fans, options.width)
        seconds = time.perf_counter() - started
        after = processor_seconds([process.pid]) or 0.0, processor_seconds([server.pid]) or 0.0
        if profile is None:
            print(f"Redis commands: {_commands(umbel, steps)}")
        umbel.close()
        process.terminate()  # only a worker that shuts down cleanly saves its profile
        process.wait()
        worker, redis_server = ((late - early) / steps * 1e6 for early, late in zip(before, after, strict=True))
        return steps, seconds, worker, redis_server


def report(stats: pstats.Stats, steps: int, order: str, lines: int) -> None:
    """Print the shares of the phases, then the profile."""
    table = stats.stats  # type: ignore[attr-defined]  # not in the stubs
    whole = next((row[3] for place, row in table.items() if _is(place, "tasks/attempt/executor.py", "deliver")), 0.0)
    print(f"\nUnder the profiler, {whole / steps * 1e6:,.0f} us per step in deliver():")
    for title, file, name in PHASES:
        for place, (_, calls, _, cumulative, _) in table.items():
            if _is(place, file, name):
                print(f"  {title:32} {cumulative / steps * 1e6:8,.0f} us per step, {calls / steps:.2f} calls")
    stats.strip_dirs().sort_stats(order).print_stats(lines)


def _commands(umbel: Umbel, steps: int) -> str:
    """The most expensive commands: microseconds per step, and calls."""
    rows = [(row["usec"] / steps, row["calls"] / steps, name) for name, row in umbel.redis.info("commandstats").items()]
    lines = (
        f"{name.removeprefix('cmdstat_')} {usec:.0f} us ({calls:.2f} x)" for usec, calls, name in sorted(rows)[:-9:-1]
    )
    return ", ".join(lines)


def _is(place: tuple[str, int, str], file: str, name: str) -> bool:
    return place[0].endswith(file) and place[2] == name


if __name__ == "__main__":
    main()
