"""Performance of the console page with a large run, in headless Chromium: first paint, scrolling, live events.

    python -m benchmarks.console_page                       # 5,000 executions, 20,000 events; 500 events a second
    python -m benchmarks.console_page --items 500 --rate 200

Needs Chromium and the packages of the tests. Redis, a worker and the server run in this process, so the live figures
are taken on a machine that also executes the run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from playwright.sync_api import Browser, CDPSession, Page, sync_playwright

import umbel
from umbel import Context, Event, StartEvent, StopEvent, Workflow, step
from umbel.server import WorkflowServer

#: Number of frames while scrolling, and pixels scrolled in each.
FRAMES, PIXELS = 240, 900
#: Keys that are typed while events arrive.
TYPED = "item number one two three"


class Many(StartEvent):
    items: int
    notes: int = 3


class Item(Event):
    number: int
    notes: int


class Done(Event):
    number: int


class Crowd(Workflow):
    """Many executions, each with some events."""

    @step
    async def split(self, ev: Many) -> list[Item]:
        return [Item(number=number, notes=ev.notes) for number in range(ev.items)]

    @step(num_workers=64)
    async def note(self, ctx: Context, ev: Item) -> Done:
        for number in range(ev.notes):
            ctx.write_event_to_stream(Event(text=f"item {ev.number}, note {number}"))
        return Done(number=ev.number)

    @step
    async def total(self, evs: list[Done]) -> StopEvent:
        return StopEvent(result=len(evs))


class Ticks(StartEvent):
    rate: int
    seconds: int


class Ticker(Workflow):
    """Writes events at a given rate per second."""

    @step
    async def tick(self, ctx: Context, ev: Ticks) -> StopEvent:
        begin, written = time.monotonic(), 0
        while (passed := time.monotonic() - begin) < ev.seconds:
            while written < passed * ev.rate:
                ctx.write_event_to_stream(Event(text=f"item {written}"))
                written += 1
            await asyncio.sleep(0.02)
        return StopEvent(result=written)


@contextmanager
def served() -> Iterator[str]:
    """Run a Redis, a worker and a server; yields the server's address."""
    os.environ.setdefault("UMBEL_STREAM_MAX_EVENTS", "100000")  # the page must show all events
    with umbel.local(in_process=True) as runtime, runtime.registering():
        server = WorkflowServer(runtime=runtime)
        server.add_workflow("crowd", Crowd(timeout=None))
        server.add_workflow("ticker", Ticker(timeout=None))
        running = uvicorn.Server(server.uvicorn_config("127.0.0.1", 0, {"log_level": "warning"}))
        thread = threading.Thread(target=running.run, daemon=True)
        thread.start()
        while not running.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}/"
        running.should_exit = True
        thread.join(20)


def start(url: str, workflow: str, **fields: Any) -> str:
    """Start a run and return its id."""
    answer = httpx.post(f"{url}workflows/{workflow}/run-nowait", json={"start_event": fields}, timeout=60)
    answer.raise_for_status()
    return str(answer.json()["run_id"])


#: Records what keeps the page from responding, from its first line on.
WATCH = """
window.watched = {long: [], input: []};
new PerformanceObserver((list) => { for (const each of list.getEntries()) watched.long.push(each.duration); })
  .observe({type: "longtask", buffered: true});
new PerformanceObserver((list) => { for (const each of list.getEntries())
  if (each.name === "keydown") watched.input.push(each.duration); })
  .observe({type: "event", durationThreshold: 16, buffered: true});
"""

#: Scrolls down frame by frame; returns the longest frames in ms, and in how many of them rows were missing.
SCROLL = """async ([frames, pixels]) => {
  const rows = document.querySelector(".events");
  rows.scrollTop = 0;
  const next = () => new Promise(requestAnimationFrame);
  await next(); await next();
  const took = []; let gaps = 0; let last = performance.now();
  for (let frame = 0; frame < frames; frame += 1) {
    rows.scrollTop += pixels;
    await next();
    const now = performance.now(); took.push(now - last); last = now;
    const box = rows.getBoundingClientRect();
    for (const share of [0.1, 0.5, 0.9]) {
      const hit = document.elementFromPoint(box.left + 200, box.top + share * box.height);
      if (hit === null || !hit.closest("li")) { gaps += 1; break; }
    }
  }
  took.sort((a, b) => b - a);
  return {longest: took[0], fifth: took[4], median: took[frames >> 1], gaps};
}"""


def opened(browser: Browser, url: str, run_id: str) -> Page:
    """The page of a run in a new tab, which records its own delays."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    page.add_init_script(WATCH)
    page.goto(f"{url}#/runs/{run_id}")
    return page


def shown_events(page: Page) -> int:
    """The number of events according to the list."""
    text = page.locator(".event-list .toolbar [role=status]").inner_text()
    return int(text.split(" of ")[-1].split(" ")[0].replace(",", "")) if " of " in text else 0


def figure(name: str, value: float, unit: str = "ms") -> None:
    """Print one figure."""
    print(f"{name:58} {value:9,.0f} {unit}", flush=True)


def of_a_large_run(browser: Browser, url: str, items: int) -> None:
    """Measure first paint, loading of everything, and scrolling."""
    run_id = start(url, "crowd", items=items)
    began = time.monotonic()
    while httpx.get(f"{url}console/runs/{run_id}", timeout=120).json()["status"] == "running":
        time.sleep(0.5)
    figure(f"executing {items:,} items", (time.monotonic() - began) * 1000)
    for _ in range(3):
        asked = time.monotonic()
        answer = httpx.get(f"{url}console/runs/{run_id}", timeout=120)
        figure(f"the run's data ({len(answer.content) / 1024:,.0f} kB)", (time.monotonic() - asked) * 1000)
    began = time.monotonic()
    page = opened(browser, url, run_id)
    page.locator(".graph svg").wait_for()
    figure("until the run is shown", (time.monotonic() - began) * 1000)
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    figure("first contentful paint", paint)
    wanted = 4 * items
    while shown_events(page) < wanted * 0.99:
        page.wait_for_timeout(50)
    figure(f"until {shown_events(page):,} events are loaded", (time.monotonic() - began) * 1000)
    figure("longest task of the page until then", max(page.evaluate("watched.long") or [0]))
    found = page.evaluate(SCROLL, [FRAMES, PIXELS])
    figure("scrolling: longest frame", found["longest"])
    figure("scrolling: fifth longest frame", found["fifth"])
    figure("scrolling: median frame", found["median"])
    figure("scrolling: frames with missing rows", found["gaps"], "")
    for tab in ("Timeline", "Steps", "State", "History"):
        page.evaluate("watched.long.length = 0")
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(1_500)
        figure(f"{tab}: longest task", max(page.evaluate("watched.long") or [0]))
    page.close()


def busy_seconds(session: CDPSession) -> float:
    """Processor time of the page's thread so far: unlike wall-clock time, it hardly grows on a busy machine."""
    found = session.send("Performance.getMetrics")["metrics"]
    return float(next(each["value"] for each in found if each["name"] == "TaskDuration"))


def of_live_events(browser: Browser, url: str, rate: int, seconds: int) -> None:
    """Measure typing while events arrive."""
    run_id = start(url, "ticker", rate=rate, seconds=seconds)
    page = opened(browser, url, run_id)
    page.locator(".events li").first.wait_for()
    field = page.get_by_label("Filter events")
    field.focus()
    page.evaluate("watched.long.length = 0; watched.input.length = 0")
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    busy = busy_seconds(session)
    began, before = time.monotonic(), shown_events(page)
    for key in TYPED:
        field.press(key if key != " " else "Space")
        page.wait_for_timeout(100)
    field.fill("")
    while time.monotonic() - began < seconds - 2:
        page.wait_for_timeout(100)
    passed, arrived = time.monotonic() - began, shown_events(page) - before
    figure("live: events shown per second", arrived / passed, "")
    figure("live: processor time of the page's thread per second", (busy_seconds(session) - busy) / passed * 1000)
    figure("live: longest task", max(page.evaluate("watched.long") or [0]))
    figure("live: tasks longer than 50 ms", len(page.evaluate("watched.long")), "")
    figure("live: longest answer to a key", max(page.evaluate("watched.input") or [0]))
    page.close()


def main() -> None:
    """Measure both and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--seconds", type=int, default=12)
    given = parser.parse_args()
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        of_live_events(browser, url, given.rate, given.seconds)
        of_a_large_run(browser, url, given.items)
        browser.close()


if __name__ == "__main__":
    main()
