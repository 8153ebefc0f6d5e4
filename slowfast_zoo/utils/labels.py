"""Class names: the lists in the package."""

from __future__ import annotations

from importlib.resources import files


def load_labels(name: str) -> tuple[str, ...]:
    """The class names of a dataset, in the order of a model's outputs.

    Args:
        name: name of a label list, as in a weights record (``model.pretrained_cfg["labels"]``), for example "motion".

    Raises:
        ValueError: there is no list of that name.
    """
    folder = files("slowfast_zoo") / "labels"
    lists = {file.name.removesuffix(".txt"): file for file in folder.iterdir() if file.name.endswith(".txt")}
    if name not in lists:
        raise ValueError(f"there are no labels named {name!r}, only {', '.join(sorted(lists)) or 'none at all'}")
    return tuple(lists[name].read_text(encoding="utf-8").splitlines())
