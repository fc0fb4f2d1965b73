"""`python -m emulator`: the embedded services as a process of their own."""

import argparse
import sys
from pathlib import Path

from emulator.serving import Options, run

_PORT_MAX = 65535


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and serve until a signal; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m emulator", description="Service Bus, Cosmos DB and Blob Storage on 127.0.0.1."
    )
    parser.add_argument("--config", type=Path, help="entities in the format of the official Config.json")
    for name in ("servicebus", "cosmos", "blob", "control", "admin"):
        parser.add_argument(f"--{name}-port", type=_port, default=0, metavar="N", help="0: any free port")
    parser.add_argument("--data", type=Path, metavar="DIR", help="keep everything here; without it, in memory")
    parser.add_argument("--ready-file", type=Path, metavar="F", help="written when all ports listen")
    parser.add_argument("--seed", type=int, default=0, help="for fault rules with a probability or a jitter")
    parser.add_argument(
        "--end-with-stdin", action="store_true", help="end when stdin does: who starts it holds a pipe to it"
    )
    given = parser.parse_args(arguments)
    return run(
        Options(
            config=given.config,
            servicebus_port=given.servicebus_port,
            cosmos_port=given.cosmos_port,
            blob_port=given.blob_port,
            control_port=given.control_port,
            admin_port=given.admin_port,
            data_dir=given.data,
            ready_file=given.ready_file,
            seed=given.seed,
            end_with_stdin=given.end_with_stdin,
        )
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > _PORT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: use 0 to {_PORT_MAX}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
