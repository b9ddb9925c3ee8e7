"""Take the console pictures for README and guide from the real page: a fan-out as a GIF, and stills.

    python scripts/console_pictures.py            # all, into docs/pictures
    python scripts/console_pictures.py fan-out    # only the GIF
        python scripts/console_pictures.py stills     # only the stills; or the names of some: console-fork

Needs Chromium. Starts an embedded Redis, a worker and a server, and runs the workflows below.
"""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import httpx
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

import umbel
from umbel import Context, Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step
from umbel.retry_policy import retry_policy, stop_after_attempt, wait_fixed
from umbel.server import WorkflowServer

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
#: Maximum number of frames of the GIF, pause after each while the run is in progress, and after the last one.
MOST_FRAMES, FRAME_MS, LAST_MS = 60, 220, 2_500
#: Size of the window for the GIF, the width it is scaled to, and the size of its palette.
WINDOW, GIF_WIDTH, COLOURS = (1200, 940), 960, 255


class Folder(StartEvent):
    folder: str = "library"
    files: int = 40


class File(Event):
    path: str


class Findings(Event):
    path: str
    lines: int


class Audit(Workflow):
    """Reads the files of a folder, eight at a time, and counts their lines."""

    @step
    async def find(self, ctx: Context, ev: Folder) -> list[File]:
        """Emits one event for each file."""
        await ctx.store.set("folder", ev.folder)
        return [File(path=f"{ev.folder}/module_{n:02}.py") for n in range(ev.files)]

    @step(num_workers=8, retry_policy=retry_policy(wait=wait_fixed(0.4), stop=stop_after_attempt(5)))
    async def read(self, ctx: Context, ev: File) -> Findings:
        """Some files are read at the second attempt."""
        rng = random.Random(ev.path)
        await asyncio.sleep(rng.uniform(0.5, 1.6))
        if ev.path.endswith(("07.py", "21.py")) and ctx.attempt == 1:
            raise TimeoutError(f"no answer for {ev.path}")
        ctx.write_event_to_stream(Event(note=f"read {ev.path}"))
        return Findings(path=ev.path, lines=rng.randint(10, 400))

    @step
    async def report(self, evs: list[Findings]) -> StopEvent:
        """Sums up the lines."""
        await asyncio.sleep(0.8)
        return StopEvent(result={"files": len(evs), "lines": sum(ev.lines for ev in evs)})


bank = logging.getLogger("shop.bank")
bank.setLevel(logging.INFO)


class Order(StartEvent):
    customer: str = "ada@example.com"
    item: str = "umbrella"
    euros: float = 42.0


class Reserved(Event):
    item: str
    euros: float


class Agree(InputRequiredEvent):
    question: str


class Agreed(HumanResponseEvent):
    approved: bool
    by: str


class Charged(Event):
    euros: float


class Shop(Workflow):
    """Reserves, asks above 500 euros, charges, ships."""

    @step
    async def reserve(self, ctx: Context, ev: Order) -> Reserved:
        """Reserves the item."""
        await asyncio.sleep(0.2)
        await ctx.store.set("reserved", {"item": ev.item, "for": ev.customer})
        return Reserved(item=ev.item, euros=ev.euros)

    @step(retry_policy=retry_policy(wait=wait_fixed(0.3), stop=stop_after_attempt(3)))
    async def charge(self, ctx: Context, ev: Reserved) -> Charged:
        """Asks for approval of large sums, then charges."""
        await asyncio.sleep(0.2)
        bank.info("asking for %.2f euros", ev.euros)
        if ev.item == "anvil":
            bank.warning("refused: the limit of this month is 100 euros")
            raise ValueError(f"limit reached: {ev.euros} euros")
        if ev.euros > 500:
            question = Agree(question=f"Charge {ev.euros:.2f} euros for the {ev.item}?")
            await ctx.wait_for_event(Agreed, waiter_event=question)
        return Charged(euros=ev.euros)

    @step
    async def ship(self, ev: Charged) -> StopEvent:
        """Ships the order."""
        await asyncio.sleep(0.2)
        return StopEvent(result={"charged": ev.euros})


@contextmanager
def served() -> Iterator[str]:
    """Run a Redis, a worker and a server; yields the server's address."""
    with umbel.local(in_process=True) as runtime, runtime.registering():
        server = WorkflowServer(runtime=runtime)
        server.add_workflow("audit", Audit(timeout=None))
        server.add_workflow("shop", Shop(timeout=None))
        running = uvicorn.Server(server.uvicorn_config("127.0.0.1", 0, {"log_level": "warning"}))
        thread = threading.Thread(target=running.run, daemon=True)
        thread.start()
        until(lambda: running.started)
        yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}/"
        running.should_exit = True
        thread.join(20)


def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    while not condition():
        time.sleep(0.05)


def start(url: str, workflow: str, **fields: object) -> str:
    """Start a run and return its id."""
    answer = httpx.post(f"{url}workflows/{workflow}/run-nowait", json={"start_event": fields}, timeout=20)
    answer.raise_for_status()
    return str(answer.json()["run_id"])


def status(url: str, run_id: str) -> dict[str, object]:
    """The run as the page reads it."""
    found: dict[str, object] = httpx.get(f"{url}console/runs/{run_id}", timeout=20).json()
    return found


def fan_out(browser: Browser, url: str) -> None:
    """The GIF: a run from its start to its end, frame by frame."""
    page = browser.new_page(viewport={"width": WINDOW[0], "height": WINDOW[1]})
    run_id = start(url, "audit")
    page.goto(f"{url}#/runs/{run_id}")
    page.get_by_role("tab", name="Timeline").click()
    frames: list[Image.Image] = []
    while len(frames) < MOST_FRAMES:
        frames.append(Image.open(BytesIO(page.screenshot())))
        if page.locator(".outcome .panel").count():
            break
        page.wait_for_timeout(FRAME_MS)
    page.wait_for_timeout(1_000)
    frames.append(Image.open(BytesIO(page.screenshot())))
    page.close()
    height = round(WINDOW[1] * GIF_WIDTH / WINDOW[0])
    small = [each.convert("RGB").resize((GIF_WIDTH, height), Image.Resampling.LANCZOS) for each in frames]
    # One palette for all frames, so that unchanged parts are not stored again.
    sample = Image.new("RGB", (GIF_WIDTH, 3 * height))
    for at, each in enumerate((small[1], small[len(small) // 2], small[-1])):
        sample.paste(each, (0, at * height))
    palette = sample.quantize(COLOURS)
    drawn = [each.quantize(palette=palette, dither=Image.Dither.NONE) for each in small]
    durations = [FRAME_MS] * (len(drawn) - 1) + [LAST_MS]
    target = PICTURES / "console-fan-out.gif"
    drawn[0].save(target, save_all=True, append_images=drawn[1:], duration=durations, loop=0, optimize=True)
    print(f"{target.name}: {len(drawn)} frames, {target.stat().st_size / 1e6:.2f} MB")


def stills(browser: Browser, url: str) -> None:
    """The pictures of the guide."""
    audit = start(url, "audit")
    for n in range(12):
        start(url, "shop", customer=f"customer{n}@example.com", euros=20.0 + 15 * n)
    failed = start(url, "shop", customer="wile@example.com", item="anvil", euros=120.0)
    asked = start(url, "shop", customer="grace@example.com", item="weather station", euros=1250.0)
    until(lambda: status(url, audit)["status"] == "completed")
    until(lambda: status(url, failed)["status"] == "failed")
    until(lambda: bool(status(url, asked)["questions"]))
    views: list[tuple[str, str, str, Callable[[Page], object]]] = [
        ("console-overview", "light", "#/", lambda page: page.locator(".ended-chart svg").wait_for()),
        ("console-runs", "light", "#/runs", lambda page: page.locator("table.runs").wait_for()),
        ("console-question", "light", f"#/runs/{asked}", lambda page: page.locator(".question h2").wait_for()),
        ("console-timeline", "dark", f"#/runs/{audit}", lambda page: page.get_by_role("tab", name="Timeline").click()),
        (
            "console-execution",
            "light",
            f"#/runs/{failed}",
            lambda page: page.get_by_role("button", name="Open the execution").click(),
        ),
        (
            "console-fork",
            "light",
            f"#/runs/{failed}",
            lambda page: page.get_by_role("button", name="Fork before this step").click(),
        ),
    ]
    named = [each for each in sys.argv[1:] if each.startswith("console-")]
    for name, scheme, address, ready in views:
        if named and name not in named:
            continue
        context = browser.new_context(
            viewport={"width": 1280, "height": 860},
            color_scheme=scheme,  # type: ignore[arg-type]
            reduced_motion="reduce",
        )
        page = context.new_page()
        page.goto(f"{url}{address}")
        ready(page)
        page.wait_for_timeout(1_500)
        image = Image.open(BytesIO(page.screenshot())).convert("RGB").quantize(128, dither=Image.Dither.NONE)
        image.save(PICTURES / f"{name}.png", optimize=True)
        context.close()
        print(f"{name}.png")


def main() -> None:
    """Take the pictures."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        if sys.argv[1:] in ([], ["fan-out"]):
            fan_out(browser, url)
        if "fan-out" not in sys.argv[1:]:
            stills(browser, url)
        browser.close()


if __name__ == "__main__":
    main()
