"""Numbers in text tables. A spreadsheet writes decimal commas where commas do not separate columns."""

from __future__ import annotations

import math

import pyarrow as pa
import pyarrow.compute as pc

_DECIMAL_COMMA = r"^([-+]?\d*),(\d+)([eE][-+]?\d+)?$"


def to_numbers(column: pa.Array, separator: str) -> pa.Array:
    """Return the numbers of a column of text, float64 [N]. Empty fields must be null.

    Args:
        column: Text, string [N].
        separator: What separates the columns of the table.

    Raises:
        pyarrow.ArrowInvalid: A field is not a number.

    Example:
        >>> to_numbers(pa.array(["0,5", "1.5", None, "2,5e-3"]), ";").to_pylist()
        [0.5, 1.5, None, 0.0025]
    """
    column = pc.utf8_trim_whitespace(column)
    if separator != ",":
        column = pc.replace_substring_regex(column, _DECIMAL_COMMA, r"\1.\2\3")
    return pc.cast(column, pa.float64())


def is_number(text: str, separator: str, *, finite: bool = True) -> bool:
    """Return whether a field is empty or a number, as `to_numbers` reads it.

    Args:
        text: The field.
        separator: What separates the columns of the table.
        finite: Whether infinity and NaN are not numbers.

    Example:
        >>> is_number("0,5", ";"), is_number("0,5", ","), is_number("nan", ";")
        (True, False, False)
    """
    text = text.strip() or "0"
    try:
        number = float(text if separator == "," else text.replace(",", "."))
    except ValueError:
        return False
    return math.isfinite(number) or not finite
