"""A worker's HTTP endpoint as tests look at it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.support.waiting import wait_until
from tests.support.worker_process import WorkerProcess


class Endpoint:
    """`/metrics`, `/healthz`, `/readyz` and `/scaling` of one worker."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url

    async def get(self, path: str, **headers: str) -> tuple[int, str, bytes]:
        """Status, content type and body."""
        async with self._session.get(f"{self.url}{path}", headers=headers) as answer:
            return answer.status, answer.content_type, await answer.read()

    async def json(self, path: str) -> tuple[int, Any]:
        async with self._session.get(f"{self.url}{path}") as answer:
            return answer.status, await answer.json()

    async def reasons(self, path: str = "/readyz") -> list[str]:
        """The codes of the reasons why it is not."""
        status, body = await self.json(path)
        assert (status == 200) == body["ok"] == (not body["reasons"])
        return [reason["code"] for reason in body["reasons"]]

    async def samples(self) -> list[Sample]:
        status, content_type, body = await self.get("/metrics")
        assert (status, content_type) == (200, "text/plain")
        return [sample for family in text_string_to_metric_families(body.decode()) for sample in family.samples]

    async def value(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels; 0 where there is none."""
        found = [one for one in await self.samples() if one.name == name]
        return sum(one.value for one in found if labels.items() <= one.labels.items())

    async def reaches(self, at_least: float, name: str, **labels: str) -> None:
        """Wait until a metric has grown to so much."""

        async def is_there() -> bool:
            return await self.value(name, **labels) >= at_least

        await wait_until(is_there, f"{name} {labels} is at least {at_least:g}")

    @asynccontextmanager
    async def moving(self, name: str, by: float = 1, **labels: str) -> AsyncIterator[None]:
        """A metric is to grow by so much from the beginning of the context to soon after its end."""
        before = await self.value(name, **labels)
        yield
        await self.reaches(before + by, name, **labels)


@asynccontextmanager
async def endpoint_of(worker: WorkerProcess) -> AsyncIterator[Endpoint]:
    """The endpoint of a worker that was started with a port."""
    await worker.logged("http.listening")
    port = worker.lines("http.listening")[0]["port"]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield Endpoint(session, f"http://127.0.0.1:{port}")
