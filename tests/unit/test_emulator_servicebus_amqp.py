"""The AMQP codec and the connection of the embedded Service Bus against everything that bytes can be."""

import struct
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from emulator.clock import ManualClock
from emulator.config import QueueConfig, ServiceBusConfig
from emulator.faults import Faults
from emulator.journal import MemoryJournal
from emulator.servicebus import Limits
from emulator.servicebus.amqp import frames_out as out
from emulator.servicebus.amqp import performatives as p
from emulator.servicebus.amqp.decode import DEPTH_MAX, EMPTY_ELEMENTS_MAX, decode, skip
from emulator.servicebus.amqp.encode import encode, encode_list
from emulator.servicebus.amqp.framing import AMQP_HEADER, SASL_FRAME, SASL_HEADER, FrameReader, FramingError, frame
from emulator.servicebus.amqp.message import (
    AMQP_VALUE,
    APPLICATION_PROPERTIES,
    PROPERTIES,
    list_fields,
    section,
    split,
    with_application_properties,
)
from emulator.servicebus.amqp.types import (
    AmqpError,
    Array,
    DecodeError,
    Described,
    Int,
    Opaque,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
)
from emulator.servicebus.engine.message import encode_for_receiver, read_message
from emulator.servicebus.engine.namespace import Namespace
from emulator.servicebus.front.auth import Claim, Verifier
from emulator.servicebus.front.connection import Connection, Stage
from tests.support.servicebus_engine import raw_message
from tests.support.servicebus_wire import WildClient

# At least 10,000 cases in all, the same ones each time.
MANY = settings(
    max_examples=1_000, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)

scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(0, 0xFF).map(UByte),
    st.integers(0, 0xFFFF).map(UShort),
    st.integers(0, 0xFFFFFFFF).map(UInt),
    st.integers(0, (1 << 64) - 1).map(ULong),
    st.integers(-(1 << 31), (1 << 31) - 1).map(Int),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(-(1 << 63), (1 << 63) - 1).map(Timestamp),
    st.floats(allow_nan=False),
    st.uuids(),
    st.binary(max_size=300),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    st.text(st.characters(max_codepoint=127), max_size=300).map(Symbol),
    st.binary(min_size=16, max_size=16).map(lambda data: Opaque(0x94, data)),
)
arrays = st.one_of(
    st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=1, max_size=5),
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5),
    st.lists(st.uuids(), min_size=1, max_size=5),
).map(Array)
values = st.recursive(
    scalars | arrays,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.text(st.characters(max_codepoint=127), max_size=10).map(Symbol), inner, max_size=5),
        st.tuples(st.integers(0, 1 << 40).map(ULong), inner).map(lambda pair: Described(*pair)),
    ),
    max_leaves=30,
)


@pytest.mark.slow
@MANY
@given(values)
def test_what_is_encoded_is_decoded_and_skipped_as_the_same(value: Any) -> None:
    encoded = encode(value)
    assert decode(encoded) == (value, len(encoded))
    assert skip(encoded, 0) == len(encoded)
    assert decode(b"??" + encoded + b"!", 2) == (value, len(encoded) + 2)


@pytest.mark.slow
@MANY
@given(values, st.data())
def test_value_cut_short_is_a_decode_error(value: Any, data: st.DataObject) -> None:
    encoded = encode(value)
    cut = encoded[: data.draw(st.integers(0, len(encoded) - 1))]
    for read in (decode, skip):
        with pytest.raises(DecodeError):
            read(cut, 0)


@pytest.mark.slow
@MANY
@given(values, st.data())
def test_value_with_a_changed_byte_is_a_value_or_a_decode_error(value: Any, data: st.DataObject) -> None:
    encoded = bytearray(encode(value))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    expect_amqp_error_or_nothing(lambda: decode(bytes(encoded)))
    expect_amqp_error_or_nothing(lambda: skip(bytes(encoded), 0))


@MANY
@given(st.binary(max_size=200))
def test_any_bytes_are_something_or_an_amqp_error_to_every_reader(data: bytes) -> None:
    for read in (decode, split, p.parse, read_message, lambda data: list_fields(data, 0, 50)):
        expect_amqp_error_or_nothing(lambda read=read: read(data))  # type: ignore[misc] # a list of unlike readers
    expect_amqp_error_or_nothing(lambda: FrameReader(65_536).feed(data))
    expect_amqp_error_or_nothing(lambda: with_application_properties(data, {"k": "v"}))


def expect_amqp_error_or_nothing(action: Callable[[], object]) -> None:
    caught: AmqpError | None = None
    try:
        action()
    except AmqpError as error:
        caught = error
    assert caught is None or (caught.condition.startswith(("amqp:", "com.microsoft:")) and caught.description)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 5_000,
        b"\xc0\xff\xff" * 2_000,
        b"".join(b"\xd0" + struct.pack(">II", 60_000 - 9 * level, 1) for level in range(6_000)),
        b"\xf0" + struct.pack(">IIB", 5, 0xFFFFFFFF, 0x40),
        b"\xf0" + struct.pack(">IIB", 5, EMPTY_ELEMENTS_MAX + 1, 0x45),
        b"\xd0" + struct.pack(">II", 4, 0xFFFFFFFF),
        b"\xb0\xff\xff\xff\xff",
        b"\xa1\x02\xff\xff",
        b"\xa3\x01\xff",
        b"\x73\x00\x11\x00\x00",
        b"\x56\x02",
        b"\xc1\x02\x01\x40",
        encode_list([b"\x40"] * 3)[:-1] + b"\x99",
        b"\xc1\x05\x04\x54\x01\x54\x01",
        b"\xc1\x05\x02\x45\x40\x40",
    ],
    ids=lambda data: f"{len(data)}:{data[:6].hex()}",
)
def test_hostile_values_are_refused_quickly(data: bytes) -> None:
    began = time.perf_counter()
    with pytest.raises(DecodeError):
        decode(data)
    assert time.perf_counter() - began < 0.5


def test_nesting_ends_at_the_maximum() -> None:
    value: Any = 1
    for _ in range(DEPTH_MAX):
        value = [value]
    assert decode(encode(value))[0] == value
    with pytest.raises(DecodeError, match="nested deeper"):
        decode(encode([value]))


def test_frames_come_whole_however_they_were_cut() -> None:
    stream = frame(1, b"abc") + frame(2, b"") + frame(0, b"x" * 500)
    for size in (1, 3, 7, 100, 1_000):
        reader, bodies = FrameReader(512), []
        for start in range(0, len(stream), size):
            reader.feed(stream[start : start + size])
            bodies += [(each.channel, each.body) for each in reader.frames()]
        assert bodies == [(1, b"abc"), (2, b""), (0, b"x" * 500)]
        assert reader.pending_bytes == 0


@pytest.mark.parametrize(
    "header",
    [b"\x00\x00\x02\x01\x02\x00\x00\x00", b"\x00\x00\x00\x07\x02\x00\x00\x00", b"\x00\x00\x00\x10\x01\x00\x00\x00"],
)
def test_impossible_frame_header_is_refused_before_anything_is_stored(header: bytes) -> None:
    reader = FrameReader(512)
    reader.feed(header)
    with pytest.raises(FramingError):
        reader.frames()


def test_bare_message_is_kept_byte_for_byte_whatever_surrounds_it() -> None:
    bare = raw_message(b"body", message_id=ULong(300), session_id="s", properties={"a": UByte(1), "b": Int(-5)})
    delivery_annotations = b"\x00\x53\x71" + encode({Symbol("x"): 1})
    own = b"\x00\x53\x72" + encode({Symbol("own"): "kept", Symbol("x-opt-sequence-number"): 9})
    message = read_message(b"\x00\x53\x70\x45" + own + bare + delivery_annotations)
    assert message.bare == bare
    assert (message.message_id, message.session_id) == ("300", "s")
    delivered = split(encode_for_receiver(message, 1.5))
    assert delivered.bare == bare
    assert delivered.value(0x72) == {
        "own": "kept",
        "x-opt-sequence-number": 0,
        "x-opt-enqueued-time": 0,
        "x-opt-locked-until": 1_500,
    }


def test_added_application_properties_leave_every_other_byte() -> None:
    bare = raw_message(b"body", properties={"a": UByte(1), "b": Int(-5), "c": Opaque(0x94, b"d" * 16)})
    changed = with_application_properties(bare, {"b": "new", "z": True})
    before, after = split(bare), split(changed)
    assert after.value(APPLICATION_PROPERTIES) == {"a": 1, "c": Opaque(0x94, b"d" * 16), "b": "new", "z": True}
    assert after.bodies() == before.bodies()
    assert encode("a") + encode(UByte(1)) in changed
    assert with_application_properties(raw_message(b"x"), {"k": 1}).startswith(raw_message(b"")[:5])


# --- the connection as a state machine -------------------------------------------------------------------------


class Clockwork:
    """A host without time: actions that were asked for later are only counted."""

    def __init__(self) -> None:
        config = ServiceBusConfig(queues=(QueueConfig(name="q"), QueueConfig(name="s", requires_session=True)))
        self.limits = Limits(message_bytes_max=2_000)
        self.engine = Namespace(config, clock=ManualClock(), journal=MemoryJournal(), limits=self.limits)
        self.faults = Faults()
        self.tokens = Verifier({"key": "secret"})
        self.container_id = "test"
        self.out = bytearray()
        self.finished: bool | None = None
        self.connection = Connection(self, self.out.extend, self._finish)

    def _finish(self, gracefully: bool) -> None:
        assert self.finished is None, "a connection ends once"
        self.finished = gracefully

    def later(self, delay_s: float, action: Callable[[], None]) -> "Clockwork":
        del delay_s, action
        return self

    def cancel(self) -> None:
        pass

    def time_s(self) -> float:
        return 0.0

    def wall_s(self) -> float:
        return 0.0

    def replies(self) -> list[Any]:
        """What was sent since last asked, decoded, without the handshake."""
        reader = FrameReader(1 << 20)
        data = bytes(self.out).replace(SASL_HEADER, b"").replace(AMQP_HEADER, b"")
        self.out.clear()
        reader.feed(data)
        return [decode(each.body)[0] for each in reader.frames() if each.body]

    def authorize(self, path: str = "") -> None:
        self.connection.claims.put(Claim(path, 1.0))


OPEN = frame(0, out.open_("client", 65_536, 255, 0))
BEGIN = frame(0, out.described(p.BEGIN, (None, UInt(0), UInt(1_000), UInt(1_000))))
SASL_INIT = frame(0, out.described(p.SASL_INIT, (Symbol("ANONYMOUS"),)), SASL_FRAME)
HANDSHAKE = SASL_HEADER + SASL_INIT + AMQP_HEADER + OPEN + BEGIN


def attach(handle: int, address: str, *, receives: bool) -> bytes:
    terminus = Described(ULong(p.SOURCE), [f"amqps://h/{address}"])
    empty = Described(ULong(p.TARGET), ["client"])
    source, target = (terminus, empty) if receives else (empty, terminus)
    fields = (f"link{handle}", UInt(handle), receives, UByte(0), UByte(0), source, target, None, None, UInt(0))
    return frame(0, out.described(p.ATTACH, fields))


def transfer(handle: int, number: int, payload: bytes, *, more: bool = False) -> bytes:
    return frame(0, out.transfer(handle, number, b"t" * 16, 0, settled=False, more=more) + payload)


def opened() -> Clockwork:
    host = Clockwork()
    host.authorize()
    host.connection.receive(HANDSHAKE)
    assert [reply.descriptor for reply in host.replies()] == [p.SASL_MECHANISMS, p.SASL_OUTCOME, p.OPEN, p.BEGIN]
    return host


def test_handshake_works_byte_by_byte_and_without_sasl() -> None:
    host = Clockwork()
    for byte in HANDSHAKE:
        host.connection.receive(bytes([byte]))
    assert host.connection.stage is Stage.OPEN
    host = Clockwork()
    host.connection.receive(AMQP_HEADER + OPEN)
    assert host.connection.stage is Stage.OPEN


def test_unknown_protocol_and_mechanism_are_answered_and_closed() -> None:
    host = Clockwork()
    host.connection.receive(b"GET / HTTP/1.1\r\n\r\n")
    assert (bytes(host.out), host.finished) == (SASL_HEADER, True)
    host = Clockwork()
    host.connection.receive(SASL_HEADER + frame(0, out.described(p.SASL_INIT, (Symbol("PLAIN"),)), SASL_FRAME))
    assert host.finished is True
    assert host.replies()[-1].value == [1]


def test_unauthorized_link_is_refused() -> None:
    host = Clockwork()
    host.connection.receive(HANDSHAKE)
    host.replies()
    host.connection.receive(attach(0, "q", receives=False))
    answer, detached = host.replies()
    assert answer.value[5:7] == [None, None] or len(answer.value) <= 7
    assert detached.value[2].value[0] == "amqp:unauthorized-access"
    assert host.finished is None


def test_delivery_over_the_limit_is_counted_not_stored_and_refused() -> None:
    host = opened()
    host.connection.receive(attach(0, "q", receives=False))
    host.replies()
    for _ in range(100):
        host.connection.receive(transfer(0, 7, b"x" * 1_000, more=True))
    link = host.connection.channels[0].links[0]
    assert not any(link._parts)  # type: ignore[attr-defined] # an inbound link
    host.connection.receive(transfer(0, 7, b"x"))
    (disposition,) = host.replies()
    assert disposition.value[1] == 7
    assert disposition.value[4].value[0].value[0] == "amqp:link:message-size-exceeded"
    assert host.engine.counts("q").active == 0


def test_transfer_on_a_handle_without_link_ends_the_session_only() -> None:
    host = opened()
    host.connection.receive(transfer(9, 0, b""))
    (ended,) = host.replies()
    assert ended.descriptor == p.END
    assert ended.value[0].value[0] == "amqp:session:unattached-handle"
    host.connection.receive(transfer(9, 1, b"") + frame(0, out.detach(9)) + BEGIN)
    assert [reply.descriptor for reply in host.replies()] == [p.BEGIN]


def test_handle_in_use_ends_the_session() -> None:
    host = opened()
    host.connection.receive(attach(0, "q", receives=False) + attach(0, "q", receives=False))
    assert host.replies()[-1].value[0].value[0] == "amqp:session:handle-in-use"


def test_links_and_sessions_have_a_limit() -> None:
    host = opened()
    host.limits = Limits(links_per_connection_max=3, sessions_per_connection_max=2)
    for handle in range(4):
        host.connection.receive(attach(handle, "q", receives=False))
    assert host.replies()[-1].value[0].value[0] == "amqp:resource-limit-exceeded"
    assert host.finished is True
    host = opened()
    host.limits = Limits(sessions_per_connection_max=2)
    for channel in (1, 2):
        host.connection.receive(frame(channel, out.described(p.BEGIN, (None, UInt(0), UInt(1), UInt(1)))))
    assert host.finished is True


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        (p.ATTACH, ("n", UInt(0), True, UByte(3))),
        (p.ATTACH, ("n", UInt(0), True, ULong(300))),
        (p.ATTACH, ("n", -1, True)),
        (p.ATTACH, ("n", UInt(70_000), True)),
        (p.TRANSFER, (ULong(1 << 40), UInt(0))),
        (p.TRANSFER, (UInt(0), -1)),
        (p.FLOW, (UInt(0), True, UInt(0), UInt(0))),
        (p.DISPOSITION, (True, -7)),
        (p.BEGIN, (None, UInt(0))),
    ],
)
def test_number_out_of_its_range_ends_the_connection_with_an_error(code: int, fields: tuple[Any, ...]) -> None:
    host = opened()
    host.connection.receive(frame(0, out.described(code, fields)))
    assert host.replies()[-1].descriptor == p.CLOSE
    assert host.finished is True


def test_malformed_message_is_refused_and_the_link_goes_on() -> None:
    host = opened()
    host.connection.receive(attach(0, "q", receives=False))
    host.replies()
    host.connection.receive(transfer(0, 0, b"garbage") + transfer(0, 1, raw_message(b"fine")))
    refused, taken = host.replies()
    assert refused.value[4].value[0].value[0] == "amqp:decode-error"
    assert taken.value[4].descriptor == p.ACCEPTED
    assert host.engine.counts("q").active == 1


def test_window_of_the_client_is_honoured() -> None:
    host = opened()
    for number in range(5):
        host.engine.send("q", [read_message(raw_message(b"%d" % number))])
    flow = out.described(p.FLOW, (UInt(0x40000000), UInt(2), UInt(0), UInt(9), UInt(0), UInt(0), UInt(100)))
    host.connection.receive(attach(0, "q", receives=True) + frame(0, flow))
    assert [reply.descriptor for reply in host.replies()].count(p.TRANSFER) == 2
    more = out.described(p.FLOW, (UInt(0x40000002), UInt(10), UInt(0), UInt(9)))
    host.connection.receive(frame(0, more))
    assert [reply.descriptor for reply in host.replies()].count(p.TRANSFER) == 3


def flow(handle: int, count: int, credit: int, *, drain: bool = False) -> bytes:
    fields = (UInt(0x40000000), UInt(1_000), UInt(0), UInt(9), UInt(handle), UInt(count), UInt(credit), None, drain)
    return frame(0, out.described(p.FLOW, fields))


@pytest.mark.parametrize(
    ("address", "receives", "code", "kind"),
    [
        ("q", False, "publisher", "AmqpMessagePublisher"),
        ("q", True, "consumer", "AmqpMessageConsumer"),
        ("q/$management", False, "client", "AmqpControlProtocolClient"),
    ],
)
def test_idle_link_is_detached_with_the_reason_of_the_service(
    address: str, receives: bool, code: str, kind: str
) -> None:
    host = opened()
    host.connection.receive(attach(0, address, receives=receives) + attach(1, "$cbs", receives=True))
    host.replies()
    host.engine.context.clock.jump_s(599)
    host.engine.advance()
    assert host.replies() == []
    host.engine.context.clock.jump_s(1)
    host.engine.advance()
    (detached,) = host.replies()
    assert detached.value[0] == 0
    condition, description = detached.value[2].value[:2]
    assert condition == "amqp:link:detach-forced"
    assert description == (
        f"The link 'link0' is force detached. Code: {code}(link0). Details: {kind}.IdleTimerExpired: Idle timeout:"
        " 00:10:00."
    )


def test_drain_uses_up_the_credit_and_says_so() -> None:
    host = opened()
    host.engine.send("q", [read_message(raw_message(b"only one"))])
    host.connection.receive(attach(0, "q", receives=True))
    host.replies()
    host.connection.receive(flow(0, 0, 5, drain=True))
    delivered, drained = host.replies()
    assert delivered.descriptor == p.TRANSFER
    assert (drained.value[5], drained.value[6], drained.value[8]) == (5, 0, True)
    host.engine.send("q", [read_message(raw_message(b"later"))])
    assert host.replies() == []


def request(number: int, operation: str, body: dict[str, Any]) -> bytes:
    properties = section(PROPERTIES, encode_list([encode(uuid.UUID(int=number))]))
    named = section(APPLICATION_PROPERTIES, encode({"operation": operation}))
    return transfer(1, number, properties + named + section(AMQP_VALUE, encode(body)))


def test_replies_wait_for_the_credit_of_the_client() -> None:
    host = opened()
    host.connection.receive(attach(0, "q/$management", receives=True) + attach(1, "q/$management", receives=False))
    host.connection.receive(flow(0, 0, 1))
    host.replies()
    for number in range(3):
        host.connection.receive(request(number, "com.microsoft:peek-message", {}))
    descriptors = [reply.descriptor for reply in host.replies()]
    assert (descriptors.count(p.TRANSFER), descriptors.count(p.DISPOSITION)) == (1, 3)
    host.connection.receive(flow(0, 1, 2))
    assert [reply.descriptor for reply in host.replies()] == [p.TRANSFER] * 2


def test_replies_wait_for_the_window_of_the_client_and_not_without_bound() -> None:
    """A client that gives credit and no room in its window must not fill the server's memory with replies."""
    host = opened()
    host.limits = Limits(message_bytes_max=1_100_000)
    large = raw_message(b"x" * 1_000_000)
    host.engine.send("q", [read_message(large)])
    host.connection.receive(attach(0, "q/$management", receives=True) + attach(1, "q/$management", receives=False))
    shut = (UInt(0x40000000), UInt(0), UInt(0), UInt(9), UInt(0), UInt(0), UInt(100_000))
    host.connection.receive(frame(0, out.described(p.FLOW, shut)))
    host.replies()
    asked = {"from-sequence-number": 1, "message-count": 1}
    for number in range(3):
        host.connection.receive(request(number, "com.microsoft:peek-message", asked))
    assert [reply.descriptor for reply in host.replies()] == [p.DISPOSITION] * 3
    open_again = (UInt(0x40000000), UInt(100_000), UInt(0), UInt(9), UInt(0), UInt(0), UInt(100_000))
    host.connection.receive(frame(0, out.described(p.FLOW, open_again)))
    assert bytes(host.out).count(large[-1_000:]) >= 3
    host.out.clear()
    host.connection.receive(frame(0, out.described(p.FLOW, shut)))
    number = 3
    while host.finished is None and number < 100:
        host.connection.receive(request(number, "com.microsoft:peek-message", asked))
        number += 1
    assert host.finished is True
    assert number < 30
    assert host.replies()[-1].value[0].value[0] == "amqp:resource-limit-exceeded"


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("nothing-known", {}),
        ("peek-message", {"from-sequence-number": "1", "message-count": 1}),
        ("peek-message", {"from-sequence-number": 1, "message-count": 0}),
        ("renew-lock", {"lock-tokens": []}),
        ("renew-lock", {"lock-tokens": [1]}),
        ("renew-lock", {"lock-tokens": [uuid.UUID(int=1)]}),
        ("renew-session-lock", {"session-id": "1"}),
        ("get-session-state", {}),
        ("set-session-state", {"session-id": 5}),
        ("receive-by-sequence-number", {"sequence-numbers": [1], "receiver-settle-mode": 1}),
        ("update-disposition", {"disposition-status": "odd", "lock-tokens": [uuid.UUID(int=1)]}),
        ("update-disposition", {"disposition-status": "completed", "lock-tokens": [uuid.UUID(int=1)]}),
        ("schedule-message", {"messages": [{"message": b"garbage"}]}),
        ("schedule-message", {"messages": [{"message": raw_message(b"x")}]}),
        ("cancel-scheduled-message", {"sequence-numbers": [7]}),
        ("get-message-sessions", {"skip": 0, "top": 1}),
    ],
)
def test_wrong_request_gets_a_condition_and_the_link_goes_on(operation: str, body: dict[str, Any]) -> None:
    host = opened()
    host.connection.receive(attach(0, "q/$management", receives=True) + attach(1, "q/$management", receives=False))
    host.connection.receive(flow(0, 0, 100))
    host.replies()
    host.out.clear()
    host.connection.receive(request(0, f"com.microsoft:{operation}", body))
    assert b"errorCondition" in bytes(host.out)
    host.out.clear()
    host.connection.receive(request(1, "com.microsoft:peek-message", {"from-sequence-number": 1, "message-count": 1}))
    assert b"No messages" in bytes(host.out)


def test_session_filter_that_is_no_string_is_refused() -> None:
    for wrong in (Int(5), b"bytes", Described(Symbol("com.microsoft:session-filter"), "described"), Symbol("symbol")):
        host = opened()
        source = Described(
            ULong(p.SOURCE), ["s", None, None, None, None, None, None, {Symbol("com.microsoft:session-filter"): wrong}]
        )
        fields = ("l", UInt(0), True, UByte(0), UByte(1), source, Described(ULong(p.TARGET), ["c"]))
        host.connection.receive(frame(0, out.described(p.ATTACH, fields)))
        assert host.replies()[-1].value[2].value[0] == "amqp:invalid-field"


pieces = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([SASL_HEADER, AMQP_HEADER, SASL_INIT, OPEN, BEGIN, b"\x00\x00\x00\x08\x02\x00\x00\x00"]),
    st.builds(
        attach, st.integers(0, 3), st.sampled_from(["q", "s", "$cbs", "q/$management", "", "x"]), receives=st.booleans()
    ),
    st.builds(transfer, st.integers(0, 3), st.integers(0, 5), st.binary(max_size=40), more=st.booleans()),
    st.builds(transfer, st.integers(0, 3), st.integers(0, 5), st.builds(raw_message, st.binary(max_size=9))),
    st.builds(
        lambda code, fields: frame(0, out.described(code, fields)),
        st.sampled_from(range(p.OPEN, p.CLOSE + 1)),
        st.lists(values, max_size=8),
    ),
)


@pytest.mark.slow
@seed(7)
@MANY
@given(st.lists(pieces, max_size=12), st.booleans(), st.integers(1, 50))
def test_whatever_is_received_the_connection_answers_or_ends(
    parts: list[bytes],
    greeted: bool,
    size: int,
) -> None:
    host = Clockwork()
    host.authorize()
    stream = (HANDSHAKE if greeted else b"") + b"".join(parts)
    for start in range(0, len(stream), size):
        host.connection.receive(stream[start : start + size])
    assert host.connection.stage is not Stage.CLOSED or host.finished is not None
    assert host.connection._reader.pending_bytes <= host.limits.frame_bytes_max
    host.connection.lost()
    assert host.connection.channels == {}


def test_uuid_is_sixteen_bytes_in_network_order() -> None:
    value = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
    assert encode(value) == b"\x98" + value.bytes
    assert decode(b"\x98" + value.bytes)[0] == value


@pytest.mark.parametrize("seed", range(0, 6_000, 500))
def test_wild_clients_get_answers_or_their_connection_ends(seed: int) -> None:
    """Any exception but AMQP's own would leave `receive`; what was locked is free again once a client is gone."""
    for number in range(seed, seed + 500):
        client, host = WildClient(number), opened()
        for _ in range(client.chance.randrange(25)):
            host.connection.receive(client.anything())
        assert (host.connection.stage is Stage.CLOSED) == (host.finished is not None)
        host.engine.context.clock.jump_s(100)
        host.engine.advance()
        host.connection.lost()
        assert all(not view.is_locked for path in ("q", "s") for view in host.engine.messages(path))
        assert host.engine.next_deadline_s() is None
