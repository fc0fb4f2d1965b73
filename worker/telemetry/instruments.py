"""Every metric of the worker, in one table: docs/telemetry.md is made from it, and tests check what is emitted by it.

Names are OpenTelemetry's, units UCUM's. No brook, session or command is ever an attribute: each attribute's values are
listed, and what is not listed becomes `other`. One process, one set of numbers.
"""

import importlib.metadata
from typing import Final

from schemas.replies import RejectionCode
from worker.telemetry.kinds import Counter, Gauge, Histogram, Instrument


def _version() -> str:
    try:
        return importlib.metadata.version("brook-worker")
    except importlib.metadata.PackageNotFoundError:  # run from its sources, without having been installed
        return "unknown"


VERSION: Final = _version()

_LATENCY_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_REQUEST_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_COMMANDS: Final = (1, 2, 5, 10, 20, 50, 99, 150, 198, 300, 500, 1000)
_BATCH_ITEMS: Final = (1, 2, 5, 10, 20, 50, 75, 99)
_BATCH_BYTES: Final = (1_000, 4_000, 16_000, 64_000, 256_000, 512_000, 1_000_000, 1_500_000, 1_800_000, 2_000_000)

_SERVICES: Final = ("cosmos", "blob", "servicebus")
_REASONS: Final = (
    "conflict",
    "missing",
    "throttled",
    "too-large",
    "refused",
    "timeout",
    "connection",
    "server-error",
    "unavailable",
    "lost",
)
"""Why a request was not done. `conflict`: what it was conditional on is not so any more, or another holds the lease.
`connection`: not established, or cut. `unavailable`: Service Bus, for any of these."""

# --- commands ---------------------------------------------------------------------------------------------------------

COMMANDS: Final = Counter(
    "brook.worker.commands",
    unit="{command}",
    attributes={
        "outcome": ("appended", "conflict", "rejected", "dead-lettered", "abandoned"),
        "attempt": ("first", "repeated"),
    },
    description="Commands that were settled, by what became of them. `repeated`: delivered before, or decided before.",
)
REJECTIONS: Final = Counter(
    "brook.worker.rejections",
    unit="{command}",
    attributes={"reason": tuple(code.value for code in RejectionCode)},
    description="Commands that were rejected and completed, by the code in their reply.",
)
DEAD_LETTERS: Final = Counter(
    "brook.worker.dead_letters",
    unit="{message}",
    attributes={"reason": tuple(code.value for code in RejectionCode)},
    description="Messages that the worker put aside. What the broker dead-letters by itself is not among them.",
)
LATENCY_FROM_ENQUEUE: Final = Histogram(
    "brook.worker.command.latency.from_enqueue",
    unit="s",
    bounds=_LATENCY_S,
    description="From when the broker took a command until its reply was with the broker, by the two machines' clocks.",
)
LATENCY_FROM_RECEIVE: Final = Histogram(
    "brook.worker.command.latency.from_receive",
    unit="s",
    bounds=_LATENCY_S,
    description="From when the worker received a command until its reply was with the broker.",
)
IN_HAND: Final = Gauge(
    "brook.worker.commands.in_hand",
    unit="{command}",
    description="Commands that are received and not settled yet.",
)

# --- groups, batches, events ------------------------------------------------------------------------------------------

GROUP_COMMANDS: Final = Histogram(
    "brook.worker.group.commands",
    unit="{command}",
    bounds=_COMMANDS,
    description="Commands that were decided together: one brook's share of a group.",
)
STAGE_DURATION: Final = Histogram(
    "brook.worker.stage.duration",
    unit="s",
    bounds=_LATENCY_S,
    attributes={"stage": ("decide", "reply", "settle")},
    description="How long a stage took for what it did at once: decide and commit, send the replies, settle.",
)
PLANS: Final = Counter(
    "brook.worker.plans",
    unit="{plan}",
    attributes={"attempt": ("first", "repeated")},
    description="Plans made for groups. `repeated`: the brook was not as planned on, and the group was planned anew.",
)
BATCH_COMMANDS: Final = Histogram(
    "brook.worker.batch.commands",
    unit="{command}",
    bounds=_BATCH_ITEMS,
    description="Commands in a batch that took effect. Batches of large appends are not among them.",
)
BATCH_EVENTS: Final = Histogram(
    "brook.worker.batch.events",
    unit="{event}",
    bounds=_BATCH_ITEMS,
    description="Events in a batch that took effect. Batches of large appends are not among them.",
)
BATCH_SIZE: Final = Histogram(
    "brook.worker.batch.size",
    unit="By",
    bounds=_BATCH_BYTES,
    description="Encoded size of a batch that took effect. Batches of large appends are not among them.",
)
EVENTS: Final = Counter(
    "brook.worker.events",
    unit="{event}",
    description="Events that were appended to brooks.",
)
LARGE_APPENDS: Final = Counter(
    "brook.worker.large_appends",
    unit="{command}",
    description="Commands that were too large for one batch and were appended in several.",
)
RECOVERY_DECISIONS: Final = Counter(
    "brook.worker.recovery.decisions",
    unit="{decision}",
    attributes={
        "decision": (
            "nothing-pending",
            "resume",
            "commit",
            "roll-back",
            "inspect-legacy",
            "drop-stale",
            "contradiction",
        )
    },
    description="What was decided about large appends that somebody left, and about brooks that contradict themselves.",
)

# --- requests ---------------------------------------------------------------------------------------------------------

_ASKED_FOR: Final = {
    "cosmos": ("batch", "query", "read"),
    "blob": ("acquire", "renew", "release", "create", "read", "delete"),
    "servicebus": ("accept", "renew", "send", "settle"),
}
REQUESTS: Final = Counter(
    "brook.worker.requests",
    unit="{request}",
    attributes={
        "service": _SERVICES,
        "operation": (
            "batch",
            "query",
            "read",
            "acquire",
            "renew",
            "release",
            "create",
            "delete",
            "accept",
            "send",
            "settle",
        ),
        "outcome": ("ok", *_REASONS),
    },
    # What alerts wait for: of all that could be, most never is.
    from_start=[
        (service, operation, outcome)
        for service, operations in _ASKED_FOR.items()
        for operation in operations
        for outcome in ("ok", "throttled", "refused")
    ],
    description="Requests sent, each try for itself. `create` makes a lease's blob; of claims, `read` and `delete`.",
)
REQUEST_DURATION: Final = Histogram(
    "brook.worker.request.duration",
    unit="s",
    bounds=_REQUEST_S,
    attributes={"service": _SERVICES, "operation": REQUESTS.attributes["operation"]},
    description="How long a request took, whatever its outcome. Waits for a session are in accept.duration instead.",
)
REQUEST_CHARGE: Final = Counter(
    "brook.worker.request.charge",
    unit="{RU}",
    attributes={"operation": ("batch", "query", "read")},
    description="What Cosmos DB charged, in request units, refused and repeated requests included.",
)
RETRIES: Final = Counter(
    "brook.worker.retries",
    unit="{retry}",
    attributes={"service": _SERVICES, "reason": _REASONS},
    description="Requests that were sent again after a failure, by what failed. Waiting for a held lease is no retry.",
)
AMBIGUOUS_WRITES: Final = Counter(
    "brook.worker.ambiguous_writes",
    unit="{write}",
    attributes={"reason": ("conflict", "timeout", "connection", "server-error")},
    description="Batches whose answer does not say who won: the head is loaded again and tells.",
)

# --- sessions, slots, leases, locks -----------------------------------------------------------------------------------

SLOTS: Final = Gauge(
    "brook.worker.slots",
    unit="{slot}",
    description="Sessions that may be worked on at once: max_concurrent_sessions.",
)
SLOTS_BUSY: Final = Gauge(
    "brook.worker.slots.busy",
    unit="{slot}",
    description="Slots that have a session, from its acceptance to the end of the work on it.",
)
SLOTS_WANTED: Final = Gauge(
    "brook.worker.slots.wanted",
    unit="{slot}",
    description="Slots that the sessions in sight could use: the busy ones, and more where sessions wait for a slot.",
)
SESSIONS_ACTIVE: Final = Gauge(
    "brook.worker.sessions.active",
    unit="{session}",
    description="Sessions accepted and not closed yet. While one is being closed, its slot is free.",
)
SESSION_DURATION: Final = Histogram(
    "brook.worker.session.duration",
    unit="s",
    bounds=(0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0),
    description="How long sessions were held, from acceptance to the beginning of closing.",
)
ACCEPT_DURATION: Final = Histogram(
    "brook.worker.accept.duration",
    unit="s",
    bounds=_REQUEST_S,
    attributes={"outcome": ("accepted", "timeout", "failed")},
    description="Waits for a session, by how they ended. `timeout`: no session had commands for anybody to take.",
)
LEASE_WAIT: Final = Histogram(
    "brook.worker.lease.wait",
    unit="s",
    bounds=_LATENCY_S,
    attributes={"outcome": ("acquired", "timeout", "unavailable")},
    description="Waits for a lease, by how they ended. `timeout`: another worker held it all the time.",
)
RENEWAL_LATENESS: Final = Histogram(
    "brook.worker.renewal.lateness",
    unit="s",
    bounds=(0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0),
    attributes={"what": ("lease", "lock")},
    description="How long after it was due a lease or a session lock was renewed: a slow service or a busy process.",
)
SESSION_FAILURES: Final = Counter(
    "brook.worker.session.failures",
    unit="{session}",
    attributes={"why": ("store", "claims", "lease", "broker", "bug")},
    description="Sessions given back because what they need failed, or by a bug in none of their commands.",
)
LOSSES: Final = Counter(
    "brook.worker.losses",
    unit="{loss}",
    attributes={"what": ("lock", "lease", "connection")},
    description="Sessions that ended because their lock, lease or connection was lost. Their commands come again.",
)

# --- health -----------------------------------------------------------------------------------------------------------

BREAKER_OPEN: Final = Gauge(
    "brook.worker.breaker.open",
    unit="{flag}",
    description="1 while what all sessions need is out of order: one slot probes and the others wait. Else 0.",
)
BREAKER_CHANGES: Final = Counter(
    "brook.worker.breaker.changes",
    unit="{change}",
    attributes={"to": ("open", "closed")},
    description="How often the breaker opened or closed. A probe that fails opens it again.",
)
STATE: Final = Gauge(
    "brook.worker.state",
    unit="{flag}",
    attributes={"state": ("starting", "running", "draining")},
    description="1 for the state that the worker is in, 0 for the others.",
)
DRAIN_DURATION: Final = Gauge(
    "brook.worker.drain.duration",
    unit="s",
    description="How long the worker has been draining; 0 while it does not.",
)
LOOP_DELAY: Final = Histogram(
    "brook.worker.loop.delay",
    unit="s",
    bounds=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0),
    description="How late the event loop woke up a task that slept: what everything else waits too.",
)
START_TIME: Final = Gauge(
    "brook.worker.start_time",
    unit="s",
    description="When the process started, in seconds since 1970.",
)
INFO: Final = Gauge(
    "brook.worker.info",
    unit="{flag}",
    attributes={"version": (VERSION,)},
    description="Always 1; its attribute is the version of the worker.",
)

INSTRUMENTS: Final[tuple[Instrument, ...]] = tuple(
    value for value in list(globals().values()) if isinstance(value, Instrument)
)
"""All of them, in the order of this file."""
