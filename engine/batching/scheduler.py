"""The scheduler: chooses the recordings to read, the chunks to prefill together, and when the running batch steps.

Knows numbers only, no arrays and no audio. A chunk waits as a ticket, is admitted with others in one prefill, and holds
its row and its tokens until it is released. The rules:

* Memory: what admitted chunks may come to hold, prompt and answer, stays within a budget of tokens and of rows.
* Urgent chunks (the first minute of what a client waits for) go before all others, and a part of rows and tokens is
  kept for them, so a long recording delays them by one prefill at most. Where both wait, every fourth prefill is the
  others' nevertheless.
* Among equals, the owner who was served least goes first, then that owner's short recordings and first chunks (three
  times in a row), then the recording that was served least, the older recording, the earlier chunk.
* Between two prefills the running batch takes some steps, more of them the more rows would otherwise be idle (for
  a client that waits to begin, only urgent ones count), and enough for a first word where recordings have just begun
  and no other client waits to begin.
* While a short recording is being decoded, and nothing urgent waits, prefills wait for its end, or for as many steps as
  it usually takes: all others' where a client waits for it, those of long recordings where it is a job.
* Where the batch is full and more chunks of long recordings wait than rows are free, some rows become free first, if
  the limits have such chunks come by several (`rows_together`).
* Prompts of a prefill are of similar length, because all are padded to the longest.
* Decoded chunks whose words are to be timed are aligned in groups of bounded size: as soon as one is full, or is
  what some recording's end or first minute waits for. Alignments alternate with prefills, and the running batch
  steps in between, so that a long recording's words delay no other client.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from heapq import heapify, heappop, heapreplace

from scribewire.engine.batching.limits import BatchLimits
from scribewire.engine.batching.limits import Ticket as Ticket  # most callers know it from here

URGENT_CHUNKS = 2
"""So many first chunks of an interactive recording are urgent: a minute, at the usual 30 s a chunk."""

_OTHERS_EVERY = 4
_BRIEF_IN_A_ROW = 3
_MOST_STEPS_TO_FILL = 8
"""Between two prefills of chunks that no client waits for: a batch that is filling up is worth more when it is full."""

LARGEST_OF_ANY_SIZE = 8
"""Urgent chunks come in groups of any number up to here even where group sizes are few: none waits for a number, and so
many can be warmed up before the first request."""

_STEPS_TO_SPEAK = 16
"""A recording's first chunk has its first word within so many steps: up to ten tokens of language head in a small
vocabulary, a word, the step that is read one step late, and some that may be held back."""

_STEPS_BESIDE_SHORT = 32
"""Steps, nine seconds of speech, whose decoding is delayed by no prefill of chunks that are not urgent.
Rows that become free meanwhile are idle, a third of a full batch of thirty-second chunks at the end."""

_READ_AHEAD_OF_ONE_OWNER = 2


class Action(Enum):
    """Next action of the engine's thread."""

    IDLE = auto()
    ADMIT = auto()
    FEED = auto()
    STEP = auto()
    ALIGN = auto()


@dataclass(slots=True)
class _RecordingQueue:
    owner: str
    is_interactive: bool
    order: int
    served: int = 0
    """Tokens that its chunks were given, beside those of the same owner's other recordings."""
    is_read: bool = False
    is_being_read: bool = False
    offered: int = 0
    waiting: dict[int, Ticket] = field(default_factory=dict)

    @property
    def is_all_taken(self) -> bool:
        return self.is_read and not self.waiting

    @property
    def is_short(self) -> bool:
        return self.is_read and self.offered <= URGENT_CHUNKS

    def is_urgent(self, ticket: Ticket) -> bool:
        return self.is_interactive and ticket.index < URGENT_CHUNKS


class Scheduler:
    """The state of all work that is waiting or running; one thread uses it."""

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self._recordings: dict[str, _RecordingQueue] = {}
        self._admitted: dict[int, Ticket] = {}
        self._to_align: dict[int, Ticket] = {}
        self._prefilling: set[int] = set()
        self._waiting_beginners: set[int] = set()
        self._served: dict[str, int] = {}
        self._opened = 0
        self._is_prefilling = False
        self._group: list[Ticket] = []
        self._has_beginners = False
        self._steps_since_prefill = self._urgent_in_a_row = self._brief_in_a_row = 0
        self._may_read_more = self._may_admit_more = False
        self._may_align_next = True

    # ---- recordings and their chunks -------------------------------------------------------------------------

    def open(self, recording_id: str, *, owner: str, is_interactive: bool) -> None:
        """Add a recording whose chunks will be offered."""
        active = {one.owner for one in self._recordings.values()}
        if owner not in active:
            # An owner that is new, or back, has no credit for the time away.
            least = min((self._served[one] for one in active), default=0)
            self._served[owner] = max(self._served.get(owner, 0), least)
        # Nor has a new recording, beside the others of its owner.
        served = min((one.served for one in self._recordings.values() if one.owner == owner), default=0)
        self._recordings[recording_id] = _RecordingQueue(owner, is_interactive, self._opened, served)
        self._opened += 1
        self._may_read_more = True

    def close(self, recording_id: str) -> None:
        """Forget a recording with its waiting chunks; admitted ones are released separately."""
        recording = self._recordings.pop(recording_id, None)
        self._waiting_beginners.difference_update(recording.waiting if recording else ())
        for ticket in [one for one in self._to_align.values() if one.recording_id == recording_id]:
            del self._to_align[ticket.ticket_id]
        self._may_read_more = self._may_admit_more = True
        if not self._recordings:
            self._served.clear()

    def offer(self, ticket: Ticket) -> None:
        """Queue a chunk of an open recording that is ready to be decoded."""
        recording = self._recordings[ticket.recording_id]
        recording.waiting[ticket.ticket_id] = ticket
        recording.offered += 1
        if ticket.index == 0 and self._is_urgent(ticket):
            self._waiting_beginners.add(ticket.ticket_id)
        self._may_admit_more = True

    def offer_alignment(self, ticket: Ticket) -> None:
        """Queue a decoded chunk of an open recording for the times of its words; nothing is reserved for it."""
        self._to_align[ticket.ticket_id] = ticket

    def release(self, ticket_id: int) -> None:
        """Free the row and tokens of a chunk that has left the batch."""
        self._admitted.pop(ticket_id, None)
        self._prefilling.discard(ticket_id)
        self._may_admit_more = True

    # ---- reading ahead ---------------------------------------------------------------------------------------

    def to_read(self) -> list[str]:
        """Recordings whose next chunk should be read now, so that rows never wait for audio nor audio fills memory."""
        if not self._may_read_more:
            return []
        self._may_read_more = False
        active = {one.owner for one in self._recordings.values() if not one.is_read or one.waiting}
        room = 2 * self.limits.max_rows
        share = max(_READ_AHEAD_OF_ONE_OWNER, room // max(1, len(active)))
        ahead = dict.fromkeys(active, 0)
        for recording in self._recordings.values():
            if recording.owner in ahead:
                ahead[recording.owner] += len(recording.waiting) + recording.is_being_read
        wanted = []
        for recording_id, recording in sorted(self._recordings.items(), key=_reading_order):
            if recording.is_read or recording.is_being_read:
                continue
            # A recording must not queue behind a long one of the same owner.
            if ahead[recording.owner] < (share if recording.waiting else share + room):
                ahead[recording.owner] += 1
                wanted.append(recording_id)
        return wanted

    def reading(self, recording_id: str) -> None:
        """Note that the next chunk of this recording is being read."""
        self._recordings[recording_id].is_being_read = True

    def has_read(self, recording_id: str, *, is_last: bool) -> None:
        """Note that the reading under way is over."""
        if recording_id in self._recordings:
            self._recordings[recording_id].is_being_read = False
            self._recordings[recording_id].is_read = is_last
            self._may_read_more = True

    def is_being_read(self, recording_id: str) -> bool:
        """True while this recording is being read."""
        return recording_id in self._recordings and self._recordings[recording_id].is_being_read

    # ---- what comes next -------------------------------------------------------------------------------------

    @property
    def waiting_count(self) -> int:
        """Chunks that are ready and not admitted."""
        return sum(len(recording.waiting) for recording in self._recordings.values())

    @property
    def row_count(self) -> int:
        """Chunks admitted and not released."""
        return len(self._admitted)

    @property
    def reserved_tokens(self) -> int:
        """Tokens that admitted chunks may come to hold."""
        return sum(ticket.reserve_tokens for ticket in self._admitted.values())

    def next_action(self) -> Action:
        """The next action; ADMIT promises that `admit` will return chunks."""
        joined_rows = len(self._admitted) - len(self._prefilling)
        if self._is_prefilling:
            return Action.STEP if joined_rows and not self._steps_since_prefill else Action.FEED
        patience = self._patience(joined_rows)
        if not (joined_rows and self._steps_since_prefill < patience):
            wants_alignment = self._wants_alignment(joined_rows)
            if wants_alignment and self._may_align_next:
                return Action.ALIGN
            self._group = self._next_group()
            # Where nothing fits now, nothing will until something changes.
            self._may_admit_more = bool(self._group)
            if self._group:
                return Action.ADMIT
            if wants_alignment:
                return Action.ALIGN
        return Action.STEP if joined_rows else Action.IDLE

    def admit(self) -> list[Ticket]:
        """Take the chunks of the prefill that `next_action` found; they are to be fed until `joined` is called."""
        group, self._group = self._group, []
        for ticket in group:
            recording = self._recordings[ticket.recording_id]
            del recording.waiting[ticket.ticket_id]
            self._waiting_beginners.discard(ticket.ticket_id)
            self._admitted[ticket.ticket_id] = ticket
            self._prefilling.add(ticket.ticket_id)
            self._note_served(recording, ticket)
            is_urgent, is_brief = recording.is_urgent(ticket), _is_brief(recording, ticket)
        self._has_beginners = any(ticket.index == 0 for ticket in group)
        if group:
            self._urgent_in_a_row = self._urgent_in_a_row + 1 if is_urgent else 0
            if not is_urgent:
                self._brief_in_a_row = self._brief_in_a_row + 1 if is_brief else 0
            self._may_read_more = True
            self._is_prefilling = True
            self._may_align_next = True
            # The first slice need not wait for a step: the last prefill did.
            self._steps_since_prefill = 1
        return group

    def align(self) -> list[Ticket]:
        """Take the chunks that are to be aligned together now."""
        urgent = [ticket for ticket in self._to_align.values() if self._is_urgent(ticket)]
        group = self._padded_alike(self._in_order(urgent or self._to_align.values()))
        for ticket in group:
            del self._to_align[ticket.ticket_id]
            self._note_served(self._recordings[ticket.recording_id], ticket)
        self._steps_since_prefill = 0
        self._may_align_next = False
        return group

    def fed(self) -> None:
        """Note a fed slice of the prefill; the running batch may step before the next."""
        self._steps_since_prefill = 0

    def joined(self) -> None:
        """End the prefill; its chunks are rows of the running batch."""
        self._is_prefilling = False
        self._prefilling.clear()
        self._steps_since_prefill = 0

    def stepped(self) -> None:
        """Note a step of the running batch."""
        self._steps_since_prefill += 1
        if self._steps_since_prefill == _STEPS_BESIDE_SHORT:
            self._may_admit_more = True

    def _note_served(self, recording: _RecordingQueue, ticket: Ticket) -> None:
        self._served[recording.owner] += ticket.reserve_tokens
        recording.served += ticket.reserve_tokens

    def _patience(self, joined_rows: int) -> int:
        """Steps before the next prefill. A client that waits to begin waits only for rows that are urgent too."""
        if not self._waiting_beginners:
            steps = min(self._steps_for(joined_rows), _MOST_STEPS_TO_FILL)
            return max(steps, _STEPS_TO_SPEAK) if self._has_beginners else steps
        return self._steps_for(
            sum(
                ticket.recording_id in self._recordings and self._is_urgent(ticket)
                for ticket_id, ticket in self._admitted.items()
                if ticket_id not in self._prefilling
            )
        )

    def _steps_for(self, rows: int) -> int:
        return min(1 + int(rows * self.limits.steps_per_row), self.limits.most_steps)

    def _next_group(self) -> list[Ticket]:
        if self.row_count >= self.limits.max_rows or not self._may_admit_more:
            return []
        urgent: list[Ticket] = []
        others: list[Ticket] = []
        for recording in self._recordings.values():
            for ticket in recording.waiting.values():
                (urgent if recording.is_urgent(ticket) else others).append(ticket)
        # Encoding a second chunk along would delay the first word of all.
        urgent = [ticket for ticket in urgent if ticket.index == 0] or urgent
        limits = self.limits
        if others and (not urgent or self._urgent_in_a_row >= _OTHERS_EVERY - 1):
            others = others if urgent else self._beside_short(others)
            group = []
            if not self._waits_for_rows(len(others)):
                group = self._fitting(others, limits.rows_for_others, limits.tokens_for_others)
            if group and limits.group_sizes:
                # Beside a running batch only as many as usually come, or a pause would bring a size never seen before.
                most = limits.rows_together if self._admitted and limits.rows_together > 1 else len(group)
                group = group[: limits.sized(min(len(group), most))]
            if group or not urgent:
                return group
        group = self._fitting(urgent, limits.max_rows, limits.token_budget)
        if len(group) > LARGEST_OF_ANY_SIZE:
            group = group[: limits.sized(len(group))]
        return group

    def _waits_for_rows(self, waiting: int) -> bool:
        """True when rows that will soon be free make a prefill of more chunks that are not urgent worth the wait.

        waiting: such chunks. They wait for no more rows than their like still hold, or urgent ones could keep them out.
        """
        free = self.limits.rows_for_others - self.row_count
        wanted = min(self.limits.rows_together, waiting)
        if free >= wanted:
            return False
        admitted = self._admitted.values()
        held = sum(one.recording_id in self._recordings and not self._is_urgent(one) for one in admitted)
        return free < min(wanted, held)

    def _beside_short(self, others: list[Ticket]) -> list[Ticket]:
        """Those of the chunks that are not urgent which need not wait for the end of a short recording now."""
        beside = self._short_in_hand()
        if any(recording.is_interactive for recording in beside):
            return []
        if not beside or self._brief_in_a_row >= _BRIEF_IN_A_ROW:
            return others
        return [ticket for ticket in others if self._recordings[ticket.recording_id].is_short]

    def _short_in_hand(self) -> list[_RecordingQueue]:
        """Recordings of which rows that are about to end are all that is left; none once they take too many steps."""
        if self._steps_since_prefill >= _STEPS_BESIDE_SHORT:
            return []
        admitted = (one for one in self._admitted.values() if one.index < URGENT_CHUNKS)
        found = (self._recordings.get(one.recording_id) for one in admitted)
        return [one for one in found if one is not None and one.is_all_taken]

    def _is_urgent(self, ticket: Ticket) -> bool:
        return self._recordings[ticket.recording_id].is_urgent(ticket)

    def _wants_alignment(self, joined_rows: int) -> bool:
        """True when waiting chunks are worth a pass now: a full group, nothing else to do, or a client waits for it."""
        waiting = self._to_align.values()
        if not waiting:
            return False
        return (
            not joined_rows
            or sum(ticket.prompt_tokens for ticket in waiting) >= self.limits.tokens_of_a_pass
            or any(self._is_urgent(one) or self._waits_for_words_only(one.recording_id) for one in waiting)
        )

    def _waits_for_words_only(self, recording_id: str) -> bool:
        recording = self._recordings[recording_id]
        is_in_hand = any(ticket.recording_id == recording_id for ticket in self._admitted.values())
        return recording.is_all_taken and not is_in_hand

    def _padded_alike(self, tickets: Iterable[Ticket]) -> list[Ticket]:
        """The first of these in order, and with it those that one alignment takes along.

        Where more wait than fit, there are as many of them as `BatchLimits.group_sizes` allows.
        """
        group, is_full = self.limits.alike(tickets, self.limits.tokens_of_a_pass)
        return group[: self.limits.sized(len(group))] if is_full else group

    def _fitting(self, candidates: Iterable[Ticket], max_rows: int, token_budget: int) -> list[Ticket]:
        """The next of these in order, and with it what fits beside it."""
        rows, tokens = self.row_count, self.reserved_tokens

        def has_room(group: list[Ticket], ticket: Ticket) -> bool:
            held = tokens + sum(one.reserve_tokens for one in (*group, ticket))
            is_alone = not group and not self._admitted
            return is_alone or (rows + len(group) < max_rows and held <= token_budget)

        return self.limits.alike(self._in_order(candidates), self.limits.prefill_tokens, has_room)[0]

    def _in_order(self, tickets: Iterable[Ticket]) -> Iterator[Ticket]:
        """Tickets by owner and by recording, the least served first, counting what this order gives each.

        Heaps, because only the first few of many are taken.
        """
        waiting: dict[str, list[tuple[int, int, Ticket]]] = {}
        for ticket in tickets:
            waiting.setdefault(ticket.recording_id, []).append((ticket.index, ticket.ticket_id, ticket))
        lanes: dict[str, list[tuple[bool, int, int, str]]] = {}

        def rank(recording_id: str, served: int) -> tuple[bool, int, int, str]:
            recording, (*_, ticket) = self._recordings[recording_id], waiting[recording_id][0]
            is_late = _is_brief(recording, ticket) == (self._brief_in_a_row >= _BRIEF_IN_A_ROW)
            return is_late, served, recording.order, recording_id

        for recording_id, chunks in waiting.items():
            heapify(chunks)
            recording = self._recordings[recording_id]
            lanes.setdefault(recording.owner, []).append(rank(recording_id, recording.served))
        for lane in lanes.values():
            heapify(lane)
        owners = [(self._served[owner], owner) for owner in lanes]
        heapify(owners)
        while owners:
            served, owner = owners[0]
            lane = lanes[owner]
            _, recording_served, _, recording_id = lane[0]
            *_, ticket = heappop(waiting[recording_id])
            if waiting[recording_id]:
                heapreplace(lane, rank(recording_id, recording_served + ticket.reserve_tokens))
            else:
                heappop(lane)
            if lane:
                heapreplace(owners, (served + ticket.reserve_tokens, owner))
            else:
                heappop(owners)
            yield ticket


def _reading_order(item: tuple[str, _RecordingQueue]) -> tuple[bool, int, int]:
    _, recording = item
    return (not recording.is_interactive, len(recording.waiting), recording.order)


def _is_brief(recording: _RecordingQueue, ticket: Ticket) -> bool:
    """True of a short recording's chunk, and of a first one: nothing tells how much there is behind it."""
    return recording.is_short or ticket.index == 0
