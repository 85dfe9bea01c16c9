"""The bipartite graph of users and items (paper: Collaborative Signal Translation), as CSR in both directions.

A pair counts once however often it occurs; with ``times`` its latest timestamp is kept. Codes follow the sorted order
of ids (by UTF-8 bytes), so "ties by id" and "ties by code" are one thing and nothing depends on the order of arrival.

Arrow is imported where ids are handled: a process that works with codes alone is 35 MiB smaller without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from star_rl.errors import StarError
from star_rl.neighbours import kernel

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Graph:
    """Users x items, both ways.

    Shapes: user_indptr (n_users + 1,) int64; user_items (n_edges,) int32, ascending within a user; item_indptr
    (n_items + 1,) int64; item_users (n_edges,) int32, ascending within an item; user_times and item_times
    (n_edges,) int64, or None.
    Ids are sorted Arrow strings, or None where the caller works with codes.
    """

    user_indptr: np.ndarray
    user_items: np.ndarray
    item_indptr: np.ndarray
    item_users: np.ndarray
    user_ids: pa.Array | None = None
    item_ids: pa.Array | None = None
    user_times: np.ndarray | None = None
    item_times: np.ndarray | None = None

    @property
    def n_users(self) -> int:
        return len(self.user_indptr) - 1

    @property
    def n_items(self) -> int:
        return len(self.item_indptr) - 1

    @property
    def n_edges(self) -> int:
        """Distinct (user, item) pairs."""
        return len(self.user_items)

    @classmethod
    def from_table(cls, interactions: pa.Table, times: bool = False) -> Graph:
        """Build from a table with ``user_id``, ``item_id`` and, for ``times``, ``timestamp`` (records.INTERACTIONS).

        Raises:
            StarError: a column is missing or holds nulls.
        """
        users, user_ids = _encode(interactions, "user_id")
        items, item_ids = _encode(interactions, "item_id")
        stamps = _timestamps(interactions) if times else None
        return _build(users, items, stamps, len(user_ids), len(item_ids), user_ids, item_ids)

    @classmethod
    def from_codes(
        cls,
        users: np.ndarray,
        items: np.ndarray,
        timestamps: np.ndarray | None = None,
        n_users: int | None = None,
        n_items: int | None = None,
    ) -> Graph:
        """Build from integer codes counted from 0. Shapes: users, items, timestamps (n,).

        Raises:
            StarError: the lengths differ, or a code is out of range.
        """
        lengths = {len(users), len(items), len(users) if timestamps is None else len(timestamps)}
        if len(lengths) > 1:
            raise StarError(
                f"users, items and timestamps have different lengths {sorted(lengths)}", "give one per interaction"
            )
        n_users = int(users.max(initial=-1)) + 1 if n_users is None else n_users
        n_items = int(items.max(initial=-1)) + 1 if n_items is None else n_items
        stamps = None if timestamps is None else np.ascontiguousarray(timestamps, np.int64)
        return _build(_codes(users, "users"), _codes(items, "items"), stamps, n_users, n_items, None, None)

    @classmethod
    def from_csr(cls, indptr: np.ndarray, indices: np.ndarray, n_items: int) -> Graph:
        """Build from a users x items CSR pattern, as SciPy holds it; rows may be unsorted and hold repeats.

        Shapes: indptr (n_users + 1,), indices (n,). Sorted int32 indices are not copied: leave them be.

        Raises:
            StarError: the pointers do not fit the indices, or an index is out of range.
        """
        if not len(indptr) or indptr[0] != 0 or indptr[-1] != len(indices) or np.any(np.diff(indptr) < 0):
            raise StarError(
                f"row pointers do not fit {len(indices)} indices", "pass indptr and indices of one CSR matrix"
            )
        indptr, indices = np.ascontiguousarray(indptr, np.int64), _codes(indices, "items")
        return _both_ways(indptr, indices, None, n_items, None, None)

    def extended(self, interactions: pa.Table) -> Graph:
        """Return the graph with further interactions; equal to building it from all of them at once.

        Raises:
            StarError: this graph has no ids, or the table is malformed.
        """
        if self.user_ids is None or self.item_ids is None:
            raise StarError("a graph of bare codes cannot be extended by a table", "build it with Graph.from_table")
        import pyarrow as pa

        columns = {
            "user_id": self.user_ids.take(pa.array(self.users_of_edges())),
            "item_id": self.item_ids.take(pa.array(self.user_items)),
        }
        if self.user_times is not None:
            columns["timestamp"] = pa.array(self.user_times)
        mine = pa.table(columns)
        more = interactions.select(mine.column_names).cast(mine.schema)
        return Graph.from_table(pa.concat_tables([mine, more]), times=self.user_times is not None)

    def users_of_edges(self) -> np.ndarray:
        """Return the user code of each entry of ``user_items``. Shape: (n_edges,) int32."""
        return np.repeat(np.arange(self.n_users, dtype=np.int32), np.diff(self.user_indptr))

    def user_codes(self, ids: Sequence[str] | np.ndarray | pa.Array) -> np.ndarray:
        """Look up user codes by id, -1 for an id that the graph does not hold; codes pass through. Shape: (n,)."""
        return _look_up(ids, self.user_ids, self.n_users, "user")

    def item_codes(self, ids: Sequence[str] | np.ndarray | pa.Array) -> np.ndarray:
        """As :meth:`user_codes`, for items."""
        return _look_up(ids, self.item_ids, self.n_items, "item")


def _codes(values: np.ndarray, what: str) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype.kind not in "iu":
        raise StarError(
            f"codes of {what} are {values.dtype}, not integers", "give integer codes, or a table with string ids"
        )
    if len(values) and (int(values.max()) > np.iinfo(np.int32).max or int(values.min()) < 0):
        raise StarError(f"a code of {what} lies outside 0..2^31-1", f"count the {what} from 0 without gaps")
    return np.ascontiguousarray(values, np.int32)


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise StarError(
            f"the interactions have no column {name!r}", f"columns there are: {', '.join(table.column_names)}"
        )
    column = table.column(name)
    if column.null_count:
        raise StarError(f"{column.null_count} interaction(s) have no {name}", "drop them when the table is made")
    return column


def _timestamps(table: pa.Table) -> np.ndarray:
    import pyarrow as pa

    return np.ascontiguousarray(_column(table, "timestamp").cast(pa.int64()).to_numpy())


def _encode(table: pa.Table, name: str) -> tuple[np.ndarray, pa.Array]:
    """Codes by sorted id, and the sorted ids. Shapes: (n,) int32, (n_ids,)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = _column(table, name)
    if not pa.types.is_string(column.type):
        column = column.cast(pa.string())
    encoded = column.dictionary_encode().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # what an empty or a single-chunk column gives depends on Arrow's version
        encoded = encoded.chunk(0) if encoded.num_chunks else pa.array([], pa.string()).dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return rank[encoded.indices.to_numpy(zero_copy_only=False)], encoded.dictionary.take(pa.array(order))


def _look_up(ids: Sequence[str] | np.ndarray | pa.Array, known: pa.Array | None, size: int, what: str) -> np.ndarray:
    if isinstance(ids, np.ndarray) and ids.dtype.kind in "iu":
        codes = _codes(ids, f"{what}s")
        if len(codes) and int(codes.max()) >= size:
            raise StarError(
                f"{what} code {int(codes.max())} is not in the graph of {size} {what}s", "codes count from 0"
            )
        return codes
    if known is None:
        raise StarError(f"a graph of bare codes knows no {what} ids", "pass a NumPy array of integer codes")
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = ids if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(list(ids), pa.string())
    found = pc.index_in(wanted.cast(pa.string()), value_set=known)
    return np.ascontiguousarray(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), np.int32)


def _build(
    users: np.ndarray,
    items: np.ndarray,
    times: np.ndarray | None,
    n_users: int,
    n_items: int,
    user_ids: pa.Array | None,
    item_ids: pa.Array | None,
) -> Graph:
    indptr, ascending = kernel.pointers(users, n_users, "users")
    if not ascending:
        items, times = kernel.scatter(users, items, times, indptr)
    return _both_ways(indptr, items, times, n_items, user_ids, item_ids)


def _both_ways(
    indptr: np.ndarray,
    indices: np.ndarray,
    times: np.ndarray | None,
    n_items: int,
    user_ids: pa.Array | None,
    item_ids: pa.Array | None,
) -> Graph:
    """Transposing twice sorts both directions, and in between repeats stand side by side; once does for sorted rows."""
    sorted_already = kernel.ascends(indptr, indices)
    item_indptr, item_users, item_times = kernel.transpose(indptr, indices, n_items, times)
    if sorted_already:
        return Graph(indptr, indices, item_indptr, item_users, user_ids, item_ids, times, item_times)
    item_indptr, item_users, item_times = kernel.dedupe(item_indptr, item_users, item_times)
    user_indptr, user_items, user_times = kernel.transpose(item_indptr, item_users, len(indptr) - 1, item_times)
    return Graph(user_indptr, user_items, item_indptr, item_users, user_ids, item_ids, user_times, item_times)
