"""``slowfast-zoo list`` and ``slowfast-zoo info``: which models there are, and what one is."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from typing import Any

from slowfast_zoo.errors import in_line

from .text import format_table, print_json

_LABELS_SHOWN = 20
_AVERAGES = {
    "scores": "the views' probabilities averaged",
    "logits": "the views' logits averaged",
    "max": "the highest probability of all views",
}


def add_commands(commands: Any) -> None:
    """Add both commands to argparse's subparsers."""
    parser = commands.add_parser("list", help="list the models", description="List the models.")
    parser.add_argument("pattern", nargs="?", default="", metavar="PATTERN", help="a part of the name, or a glob")
    parser.add_argument("--pretrained", action="store_true", help="only sets of weights, NAME.TAG")
    parser.add_argument("--json", action="store_true", help="a JSON array of names")
    parser.set_defaults(run=run_list)

    parser = commands.add_parser("info", help="describe a model", description="Describe a model, or a set of weights.")
    parser.add_argument("model", metavar="MODEL", help="a name from slowfast-zoo list")
    parser.add_argument("--json", action="store_true", help="a JSON object")
    parser.set_defaults(run=run_info)


def run_list(args: argparse.Namespace) -> int:
    """Print the models, a line each."""
    from slowfast_zoo.factory import list_models
    from slowfast_zoo.models import ARCHITECTURES
    from slowfast_zoo.weights import records

    names = list_models(args.pattern, pretrained=args.pretrained)
    if args.json:
        print_json(names)
    elif not names:
        kind = "set of weights" if args.pretrained else "model"
        raise ValueError(f"no {kind} matches {args.pattern!r}; slowfast-zoo list shows all")
    elif args.pretrained:
        found = [records()[name] for name in names]
        rows = [(r.name + " *" * r.default, r.dataset, _short_metric(r.metrics)) for r in found]
        print(format_table([("name (* the network's default)", "trained on", "result"), *rows]))
    else:
        table = [("name", "clip at 30 fps", "crop", "weights")]
        for name in names:
            config = ARCHITECTURES[name]
            clip = f"{config.clip_frames} frames, {config.clip_seconds():.2f} s"
            tags = [full.partition(".")[2] for full in list_models(f"{name}.*", pretrained=True)]
            table.append((name, clip, f"{config.crop} x {config.crop}", ", ".join(tags)))
        print(format_table(table))
    return 0


def run_info(args: argparse.Namespace) -> int:
    """Print one model's configuration, cost, preprocessing and weights."""
    facts = describe(args.model)
    if args.json:
        print_json(facts)
        return 0
    weights = facts["weights"]
    rows = [
        ("network", facts["summary"]),
        ("parameters", f"{facts['parameters'] / 1e6:.2f} M"),
        ("cost", f"{facts['multiply_adds'] / 1e9:.2f} G multiply-adds a view (what the paper calls FLOPs)"),
        ("input", facts["preprocessing_summary"]),
    ]
    if facts["labels"]:
        more = len(facts["labels"]) - _LABELS_SHOWN
        shown = ", ".join(map(in_line, facts["labels"][:_LABELS_SHOWN])) + (
            f", and {more} more (--json has all)" if more > 0 else ""
        )
        rows.append((f"{len(facts['labels'])} classes", shown))
    rows += (
        _weights_rows(weights)
        if weights
        else [("weights", ", ".join(_mark_default(facts["pretrained"])) or "none published")]
    )
    print(facts["name"])
    for title, text in rows:
        # Addresses and hashes stay whole, to be copied.
        wrap = textwrap.TextWrapper(100, break_long_words=False, break_on_hyphens=False, subsequent_indent=" " * 15)
        wrap.initial_indent = f"  {title:<12} "
        print(wrap.fill(text))
    return 0


def _mark_default(names: Sequence[str]) -> list[str]:
    """Sets of weights, the default one marked."""
    from slowfast_zoo.weights import records

    return [name + " (default)" * records()[name].default for name in names]


def _weights_rows(weights: dict[str, Any]) -> list[tuple[str, str]]:
    """One set of weights in full."""
    source, hub = weights["source"], weights["hub"]
    rows = [("trained on", weights["dataset"]), ("by", weights["origin"]), ("licence", weights["license"])]
    if weights["file"]:
        rows.append(("file", f"in the package, {_size(weights['bytes'])}, SHA-256 {weights['sha256']}"))
    if hub:
        rows.append(("Hub", f"{hub['repo']}@{hub['revision']}, {_size(weights['bytes'])}, SHA-256 {weights['sha256']}"))
    elif source:
        rows.append(("Hub", "not published there yet: the publisher's file is used"))
    if source:
        hash_ = source["hash"]
        published = f"{hash_['algorithm']} {hash_['prefix']} ({hash_['from']})" if hash_ else "no hash is published"
        rows += [
            ("publisher", f"{source['project']} {source['name']}"),
            ("URL", source["url"]),
            ("its hash", published),
        ]
    test = weights["preprocessing"]
    views = f"{test.get('clips', 10)} clips x {test.get('crops', 3)} crops"
    average = _AVERAGES[test.get("view_average", "scores")]
    rows.append(("test", f"{views}, {average}; clips placed as {test['clip_sampling']}"))
    overrides = ", ".join(f"{key}={value!r}" for key, value in weights["overrides"].items())
    rows.append(("as trained", overrides))
    rows += [("measured" if "measured_by" in metric else "claimed", _metric(metric)) for metric in weights["metrics"]]
    return rows + [("note", note) for note in weights["notes"]]


def _size(count: int | None) -> str:
    return "of unknown size" if count is None else f"{count / 2**20:.2f} MiB"


def describe(name: str) -> dict[str, Any]:
    """What is known of a model, as plain values.

    Raises:
        ValueError: the name is unknown.
    """
    import torch

    from slowfast_zoo.factory import create_transform, list_models
    from slowfast_zoo.inference.measure.bench import cost
    from slowfast_zoo.inference.measure.work import Workload
    from slowfast_zoo.weights import class_names, records

    work = Workload(model=name)
    with torch.device("meta"):  # shapes only: nothing is allocated or computed
        model = work.network()
    preprocessing, record = model.pretrained_cfg, records().get(name)
    return {
        "name": name,
        "summary": str(model.config),
        "config": model.config.to_dict(),
        **cost(work),
        "preprocessing": {key: preprocessing[key] for key in ("mean", "std", "scale", "crop", "channel_order")},
        "preprocessing_summary": str(create_transform(name)),
        "labels": list(class_names(preprocessing["labels"]) or ()),
        "pretrained": list_models(f"{preprocessing['architecture']}.*", pretrained=True),
        "weights": record.to_dict() if record else None,
    }


def _short_metric(metrics: Any) -> str:
    """The first metric, and whose number it is."""
    if not metrics:
        return ""
    return f"{metrics[0]['name']} {metrics[0]['value']} " + ("measured" if "measured_by" in metrics[0] else "claimed")


def _metric(metric: Any) -> str:
    return f"{metric['name']} {metric['value']} ({metric['protocol']})"
