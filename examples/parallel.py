"""Ask several sources at once and continue when all have answered: `ctx.send_event` out, `ctx.collect_events` in.

$ umbel run examples/parallel.py product=umbrella
$ python examples/parallel.py

`code_audit.py` shows the shorter way for any number of identical branches: return a list, take a list.
"""

import random
import time

import umbel
from umbel import Context, Event, StartEvent, StopEvent, Workflow, step

SHOPS = ["Nimbus", "Stratus", "Cirrus"]


class AskPrice(Event):
    product: str
    shop: str


class AskStock(Event):
    product: str


class Price(Event):
    shop: str
    euros: float


class Stock(Event):
    pieces: int


class BestOffer(Workflow):
    @step
    def ask(self, ctx: Context, ev: StartEvent) -> AskPrice | AskStock | None:
        for shop in SHOPS:
            ctx.send_event(AskPrice(product=ev.product, shop=shop))
        ctx.send_event(AskStock(product=ev.product))
        return None  # the events of the annotation have been sent

    @step
    def price(self, ev: AskPrice) -> Price:
        time.sleep(0.3)  # a request to the shop
        return Price(shop=ev.shop, euros=random.Random(f"{ev.shop} {ev.product}").randint(500, 2500) / 100)

    @step
    def stock(self, ev: AskStock) -> Stock:
        time.sleep(0.3)  # a request to the warehouse
        return Stock(pieces=len(ev.product))

    @step
    def choose(self, ctx: Context, ev: Price | Stock) -> StopEvent | None:
        answers = ctx.collect_events(ev, [Stock, *[Price] * len(SHOPS)])
        if answers is None:
            return None  # the set is incomplete; the call that completes it continues
        stock, *prices = answers
        best = min(prices, key=lambda price: price.euros)
        return StopEvent(result=f"{best.shop} at {best.euros:.2f} euros, we have {stock.pieces} of our own")


if __name__ == "__main__":
    with umbel.local(concurrency=4):
        print(BestOffer().start(product="umbrella").result())
