"""Server processes of a deployment, and a balancer in front of them that routes each connection to a live one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from support.eventually import eventually
from support.faults.tcp_server import TcpServer
from support.processes.driving import Deployment, WorkerUnderTest


class Replica:
    """One server process."""

    def __init__(self, deployment: Deployment, name: str, *options: str) -> None:
        file = Path(deployment.folder, f"{name}.port")
        self.process: WorkerUnderTest = deployment.launch(name, "support.programs.served_app", str(file), *options)

        def is_listening() -> bool:
            assert self.process.process.poll() is None, self.process.log()
            return file.exists()

        eventually(is_listening, f"server {name} listens")
        self.port = int(file.read_text())

    @property
    def address(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill_group()


class Balancer:
    """Forwards bytes; when a replica dies its connections are cut, and the next connection goes to another replica."""

    def __init__(self, replicas: list[Replica]) -> None:
        self.replicas = replicas
        self.used: list[Replica] = []

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Yield its address."""
        async with TcpServer(self._pipe) as server:
            yield f"http://127.0.0.1:{server.port}"

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with contextlib.AsyncExitStack() as ends:
            for replica in self.replicas:
                with contextlib.suppress(OSError):
                    there, back = await asyncio.open_connection("127.0.0.1", replica.port)
                    break
            else:
                return
            ends.callback(back.transport.abort)
            self.used.append(replica)
            copies = asyncio.create_task(_copy(reader, back)), asyncio.create_task(_copy(there, writer))
            ends.push_async_callback(asyncio.gather, *copies, return_exceptions=True)
            for copy in copies:
                ends.callback(copy.cancel)
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        target.write(data)
        await target.drain()
    with contextlib.suppress(OSError):
        await target.drain()
