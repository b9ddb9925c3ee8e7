"""umbel in an existing Celery app: with one more line, it runs workflows in addition to its tasks.

$ export REDIS_URL=redis://localhost:6379/0
$ cd examples && celery -A celery_app worker            # the usual worker
$ cd examples && python celery_app.py                   # a task and a workflow, both executed by it
"""

import os

from celery import Celery

import umbel
from umbel import Event, StartEvent, StopEvent, Workflow, step

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

app = Celery("celery_app", broker=REDIS_URL, backend=REDIS_URL)


@app.task
def send_mail(to: str, text: str) -> str:
    return f"to {to}: {text}"


class Order(StartEvent):
    customer: str
    euros: float


class Paid(Event):
    customer: str


class Fulfil(Workflow):
    @step
    def charge(self, order: Order) -> Paid:
        return Paid(customer=order.customer)

    @step
    def ship(self, paid: Paid) -> StopEvent:
        send_mail.delay(paid.customer, "It is on its way.")
        return StopEvent(result=f"shipped to {paid.customer}")


umbel.install(app, Fulfil)

if __name__ == "__main__":
    print(send_mail.delay("ada@example.org", "Welcome!").get(timeout=30))
    print(Fulfil().start(customer="ada@example.org", euros=20).result(timeout=30))
