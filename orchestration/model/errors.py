"""Every error that umbel raises, in one tree. Messages say what happened, where, and how to fix it.

UmbelError
├── WorkflowValidationError          the author's workflow cannot run as written
│   └── WorkflowConfigurationError   … because its start, stop or steps are missing or ambiguous
├── WorkflowRuntimeError             a call or a step did what the workflow does not allow
│   ├── UnserializableValue          a value that JSON cannot carry
│   ├── PayloadTooLarge              a payload above the hard limit
│   ├── RunEnded                     an event was sent to a run that has ended
│   └── UnknownEvent                 an event name that no loaded class has
├── ContextSerdeError                a context snapshot that cannot be read or written
├── ContextStateError                a context method called where it is not available
├── RunError                         how a run ended, or why a call about it failed
│   ├── WorkflowTimeoutError         it took longer than its timeout (also a TimeoutError)
│   ├── WorkflowCancelledByUser      it was cancelled
│   ├── WorkflowFailed               it failed, but not by a step's exception
│   ├── ResultUnreadable             its result's class is not loaded here, or has changed since
│   ├── RunNotFound                  unknown run id (or its retention is over)
│   ├── ChildFailed                  a child run did not complete; raised in the step that waits for it
│   ├── NotRetried                   nothing about the run could be resumed
│   ├── HistoryUnavailable           this point of the run's past is not available
│   ├── HistoryDamaged               the journal does not match the run
│   ├── RunExists                    the requested run id is taken
│   ├── SessionExists                the name of a new session is taken
│   ├── SessionBusy                  a run of the session is running, and the caller did not want to wait
│   ├── SessionFull                  the maximum number of runs wait for their turn in the session
│   └── SessionClosed                the session takes no more runs
├── StepTimeoutError                 one step exceeded its own timeout (also a TimeoutError)
├── WorkerLost                       a step's process died too often
├── RunClosed                        the run ended while this step was still running
├── ConfigurationError               the operator's settings, Redis or broker are not usable
│   └── NotConfigured                nothing says where Redis is
└── StoreUnavailable                 Redis did not answer, or refuses; nothing is known to have been written
"""

from __future__ import annotations


class UmbelError(Exception):
    """The base of every error that umbel itself raises."""


class WorkflowValidationError(UmbelError):
    """A workflow, step or decorator is written in a way that cannot work."""


class WorkflowConfigurationError(WorkflowValidationError):
    """A workflow has no steps, or not exactly one start and one stop event class."""


class WorkflowRuntimeError(UmbelError):
    """A running workflow, or a caller, did what the workflow's definition does not allow."""


class WorkflowStepDoesNotExistError(WorkflowRuntimeError):
    """A step was named that the workflow does not have."""


class UnserializableValue(WorkflowRuntimeError):
    """A value in an event or in the state store is not JSON and not a pydantic model."""


class PayloadTooLarge(WorkflowRuntimeError):
    """An event or a state value exceeds the hard size limit; nothing of it was stored."""


class RunEnded(WorkflowRuntimeError):
    """An event was sent to a run that has ended; it was not delivered."""


class UnknownEvent(WorkflowRuntimeError):
    """Stored data names an event class that is not loaded here. Names are never imported."""


class WorkflowDone(UmbelError):
    """Exported for code ported from LlamaIndex Workflows; never raised."""


class ContextSerdeError(UmbelError):
    """A context snapshot is damaged, was not made by umbel, or is newer than this version."""


class ContextStateError(UmbelError):
    """A context method was called where it is not available."""


class RunError(UmbelError):
    """How a run ended, or why a call about it failed; raised in the caller."""


class WorkflowTimeoutError(RunError, TimeoutError):
    """The run did not end within the workflow's timeout."""


class WorkflowCancelledByUser(RunError):
    """The run was cancelled."""


class WorkflowFailed(RunError):
    """The run failed, but not by a step's own exception."""


class ResultUnreadable(RunError):
    """The run has ended, but this process cannot read its result: the class is not loaded or has changed."""


class RunNotFound(RunError):
    """No run has this id, or its retention time is over."""


class ChildFailed(RunError):
    """A child run did not complete; raised in the step that waits for it. The child's error is its cause.

    Attributes:
        run_id: The child run.
        step: The child's step that failed; empty if the child was cancelled or timed out.
        reason: The child's error as text.
    """

    def __init__(self, run_id: str, step: str, reason: str) -> None:
        super().__init__(run_id, step, reason)
        self.run_id, self.step, self.reason = run_id, step, reason

    def __str__(self) -> str:
        where = f" in step {self.step!r}" if self.step else ""
        return f"Child run {self.run_id!r} failed{where}: {self.reason}"

    @property
    def error(self) -> BaseException | None:
        """The child's error, in its own type if that is loaded here."""
        return self.__cause__


class NotRetried(RunError):
    """Nothing about the run can be resumed: it is still running, has completed, or has no open step.

    Attributes:
        reason: `running`, `completed`, `nothing` (it has no open step) or `superseded` (its session has another run).
    """

    def __init__(self, text: str, reason: str = "nothing") -> None:
        super().__init__(text)
        self.reason = reason


class HistoryUnavailable(RunError):
    """A point of a run's past does not exist, is no longer kept, or has no values in the journal."""


class PointNotFound(HistoryUnavailable):
    """A point of a run's past that never existed."""


class HistoryDamaged(RunError):
    """The journal of a run cannot be replayed, or has been changed.

    Attributes:
        seq: The entry at which this was found.
    """

    def __init__(self, text: str, seq: int = 0) -> None:
        super().__init__(text)
        self.seq = seq


class RunExists(RunError, RuntimeError):
    """A run with the requested id already exists."""


class SessionExists(RunError):
    """A session or a run already has the name requested for a new session."""


class SessionBusy(RunError):
    """A run of the session is running, and the caller did not want to wait for its end."""


class SessionFull(RunError):
    """As many runs as `session_max_waiting` allows wait for their turn in the session."""


class SessionClosed(RunError):
    """The session was closed: it takes no more runs."""


class StepTimeoutError(UmbelError, TimeoutError):
    """One attempt of a step ran longer than its `@step(timeout=…)`."""


class WorkerLost(UmbelError):
    """The process executing a step died more often than is tolerated."""


class RunClosed(UmbelError):
    """The run has ended, or another process has the work: what this attempt of a step does is no longer needed.

    Attributes:
        claim_id: The claim of the attempt that was refused; empty if it was not an attempt.
    """

    def __init__(self, text: str = "", claim_id: str = "") -> None:
        super().__init__(text)
        self.claim_id = claim_id


class ConfigurationError(UmbelError):
    """Settings, Redis or broker are not usable; the message says how to fix them."""


class NotConfigured(ConfigurationError):
    """No Redis is configured, and umbel never starts one implicitly."""


class StoreUnavailable(UmbelError):
    """Redis did not answer, or refuses commands for now; the message says which, and what helps.

    It is not known whether the last command was applied, unless Redis refused it; repeating it is safe.

    Attributes:
        where: The Redis URL without its password; empty if not known.
        refuses: Whether Redis answered and refused: it is full, a replica, loading, unable to write to its disk.
    """

    def __init__(self, text: str, where: str = "", *, refuses: bool = False) -> None:
        super().__init__(text)
        self.where, self.refuses = where, refuses


for _each in [each for each in vars().values() if getattr(each, "__module__", None) == __name__]:
    _each.__module__ = "umbel.errors"  # tracebacks name the module that users import them from
del _each
