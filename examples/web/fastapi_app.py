"""Runs in a FastAPI application: started, followed live by any number of browsers, and answered.

$ uvicorn --app-dir examples/web fastapi_app:app
$ curl -X POST localhost:8000/trips -H 'content-type: application/json' -d '{"city": "Ghent"}'     # {"id": "…"}
$ curl -N localhost:8000/trips/…/events
$ curl -X POST localhost:8000/trips/…/choice -H 'content-type: application/json' -d '{"accepted": true}'
"""

from typing import Annotated

from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse, StreamingResponse
from trip import Choice, Wish, trip

import umbel
from umbel.errors import RunNotFound
from umbel.server import WorkflowServer, sse_events

app = FastAPI()


# Plain `def`: FastAPI calls these in threads, so that nothing blocks its event loop.
@app.post("/trips")
def start(wish: Wish) -> dict[str, str]:
    return {"id": trip.start(start_event=wish).run_id}


@app.get("/trips/{run_id}/events")
def events(run_id: str, last_event_id: Annotated[int, Header()] = -1) -> StreamingResponse:
    # A browser that reconnects sends the last event it has seen in `Last-Event-ID`; any process sends the rest.
    stream = sse_events(umbel.attach(run_id), after_sequence=last_event_id)
    return StreamingResponse(stream, media_type="text/event-stream")


@app.post("/trips/{run_id}/choice")
def choose(run_id: str, choice: Choice) -> None:
    umbel.attach(run_id).send_event(choice)


@app.exception_handler(RunNotFound)
def not_found(_: Request, error: RunNotFound) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 404)


# The whole protocol and the console page. Without a token or `authorize` they accept only this machine's host names.
server = WorkflowServer()
server.add_workflow("trip", trip, additional_events=[Choice])
app.mount("/umbel", server.app)
