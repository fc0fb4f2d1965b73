"""The tables of docs/emulator-servicebus.md name tests, operations and limits that exist."""

import re
from pathlib import Path

from emulator.servicebus import Limits
from emulator.servicebus.front.operations import OPERATIONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "emulator-servicebus.md").read_text()


def test_every_behaviour_names_a_test_that_exists() -> None:
    sources = [path.read_text() for path in ROOT.glob("tests/*/test_emulator_servicebus_*.py")]
    existing = {name for source in sources for name in re.findall(r"def test_(\w+)", source)}
    rows = [
        line
        for line in PAGE.splitlines()
        if re.match(r"\|.*(queues|sessions|engine|filters|amqp|durability).*: `", line)
    ]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"`(\w+)`", row.rsplit("|", 2)[1])
        assert named, f"no test in {row}"
        assert set(named) <= existing, f"{set(named) - existing} of {row}"


def test_every_operation_is_listed_for_fault_rules() -> None:
    assert [name for name in OPERATIONS if f"`{name}`" not in PAGE] == []


def test_every_limit_has_its_default_in_the_table() -> None:
    limits = Limits()
    for shown in (
        f"| {limits.message_bytes_max // 1024} KiB |",
        f"| {limits.frame_bytes_max // 1024} KiB |",
        f"| {limits.connections_max:,} |",
        f"| {limits.sessions_per_connection_max}, {limits.links_per_connection_max:,} |",
        f"| {limits.handshake_timeout_s:g} s |",
        f"(advertised: {limits.idle_timeout_s:g} s)",
        f"| {limits.write_buffer_bytes_max >> 20} MiB |",
        f"| {limits.queued_operations_max:,} |",
        f"| {limits.unsettled_deliveries_max:,} |",
        f"| {limits.peek_messages_max}; {limits.reply_bytes_max >> 20} MiB |",
        f"| {limits.session_state_bytes_max // 1024} KiB |",
    ):
        assert shown in PAGE
