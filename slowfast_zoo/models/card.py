"""The model card of a saved network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .config import config_from_dict
from .record import WeightsRecord


def model_card(config: Mapping[str, Any], record: WeightsRecord | None, terms: str | None, name: str) -> str:
    """The model card: what the network is, where it comes from, how it is used."""
    from huggingface_hub import ModelCardData

    title = record.name if record else config["architecture"]
    task = "object-detection" if config["config"]["roi"] else "video-classification"
    data = ModelCardData(
        library_name="slowfast_zoo",
        license=terms.lower() if terms else None,
        pipeline_tag=task,
        tags=["slowfast", "video", task],
    )
    lines = ["---", data.to_yaml(), "---", f"# {title}", "", str(config_from_dict(config["config"])), ""]
    if record:
        lines += [
            f"Weights trained on {record.dataset}, in the form of the Python package slowfast-zoo, which also reads "
            f"them as they were published. {record.origin}",
            "",
            f"Licence: {record.license}.",
            "",
        ]
        if record.source:
            sha256 = config["source_sha256"]
            lines += [f"Converted from <{record.source['url']}>" + (f" (SHA-256 {sha256})." if sha256 else "."), ""]
        if record.metrics:
            lines += ["| metric | value | protocol | whose number |", "|---|---|---|---|"]
            lines += [
                f"| {m['name']} | {m['value']} | {m['protocol']} | "
                + (f"measured by {m['measured_by']}" if "measured_by" in m else f"claimed by {m['claimed_by']}")
                + " |"
                for m in record.metrics
            ]
            lines.append("")
        lines += [f"- {note}" for note in record.notes] + [""] * bool(record.notes)
    elif config["based_on"]:
        lines += [f"Made from the weights `{config['based_on']}`, which may have been trained further since.", ""]
    lines += [
        "```python",
        "import slowfast_zoo as sfz",
        "",
        f'model = sfz.create_model("{name}").eval()',
        "```",
        "",
        "The networks are those of Feichtenhofer, Fan, Malik and He, "
        "[SlowFast Networks for Video Recognition](https://arxiv.org/abs/1812.03982), ICCV 2019.",
        "",
    ]
    return "\n".join(lines)
