from __future__ import annotations

import sys
from pathlib import Path

import pytest

from t3d.cli.main import main
from t3d.errors import ConfigError
from t3d.workers.cluster import ONE_MACHINE, Cluster, outcomes


def test_this_machine_gives_each_item_its_outcome() -> None:
    done = outcomes(abs, [-1, 2, -3], cluster=ONE_MACHINE, workers=2, timeout=60, title="counting")
    assert dict(done) == {-1: 1, 2: 2, -3: 3}


def test_clusters_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"cluster is 'rya'; did you mean 'ray'\?"):
        Cluster("rya")
    with pytest.raises(ConfigError, match=r"ray_address is 10\.0\.0\.7:6379, but `cluster` is 'none'"):
        Cluster(ray_address="10.0.0.7:6379")


def test_without_ray_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.mp4").touch()
    monkeypatch.setitem(sys.modules, "ray", None)
    words = [str(tmp_path / "set"), "--unlabeled", "--cluster", "ray", "--out", str(tmp_path / "x.parquet")]
    assert main(["prepare", "index", *words]) == 2
    assert 'cluster ray needs Ray: pip install "t3d[ray]"' in capsys.readouterr().err
