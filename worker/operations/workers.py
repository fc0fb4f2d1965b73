"""What workers tell of themselves by HTTP: `/metrics`, `/readyz` and `/scaling`, read at one moment."""

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import anyio
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from worker.errors import WorkerError
from worker.telemetry.health import Status
from worker.telemetry.kinds import Instrument

_TIMEOUT_S: Final = 3.0
_BODY_BYTES_MAX: Final = 8_000_000
_READY: Final = (200, 503)
_OURS: Final = "brook_worker_"


class UrlError(WorkerError):
    """A text is no address of a worker."""

    exit_code = 2


class Sample:
    """A worker's metrics at one moment; `at_s` is on our own clock, which only goes forward."""

    def __init__(self, at_s: float, series: Sequence[tuple[str, dict[str, str], float]]) -> None:
        self.at_s = at_s
        self._series: dict[str, list[tuple[dict[str, str], float]]] = {}
        for name, labels, value in series:
            self._series.setdefault(name, []).append((labels, value))

    def total(self, instrument: Instrument, part: str = "", **labels: str) -> float:
        """The sum of all series of a metric that have these labels. Of a histogram, `part` is `_sum` or `_count`."""
        return sum(value for found, value in self._of(instrument, part) if labels.items() <= found.items())

    def by(self, instrument: Instrument, label: str, part: str = "") -> dict[str, float]:
        """A metric's sums by the values of one label."""
        sums: dict[str, float] = {}
        for labels, value in self._of(instrument, part):
            if (name := labels.get(label)) is not None:
                sums[name] = sums.get(name, 0.0) + value
        return sums

    def label(self, instrument: Instrument, label: str) -> str | None:
        """The value of a label of the first series."""
        return next((labels.get(label) for labels, _ in self._of(instrument, "")), None)

    def _of(self, instrument: Instrument, part: str) -> list[tuple[dict[str, str], float]]:
        return self._series.get(instrument.prometheus_name + part, [])


class Slots(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of `/scaling`: workers of another version may tell more or less."""

    slots: int
    busy: int
    wanted: float


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker answered; where it did not, `problem` says how, and the rest is None."""

    url: str
    problem: str | None = None
    readiness: Status | None = None
    slots: Slots | None = None
    sample: Sample | None = None


class Workers:
    """Looks at workers. Enter `reachable_workers` to have one."""

    def __init__(self, session: aiohttp.ClientSession, urls: Sequence[str]) -> None:
        self._session = session
        self.urls = tuple(urls)

    async def look(self) -> list[Look]:
        """Ask all at once; bounded in time. One that does not answer is told as such."""
        found: dict[str, Look] = {}

        async def ask(url: str) -> None:
            found[url] = await self._look(url)

        async with anyio.create_task_group() as tasks:
            for url in self.urls:
                tasks.start_soon(ask, url)
        return [found[url] for url in self.urls]

    async def _look(self, url: str) -> Look:
        try:
            with anyio.fail_after(_TIMEOUT_S):
                _, metrics = await self._get(f"{url}/metrics")
                at_s = time.monotonic()
                readiness_code, readiness = await self._get(f"{url}/readyz")
                _, scaling = await self._get(f"{url}/scaling")
            if readiness_code not in _READY:
                return Look(url=url, problem=f"answers {readiness_code} to /readyz: is it a worker?")
            return Look(
                url=url,
                readiness=msgspec.json.decode(readiness, type=Status),
                slots=msgspec.json.decode(scaling, type=Slots),
                sample=Sample(at_s, list(_series(metrics.decode()))),
            )
        except TimeoutError:
            return Look(url=url, problem=f"does not answer within {_TIMEOUT_S:g} s")
        except aiohttp.ClientError as error:
            return Look(
                url=url, problem=f"does not answer ({type(error).__name__}); is http_port set, and the way open?"
            )
        except (msgspec.MsgspecError, ValueError):
            return Look(url=url, problem="answers something else; is it a worker of this version?")

    async def _get(self, url: str) -> tuple[int, bytes]:
        async with self._session.get(url, headers={"Accept": "text/plain"}, allow_redirects=False) as response:
            body = await response.content.read(_BODY_BYTES_MAX + 1)
            while not response.content.at_eof() and len(body) <= _BODY_BYTES_MAX:
                body += await response.content.read(_BODY_BYTES_MAX + 1 - len(body))
            if len(body) > _BODY_BYTES_MAX:
                raise ValueError("too long")
            return response.status, body


@asynccontextmanager
async def reachable_workers(urls: Sequence[str]) -> AsyncIterator[Workers]:
    """Workers at these addresses. Nothing is sent yet. Raises UrlError for a text that is no address."""
    checked = [checked_url(url) for url in dict.fromkeys(urls)]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session:
        yield Workers(session, checked)


def checked_url(url: str) -> str:
    """The address without a slash at its end. Raises UrlError for a text that is no address of a worker."""
    wrong = UrlError(f"--url: {url!r} is no worker's address; give it as http://HOST:PORT")
    try:
        parts: Any = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0  # reading the port raises, where it is none
    except ValueError as error:
        raise wrong from error
    if parts.scheme not in ("http", "https") or not has_host or parts.path.strip("/") or parts.query or parts.fragment:
        raise wrong
    return url.rstrip("/")


def _series(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Our own series of a page in Prometheus' text format."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith(_OURS):
                yield sample.name, sample.labels, sample.value
