"""A client's frames made by chance: mostly well-formed, often with the wrong value in the wrong place."""

import random
import uuid
from typing import Any

from emulator.servicebus.amqp import frames_out as out
from emulator.servicebus.amqp import performatives as p
from emulator.servicebus.amqp.encode import encode
from emulator.servicebus.amqp.framing import frame
from emulator.servicebus.amqp.message import AMQP_VALUE, APPLICATION_PROPERTIES, PROPERTIES, section
from emulator.servicebus.amqp.types import Described, Symbol, Timestamp, UByte, UInt, ULong
from emulator.servicebus.front.management import OPERATIONS
from tests.support.servicebus_engine import raw_message

WORDS = ("q", "s", "$cbs", "q/$management", "", "here", "1", "com.microsoft:peek-message", "put-token", "sb://h/q")
ADDRESSES = ("q", "s", "$cbs", "q/$management", "s/$management", "q/$DeadLetterQueue", "nowhere")
NUMBERS = (0, 1, 2, 3, 5, 100, 1 << 31, (1 << 32) - 1)
OUTCOME_CODES = (p.RECEIVED, p.ACCEPTED, p.REJECTED, p.RELEASED, p.MODIFIED, p.ERROR, p.SOURCE, p.TARGET)
BODY_KEYS = (
    "session-id",
    "session-state",
    "lock-tokens",
    "from-sequence-number",
    "message-count",
    "sequence-numbers",
    "receiver-settle-mode",
    "disposition-status",
    "messages",
    "skip",
    "top",
    "last-updated-time",
    "properties-to-modify",
)
SESSION_FILTER = Symbol("com.microsoft:session-filter")
NESTING_MAX = 3


class WildClient:
    """The same frames for the same seed. Handles, delivery ids and names come from small sets, so that they meet."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def value(self, depth: int = 0) -> Any:
        """Anything that AMQP can say."""
        if depth >= NESTING_MAX or self.chance.random() < 0.75:
            return self.scalar()
        chance = self.chance
        match chance.randrange(3):
            case 0:
                return [self.value(depth + 1) for _ in range(chance.randrange(6))]
            case 1:
                return {Symbol(f"{chance.choice('abc')}{n}"): self.value(depth + 1) for n in range(chance.randrange(3))}
            case _:
                fields = [self.value(depth + 1) for _ in range(chance.randrange(9))]
                return Described(ULong(chance.choice(OUTCOME_CODES)), chance.choice((fields, self.value(depth + 1))))

    def scalar(self) -> Any:
        """A value without parts."""
        chance = self.chance
        return chance.choice(
            (
                None,
                chance.random() < 0.5,
                UInt(chance.choice(NUMBERS)),
                ULong(chance.randrange(1 << 63)),
                chance.choice(WORDS),
                Symbol(chance.choice(("com.microsoft:session-filter", "com.microsoft:timeout", "x"))),
                chance.randbytes(chance.randrange(20)),
                chance.randrange(-5, 5),
                Timestamp(chance.randrange(1 << 40)),
                UByte(chance.randrange(3)),
                uuid.UUID(int=chance.randrange(1 << 128)),
            )
        )

    def attach(self) -> bytes:
        """A link of either kind to any node, with any session filter."""
        chance = self.chance
        receives = chance.random() < 0.6
        fields: list[Any] = [chance.choice(ADDRESSES), *[None] * 6]
        if chance.random() < 0.5:
            fields.append({SESSION_FILTER: chance.choice((None, "1", "2", self.value()))})
        node, here = Described(ULong(p.SOURCE), fields), Described(ULong(p.TARGET), ["here"])
        source, target = (node, here) if receives else (here, node)
        properties = chance.choice((None, {Symbol("com.microsoft:timeout"): self.value()}))
        modes = UByte(chance.randrange(3)), UByte(chance.randrange(2))
        named = ("name", UInt(chance.randrange(4)), receives, *modes, source, target)
        return frame(0, out.described(p.ATTACH, (*named, None, None, UInt(0), None, None, None, properties)))

    def transfer(self, payload: bytes) -> bytes:
        """A delivery, or a part of one."""
        chance = self.chance
        more = chance.random() < 0.1
        head = out.transfer(chance.randrange(4), chance.randrange(9), b"t" * 16, 0, settled=False, more=more)
        return frame(0, head + payload)

    def message(self) -> bytes:
        """A message with ids of any kind."""
        session_id = self.chance.choice((None, "1", "2", 5))
        return self.transfer(raw_message(b"x", session_id=session_id, message_id=self.value(NESTING_MAX)))

    def request(self) -> bytes:
        """A request to whatever node the handle stands for."""
        chance = self.chance
        body = {key: self.value() for key in chance.sample(BODY_KEYS, chance.randrange(5))}
        operation = chance.choice((f"com.microsoft:{chance.choice(list(OPERATIONS))}", "put-token", self.value()))
        properties = section(PROPERTIES, encode([self.value() for _ in range(chance.randrange(8))]))
        named = section(APPLICATION_PROPERTIES, encode({"operation": operation, "name": self.value()}))
        return self.transfer(properties + named + section(AMQP_VALUE, encode(chance.choice((body, self.value())))))

    def flow(self) -> bytes:
        """Credit for some link."""
        chance = self.chance
        window = (UInt(0x40000000), UInt(chance.choice((0, 2, 1_000))), UInt(0), UInt(9))
        credit = (UInt(chance.randrange(4)), UInt(chance.randrange(3)), UInt(chance.choice((0, 1, 5, 100))))
        return frame(0, out.described(p.FLOW, (*window, *credit, None, chance.random() < 0.2)))

    def disposition(self) -> bytes:
        """Settlement of deliveries that there may be."""
        chance = self.chance
        first, last = (UInt(0x40000000 + chance.randrange(6)) for _ in range(2))
        fields = [self.value() for _ in range(chance.randrange(4))]
        state = chance.choice((self.value(), Described(ULong(chance.choice(OUTCOME_CODES[:5])), fields)))
        return frame(0, out.described(p.DISPOSITION, (True, first, last, chance.random() < 0.3, state)))

    def anything(self) -> bytes:
        """A frame; now and then with a byte changed."""
        chance = self.chance
        makers = (self.attach, self.attach, self.message, self.request, self.flow, self.disposition, self.odd)
        made = bytearray(chance.choice(makers)())
        if chance.random() < 0.1:
            made[chance.randrange(len(made))] = chance.randrange(256)
        return bytes(made)

    def odd(self) -> bytes:
        """A performative with fields of any kind, or a detach."""
        chance = self.chance
        if chance.random() < 0.5:
            return frame(0, out.detach(chance.randrange(4)))
        fields = [self.value() for _ in range(chance.randrange(12))]
        return frame(0, out.described(chance.randrange(p.OPEN, p.CLOSE + 1), fields))
