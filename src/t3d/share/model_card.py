"""Model card of the Hub, written from what a run stores: README.md with YAML at its start."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import yaml

from t3d.card import ModelCard
from t3d.clip import ClipSpec
from t3d.errors import printable, shortened
from t3d.evaluation.figures import Interval, interval_text
from t3d.share.config import ShareConfig
from t3d.share.facts import Facts, ListFacts

_SHOWN_CLASSES = 100
_SPECIAL = "\\`*_[]<>|#&$~"
_PAPER = """\
@article{diba2017temporal,
  title   = {Temporal 3D ConvNets: New Architecture and Transfer Learning for Video Classification},
  author  = {Diba, Ali and Fayyaz, Mohsen and Sharma, Vivek and Karami, Amir Hossein and
             Arzani, Mohammad Mahdi and Yousefzadeh, Rahman and Van Gool, Luc},
  journal = {arXiv preprint arXiv:1711.08200},
  year    = {2017}
}"""


def model_card(config: ShareConfig, card: ModelCard, facts: Facts, *, name: str, title: str) -> str:
    """Return the text of README.md.

    Args:
        config: Options of sharing.
        card: Card of the weights, without paths.
        facts: What is known about the model.
        name: How commands name the model, such as `hf-hub:org/name`.
        title: Title of the page.

    Returns:
        Markdown with YAML at its start. It contains no paths. Names of classes cannot break its layout.
    """
    sections = {
        "": _opening(config, card, facts),
        "Use": _use(name),
        "Results": _results(card, facts),
        "Training data": _data(config, facts, card),
        "Training": _training(card, facts),
        "Intended use and limits": _limits(card, facts),
        "License": [f"The weights: {config.license}. The videos and the teacher may have other licenses."],
        "Citation": [
            "T3D implements the networks and the transfer of this paper, whose authors are not involved:",
            f"```bibtex\n{_PAPER}\n```",
            f"Trained and measured with T3D {version('t3d')}.",
        ],
    }
    parts = [f"---\n{_front_matter(config, card, facts, title)}---", f"# {plain(title)}"]
    for heading, paragraphs in sections.items():
        parts += [f"## {heading}"] if heading else []
        parts += paragraphs
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    r"""Return a name so that Markdown shows it as it is.

    Example:
        >>> plain("a|b <i>")
        'a\\|b \\<i\\>'
    """
    return "".join(f"\\{char}" if char in _SPECIAL else char for char in printable(shortened(text)))


def _front_matter(config: ShareConfig, card: ModelCard, facts: Facts, title: str) -> str:
    values: dict[str, Any] = {
        "license": config.license,
        "library_name": "t3d",
        "pipeline_tag": "video-classification",
        "tags": ["video-classification", "t3d", card.architecture],
    }
    if facts.test is not None:
        shown = (
            {"accuracy": "video_top1", "clip accuracy": "clip_top1"}
            if "video_top1" in facts.test
            else {"mAP": "video_map", "clip mAP": "clip_map"}
        )
        metrics = [
            {"type": label.split()[-1].lower(), "name": label, "value": round(float(facts.test[key]), 4)}
            for label, key in shown.items()
        ]
        values["model-index"] = [
            {
                "name": title,
                "results": [
                    {
                        "task": {"type": "video-classification"},
                        "dataset": {"type": "custom", "name": "test videos of the author"},
                        "metrics": metrics,
                    }
                ],
            }
        ]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _opening(config: ShareConfig, card: ModelCard, facts: Facts) -> list[str]:
    kind = "any number of" if card.targets == "multi" else "one of"
    made = f" It was made with `{facts.command}`." if facts.command else ""
    if facts.unfinished:
        made += " The training was not finished: these are the best weights until then."
    text = (
        f"Classifies videos: {kind} {len(card.classes)} classes. Architecture: `{card.architecture}`.{made}"
    )
    return [text, *([plain(config.about)] if config.about else [])]


def _use(name: str) -> list[str]:
    python = (
        f'import t3d\n\nresult = t3d.load({json.dumps(name, ensure_ascii=False)}).predict("video.mp4")\n'
        "print(result.label, result.probability)"
    )
    return [
        f"```sh\npip install t3d\nt3d predict {shlex.quote(name)} video.mp4\n```",
        f"```python\n{python}\n```",
        "The weights are in safetensors format. Loading them runs no code from this repository.",
    ]


def _results(card: ModelCard, facts: Facts) -> list[str]:
    test = facts.test
    if test is None:
        return ["Not measured: no result of a test was included. Test the model on your own labeled videos."]
    groups = f" of {test['groups']:,} groups, such as recordings" if "groups" in test else ""
    bad = f" {test['bad']:,} more could not be read." if test.get("bad") else ""
    if "video_top1" in test:
        majority = test["majority"]
        rows = [
            _row(
                "videos",
                test["video_top1"],
                test["interval"],
                f"{test.get('correct', '')} of {test['videos']}",
            ),
            _row("clips", test["clip_top1"], test["clip_interval"], f"{test['clips']:,} clips"),
            f"| always answering “{plain(str(majority['name']))}” | {majority['share']:.1%} | | |",
        ]
        table = ["| | accuracy | 95% interval | |", "|---|---|---|---|", *rows]
    else:
        rows = [
            _row("videos", test["video_map"], test["interval"], ""),
            f"| clips | {test['clip_map']:.1%} | | |",
            f"| random scores, about | {test['chance']:.1%} | | |",
        ]
        table = ["| | mAP | 95% interval | |", "|---|---|---|---|", *rows]
    lines = [f"Measured on {test['videos']:,} test videos{groups}.{bad}", "\n".join(table)]
    lines += [_protocol(card.clip, test), _calibration(card, test), *_shared(test), *_orders(test)]
    return [*lines, *_per_class(test)]


def _row(name: str, value: float, interval: list[float], count: str) -> str:
    return f"| {name} | {value:.1%} | {interval_text(Interval(*interval))} | {count} |"


def _protocol(clip: ClipSpec, test: dict[str, Any]) -> str:
    views = test.get("views")
    if clip.segments > 1:
        which = f"{clip.segments} segments of each video are one clip."
    elif views is None or views.get("clips") is None:
        which = "Each video is cut into clips that do not overlap; their probabilities are averaged."
    else:
        which = f"{views['clips']} clips spread evenly over each video; their probabilities are averaged."
    crops = 1 if views is None else views.get("crops", 1)
    crop = (
        "The center crop of each clip is scored." if crops == 1 else f"{crops} crops of each clip are scored."
    )
    mean = (
        f" On average {test['clips'] / max(test['videos'], 1):.1f} clips per video."
        if "clips" in test
        else ""
    )
    order = test.get("frame_order")
    frames = f" The frames of each clip were {order}." if order else ""
    return f"Protocol: {_clip(clip)} {which} {crop}{mean}{frames}"


def _clip(clip: ClipSpec) -> str:
    distance = (
        f"{clip.fps:g} frames per second"
        if clip.fps is not None
        else f"{clip.stride} frames of the video apart"
    )
    distance = "every frame" if clip.fps is None and clip.stride == 1 else distance
    return f"A clip has {clip.num_frames} frames of {clip.size} × {clip.size} pixels ({distance})."


def _calibration(card: ModelCard, test: dict[str, Any]) -> str:
    loss = f"The mean log loss of the test videos is {test['loss']:.3f} nats." if "loss" in test else ""
    if card.architecture == "fused" or "temperature" in card.provenance:
        return f"Calibration: the probabilities were calibrated on labeled videos. {loss}".strip()
    return f"Calibration: the probabilities were not calibrated. {loss}".strip()


def _shared(test: dict[str, Any]) -> Iterator[str]:
    """Yield the number of tested videos that are in other lists of the model, in sentences."""
    for other, overlap in test.get("shared", {}).items():
        count, total = overlap["videos"], overlap["of"]
        if count:
            yield (
                f"{count:,} of {total:,} test videos are also in the {other} list, or look like a video in "
                "it. The accuracy on new videos is probably lower."
            )
        else:
            compared = overlap.get("compared", {}).values()
            partly = any(each.get("missing") for each in compared)
            doubt = " Not all videos could be compared." if partly else ""
            yield f"None of the {total:,} test videos was found in the {other} list.{doubt}"


def _orders(test: dict[str, Any]) -> list[str]:
    orders = test.get("frame_orders")
    if not orders:
        return []
    named = {name: each["accuracy"] for name, each in orders.items() if isinstance(each, dict)}
    shown = ", ".join(f"{name} {share:.1%}" for name, share in named.items())
    return [f"Accuracy with the frames of each clip in another order: {shown}."] if shown else []


def _per_class(test: dict[str, Any]) -> list[str]:
    per_class = test.get("per_class", {})
    title = "recall" if "video_top1" in test else "average precision"
    rows = [f"| {plain(name)} | {value:.1%} |" for name, value in list(per_class.items())[:_SHOWN_CLASSES]]
    return ["\n".join([f"| class | {title} |", "|---|---|", *rows]), *_rest(per_class)] if rows else []


def _rest(values: Any) -> list[str]:
    return [f"… and {len(values) - _SHOWN_CLASSES} more classes"] if len(values) > _SHOWN_CLASSES else []


def _data(config: ShareConfig, facts: Facts, card: ModelCard) -> list[str]:
    if not facts.lists:
        names = ", ".join(plain(name) for name in card.classes[:_SHOWN_CLASSES])
        return [
            "Not known: the weights were shared without the lists of videos of their run.",
            f"Classes: {names}",
            *_rest(card.classes),
        ]
    lines = [_list_sentence(each) for each in facts.lists]
    counted = [each for each in facts.lists if each.counts]
    rows = [
        f"| {plain(name)} | " + " | ".join(str(each.counts.get(name, 0)) for each in counted) + " |"
        for name in card.classes[:_SHOWN_CLASSES]
    ]
    head = [f"| class | {' | '.join(each.part for each in counted)} |", "|---" * (len(counted) + 1) + "|"]
    unknown = "" if config.about else " Nothing is said about their contents, or the people in them."
    return [
        "\n".join(f"- {line}" for line in lines),
        *(["\n".join([*head, *rows])] if counted else []),
        *_rest(card.classes),
        f"The videos are not part of this repository.{unknown}",
    ]


def _list_sentence(each: ListFacts) -> str:
    unlabeled = f", {each.unlabeled:,} of them without a label" if each.unlabeled else ""
    return (
        f"{each.part}: {each.videos:,} videos of {each.groups:,} groups{unlabeled} "
        f"(digest of the list: `{each.digest}`)"
    )


def _training(card: ModelCard, facts: Facts) -> list[str]:
    values = {"chosen candidate": facts.winner} if facts.winner else {}
    values |= {name.replace("_", " "): _short(value) for name, value in card.provenance.items()}
    rows = [f"| {plain(name)} | {plain(value)} |" for name, value in values.items() if value]
    table = ["\n".join(["| | |", "|---|---|", *rows])] if rows else []
    return [*(table or ["Nothing is recorded."]), _clip(card.clip)]


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _limits(card: ModelCard, facts: Facts) -> list[str]:
    answer = (
        "It gives each class its own probability; a threshold decides which apply."
        if card.targets == "multi"
        else "It always answers with one of its classes, also for a video that shows none of them."
    )
    tested = (
        "The figures above hold for videos like the test videos."
        if facts.test is not None
        else "Its accuracy is not known."
    )
    sentences = [
        "Intended use: to sort videos like its training videos into its classes.",
        answer,
        f"{tested} Videos from other cameras, places or people may give much lower accuracy: test the model "
        "on your own labeled videos before you rely on it.",
        "Whether it is worse for some groups of people was not measured. Do not let it decide about people.",
        "A model can learn a detail that happens to go with a class, such as the background.",
    ]
    return ["\n".join(f"- {sentence}" for sentence in sentences)]
