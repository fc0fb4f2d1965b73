"""The planner: verdicts against the head as it would then be, and batches on the exact boundary of the limits."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.replies import RejectionCode
from schemas.types import POSITION_MAX, CommandId, Position
from tests.support.brooks import KEY, event, prepared
from worker.protocol.model import ETag, Head, Limits, RecentCommand, RecentConflict, StoredHead
from worker.protocol.pending import StoredBrook, StoredPending, begin, chunks, commit, write_chunk
from worker.protocol.plan import AppendBatch, LargeAppend, Plan, plan
from worker.protocol.prepare import PreparedCommand
from worker.protocol.verdicts import Accepted, AlreadyAppended, Conflicted, Refused, Verdict
from worker.protocol.writes import ETAG_BYTES_MAX, Create, Operation, Replace, append_events

LIMITS = Limits()
ETAG = ETag('"00000000-0000-0000-0000-000000000000"')


def stored_at(position: int, **fields: object) -> StoredHead:
    head = Head(position=Position(position), **fields)  # type: ignore[arg-type]
    return StoredHead(key=KEY, head=head, etag=ETAG if position >= 0 else None)


def sent_bytes(operations: tuple[Operation, ...]) -> int:
    """The size of the request as azure-cosmos sends it with compact UTF-8."""
    body = []
    for operation in operations:
        match operation:
            case Create(document):
                body.append({"operationType": "Create", "resourceBody": document})
            case Replace(document, if_match):
                body.append(
                    {"operationType": "Replace", "id": document["id"], "resourceBody": document, "ifMatch": if_match}
                )
            case other:
                raise AssertionError(other)
    return len(json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode())


def only_step(decided: Plan) -> AppendBatch:
    (step,) = decided.steps
    assert isinstance(step, AppendBatch)
    return step


def batches(decided: Plan) -> list[AppendBatch]:
    """The steps, all of them single batches."""
    found = [step for step in decided.steps if isinstance(step, AppendBatch)]
    assert len(found) == len(decided.steps)
    return found


class TestExpected:
    @pytest.mark.parametrize(
        ("expected", "position", "accepted"),
        [
            ("any", -1, True),
            ("any", 7, True),
            ("empty", -1, True),
            ("empty", 0, False),
            ("exists", 0, True),
            ("exists", -1, False),
            (-1, -1, True),
            (-1, 0, False),
            (7, 7, True),
            (7, 6, False),
            (7, 8, False),
        ],
    )
    def test_each_expectation_holds_on_the_heads_that_it_names(
        self, expected: int | str, position: int, accepted: bool
    ) -> None:
        decided = plan(stored_at(position), [prepared(expected=expected)], LIMITS)  # type: ignore[arg-type]
        if accepted:
            assert decided.verdicts == (Accepted(Position(position + 1), Position(position + 1)),)
        else:
            assert decided.verdicts == (Conflicted(expected, Position(position)),)  # type: ignore[arg-type]

    def test_each_command_is_decided_against_the_head_that_the_ones_before_it_leave(self) -> None:
        group = [
            prepared(events=2, expected="empty"),
            prepared(expected="empty"),
            prepared(expected=1),
            prepared(expected=1),
            prepared(expected=2),
        ]
        decided = plan(stored_at(-1), group, LIMITS)
        assert decided.verdicts == (
            Accepted(Position(0), Position(1)),
            Conflicted("empty", Position(1)),
            Accepted(Position(2), Position(2)),
            Conflicted(1, Position(2)),
            Accepted(Position(3), Position(3)),
        )
        step = only_step(decided)
        assert [document["id"] for document in step.events] == ["0", "1", "2", "3"]
        assert step.commands == 3
        assert step.head.position == 3


class TestDuplicates:
    def test_a_command_that_took_effect_before_gets_its_first_positions(self) -> None:
        one = prepared(events=3)
        first = plan(stored_at(4), [one], LIMITS)
        again = plan(StoredHead(key=KEY, head=first.steps[0].head, etag=ETAG), [one], LIMITS)
        assert again == Plan((AlreadyAppended(Position(5), Position(7)),), ())

    def test_a_command_that_stands_twice_in_a_group_takes_effect_once(self) -> None:
        one = prepared()
        decided = plan(stored_at(-1), [one, one], LIMITS)
        zero = Position(0)
        assert decided.verdicts == (Accepted(zero, zero), AlreadyAppended(zero, zero))
        assert len(only_step(decided).events) == 1

    def test_a_conflict_is_on_record_and_stays_a_conflict_when_the_head_has_moved(self) -> None:
        """A group moves the head past what its conflicts were decided on: redelivered, they must not be accepted."""
        group = [prepared(), prepared(expected=1), prepared()]
        first = plan(stored_at(-1), group, LIMITS)
        assert first.verdicts[1] == Conflicted(1, Position(0))
        assert first.steps[0].head.position == 1, "the second command would be accepted now"
        again = plan(StoredHead(key=KEY, head=first.steps[0].head, etag=ETAG), group, LIMITS)
        assert again.verdicts[1] == Conflicted(1, Position(0))
        assert again.steps == ()

    def test_a_conflict_alone_is_put_on_record_by_a_write_of_its_own(self) -> None:
        one = prepared(expected=9)
        step = only_step(plan(stored_at(5), [one], LIMITS))
        assert step.events == ()
        assert step.commands == 0
        assert step.head == Head(
            position=Position(5), conflicts=(RecentConflict(one.command_id, Position(5), one.digest),)
        )

    def test_the_same_id_with_another_content_is_rejected(self) -> None:
        first = plan(stored_at(-1), [prepared(command_id="c", events=2)], LIMITS)
        moved = StoredHead(key=KEY, head=first.steps[0].head, etag=ETAG)
        (verdict,) = plan(moved, [prepared(command_id="c", events=3)], LIMITS).verdicts
        assert isinstance(verdict, Refused)
        assert verdict.code == RejectionCode.COMMAND_ID_REUSED
        (verdict,) = plan(moved, [prepared(command_id="c", events=2, expected="empty")], LIMITS).verdicts
        assert isinstance(verdict, Refused), "another expectation is another command"

    def test_an_entry_without_a_digest_answers_any_content(self) -> None:
        entry = RecentCommand(CommandId("c"), Position(2), Position(3))
        decided = plan(stored_at(3, recent=(entry,)), [prepared(command_id="c")], LIMITS)
        assert decided.verdicts == (AlreadyAppended(Position(2), Position(3)),)

    def test_a_command_found_among_the_events_is_not_appended_again(self) -> None:
        one = prepared()
        known = AlreadyAppended(Position(1), Position(1))
        assert plan(stored_at(9), [one], LIMITS, {one.identity: known}) == Plan((known,), ())

    def test_the_windows_keep_the_newest_entries(self) -> None:
        limits = Limits(recent_commands_max=3)
        group = [prepared() for _ in range(5)]
        head = plan(stored_at(-1), group, limits).steps[0].head
        assert [entry.command_id for entry in head.recent] == [one.command_id for one in group[2:]]

    def test_a_conflict_is_forgotten_when_every_remembered_command_is_younger(self) -> None:
        limits = Limits(recent_commands_max=3)
        late = prepared(expected=99)
        head = plan(stored_at(-1), [late, *(prepared() for _ in range(3))], limits).steps[0].head
        assert [entry.command_id for entry in head.conflicts] == [late.command_id]
        head = plan(StoredHead(key=KEY, head=head, etag=ETAG), [prepared()], limits).steps[0].head
        assert head.conflicts == ()

    @pytest.mark.parametrize("events", [1, 200], ids=["in a batch", "large"])
    def test_a_conflict_outlives_as_many_commands_as_the_window_holds_however_full_it_was(self, events: int) -> None:
        limits = Limits(recent_commands_max=3)
        late = prepared(expected=99)
        group = [*(prepared() for _ in range(3)), late, *(prepared() for _ in range(2))]
        head = plan(stored_at(-1), group, limits).steps[0].head
        for remembered in ([late.command_id], []):
            (step,) = plan(StoredHead(key=KEY, head=head, etag=ETAG), [prepared(events=events)], limits).steps
            head = step.head
            assert [entry.command_id for entry in head.conflicts] == remembered
            if isinstance(step, LargeAppend):
                assert step.before.with_command(head.recent[-1], 3) == head, "as whoever commits it makes it"


class TestOperations:
    def test_99_events_and_the_head_fill_one_batch(self) -> None:
        step = only_step(plan(stored_at(0), [prepared(events=99)], LIMITS))
        assert step.operations == 100

    def test_100_events_in_one_command_take_the_pending_head(self) -> None:
        one = prepared(events=100)
        decided = plan(stored_at(0), [one], LIMITS)
        assert decided.verdicts == (Accepted(Position(1), Position(100)),)
        (step,) = decided.steps
        assert isinstance(step, LargeAppend)
        assert (step.before.position, step.head.position) == (0, 100)
        assert step.head.recent[-1].command_id == one.command_id

    def test_a_group_opens_a_second_batch_at_the_hundredth_event(self) -> None:
        decided = plan(stored_at(-1), [prepared() for _ in range(100)], LIMITS)
        assert [step.operations for step in batches(decided)] == [100, 2]
        assert [step.before for step in decided.steps] == [-1, 98]

    def test_the_chunks_of_a_large_append_are_full(self) -> None:
        one = prepared(events=250)
        marker, _ = begin(stored_at(0), stored_at(0).head, one)
        found = [(chunk.start, chunk.end) for chunk in chunks(KEY, one, marker, LIMITS)]
        assert found == [(0, 99), (99, 198), (198, 250)]

    def test_a_command_is_never_torn_between_batches(self) -> None:
        decided = plan(stored_at(-1), [prepared(events=60), prepared(events=60)], LIMITS)
        assert [len(step.events) for step in batches(decided)] == [60, 60]

    def test_a_large_append_keeps_its_place_between_the_others(self) -> None:
        group = [prepared(), prepared(expected=7), prepared(events=150), prepared(expected=9), prepared()]
        decided = plan(stored_at(-1), group, LIMITS)
        before, large, after = decided.steps
        assert isinstance(before, AppendBatch)
        assert isinstance(large, LargeAppend)
        assert isinstance(after, AppendBatch)
        assert (before.head.position, large.head.position, after.head.position) == (0, 150, 151)
        assert [entry.actual for entry in after.head.conflicts] == [0, 150]

    def test_a_conflict_before_a_large_append_is_on_record_when_that_begins(self) -> None:
        """Whoever commits it in our stead moves the head past what the conflict was decided on."""
        late = prepared(expected=7)
        (step,) = plan(stored_at(3), [late, prepared(events=150)], LIMITS).steps
        assert isinstance(step, LargeAppend)
        assert [entry.command_id for entry in step.before.conflicts] == [late.command_id]


class TestBytes:
    def budget_of(self, *group: PreparedCommand) -> int:
        return only_step(plan(stored_at(0), group, LIMITS)).request_bytes

    def test_the_budget_is_used_to_the_last_byte(self) -> None:
        one = prepared(events=(event(data=b"x" * 600_000), event(data=b"y" * 600_000)))
        exact = self.budget_of(one)
        fits = plan(stored_at(0), [one], Limits(batch_bytes_max=exact))
        assert isinstance(fits.verdicts[0], Accepted)
        (step,) = fits.steps
        assert isinstance(step, AppendBatch)
        (step,) = plan(stored_at(0), [one], Limits(batch_bytes_max=exact - 1)).steps
        assert isinstance(step, LargeAppend)

    def test_one_byte_over_the_budget_opens_a_second_batch(self) -> None:
        group = [prepared(events=(event(data=b"x" * 500_000),)) for _ in range(2)]
        exact = self.budget_of(*group)
        assert len(plan(stored_at(0), group, Limits(batch_bytes_max=exact)).steps) == 1
        assert len(plan(stored_at(0), group, Limits(batch_bytes_max=exact - 1)).steps) == 2

    def test_conflicts_on_record_count_too(self) -> None:
        group = [prepared(events=(event(data=b"x" * 300_000), event(data=b"y" * 300_000))), prepared(expected=77)]
        exact = self.budget_of(*group)
        assert len(plan(stored_at(0), group, Limits(batch_bytes_max=exact)).steps) == 1
        decided = plan(stored_at(0), group, Limits(batch_bytes_max=exact - 1))
        assert [(step.commands, len(step.head.conflicts)) for step in batches(decided)] == [(1, 0), (0, 1)]

    def test_an_event_over_the_item_limit_is_rejected_with_its_index_and_size(self) -> None:
        big = event(data=b"x" * 900_000)
        size = prepared(events=(big,)).event_bytes(0, POSITION_MAX)
        limits = Limits(event_bytes_max=size - 1)
        (verdict,) = plan(stored_at(0), [prepared(events=(event(), big))], limits).verdicts
        assert isinstance(verdict, Refused)
        assert verdict.code == RejectionCode.EVENT_TOO_LARGE
        assert verdict.problem.field == "events[1]"
        assert f"{size:,} bytes" in verdict.problem.problem
        fits = plan(stored_at(0), [prepared(events=(event(), big))], Limits(event_bytes_max=size))
        assert isinstance(fits.verdicts[0], Accepted)

    def test_the_rejection_of_an_event_is_the_same_wherever_the_head_has_moved_since(self) -> None:
        """It is on no record: a command that comes again is measured again, behind what was appended meanwhile."""
        big = prepared(events=(event(), event(data=b"x" * 900_000)))
        limits = Limits(event_bytes_max=max(big.bytes_at_start) - 1)
        verdicts = {plan(stored_at(head), [big], limits).verdicts for head in (-1, 7, 8, 98, 12_345)}
        assert len(verdicts) == 1

    def test_an_event_within_the_limit_fits_beside_the_largest_head(self) -> None:
        limits = Limits()
        wide = "\U0001f30a" * 64  # 128 UTF-16 units, 256 bytes
        recent = tuple(
            RecentCommand(CommandId(f"{wide[:-3]}{index:03}"), Position(2**52), Position(2**52), "d" * 12)
            for index in range(limits.recent_commands_max)
        )
        conflicts = tuple(
            RecentConflict(CommandId(f"x{wide[:-4]}{index:03}"), Position(2**52), "d" * 12)
            for index in range(limits.recent_commands_max)
        )
        base = prepared(events=(event(data=b""),)).event_bytes(0, Position(2**52 + 1))
        data = b"x" * ((limits.single_event_bytes_max - base - 8) // 4 * 3)
        one = prepared(events=(event(data=data),))
        decided = plan(stored_at(2**52, recent=recent, conflicts=conflicts), [one], limits)
        assert isinstance(decided.verdicts[0], Accepted)

    def test_limits_that_leave_no_room_for_an_event_are_refused(self) -> None:
        with pytest.raises(ValueError, match="batch_bytes_max"):
            Limits(batch_bytes_max=100_000)
        with pytest.raises(ValueError, match="batch_operations_max"):
            Limits(batch_operations_max=1)


texts = st.text(st.characters(codec="utf-8"), max_size=20)
small_groups = st.lists(
    st.builds(
        lambda command_id, events, expected: prepared(command_id=command_id, events=tuple(events), expected=expected),
        st.sampled_from(["a", "b", "c", "d", "\u00fc", "\U0001f30a"]),
        st.lists(st.builds(event, texts, data=st.binary(max_size=40), event_type=texts), min_size=1, max_size=9),
        st.one_of(st.sampled_from(["any", "empty", "exists"]), st.integers(-1, 12)),
    ),
    max_size=12,
)
tight = Limits(batch_operations_max=5, batch_bytes_max=40_000, recent_commands_max=8)


def carried_out(stored: StoredHead, decided: Plan) -> StoredHead:
    """The head after the steps, each of whose batches must build on the one before and keep to the limits."""
    for step in decided.steps:
        if isinstance(step, AppendBatch):
            append_events(stored, step.head, step.events)
            stored = StoredHead(key=stored.key, head=step.head, etag=ETAG)
        else:
            stored = carried_out_large(stored, step)
    return stored


def carried_out_large(stored: StoredHead, step: LargeAppend) -> StoredHead:
    pending, _ = begin(stored, step.before, step.command)
    marked = Head(**{**{f: getattr(step.before, f) for f in Head.__struct_fields__}, "pending": pending.command_id})
    brook = StoredBrook(
        head=StoredHead(key=KEY, head=marked, etag=ETAG), pending=StoredPending(pending=pending, etag=ETAG)
    )
    ids = []
    for chunk in chunks(KEY, step.command, pending, tight):
        assert brook.pending is not None
        after, operations = write_chunk(KEY, brook.pending, step.command, chunk)
        assert len(operations) <= tight.batch_operations_max
        unused = ETAG_BYTES_MAX - (len(json.dumps(ETAG)) - 2)
        shorter = len(str(after.target)) - len(str(after.written))
        assert sent_bytes(operations) + 1 == chunk.request_bytes - unused - shorter
        assert chunk.request_bytes <= tight.batch_bytes_max
        ids += [operation.document["id"] for operation in operations[1:] if isinstance(operation, Create)]
        brook = StoredBrook(head=brook.head, pending=StoredPending(pending=after, etag=ETAG))
    assert ids == [str(position) for position in range(step.before.position + 1, step.head.position + 1)]
    head, _ = commit(brook, tight.recent_commands_max)
    assert head == step.head, "who commits it in our stead leaves the same head"
    return StoredHead(key=KEY, head=head, etag=ETAG)


@given(small_groups, st.integers(-1, 12))
@settings(max_examples=300, deadline=None)
def test_a_group_gets_the_verdicts_that_its_commands_would_get_one_by_one(
    group: list[PreparedCommand], position: int
) -> None:
    """As long as the windows hold a group, which the settings see to: longer ones need the lookup by id."""
    group = group[: tight.recent_commands_max]
    together = plan(stored_at(position), group, tight)
    stored = stored_at(position)
    verdicts: list[Verdict] = []
    for one in group:
        decided = plan(stored, [one], tight)
        verdicts.extend(decided.verdicts)
        stored = carried_out(stored, decided)
    as_first = [Accepted(v.first, v.last) if isinstance(v, AlreadyAppended) else v for v in verdicts]
    as_first_together = [Accepted(v.first, v.last) if isinstance(v, AlreadyAppended) else v for v in together.verdicts]
    assert as_first_together == as_first
    assert carried_out(stored_at(position), together).head == stored.head


@given(small_groups, st.integers(-1, 12))
@settings(max_examples=300, deadline=None)
def test_no_step_exceeds_the_limits_and_its_size_is_the_size_that_is_sent(
    group: list[PreparedCommand], position: int
) -> None:
    stored = stored_at(position)
    for step in plan(stored, group, tight).steps:
        if isinstance(step, LargeAppend):
            stored = carried_out_large(stored, step)
            continue
        operations = append_events(stored, step.head, step.events)
        assert len(operations) == step.operations <= tight.batch_operations_max
        assert step.request_bytes <= tight.batch_bytes_max
        if stored.etag is None:
            assert sent_bytes(operations) <= step.request_bytes
        else:
            # The state's name is not known when planning: its share is the largest that is taken into account.
            unused = ETAG_BYTES_MAX - (len(json.dumps(stored.etag)) - 2)
            assert sent_bytes(operations) + 1 == step.request_bytes - unused, "the last comma is counted"
        stored = StoredHead(key=KEY, head=step.head, etag=ETAG)
