"""The manifest holds what it promises: records that make networks, with the sizes, labels and settings they claim."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import math
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from slowfast_zoo.models import ARCHITECTURES, ResNet3DConfig, SlowFastConfig, build
from slowfast_zoo.video import ClipTransform, load_labels
from slowfast_zoo.weights import WeightsRecord, records
from slowfast_zoo.weights.manifest import expand

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = json.loads((ROOT / "weights_manifest.json").read_text(encoding="utf-8"))
EXPANDED = expand(MANIFEST)
SCHEMA = json.loads((ROOT / "weights_manifest.schema.json").read_text(encoding="utf-8"))
DIGESTS = Path(__file__).with_name("manifest_facts.json")
# A collection of facts on the published files, which is not part of this project.
FACTS = ROOT.parent / "shared" / "upstream" / "checkpoints.json"

Config = SlowFastConfig | ResNet3DConfig
RECORDS = list(records().values())
PUBLISHED = [record for record in RECORDS if record.source]

DATASETS = {
    "k400": ("Kinetics-400", "kinetics400"),
    "k600": ("Kinetics-600", "kinetics600"),
    "k700": ("Kinetics-700", "kinetics700"),
    "k710": ("Kinetics-710", "kinetics710"),
    "ssv2": ("Something-Something V2", "ssv2"),
    "ssv1": ("Something-Something V1", "ssv1"),
    "charades": ("Charades", "charades"),
    "ava21": ("AVA v2.1", "ava"),
    "ava22": ("AVA v2.2", "ava"),
    "avakinetics": ("AVA-Kinetics v2.2", "ava"),
    "in1k": ("ImageNet-1k", None),
    "jester": ("Jester", "jester"),
    "hmdb51": ("HMDB51 split 1", "hmdb51"),
    "ucf101": ("UCF101 split 1", "ucf101"),
    "gym99": ("FineGYM-99", None),
    "minik200": ("Mini-Kinetics-200", None),
    "multisports": ("MultiSports", "multisports"),
}
# The Kinetics-600 weights that PySlowFast's AVA detectors started from: their order of classes was never published.
UNKNOWN_ORDER = {name for name, record in records().items() if ".pyslowfast_k600" in name}

PROJECTS: dict[str, dict[str, Any]] = {
    "PySlowFast": {"mean": (0.45,) * 3, "slow_frames": "linspace", "head_average": "scores"},
    "PyTorchVideo": {"mean": (0.45,) * 3, "slow_frames": "linspace", "head_average": "logits"},
    "MMAction2": {"mean": (0.485, 0.456, 0.406), "slow_frames": "strided", "head_average": "scores"},
    "GluonCV": {"mean": (0.485, 0.456, 0.406), "slow_frames": "strided", "head_average": "scores"},
}

# Claims that are true of another network than the one published: what they are true of. The records' notes say so.
CLAIMED_OF: dict[str, dict[str, Any]] = {
    "slow_r50_4x16.mmaction2_k700": {"num_classes": 400},
    "slow_r50_4x16.mmaction2_k700_old": {"num_classes": 400},
    "slow_r50_8x8.mmaction2_k700": {"num_classes": 400},
    "slow_r50_8x8.mmaction2_k700_old": {"num_classes": 400},
    "slow_r50_8x8.mmaction2_k710": {"num_classes": 400},
    "slow_r50_8x8.pyslowfast_ssv2_ptv": {"num_classes": 157},
    "slow_r50_8x8.pytorchvideo_ssv2": {"num_classes": 157},
    "slowfast_r50_8x8.mmaction2_k400_256p_old": {"lateral_kernel": 7},
    "slowfast_r50_8x8.mmaction2_k400_steplr_0x": {"lateral_norm": False},
    "slowfast_r50_8x8.mmaction2_k400_prebn_steplr_0x": {"lateral_norm": False},
    "slowfast_r50_8x8.mmaction2_k400_multigrid_0x": {"lateral_norm": False},
}
# 31.78 M, where the network has 31.798; also noted there.
UNEXPLAINED = "slow_r50_4x16_det.pytorchvideo_ava22"
# "126G" is cut off from 126.8; other claims are rounded.
CUT_OFF = "slowfast_r101_8x8.mmaction2_k400"


def ids(record: WeightsRecord) -> str:
    return record.name


# -- form ------------------------------------------------------------------------------------------------------------


def test_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert [f"{list(e.absolute_path)}: {e.message}" for e in validator.iter_errors(MANIFEST)] == []
    whole = jsonschema.Draft202012Validator({"$ref": "#/$defs/record", "$defs": SCHEMA["$defs"]})
    for name, record in EXPANDED.items():
        assert [f"{name}: {list(e.absolute_path)}: {e.message}" for e in whole.iter_errors(record)] == []


def digests() -> dict[str, str]:
    """A digest of what is known of each set of weights."""
    return {
        name: hashlib.sha256(json.dumps(record, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]
        for name, record in EXPANDED.items()
    }


def test_facts_are_those_on_record() -> None:
    """A fact that changes is meant to: its record's digest is written anew with it, by this file with --write."""
    assert digests() == json.loads(DIGESTS.read_text(encoding="utf-8"))


def test_an_entry_says_what_the_defaults_do_not() -> None:
    for name, entry in MANIFEST["weights"].items():
        said = [key for key, value in entry.items() if MANIFEST["defaults"]["record"].get(key, ...) == value]
        preset = MANIFEST["presets"][entry["preprocessing"]["preset"]]
        said += [key for key, value in entry["preprocessing"].items() if preset.get(key, ...) == value]
        assert not said, f"{name} repeats the defaults of {said}"


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("overrides", "lateral_kernal"), 5),
        (("overrides", "slow_frames"), "evenly"),
        (("preprocessing", "channel_order"), "bgr"),
        (("source", "url"), "http://example.org/file.pth"),
        (("source", "hash"), {"algorithm": "sha256", "prefix": "XYZ", "from": "nowhere"}),
        (("sha256",), "0" * 64),
        (("source",), None),
        (("notes",), ["no full stop"]),
    ],
)
def test_schema_is_strict(keys: tuple[str, ...], value: Any) -> None:
    changed = json.loads(json.dumps(MANIFEST["weights"]["slowfast_r50_8x8.pyslowfast_k400"]))
    place = changed
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    manifest = {**MANIFEST, "weights": {"slowfast_r50_8x8.pyslowfast_k400": changed}}
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(manifest)


def test_schema_knows_the_fields_that_exist() -> None:
    fields = {field.name for kind in (SlowFastConfig, ResNet3DConfig) for field in dataclasses.fields(kind)}
    assert set(SCHEMA["$defs"]["overrides"]["properties"]) <= fields
    of_record = {field.name for field in dataclasses.fields(WeightsRecord)} - {"name"}
    assert set(SCHEMA["$defs"]["record"]["properties"]) == of_record


def test_names_are_unique() -> None:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = collections.Counter(key for key, _ in pairs)
        assert set(counts.values()) <= {1}, counts.most_common(1)
        return dict(pairs)

    json.loads((ROOT / "weights_manifest.json").read_text(encoding="utf-8"), object_pairs_hook=unique)


def test_urls_are_listed_once() -> None:
    urls = [record.source["url"] for record in PUBLISHED if record.source]
    urls += [entry["url"] for entry in MANIFEST["not_included"] if entry["url"]]
    assert [url for url, count in collections.Counter(urls).items() if count > 1] == []


def test_licences() -> None:
    assert {record.license for record in RECORDS} == {"Apache-2.0"}


def test_every_architecture_with_weights_has_one_default() -> None:
    defaults = collections.Counter({record.architecture: 0 for record in RECORDS})
    defaults.update(record.architecture for record in RECORDS if record.default)
    assert set(defaults.values()) == {1}, defaults


# -- one record ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", RECORDS, ids=ids)
def test_overrides_make_a_configuration(record: WeightsRecord) -> None:
    base, made = ARCHITECTURES[record.architecture], record.config
    assert record.name.partition(".")[0] == record.architecture
    assert (made.roi is not None) == (record.task == "detection") == record.architecture.endswith("_det")
    assert ("slow_frames" in record.overrides) == isinstance(base, SlowFastConfig)
    always = {"num_classes", "head_window", "head_average", "head_activation", "slow_frames"}
    for field in set(record.overrides) - always:
        assert getattr(made, field) != getattr(base, field), f"{field} says what {record.architecture} has anyway"
    several = record.dataset.startswith(("AVA", "Charades", "generated scenes"))
    assert made.head_activation == ("sigmoid" if several else "softmax")


@pytest.mark.parametrize("record", RECORDS, ids=ids)
def test_preprocessing(record: WeightsRecord) -> None:
    transform = ClipTransform.from_record(record.preprocessing, crops=record.preprocessing["crops"])
    assert transform.crop == record.config.crop
    assert transform.flip == (not record.dataset.startswith(("Something", "Jester", "generated")))


@pytest.mark.parametrize("record", RECORDS, ids=ids)
def test_labels(record: WeightsRecord) -> None:
    if record.labels is not None:
        assert len(load_labels(record.labels)) == record.config.num_classes
    elif record.name not in UNKNOWN_ORDER:
        assert DATASETS[record.tag.split("_")[1]][1] is None
    if record.labels is None:
        assert any("class" in note for note in record.notes)


@pytest.mark.parametrize("record", RECORDS, ids=ids)
def test_metrics(record: WeightsRecord) -> None:
    values = {(m["name"], m["protocol"]): m["value"] for m in record.metrics}
    assert len(values) == len(record.metrics)
    for (name, protocol), value in values.items():
        assert 15 < value < 100
        if name == "top-5":
            assert value > values["top-1", protocol]
        assert (name == "mAP") == (record.config.roi is not None or record.dataset == "Charades")
        low, high = next(m for m in record.metrics if m["value"] == value).get("interval_95", (0, 100))
        assert low <= value <= high
    if not record.metrics:
        assert any("accuracy was published" in note for note in record.notes)


@pytest.mark.parametrize("record", PUBLISHED, ids=ids)
def test_source(record: WeightsRecord) -> None:
    assert record.source
    made, source, rules = record.config, record.source, PROJECTS[record.source["project"]]
    project, dataset, *_ = record.tag.split("_")
    assert source["project"].lower() == project
    name, labels = DATASETS[dataset]
    assert record.dataset == name
    if record.name in UNKNOWN_ORDER:
        labels = None
    elif labels == "ava" and project == "mmaction2":
        labels = "ava_custom" if "custom" in record.tag else "ava_background"
    assert record.labels == labels
    # What the project does at test time
    if isinstance(made, SlowFastConfig):
        assert made.slow_frames == rules["slow_frames"]
        assert made.lateral_norm == (project != "mmaction2" or "steplr" in record.tag or "multigrid" in record.tag)
    windows = project in ("pyslowfast", "pytorchvideo") and not record.tag.endswith("_multigrid")
    assert made.head_window == (7 if windows and not made.roi else None)
    if not made.roi:
        assert made.head_average == rules["head_average"]
    if made.roi:
        expected = (8, True, 1) if project == "mmaction2" else (7, False, 2)
        assert (made.roi.resolution, made.roi.aligned, made.res5_dilation) == expected
        assert (made.roi.temporal_pool == "max") == ("temporalmax" in record.tag)
        assert made.roi.context == ("context" in record.tag)
    if record.task != "image_classification":
        assert tuple(record.preprocessing["mean"]) == rules["mean"]
    average = "max" if dataset == "charades" else "logits" if project == "gluoncv" else "scores"
    assert record.preprocessing["view_average"] == average
    # The file
    file = source["url"].rpartition("/")[2]
    claimed = source["hash"]
    if project == "mmaction2":
        assert re.fullmatch(rf".*[_-]{claimed['prefix']}\.pth", file)
        assert (claimed["algorithm"], len(claimed["prefix"])) == ("sha256", 8)
    elif project == "gluoncv":
        assert file == f"{source['name']}-{claimed['prefix'][:8]}.pth"
        assert (claimed["algorithm"], len(claimed["prefix"])) == ("sha1", 40)
    else:
        assert claimed is None
    layouts = {project}
    if project == "pyslowfast":
        layouts = {"pytorchvideo"} if record.tag.endswith("_ptv") else {"pyslowfast", "caffe2", None}
    assert record.source_layout in layouts


# -- labels ----------------------------------------------------------------------------------------------------------


def test_label_lists() -> None:
    folder = ROOT / "slowfast_zoo" / "labels"
    lists = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.txt")}
    assert set(lists) == {record.labels for record in RECORDS} - {None}
    for name, text in lists.items():
        lines = text.splitlines()
        assert text.endswith("\n")
        assert len(set(lines)) == len(lines), name
        assert all(line and line == line.strip() for line in lines), name


def test_label_order() -> None:
    """A few places that were found elsewhere to be right."""
    for name in ("kinetics400", "kinetics600", "kinetics700"):
        assert list(load_labels(name)) == sorted(load_labels(name))
    assert load_labels("kinetics400")[290] == "sharpening knives"
    assert load_labels("kinetics600")[598] == "yoga"
    assert load_labels("charades")[0] == "Holding some clothes"
    assert load_labels("ssv2")[0] == "Approaching something with your camera"


def test_ava_lists() -> None:
    actions = load_labels("ava")  # id i + 1 at index i
    assert (actions[11], actions[13], actions[79]) == ("stand", "walk", "watch (a person)")
    assert load_labels("ava_background") == ("background", *actions)
    chosen = (3, 6, 10, 27, 29, 38, 41, 48, 51, 53, 54, 59, 61, 64, 70, 72)
    assert load_labels("ava_custom") == ("background", *(actions[i - 1] for i in chosen))


# -- what the networks cost ------------------------------------------------------------------------------------------


def digits(claim: float) -> int:
    """Decimals that a claim was printed with, at least."""
    return len(str(claim).partition(".")[2])


def matches(claim: float, value: float, *, cut: bool) -> bool:
    """Whether the value, rounded (or cut off) to the claim's digits, is the claim."""
    scale = 10 ** digits(claim)
    return round(value, digits(claim)) == claim or (cut and math.floor(value * scale) / scale == claim)


def same_network(made: Config) -> Config:
    """Without what changes neither parameters nor operations."""
    fields: dict[str, Any] = {"head_window": None, "head_average": "scores", "head_activation": "softmax"}
    if isinstance(made, SlowFastConfig):
        fields["slow_frames"] = "linspace"
    return made.replace(**fields, drop_rate=0.5)


@cache
def network(made: Config) -> nn.Module:
    with torch.device("meta"):
        return build(made).eval()


def parameters(made: Config) -> int:
    made = same_network(made).replace(frames=32, stride=made.alpha, crop=256)  # which have no weights
    return sum(p.numel() for p in network(made).parameters())


@dataclasses.dataclass
class Operations:
    """In 10^9, of one view: what layers and matrix products multiply and add, and elements that other layers handle."""

    layers: float = 0  # convolutions and the classifier
    products: float = 0  # non-local blocks
    norms: float = 0  # outputs of batch norms
    others: float = 0  # outputs of ReLUs, inputs of max pooling


@cache
def operations(made: Config) -> Operations:
    net, found = network(made), Operations()

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, nn.BatchNorm3d):
            found.norms += output.numel() / 1e9
        else:
            found.others += (inputs[0] if isinstance(module, nn.MaxPool3d) else output).numel() / 1e9

    counted = (nn.BatchNorm3d, nn.ReLU, nn.MaxPool3d)
    hooks = [module.register_forward_hook(count) for module in net.modules() if isinstance(module, counted)]
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.empty(1, made.in_chans, made.clip_frames, made.crop, made.crop))
    for hook in hooks:
        hook.remove()
    for operation, twice in counter.get_flop_counts()["Global"].items():
        if "bmm" in str(operation):
            found.products += twice / 2e9
        else:
            found.layers += twice / 2e9
    return found


@pytest.mark.parametrize("record", [r for r in RECORDS if r.cost and r.cost["parameters_m"]], ids=ids)
def test_claimed_parameters(record: WeightsRecord) -> None:
    assert record.cost
    claim = record.cost["parameters_m"]
    count = parameters(record.config.replace(**CLAIMED_OF.get(record.name, {}))) / 1e6
    noted = any("parameters" in note for note in record.notes)
    assert noted == (record.name in CLAIMED_OF or record.name == UNEXPLAINED)
    assert matches(claim, count, cut=True) != (record.name == UNEXPLAINED), f"{count:.3f} instead of {claim} M"


@pytest.mark.parametrize("record", [r for r in RECORDS if r.cost and r.cost["gflops"]], ids=ids)
def test_claimed_gflops(record: WeightsRecord) -> None:
    """At the size of the test crop, which is right for all, although not all publishers state it.

    They count differently: PyTorchVideo (and PySlowFast for it) multiply-adds alone or with five operations for each
    output of a batch norm, MMAction2 with two. Its 0.x branch counts ReLU and pooling too, but not the matrix products
    of non-local blocks; what is missing here are the biases in those and the pooling in the head.
    """
    assert record.cost and record.source
    claim = record.cost["gflops"]
    found = operations(same_network(record.config.replace(**CLAIMED_OF.get(record.name, {}))))
    adds = found.layers + found.products
    if record.source["project"] != "MMAction2":
        sums = (adds, adds + 5 * found.norms)
        assert any(matches(claim, value, cut=False) for value in sums), f"{sums} instead of {claim}"
    elif "(" in record.cost["claimed_by"]:  # (branch 0.x), or (release ...) before it
        value = found.layers + 2 * found.norms + found.others
        assert 0 < claim / value - 1 < (1e-3 if record.config.non_local else 1e-4), f"{value:.3f} instead of {claim}"
    else:
        value = adds + 2 * found.norms
        assert matches(claim, value, cut=record.name == CUT_OFF), f"{value:.3f} instead of {claim}"


# -- facts from elsewhere --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not FACTS.exists(), reason="the collection of facts is not at hand")
def test_every_published_file_is_listed() -> None:
    """Each either among the weights or, with a reason, among those that are not included."""
    facts = {fact["url"]: fact for fact in json.loads(FACTS.read_text(encoding="utf-8"))}
    included = {record.source["url"]: record for record in PUBLISHED if record.source}
    left_out = {entry["url"] for entry in MANIFEST["not_included"]} - {None}
    assert set(included) | left_out == set(facts)
    assert not set(included) & left_out
    for url, record in included.items():
        fact, made = facts[url], record.config
        total = (fact["derived"] or {}).get("total_params_computed")
        if total:
            assert parameters(made) == total, record.name
        if fact["arch"]:
            stride = fact["arch"]["tau"] or 1  # an image has none
            assert (made.frames, made.stride) == (fact["arch"]["T"], stride), record.name
            assert made.alpha == (fact["arch"]["alpha"] or 1), record.name
        for short, name in (("top1", "top-1"), ("top5", "top-5")):
            claims = [m["value"] for m in record.metrics if m["name"] == name]
            assert claims == [v for v in [fact["metrics"][short]] if v is not None], record.name


if __name__ == "__main__":
    assert sys.argv[1:] == ["--write"]
    DIGESTS.write_text(json.dumps(digests(), indent=1) + "\n", encoding="utf-8")
