"""Keys and values of a running batch: slots x capacity, right-aligned.

All rows end at the same column, so one slice assignment writes the whole batch's new keys, for rows of any length. MLX
performs it in place where nothing else holds the buffer, and copies the whole buffer first where something does. On a
GPU, what has read a buffer may hold it until the commands that it was handed over with are done, so a step handed over
while the one before still runs may copy some layers' buffers; it is right either way. A kernel that writes by itself
(`buffers_to_write`) copies nothing. A row's length is where the end is minus where the row
starts; the columns before its start hold leftovers and are masked.

Rows live in slots. A row that leaves frees its slot and a row that joins fills one, without moving the others. Slots
and capacity come in buckets, so that buffers have few sizes; they are moved only when a bucket is outgrown, or when
half of it would do.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from scribewire.engine.model.attention import PLAIN_ATTENTION, AttentionForm

CAPACITY_STEP = 256

_FREE = np.iinfo(np.int64).max
"""The start of a slot that holds no row: after every column."""


def slot_bucket(rows: int) -> int:
    """Slots for so many rows: 1, 2, 3, 4, 6, 8, 12, 16, 24, ... so that at most a third of them is idle."""
    size = 1
    while size < rows:
        if 2 * size >= 4 and size + size // 2 >= rows:
            return size + size // 2
        size *= 2
    return size


class KVCache:
    """Buffers of every layer: (slots, kv_heads, capacity, head_dim)."""

    def __init__(
        self,
        layer_count: int,
        kv_head_count: int,
        head_dim: int,
        dtype: mx.Dtype,
        form: AttentionForm = PLAIN_ATTENTION,
        slot_counts: tuple[int, ...] = (),
    ) -> None:
        """form: of attention; its column step must divide CAPACITY_STEP.

        slot_counts: numbers of slots that a step is fast with, upward; beyond the last, and without any, `slot_bucket`.
        """
        if CAPACITY_STEP % form.column_step:
            raise ValueError(f"columns in steps of {form.column_step} do not fill {CAPACITY_STEP}")
        self._shape = (kv_head_count, head_dim)
        self._dtype = dtype
        self._form = form
        self._slot_counts = slot_counts
        self._keys: list[mx.array | None] = [None] * layer_count
        self._values: list[mx.array | None] = [None] * layer_count
        self._capacity = 0
        self._starts = np.zeros(0, dtype=np.int64)
        self.end = 0
        self.trailing = 0
        # (stop, columns to attend to) of the pass under way: every layer needs it, and rows change only between passes.
        self._window_of_pass: tuple[int, tuple[int, int]] | None = None
        # What a kernel that writes into the buffers itself computes beside that, until they are needed elsewhere.
        self._unsettled: mx.array | None = None
        # Columns of a prefill that `start_rows` has announced; and whether what holds them is views of it.
        self._announced = 0
        self._holds_views = False

    @property
    def slot_count(self) -> int:
        """Rows that a step computes, free slots included."""
        return len(self._starts)

    @property
    def row_count(self) -> int:
        """Slots that hold a row."""
        return int((self._starts != _FREE).sum())

    @property
    def capacity(self) -> int:
        """Columns of the buffers."""
        return self._capacity

    @property
    def lengths(self) -> list[int]:
        """Tokens held by each slot; 0 for a free one."""
        return [0 if start == _FREE else int(self.end - start) for start in self._starts]

    @property
    def is_ragged(self) -> bool:
        """True when rows start at different columns (then a mask and a position for each row are needed)."""
        starts = self._used_starts()
        return bool(starts.size and (starts != starts[0]).any())

    def start_rows(self, lengths: list[int]) -> int:
        """Begin an empty cache for a prefill of these true lengths; returns the padded width to feed.

        Tokens must be fed right-aligned: row r's first `width - lengths[r]` columns are padding. Only where all are
        equally long they come first, and `trailing` columns of padding follow, to be forgotten by `rewind`: rows that
        begin with their buffer need no mask.
        """
        if self.end:
            raise ValueError("the cache already holds rows")
        width = self.in_width_steps(max(lengths))
        self.trailing = width - lengths[0] if len(set(lengths)) == 1 else 0
        self._announced = width
        starts = [0 if self.trailing else width - length for length in lengths]
        self._starts = np.asarray(starts, dtype=np.int64)
        return width

    def in_width_steps(self, width: int) -> int:
        """The next width, at least 1, in the steps that the device is fed in."""
        step = self._form.width_step
        return max(1, -(-width // step)) * step

    def reserve(self, extra: int) -> None:
        """Begin a pass: make room for `extra` more columns.

        Leftovers in front of all rows are given up before buffers grow.
        """
        self._window_of_pass = None
        if self._holds_views or self.end + extra > self._capacity:
            used = self.end - self._first()
            self._rebuild(list(range(self.slot_count)), end=used, capacity=_columns(used + extra))

    def append(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write (slots, kv_heads, width, head_dim) behind the end; returns the keys and values to attend to.

        They begin at the first used column; under a mask, they may reach beyond both ends.
        `reserve` must have made room; `advance` moves the end once every layer has written.
        """
        stop = self.end + keys.shape[2]
        return self._write(self._keys, layer, keys, stop), self._write(self._values, layer, values, stop)

    @property
    def has_buffers(self) -> bool:
        """True when anything was written yet."""
        return all(buffer is not None for buffer in (*self._keys, *self._values))

    def buffers_to_write(self) -> tuple[mx.array, list[mx.array]]:
        """Buffers, which must exist, for a kernel that writes one column into them and attends to them.

        Returns layout (2 + slots,) int32, the column, the capacity and each slot's start, all keys, then all values.
        `reserve` must have made room. MLX takes buffers for read where they are written so, and may run what comes
        after at the same time; so their next user has that kernel handed over to the device first, behind which
        everything else is queued. Pass its result to `written_by`.
        """
        self._settle()
        # A free slot sees what it is about to write and nothing else.
        starts = np.minimum(self._starts, self.end)
        layout = np.concatenate([(self.end, self._capacity), starts]).astype(np.int32)
        return mx.array(layout), self.state()

    def written_by(self, result: mx.array) -> None:
        """Note a result of the kernels that write, in every layer, what `buffers_to_write` gave out."""
        self._unsettled = result

    def advance(self, width: int) -> None:
        """End a pass: all layers have written `width` columns."""
        self.end += width

    def rewind(self, width: int) -> None:
        """Forget the newest `width` columns of every row; what is written next takes their place."""
        if width > min(self.lengths, default=0):
            raise ValueError(f"no row of length {min(self.lengths, default=0)} can give {width} columns back")
        self.end -= width

    def rope_offsets(self) -> int | mx.array:
        """Position of the next column in each slot; one number when all rows are aligned."""
        if not self.is_ragged:
            return self.end - self._first()
        return mx.array(np.asarray(self.lengths, dtype=np.int32))

    def attention_mask(self, width: int) -> mx.array | str | None:
        """Mask for `width` queries at the end: None or "causal" where MLX needs no array.

        Shape (slots, 1, width, columns to attend to). A padding query and a free slot see themselves, because a row
        of nothing but masked keys would become NaN and spoil the values that later layers multiply by zero.
        """
        if not self._needs_mask(width):
            return "causal" if width > 1 else None
        columns = np.arange(*self._window(self.end + width))
        queries = np.arange(self.end, self.end + width)[:, None]
        visible = (columns[None, :] <= queries)[None] & (
            columns[None, None, :] >= self._starts[:, None, None]
        )
        if self.end < int(self._starts.max()):
            visible |= (columns[None, :] == queries)[None]
        return self._form.mask(visible[:, None], self._dtype)

    def free_slots(self, slots: list[int]) -> list[int] | None:
        """Let these rows go. Returns None while the slots keep their numbers.

        When half of the slots would do, the rest moves together: the answer is the old number of each slot now.
        """
        self._starts[slots] = _FREE
        if not self.row_count:
            self._clear()
            return []
        if 2 * self._slots_for(self.row_count) > self.slot_count:
            return None
        kept = [slot for slot in range(self.slot_count) if self._starts[slot] != _FREE]
        kept += [self._any_free()] * (self._slots_for(len(kept)) - len(kept))
        used = self.end - self._first()
        self._rebuild(kept, end=used, capacity=min(self._capacity, _columns(used)))
        return kept

    def adopt(self, other: KVCache) -> list[int]:
        """Take over all rows of a cache that was prefilled separately; returns their slots here, in its order."""
        self._settle()
        other._settle()
        if not self.row_count:
            self._keys, self._values = other._keys, other._values
            self._capacity, self._starts, self.end = other._capacity, other._starts, other.end
            self._holds_views = other._holds_views
            return list(range(self.slot_count))
        wanted = self.row_count + other.slot_count
        size = max(self.slot_count, self._slots_for(wanted))
        end = max(self.end, other.end)
        if size > self.slot_count or end > self.end:
            kept = list(range(self.slot_count))
            kept += [-1] * (size - self.slot_count)
            self._rebuild(kept, end=end, capacity=max(self._capacity, _columns(end)))
        slots = [slot for slot in range(self.slot_count) if self._starts[slot] == _FREE][: other.slot_count]
        shift = self.end - other.end
        runs = _neighbors(slots)
        for mine, theirs in ((self._keys, other._keys), (self._values, other._values)):
            for layer, rows in enumerate(theirs):
                buffer = mine[layer]
                assert buffer is not None
                assert rows is not None
                for row, slot, count in runs:
                    buffer[slot : slot + count, :, shift : self.end] = rows[row : row + count, :, : other.end]
        self._starts[slots] = other._starts + shift
        return slots

    def state(self) -> list[mx.array]:
        """All buffers, for evaluation."""
        return [buffer for buffer in (*self._keys, *self._values) if buffer is not None]

    def _settle(self) -> None:
        if self._unsettled is not None:
            mx.async_eval(self._unsettled)
            self._unsettled = None

    def _slots_for(self, rows: int) -> int:
        return next((count for count in self._slot_counts if count >= rows), slot_bucket(rows))

    def _used_starts(self) -> np.ndarray:
        used: np.ndarray = self._starts[self._starts != _FREE]
        return used

    def _first(self) -> int:
        """The first column that any row uses; the end while all of them are still to begin."""
        starts = self._used_starts()
        return min(int(starts.min()), self.end) if starts.size else self.end

    def _any_free(self) -> int:
        return int(np.argmax(self._starts == _FREE)) if (self._starts == _FREE).any() else -1

    def _clear(self) -> None:
        layers = len(self._keys)
        self._keys, self._values = [None] * layers, [None] * layers
        self._starts = np.zeros(0, dtype=np.int64)
        self._capacity = self.end = 0
        self._holds_views = False

    def _rebuild(self, slots: list[int], *, end: int, capacity: int) -> None:
        """Move to buffers of these slots (old numbers; -1 is a new free one), their rows ending at column `end`."""
        self._settle()
        first = self._first()
        used = self.end - first
        for buffers in (self._keys, self._values):
            for layer, old in enumerate(buffers):
                if old is not None:
                    buffers[layer] = self._moved(old, slots, slice(first, self.end), end - used, capacity)
        starts = np.full(len(slots), _FREE, dtype=np.int64)
        for slot, before in enumerate(slots):
            if before >= 0 and self._starts[before] != _FREE:
                starts[slot] = self._starts[before] + end - self.end
        self._starts, self.end, self._capacity = starts, end, capacity
        self._holds_views = False

    def _moved(self, old: mx.array, slots: list[int], columns: slice, left: int, capacity: int) -> mx.array:
        heads, head_dim = self._shape
        new = mx.zeros((len(slots), heads, capacity, head_dim), dtype=self._dtype)
        kept = [slot for slot in slots if slot >= 0]
        content = old[:, :, columns]
        if kept != list(range(old.shape[0])):
            content = content[mx.array(kept, dtype=mx.int32)]
        stop = left + columns.stop - columns.start
        new[: len(kept), :, left:stop] = content
        return new

    def _write(self, buffers: list[mx.array | None], layer: int, new: mx.array, stop: int) -> mx.array:
        self._settle()
        first, last = self._window(stop)
        buffer = buffers[layer]
        if buffer is None and stop == self._announced and last <= stop:
            # A prompt fed at once needs no buffer with room: where it joins others it is copied into theirs, and where
            # it is alone its first step moves it into one.
            new = new.astype(self._dtype)
            buffers[layer], self._holds_views = new, True
            return new if (first, last) == (0, stop) else new[:, :, first:last]
        if buffer is None:
            heads, head_dim = self._shape
            buffer = mx.zeros((self.slot_count, heads, self._capacity, head_dim), dtype=self._dtype)
        buffer[:, :, self.end : stop] = new
        buffers[layer] = buffer
        return buffer[:, :, first:last] if first else buffer[:, :, :last]

    def _window(self, stop: int) -> tuple[int, int]:
        """The columns to attend to when those up to `stop` are written."""
        if self._window_of_pass is None or self._window_of_pass[0] != stop:
            first = self._first()
            window = self._form.window(first, stop) if self._needs_mask(stop - self.end) else (first, stop)
            self._window_of_pass = (stop, window)
        return self._window_of_pass[1]

    def _needs_mask(self, width: int) -> bool:
        """True when some of `width` queries at the end must not see all columns in use that lie before them."""
        if self.is_ragged:
            return True
        start = self._first()
        return width == 1 and start > 0 and self._form.masks_what_begins_later


class OnePass:
    """In place of a cache, for rows that are fed once and whole: they begin at position 0 and nothing is kept."""

    def reserve(self, extra: int) -> None:
        """Do nothing: nothing needs room."""

    def append(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Return these keys and values: there are no others."""
        return keys, values

    def advance(self, width: int) -> None:
        """Do nothing: nothing follows."""

    def rope_offsets(self) -> int:
        """Position 0, where every row begins."""
        return 0

    def attention_mask(self, width: int) -> str:
        """Mask "causal": rows that are padded behind their end need no mask but this."""
        return "causal"


def _neighbors(slots: list[int]) -> list[tuple[int, int, int]]:
    """Rows in order whose slots follow each other: (first row, its slot, how many), to be written at once."""
    runs: list[tuple[int, int, int]] = []
    for row, slot in enumerate(slots):
        if runs and slot == runs[-1][1] + runs[-1][2]:
            first, start, count = runs[-1]
            runs[-1] = (first, start, count + 1)
        else:
            runs.append((row, slot, 1))
    return runs


def _columns(wanted: int) -> int:
    """Capacity for so many columns."""
    return -(-wanted // CAPACITY_STEP) * CAPACITY_STEP
