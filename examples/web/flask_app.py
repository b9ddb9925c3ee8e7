"""Runs in a Flask application: no event loop, one thread per reader.

$ flask --app examples/web/flask_app.py run
$ curl -X POST localhost:5000/trips -H 'content-type: application/json' -d '{"city": "Ghent"}'     # {"id": "…"}
$ curl -N localhost:5000/trips/…/events
$ curl -X POST localhost:5000/trips/…/choice -H 'content-type: application/json' -d '{"accepted": true}'
"""

from collections.abc import Iterator

from flask import Flask, Response, request
from trip import Choice, Wish, trip

import umbel
from umbel.errors import RunNotFound

app = Flask(__name__)


@app.post("/trips")
def start() -> dict[str, str]:
    return {"id": trip.start(start_event=Wish(**request.get_json())).run_id}


@app.get("/trips/<run_id>/events")
def events(run_id: str) -> Response:
    handler = umbel.attach(run_id)

    def lines() -> Iterator[str]:
        for event in handler.events():  # from the first one on, then live until the run ends
            yield f"event: {type(event).__name__}\ndata: {event.model_dump_json()}\n\n"

    return Response(lines(), mimetype="text/event-stream")


@app.post("/trips/<run_id>/choice")
def choose(run_id: str) -> tuple[str, int]:
    umbel.attach(run_id).send_event(Choice(**request.get_json()))
    return "", 204


@app.errorhandler(RunNotFound)
def not_found(error: RunNotFound) -> tuple[str, int]:
    return str(error), 404
