"""Several labels per video as Arrow columns of lists, and as text in a table.

An empty list means that no class applies to a video; null means that the video is unlabeled.

Legend: N rows, M labels of all rows together, K classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from t3d.errors import ManifestError

SEPARATOR = "|"
"""Separator of class names in a table. Alone it means that no class applies."""

Ints = npt.NDArray[np.int64]


def split_names(text: pa.Array) -> pa.Array:
    """Split the text of a table's column into lists.

    Args:
        text: Class names with `SEPARATOR` between them, string [N].

    Returns:
        Class names, list<string> [N].

    Example:
        >>> split_names(pa.array(["run|jump", "|", None])).to_pylist()
        [['run', 'jump'], [], None]
    """
    none = pc.equal(text, SEPARATOR)
    lists = pc.split_pattern(pc.if_else(none, None, text), SEPARATOR)
    return _lists(lists.flatten(), _lengths(lists), missing=text.is_null())


def join_names(names: pa.Array) -> pa.Array:
    """Join lists of class names into the text of a table's column.

    Args:
        names: Class names, list<string> [N].

    Returns:
        Text, string [N].
    """
    text = pc.binary_join(names, SEPARATOR)
    return pc.if_else(pc.equal(pc.list_value_length(names), 0), SEPARATOR, text)


def mapped(lists: pa.Array, table: pa.Array) -> pa.Array:
    """Replace each index in lists by its entry of a table, such as class indices by names.

    Args:
        lists: Indices into the table, list<int32> [N].
        table: The entries.

    Returns:
        Lists of the table's type [N].

    Example:
        >>> mapped(pa.array([[1, 0], None]), pa.array(["jump", "run"])).to_pylist()
        [['run', 'jump'], None]
    """
    return _lists(table.take(lists.flatten()), _lengths(lists), missing=lists.is_null())


def numbered(names: pa.Array, classes: pa.Array) -> pa.Array:
    """Replace each name in lists by its index among the classes, list<int32> [N].

    Args:
        names: Class names, list<string> [N].
        classes: All of them, string [K].
    """
    places = pc.index_in(names.flatten(), value_set=classes)
    return _lists(places, _lengths(names), missing=names.is_null())


def checked_labels(column: pa.Array, num_classes: int) -> pa.Array:
    """Check a manifest's labels, and sort those of each row by class.

    Args:
        column: One label per row, int32 [N], or several, list<int32> [N].
        num_classes: K.

    Returns:
        The column; equal sets of labels are equal lists.

    Raises:
        ManifestError: A label has no class, a list holds a null, or a row has a label twice.
    """
    several = pa.types.is_list(column.type)
    values = column.flatten() if several else column
    least, most = pc.min_max(values).as_py().values()
    if least is not None and (least < 0 or most >= num_classes):
        raise ManifestError(f"labels run from {least} to {most}, but there are only {num_classes} classes")
    if not several:
        return column
    if values.null_count:
        raise ManifestError(
            "a list of labels contains a null; the whole list must be null in an unlabeled row"
        )
    rows, labels = _places(column)
    keys = rows * num_classes + labels
    if (np.diff(keys) > 0).all():
        return column
    keys = np.sort(keys)
    twice = np.flatnonzero(np.diff(keys) == 0)
    if len(twice):
        raise ManifestError(f"row {keys[twice[0]] // num_classes} has a label twice; keep one")
    ordered = pa.array((keys % num_classes).astype(np.int32))
    return _lists(ordered, _lengths(column), missing=column.is_null())


def label_pairs(column: pa.Array) -> tuple[Ints, Ints]:
    """Return each label of each row, and -1 once for a row without labels.

    Args:
        column: One label per row, int32 [N], or several, list<int32> [N].

    Returns:
        The row, ascending, int64, and the label, int64.

    Example:
        >>> label_pairs(pa.array([[0, 2], [], [1]]))
        (array([0, 0, 1, 2]), array([ 0,  2, -1,  1]))
    """
    if not pa.types.is_list(column.type):
        return np.arange(len(column)), pc.fill_null(column, -1).to_numpy().astype(np.int64)
    lengths = _lengths(column).to_numpy()
    rows = np.repeat(np.arange(len(column)), np.maximum(lengths, 1))
    labels = np.full(len(rows), -1)
    labels[lengths[rows] > 0] = column.flatten().to_numpy()
    return rows, labels


def multi_hot(column: pa.Array, num_classes: int) -> npt.NDArray[np.int8]:
    """Return 1 for each row and class that applies, else 0; -1 in unlabeled rows.

    Args:
        column: One label per row, int32 [N], or several, list<int32> [N].
        num_classes: K.

    Returns:
        int8 [N, K].
    """
    rows, labels = label_pairs(column)
    table = np.zeros((len(column), num_classes), np.int8)
    table[rows[labels >= 0], labels[labels >= 0]] = 1
    table[column.is_null().to_numpy(zero_copy_only=False)] = -1
    return table


def repeated(names: pa.Array) -> pa.Array:
    """Return the rows that repeat a class, bool [N].

    Args:
        names: Class names, list<string> [N].
    """
    rows, values = _places(numbered(names, pc.unique(names.flatten())))
    order = np.lexsort((values, rows))
    rows, values = rows[order], values[order]
    twice = (np.diff(rows) == 0) & (np.diff(values) == 0)
    return _mask(rows[1:][twice], len(names))


def unwritable(names: pa.Array) -> pa.Array:
    """Return the rows with a null or with a name that contains the separator, bool [N].

    Args:
        names: Class names, list<string> [N].
    """
    wrong = pc.fill_null(pc.match_substring(names.flatten(), SEPARATOR), True)
    return _mask(pc.list_parent_indices(names).filter(wrong).to_numpy(), len(names))


def _places(column: pa.Array) -> tuple[Ints, Ints]:
    """Return row and value of each number in lists, int64 [M] each."""
    rows = pc.list_parent_indices(column).to_numpy()
    return rows.astype(np.int64), column.flatten().to_numpy().astype(np.int64)


def _mask(rows: Ints, count: int) -> pa.Array:
    mask = np.zeros(count, np.bool_)
    mask[rows] = True
    return pa.array(mask)


def _lengths(lists: pa.Array) -> pa.Array:
    return pc.fill_null(pc.list_value_length(lists), 0)


def _lists(values: pa.Array, lengths: pa.Array, *, missing: pa.Array) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths.to_numpy())]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=missing)
