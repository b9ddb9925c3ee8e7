"""Stop and ask a human. Until the answer arrives no process holds the run: it can wait for weeks and survives restarts.

$ umbel dev examples/approval.py                                # serves in this terminal, on an embedded Redis
$ umbel start examples/approval.py amount=1200 --run-id trip    # in another one
$ umbel events trip                                             # the question

Now stop `umbel dev`, kill any process that is left, restart the machine. Then, in any order:

$ umbel send trip Decision approved=true by=Ada                 # also works while no process is running
$ umbel dev examples/approval.py
$ umbel events trip --follow                                    # approved by Ada

$ umbel run examples/approval.py amount=1200                    # all in one: shows how to answer, and waits
$ python examples/approval.py                                   # asks on this terminal
"""

import umbel
from umbel import Context, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent, Workflow, step


class Expense(StartEvent):
    amount: float


class Question(InputRequiredEvent):
    text: str


class Decision(HumanResponseEvent):
    approved: bool
    by: str


class Approval(Workflow):
    @step
    async def decide(self, ctx: Context, expense: Expense) -> StopEvent:
        if expense.amount <= 100:
            return StopEvent(result="approved: small sums need no asking")
        # Code above the wait runs again when the answer arrives; the question is published once.
        question = Question(text=f"May {expense.amount:.2f} euros be spent?")
        decision = await ctx.wait_for_event(Decision, waiter_event=question, timeout=14 * 86_400)
        return StopEvent(result=f"{'approved' if decision.approved else 'refused'} by {decision.by}")


approval = Approval(timeout=None)

if __name__ == "__main__":
    with umbel.local():
        run = approval.start(amount=1200)
        for event in run.events():
            if isinstance(event, Question):
                answer = input(f"{event.text} [y/n] ")
                run.send_event(Decision(approved=answer.startswith("y"), by="you"))
        print(run.result())
