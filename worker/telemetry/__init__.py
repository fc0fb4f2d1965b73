"""What the worker tells about itself: log lines, metrics, traces, and how it is.

`instruments` is the table of metrics and `kinds` what they are made of; neither needs OpenTelemetry, so that any layer
but the protocol may record. `tracing` needs OpenTelemetry's API, `export` its SDK, `endpoint` a port.
"""

from typing import Final

import structlog

log: Final = structlog.get_logger()
