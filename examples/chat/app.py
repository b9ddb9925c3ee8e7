"""A chat: conversations over any number of servers and workers, where each answer belongs to its question.

$ uvicorn --app-dir examples/chat app:app
$ curl -X POST localhost:8000/chats/ada -H 'content-type: application/json' -d '{"text": "hello"}'     # {"turn": "…"}
$ curl -N localhost:8000/chats/ada/turns/…/events
$ curl -X POST localhost:8000/chats/ada/regenerate
$ curl -X POST localhost:8000/chats/ada/fork -H 'content-type: application/json' -d '{"name": "ada-2", "after": "…"}'
"""

from typing import Annotated, Any

from conversation import Said, turn
from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

import umbel
from umbel.errors import SessionBusy, SessionExists
from umbel.server import sse_events

app = FastAPI()


class Fork(BaseModel):
    name: str
    after: str


# Plain `def`: FastAPI calls these in threads, so that nothing blocks its event loop.
@app.get("/chats/{name}")
def conversation(name: str) -> list[dict[str, Any]]:
    return umbel.session(name).stored_state().get("conversation", [])


@app.post("/chats/{name}")
def say(name: str, said: Said) -> dict[str, str]:
    # A message sent while the previous answer is still being generated interrupts that answer.
    return {"turn": umbel.session(name).run(turn, said, when_busy="interrupt").run_id}


@app.get("/chats/{name}/turns/{run_id}/events")
def tokens(run_id: str, last_event_id: Annotated[int, Header()] = -1) -> StreamingResponse:
    # A browser that reconnects, to any server, sends the last event it has seen in `Last-Event-ID`.
    stream = sse_events(umbel.attach(run_id), after_sequence=last_event_id)
    return StreamingResponse(stream, media_type="text/event-stream")


@app.post("/chats/{name}/regenerate")
def regenerate(name: str) -> dict[str, str]:
    """Answers the last message again, from the conversation as it was before that message."""
    session = umbel.session(name)
    said = session.stored_state().get("said")
    if said is None:
        raise HTTPException(404, "Nothing has been said yet.")
    current = session.current()
    if current is not None and current.is_done():
        session.rewind(to=session.versions()[1].version)
    return {"turn": session.run(turn, Said(text=said), when_busy="rollback").run_id}


@app.post("/chats/{name}/fork")
def fork(name: str, wanted: Fork) -> None:
    """Starts another conversation that continues from this one as it was after a turn."""
    umbel.session(name).fork(wanted.name, at=umbel.attach(wanted.after))


@app.exception_handler(SessionBusy)
@app.exception_handler(SessionExists)
def conflict(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 409)
