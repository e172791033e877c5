from __future__ import annotations

import os
import time

import pytest

from t3d.data.prepare.pool import Lost, watched


def test_results_come_with_their_items_in_order() -> None:
    items = [0.3, 0.0, 0.1, 0.0]
    outcomes = watched(time.sleep, items, workers=2, patience=60.0, title="sleeping")
    assert list(outcomes) == [(item, None) for item in items]
    assert list(watched(abs, [], workers=2, patience=60.0, title="nothing")) == []


def test_a_file_that_takes_too_long_is_given_up_and_the_others_are_not() -> None:
    outcomes = watched(time.sleep, [60.0, 0.0, 0.0], workers=1, patience=2.0, title="sleeping")
    given_up = Lost("was given up: not read to its end within 2 s")
    assert list(outcomes) == [(60.0, given_up), (0.0, None), (0.0, None)]


def test_a_process_that_dies_is_a_fact_about_the_file() -> None:
    outcomes = list(watched(os._exit, [3, 4], workers=2, patience=60.0, title="dying"))
    assert outcomes == [
        (status, Lost(f"the process that read it died (exit status {status})")) for status in (3, 4)
    ]


def test_a_mistake_of_ours_is_no_fact_about_the_file() -> None:
    with pytest.raises(TypeError):
        list(watched(time.sleep, ["text"], workers=1, patience=60.0, title="sleeping"))
