"""What is measured, and what must be reached."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from bench.lab import NO_LATENCY, Latency
from bench.measure import Load
from bench.workloads import hot, many, mixed
from schemas.commands import AppendCommand

_LATENCY: Final = Latency()
_WINDOW_S: Final = 45.0
"""Who has not settled everything by then is measured on what was settled."""

MANY_SESSIONS: Final = {"max_concurrent_sessions": "64", "session_idle_s": "0.2"}
"""For all workers: a session whose few commands are done makes room for the next one soon."""

BUCKETS: Final = 16
OURS_PER_BROOK: Final = "per brook"


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """One worker in a scenario. `worker` is a name of `bench.measure.PROGRAMS`."""

    name: str
    worker: str
    window_s: float = _WINDOW_S
    settings: dict[str, str] = {}
    buckets: int | None = None
    processes: int = 1


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A queue full of commands, and who works on it."""

    name: str
    title: str
    latency: Latency
    contenders: tuple[Contender, ...]
    commands: Callable[[str], Sequence[AppendCommand]]
    """Makes them; given a text that no other run has, for the names of brooks and commands."""

    def load(self, contender: Contender) -> Load:
        """What is queued for a contender: the same for all, but for the sessions."""
        return Load(
            commands=self.commands(f"{self.name}-{contender.name.replace(' ', '-')}"),
            latency=self.latency,
            window_s=contender.window_s,
            settings=contender.settings,
            buckets=contender.buckets,
            processes=contender.processes,
        )


class Idle(msgspec.Struct, frozen=True, kw_only=True):
    """One command at a time on an open session."""

    name: str
    title: str
    latency: Latency
    samples: int
    workers: tuple[str, ...] = ("seed", "null", "ours")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All scenarios of one form of the benchmark, and how long it may take."""

    name: str
    rounds_max: int
    budget_s: float
    scenarios: tuple[Scenario | Idle, ...]

    def only(self, names: Sequence[str]) -> "Plan":
        """The plan with these scenarios alone."""
        kept = tuple(scenario for scenario in self.scenarios if scenario.name in names)
        return msgspec.structs.replace(self, name=f"{self.name}-part", scenarios=kept)


def full() -> Plan:
    """Everything, as often as ten minutes allow."""
    return Plan(
        name="bench",
        rounds_max=5,
        budget_s=570.0,
        scenarios=(
            _hot(2_000, _LATENCY, seed_window_s=8.0),
            _hot(2_000, NO_LATENCY, seed_window_s=6.0),
            _many(256, seed_window_s=15.0),
            _small(5_000, per_brook_window_s=12.0),
            _idle(_LATENCY, 60),
            _idle(NO_LATENCY, 60),
            _mixed(32, 10, seed_window_s=15.0),
            _processes(256, 8),
        ),
    )


def quick() -> Plan:
    """One round of the smallest that shows anything; without those workers that no target is told by."""
    return Plan(
        name="bench-quick",
        rounds_max=1,
        budget_s=85.0,
        scenarios=(
            _hot(1_000, _LATENCY, seed_window_s=2.0),
            _without_null(_many(64, seed_window_s=3.0)),
            msgspec.structs.replace(_idle(_LATENCY, 30), workers=("ours",)),
            _small(500, per_brook_window_s=3.0),
            _mixed(8, 10, seed_window_s=3.0),
        ),
    )


def _without_null(scenario: Scenario) -> Scenario:
    contenders = tuple(contender for contender in scenario.contenders if contender.worker != "null")
    return msgspec.structs.replace(scenario, contenders=contenders)


def _hot(commands: int, latency: Latency, *, seed_window_s: float) -> Scenario:
    return Scenario(
        name="hot" if latency == _LATENCY else "hot-0",
        title=f"hot brook: {commands:,} commands of 1 KB in one session",
        latency=latency,
        commands=lambda prefix: hot(commands, prefix),
        contenders=(
            Contender(name="seed", worker="seed", window_s=seed_window_s),
            Contender(name="null", worker="null"),
            Contender(name="ours", worker="ours"),
        ),
    )


def _many(brooks: int, *, seed_window_s: float) -> Scenario:
    return Scenario(
        name="many",
        title=f"many brooks: {brooks} brooks with 4 commands each, 64 sessions at once",
        latency=_LATENCY,
        commands=lambda prefix: many(brooks, 4, prefix),
        contenders=(
            Contender(name="seed", worker="seed", window_s=seed_window_s, settings=MANY_SESSIONS),
            Contender(name="null", worker="null", settings=MANY_SESSIONS),
            Contender(name="ours", worker="ours", settings=MANY_SESSIONS),
        ),
    )


def _small(brooks: int, *, per_brook_window_s: float) -> Scenario:
    bucketed = MANY_SESSIONS | {"session_buckets": str(BUCKETS)}
    return Scenario(
        name="small",
        title=f"many small brooks: {brooks:,} brooks with 1 command each, {BUCKETS} buckets",
        latency=_LATENCY,
        commands=lambda prefix: many(brooks, 1, prefix),
        contenders=(
            Contender(name=OURS_PER_BROOK, worker="ours", window_s=per_brook_window_s, settings=MANY_SESSIONS),
            Contender(name="bucketed", worker="ours", settings=bucketed, buckets=BUCKETS),
        ),
    )


def _idle(latency: Latency, samples: int) -> Idle:
    return Idle(
        name="idle" if latency == _LATENCY else "idle-0",
        title="one command on an open idle session, sent to reply",
        latency=latency,
        samples=samples,
    )


def _mixed(brooks: int, commands: int, *, seed_window_s: float) -> Scenario:
    return Scenario(
        name="mixed",
        title=f"mixed: {brooks} brooks with {commands} commands each, 10 % large, 5 % conflicts, 5 % sent twice",
        latency=_LATENCY,
        commands=lambda prefix: mixed(brooks, commands, prefix),
        contenders=(
            Contender(name="seed", worker="seed", window_s=seed_window_s, settings=MANY_SESSIONS),
            Contender(name="ours", worker="ours", settings=MANY_SESSIONS),
        ),
    )


def _processes(brooks: int, commands: int) -> Scenario:
    return Scenario(
        name="processes",
        title=f"processes: {brooks} brooks with {commands} commands each",
        latency=_LATENCY,
        commands=lambda prefix: many(brooks, commands, prefix),
        contenders=tuple(
            Contender(name=f"{count}", worker="ours", settings=MANY_SESSIONS, processes=count) for count in (1, 2)
        ),
    )
