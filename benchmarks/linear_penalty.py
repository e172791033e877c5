"""Compare ways to choose the penalty of a linear classifier on few labels, on the features of a teacher.

    python benchmarks/linear_penalty.py TRAIN TEST --groups 5 20 60 --draws 6 --fps 5

In each draw, some groups (column `source`) of each class are the labels. Cross-validation over them chooses
the penalty by accuracy, or by the probability of the right class (as `t3d.transfer.linear` does). Prints
accuracy and mean negative log-likelihood on the test videos (means over the draws), with the deviation of the
accuracy.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from t3d.data.catalog import open_videos
from t3d.data.clips.frames import FrameStore
from t3d.evaluation.run_test import TestResult
from t3d.transfer.frozen import open_frozen
from t3d.transfer.linear import STRENGTHS, log_likelihood
from t3d.transfer.probe import clip_features, result_of
from t3d.transfer.probe_config import ProbeConfig

RULES = {"accuracy": "accuracy", "likelihood": log_likelihood}


def labeled_rows(
    labels: npt.NDArray[np.int64], sources: npt.NDArray[np.object_], groups: int, seed: int
) -> npt.NDArray[np.int64]:
    """Return the rows of some random groups of each class."""
    rng = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        names = rng.permutation(np.unique(sources[labels == label]))[:groups]
        chosen.append(np.flatnonzero((labels == label) & np.isin(sources, names)))
    return np.sort(np.concatenate(chosen))


def main() -> None:
    """Compute the features once, and print a row for each number of groups and each rule."""
    parser = argparse.ArgumentParser(description="Compare ways to choose the penalty of a linear classifier.")
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--groups", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--fps", type=float, default=1.5625)
    asked = parser.parse_args()
    config = ProbeConfig(asked.train, test=asked.test, teacher="lite0", fps=asked.fps)
    frozen = open_frozen(config)
    store = FrameStore(frozen.spec)
    train = open_videos(asked.train)
    test = open_videos(asked.test).with_classes(train.classes)
    rows, _ = clip_features(frozen, train, store, config, shown="Computing train features")
    tested, bad = clip_features(frozen, test, store, config, shown="Computing test features")
    video, features = np.array([row[0] for row in rows]), np.stack([row[2] for row in rows])
    sources = np.array(train.table["source"].to_pylist(), dtype=object)
    warnings.simplefilter("ignore", ConvergenceWarning)
    print("| groups per class | chosen by | accuracy | NLL |\n|---|---|---|---|")
    for groups in asked.groups:
        for name, rule in RULES.items():
            results: list[TestResult] = []
            for seed in range(asked.draws):
                used = np.isin(video, labeled_rows(train.labels, sources, groups, seed))
                folds = StratifiedGroupKFold(min(4, groups), shuffle=True, random_state=0)
                model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
                search = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, scoring=rule, cv=folds)
                search.fit(features[used], train.labels[video[used]], groups=sources[video[used]])
                results.append(result_of(search.best_estimator_, test, tested, bad))
            right = np.array([result.single.video_top1 for result in results])
            loss = np.mean([result.single.loss for result in results])
            print(f"| {groups} | {name} | {right.mean():.1%} ± {100 * right.std(ddof=1):.1f} | {loss:.3f} |")


if __name__ == "__main__":
    main()
