"""The emulator as a process of its own: from the command line to a clean end."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from emulator.app import Emulator, EmulatorError
from emulator.config import ConfigError
from emulator.process import log_to, loop_factory, stop_signal, watch_stdin, write_whole

STOP_S: Final = 20.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says."""

    config: Path | None = None
    servicebus_port: int = 0
    cosmos_port: int = 0
    blob_port: int = 0
    control_port: int = 0
    admin_port: int = 0
    data_dir: Path | None = None
    ready_file: Path | None = None
    seed: int = 0
    end_with_stdin: bool = False


async def serve(options: Options, *, announce: Callable[[str], None] = print) -> None:
    """Run until SIGTERM or SIGINT, or until stdin ends where the options say so, then stop within STOP_S.

    Once everything listens, write the ready file, whole or not at all, and announce the same JSON as one line.

    Raises:
        EmulatorError: a port, the data folder, the ready file or the config cannot be used.
        TimeoutError: it did not stop within STOP_S.
    """
    emulator = Emulator(
        config=options.config,
        data_dir=options.data_dir,
        servicebus_port=options.servicebus_port,
        cosmos_port=options.cosmos_port,
        blob_port=options.blob_port,
        control_port=options.control_port,
        admin_port=options.admin_port,
        seed=options.seed,
    )
    async with stop_signal() as stop:
        await emulator.__aenter__()
        try:
            line = msgspec.json.encode(emulator.ready())
            if options.ready_file is not None:
                _write_ready_file(options.ready_file, line + b"\n")
            announce(line.decode())
            if options.end_with_stdin:
                await watch_stdin(stop)
            await stop.wait()
        finally:
            async with asyncio.timeout(STOP_S):
                await emulator.__aexit__(None, None, None)


def run(options: Options) -> int:
    """`serve` as a command: returns its exit code; an error is one line on stderr.

    Logs go to stderr, unless logging is configured already: stdout has the one line with the endpoints.
    """
    if not structlog.is_configured():
        log_to(sys.stderr)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve(options, announce=_print_line))
    except (EmulatorError, ConfigError) as error:
        sys.stderr.write(f"emulator: {error}\n")
        return 2
    except TimeoutError:
        sys.stderr.write(f"emulator: not everything stopped within {STOP_S:.0f} s\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _print_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _write_ready_file(path: Path, content: bytes) -> None:
    try:
        write_whole(path, content)
    except OSError as error:
        raise EmulatorError(
            f"cannot write the ready file {path}: {error.strerror}; give another --ready-file"
        ) from error
