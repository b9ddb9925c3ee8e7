"""All settings in one frozen model, read from `UMBEL_*` and validated as a whole."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..model.durations import LARGEST_COUNT, LONGEST_SECONDS, LONGEST_WAIT_SECONDS, SHORTEST_SECONDS
from ..model.errors import ConfigurationError
from .compression import HOW_TO_HAVE_ZSTD, Compression, zstd
from .failpoints import VARIABLE as FAILPOINTS
from .keys import MAX_SHARDS
from .sentinel import Sentinels

logger = logging.getLogger("umbel.settings")

#: How long something is kept, how long a process waits (threads cannot sleep for 300 years), and how many there may be.
Lifetime = Annotated[float, Field(le=LONGEST_SECONDS, allow_inf_nan=False)]
Wait = Annotated[float, Field(le=LONGEST_WAIT_SECONDS, allow_inf_nan=False)]
Count = Annotated[int, Field(le=LARGEST_COUNT)]

#: `scheme://user:password@`. A password that was not percent-encoded may have any character in it, so everything up to
#: the last `@` is hidden.
_CREDENTIALS = re.compile(r"(?P<user>[a-z][a-z0-9+.-]*://[^:]*):.*@", re.IGNORECASE | re.DOTALL)
#: Text that is not a URL but has an `@`: everything before it may be a password.
_BEFORE_HOST = re.compile(r"^(?!.{0,40}?[a-z0-9]://).*@", re.IGNORECASE | re.DOTALL)
#: A query value whose name looks like a secret: `?password=…`, `&ssl_password=…`, and spellings of other products.
_SECRET_VALUE = re.compile(r"(?P<name>[?&,;][^=&#,;]*(?:password|passwd|secret|token)[^=&#]*=)[^&#]*", re.IGNORECASE)
#: Options that switch off the verification of a TLS server, in redis-py's and kombu's spelling.
_UNVERIFIED = re.compile(
    r"[?&](?:ssl_cert_reqs=(?:cert_)?(?:none|optional)|ssl_check_hostname=(?:false|no|0|f|n))(?=&|#|$)", re.IGNORECASE
)


def redact_url(url: str) -> str:
    """The URL with its passwords replaced, fit for logs and errors.

    A password is what follows the user, or a query value whose name looks like a secret. Several URLs separated by `;`
    (kombu's notation for failover and Sentinel) or by `,` are redacted one by one. In text that is not a URL,
    everything before the last `@` is hidden.
    """
    return "".join(
        _SECRET_VALUE.sub(r"\g<name>***", _CREDENTIALS.sub(r"\g<user>:***@", _BEFORE_HOST.sub("***@", each), count=1))
        for each in re.split("(?<=[;,])(?=[a-z][a-z0-9+.-]*://)", url, flags=re.IGNORECASE)
    )


def verifies_server(url: str) -> bool:
    """Whether a TLS connection to this URL would verify the server's identity; True without TLS."""
    return _UNVERIFIED.search(url) is None


#: Settings under the names of older releases, still accepted.
_RENAMED = {"ring_seconds": "redispatch_seconds", "ring_max_seconds": "redispatch_max_seconds"}


#: `UMBEL_*` variables that are read elsewhere.
_NOT_SETTINGS = frozenset(
    {
        "UMBEL_STATE_DIR",
        "UMBEL_TARGETS",
        "UMBEL_LOG_LEVEL",
        "UMBEL_LOG_FORMAT",
        "UMBEL_SERVER_TOKEN",
        FAILPOINTS,
    }
)
#: Variables that Kubernetes sets in every pod for a Service called `umbel` or `umbel-…`.
_OF_A_SERVICE = re.compile(r".*_(SERVICE_(HOST|PORT(_.*)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")
#: `scheme://`, credentials, host and port, and the database of a Redis URL.
_PARTS = re.compile(r"(?P<scheme>rediss?://)(?P<login>[^/?#]*@)?(?P<host>[^/?#@]*)(?P<database>/[^?#]*)?")


def _for_kombu(url: str) -> str:
    """A Redis URL for kombu: database and credentials where kombu expects them, and the TLS options.

    Other options of redis-py are left out: kombu fails on them. They apply to the state connections only.
    """
    place, _, query = url.partition("?")
    parts = _PARTS.fullmatch(place)
    if not query or parts is None:
        return url
    options = dict(parse_qsl(query))
    login, database = parts["login"] or "", parts["database"] or ""
    if not login and ("username" in options or "password" in options):
        login = f"{quote(options.get('username', ''), '')}:{quote(options.get('password', ''), '')}@"
    if "db" in options:
        database = f"/{options['db']}"
    tls = "&".join(option for option in query.split("&") if option.startswith("ssl_"))
    return f"{parts['scheme']}{login}{parts['host']}{database}" + (f"?{tls}" if tls else "")


#: The database in the URL of a Unix socket; kombu calls it a virtual host.
_DB = re.compile(r"(?<![^&])db=")
_VIRTUAL_HOST = re.compile(r"(?<![^&])virtual_host=")


def redis_behind(broker: str) -> str | None:
    """The Redis server behind a broker's URL, as redis-py reads it; None if it is not one Redis server.

    Args:
        broker: The URL as Celery reads it, see `Settings.broker`.
    """
    if ";" in broker:
        return None
    if broker.startswith("redis+socket://"):
        place, _, options = broker.removeprefix("redis+socket://").partition("?")
        return f"unix://{place}" + (f"?{_VIRTUAL_HOST.sub('db=', options)}" if options else "")
    return broker if broker.startswith(("redis://", "rediss://", "unix://")) else None


@cache
def _warn_of_unknown(variables: tuple[str, ...]) -> None:
    """Warn of variables that are not settings of this release. Once per process, however often settings are read."""
    injected = [name for name in variables if _OF_A_SERVICE.fullmatch(name)]
    if injected:
        logger.warning(
            "Ignored, as set by Kubernetes for a Service whose name begins with `umbel`: %s. "
            "`enableServiceLinks: false` in the pod's spec leaves them out.",
            ", ".join(injected),
            extra={"action": "unknown_settings"},
        )
    known = [f"UMBEL_{name.upper()}" for name in Settings.model_fields] + sorted(_NOT_SETTINGS)
    for name in variables:
        if name not in injected:
            nearest = get_close_matches(name, known, 1)
            hint = f" Did you mean {nearest[0]}?" if nearest else ""
            text = "Ignored: %s is no setting of this release of umbel.%s"
            logger.warning(text, name, hint, extra={"action": "unknown_settings"})


class Settings(BaseModel):
    """How this process reaches Redis and the broker, and the time limits of the whole deployment.

    Everything but the URLs must be equal in all processes of one deployment. Durations are in seconds and may be
    fractions; the tests rely on that to run whole recoveries quickly.
    """

    # Errors do not show the invalid value: it may be a URL with a password.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    redis_url: str | None = Field(
        default=None, description="State: redis://, rediss://, unix://, sentinel://, redis+cluster://"
    )
    broker_url: str | None = Field(default=None, description="Celery's broker; None is the state Redis")
    broker_transport: Literal["umbel", "stock"] = "umbel"
    flower_url: str | None = Field(
        default=None, pattern=r"^https?://[^\s]+$", description="Where Flower is; the console links tasks to it"
    )
    otel: bool = Field(default=False, description="Trace with OpenTelemetry, as umbel.telemetry.install() does")
    unverified_tls: bool = Field(default=False, description="Accept URLs that switch TLS verification off")
    key_prefix: str = Field(default="umbel", pattern=r"^[A-Za-z0-9_.:-]{1,64}$")
    default_queue: str | None = Field(
        default=None, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", description="Queue of steps without one; None is `umbel`"
    )
    shards: int = Field(default=16, ge=1, le=MAX_SHARDS)

    lease_seconds: Wait = Field(default=15.0, ge=SHORTEST_SECONDS)
    heartbeat_seconds: Wait = Field(default=5.0, ge=SHORTEST_SECONDS)
    sweep_seconds: Wait = Field(default=2.0, ge=SHORTEST_SECONDS)
    redispatch_seconds: Wait = Field(
        default=5.0, ge=SHORTEST_SECONDS, description="First look at an unclaimed dispatch"
    )
    redispatch_max_seconds: Wait = Field(
        default=300.0, ge=SHORTEST_SECONDS, description="Longest back-off of re-dispatch"
    )
    continuation_seconds: Wait = Field(
        default=0.2,
        ge=0,
        description="How long a worker may continue with what it makes ready, past the broker; 0 never",
    )
    grouped_scripts: bool = Field(
        default=True, description="Whether an asyncio worker sends what its steps ask Redis for together"
    )
    direct_starts: bool = Field(
        default=True, description="Whether a start is sent by the thread that calls `run()`, past the shared connection"
    )
    expected_ends: bool = Field(
        default=True, description="Whether waiting for a run that the same process started begins without asking Redis"
    )
    batched_fetch: bool = Field(default=True, description="Whether a worker takes many dispatches at once off a queue")
    quick_commits: bool = Field(
        default=True, description="Most commits are prepared once and applied by a shorter script that leaves the same"
    )
    direct_delivery: bool = Field(
        default=True, description="Whether an asyncio worker hands dispatches to its pool past Celery's consumer"
    )
    flush_seconds: Wait = Field(default=0.0, ge=0, description="How long progress events may gather")
    burst_events: Count = Field(
        default=32,
        ge=0,
        description="Events written without a pause after which a step waits until they are sent; 0 never",
    )
    max_losses: Count = Field(default=3, ge=1, description="Losses alone, as a suspect, before it fails as WorkerLost")
    retention_seconds: Lifetime = Field(default=7 * 86400.0, ge=SHORTEST_SECONDS)
    session_retention_seconds: Lifetime | None = Field(
        default=None,
        ge=SHORTEST_SECONDS,
        description="How long an idle session keeps its state; None is retention_seconds",
    )
    session_max_waiting: Count = Field(default=100, ge=0, description="Runs that may wait for their turn in a session")
    drain_seconds: Wait = Field(default=20.0, ge=0, description="Soft shutdown: running steps may end within this")

    payload_warn_bytes: Count = Field(default=1 << 20, gt=0)
    payload_max_bytes: Count = Field(default=16 << 20, gt=0)
    stream_max_events: Count = Field(default=10_000, gt=0, description="Replayable events kept per run")
    journal_max_entries: Count = Field(default=100_000, gt=0)
    journal_max_bytes: Count = Field(default=16 << 20, gt=0, description="Memory of a run's journal")
    inbox_max_events: Count = Field(default=1_000, gt=0)
    inbox_max_bytes: Count = Field(default=8 << 20, gt=0, description="Memory of a run's inbox")
    history: Literal["full", "summary"] = "full"
    history_pack_after_seconds: Lifetime = Field(
        default=60.0, ge=0, description="How long after a run's end its journal is compressed; 0 never"
    )
    history_checkpoint_every: Count = Field(
        default=500, ge=10, description="Journal entries of a running run after which they are compressed"
    )
    history_keep: str = Field(
        default="all",
        pattern=r"^(all|last:[1-9][0-9]{0,11}|[1-9][0-9]{0,9}(\.[0-9]{1,9})?)$",
        description="How much of a run's past is kept while it runs: all, last:N entries, or a number of seconds",
    )
    history_compression: Compression = Field(
        default="zlib", description="With what journals are compressed; zstd only where every process has it"
    )
    step_logs: Literal["off", "DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="What the code of steps logs is kept with the run, from this level on"
    )
    step_log_max_bytes: Count = Field(default=64 << 10, ge=0, description="Text of one execution's log")
    run_log_max_bytes: Count = Field(default=512 << 10, gt=0, description="Memory of a run's log")
    waiters_indexed_from: Count = Field(
        default=16, ge=0, description="Waiters of a run above which those that an event answers are found by an index"
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_former_names(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {_RENAMED.get(name, name): value for name, value in values.items()}

    @model_validator(mode="after")
    def _times_fit_together(self) -> Self:
        if self.lease_seconds <= self.heartbeat_seconds:
            raise ValueError(
                f"lease_seconds must exceed heartbeat_seconds ({self.heartbeat_seconds:g}), got "
                f"{self.lease_seconds:g}. With a shorter lease the sweep would restart steps whose worker is alive."
            )
        if self.payload_warn_bytes > self.payload_max_bytes:
            raise ValueError(
                f"payload_warn_bytes ({self.payload_warn_bytes}) must not exceed payload_max_bytes "
                f"({self.payload_max_bytes}): the warning would never be seen."
            )
        if self.history_compression == "zstd" and zstd is None:
            raise ValueError(f"history_compression is zstd, which this process lacks: {HOW_TO_HAVE_ZSTD}.")
        for name in ("redis_url", "broker_url"):
            url = getattr(self, name)
            if url is not None and not self.unverified_tls and not verifies_server(url):
                raise ValueError(
                    f"{name} {redact_url(url)!r} switches the verification of the server's certificate off: anyone "
                    f"on the network path can read the password and change runs. Name the authority's certificate "
                    f"instead (?ssl_ca_certs=/path/ca.pem), or set unverified_tls=True if the network is yours alone."
                )
        return self

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Read `UMBEL_REDIS_URL`, `UMBEL_LEASE_SECONDS`, … ; explicit keyword arguments win.

        Raises:
            ConfigurationError: A value is invalid; the message names each variable. Unknown variables are ignored,
                with a warning.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        unknown: list[str] = []
        for variable, value in environ.items():
            if variable.startswith("UMBEL_") and variable not in _NOT_SETTINGS:
                name = variable.removeprefix("UMBEL_").lower()
                if name in cls.model_fields or name in _RENAMED:
                    values[name] = value
                else:
                    unknown.append(variable)
        if unknown:
            _warn_of_unknown(tuple(sorted(unknown)))
        values.update(overrides)
        try:
            return cls(**values)
        except ValidationError as error:
            problems = "; ".join(
                f"{'UMBEL_' + '_'.join(map(str, e['loc'])).upper() if e['loc'] else 'settings'}: {e['msg']}"
                for e in error.errors(include_input=False)
            )
            raise ConfigurationError(
                f"The umbel settings are not usable: {problems}. Known settings: {', '.join(sorted(cls.model_fields))}."
            ) from error

    @property
    def broker(self) -> str:
        """The broker's URL as Celery reads it, by default that of the state Redis; empty if neither is set."""
        url = self.broker_url or self.redis_url or ""
        if (sentinels := self.broker_sentinels) is not None:
            return sentinels.broker_url
        if url.startswith(("redis://", "rediss://")):
            return _for_kombu(url)
        if not url.startswith("unix://"):
            return url
        place, _, options = url.removeprefix("unix://").partition("?")
        return f"redis+socket://{place}" + (f"?{_DB.sub('virtual_host=', options)}" if options else "")

    @property
    def broker_sentinels(self) -> Sentinels | None:
        """The sentinels of the broker; None if it is something else."""
        try:
            return Sentinels.of(self.broker_url or self.redis_url or "")
        except ValueError:  # reported when the connection is made
            return None

    @property
    def broker_prefix(self) -> str:
        """Prefix of umbel's keys in a Redis broker."""
        return f"{self.key_prefix}:broker:"

    @property
    def queue(self) -> str:
        """The queue of steps that name none."""
        return self.default_queue or "umbel"

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """The fields that `repr`, `str`, and rich's tracebacks and printing show, without passwords."""
        for name, value in self.model_dump().items():
            yield name, redact_url(value) if name.endswith("_url") and value else value

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.__repr_args__())})"

    __str__ = __repr__
