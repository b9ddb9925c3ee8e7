"""Runs in a single-file Django project: views start and answer them, an async view streams them.

$ uvicorn --app-dir examples/web django_app:application
$ curl -X POST localhost:8000/trips -d '{"city": "Ghent"}'     # {"id": "…"}
$ curl -N localhost:8000/trips/…/events
$ curl -X POST localhost:8000/trips/…/choice -d '{"accepted": true}'
"""

import secrets

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from trip import Choice, Wish, trip

import umbel
from umbel.errors import RunNotFound
from umbel.server import sse_events

# No middleware, so no CSRF check and no login: add those of your project.
settings.configure(ROOT_URLCONF=__name__, SECRET_KEY=secrets.token_hex(), ALLOWED_HOSTS=["localhost", "127.0.0.1"])


def attach(run_id: str) -> umbel.WorkflowHandler:
    try:
        return umbel.attach(run_id)
    except RunNotFound as error:
        raise Http404(str(error)) from error


def start(request: HttpRequest) -> JsonResponse:
    handler = trip.start(start_event=Wish.model_validate_json(request.body))
    return JsonResponse({"id": handler.run_id})


async def events(request: HttpRequest, run_id: str) -> StreamingHttpResponse:
    handler = await sync_to_async(attach)(run_id)
    last = int(request.headers.get("Last-Event-ID", -1))
    return StreamingHttpResponse(sse_events(handler, after_sequence=last), content_type="text/event-stream")


def choose(request: HttpRequest, run_id: str) -> HttpResponse:
    attach(run_id).send_event(Choice.model_validate_json(request.body))
    return HttpResponse(status=204)


urlpatterns = [
    path("trips", start),
    path("trips/<str:run_id>/events", events),
    path("trips/<str:run_id>/choice", choose),
]

application = get_asgi_application()
