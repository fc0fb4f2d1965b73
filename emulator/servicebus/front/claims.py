"""What the tokens of one connection allow, and until when."""

from collections.abc import Callable

from emulator.servicebus.front.auth import Claim
from emulator.servicebus.front.host import Host, Timer

_TIMER_MAX_S = 86_400.0


class Claims:
    """The rights that a connection has shown tokens for, by wall time.

    Guarantee: `on_expired` is called when one has ended, unless it was replaced by a later one; at most
    `links_per_connection_max` are kept.
    """

    def __init__(self, host: Host, on_expired: Callable[[], None]) -> None:
        self._host = host
        self._on_expired = on_expired
        self._by_path: dict[str, Claim] = {}
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._by_path)

    def put(self, claim: Claim) -> None:
        """Remember a right; a former one to the same path is replaced."""
        if len(self._by_path) >= self._host.limits.links_per_connection_max:
            self._by_path.clear()
        self._by_path[claim.path] = claim
        self._arm()

    def cover(self, path: str) -> bool:
        """Whether a token that has not expired covers the entity."""
        now_s, wanted = self._host.wall_s(), path.casefold()
        return any(claim.covers(wanted) and claim.expires_s > now_s for claim in self._by_path.values())

    def close(self) -> None:
        """The connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self.close()
        if self._by_path:
            left_s = min(claim.expires_s for claim in self._by_path.values()) - self._host.wall_s()
            self._timer = self._host.later(min(max(left_s, 0.0), _TIMER_MAX_S), self._look)

    def _look(self) -> None:
        self._timer = None
        now_s = self._host.wall_s()
        kept = {path: claim for path, claim in self._by_path.items() if claim.expires_s > now_s}
        has_ended = len(kept) < len(self._by_path)
        self._by_path = kept
        self._arm()
        if has_ended:
            self._on_expired()
