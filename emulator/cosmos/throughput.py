"""Throughput: what may be asked for. https://learn.microsoft.com/azure/cosmos-db/concepts-limits."""

from typing import Final

import msgspec

from emulator.cosmos.errors import bad_request
from emulator.cosmos.resources import (
    RANGE_THROUGHPUT,
    RANGES_MAX,
)

THROUGHPUT_MIN: Final = 400
THROUGHPUT_MAX: Final = RANGE_THROUGHPUT * RANGES_MAX
AUTOSCALE_MIN: Final = 1000


class Throughput(msgspec.Struct, frozen=True):
    """What a create asks for: manual RU/s, or the most that autoscale may use."""

    manual: int | None = None
    autoscale_max: int | None = None

    def checked(self) -> "Throughput":
        """This.

        Raises:
            CosmosError: 400 for both at once, and for numbers outside of the limits.
        """
        if self.manual is not None and self.autoscale_max is not None:
            raise bad_request("Manual throughput and autoscale cannot be set together.")
        for value, least, step in ((self.manual, THROUGHPUT_MIN, 100), (self.autoscale_max, AUTOSCALE_MIN, 1000)):
            if value is not None and (not least <= value <= THROUGHPUT_MAX or value % step):
                raise bad_request(
                    f"The throughput {value} is not valid: from {least} to {THROUGHPUT_MAX} RU/s in steps of {step}."
                )
        return self
