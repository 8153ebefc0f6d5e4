"""Networks as folders and repositories: saved, uploaded, converted, and made again from what was written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import slowfast_zoo as sfz
from slowfast_zoo.cli import main
from slowfast_zoo.models import ResNet3D, SlowFast, VideoNetwork
from slowfast_zoo.weights import records
from tests import upstream
from tests.servers import COMMIT, HubServer, Repo
from tests.weights.test_layouts import awake, same_weights

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = "slowfast_tiny_4x8.motion"
IN1K = "c2d_r50_1x1.pyslowfast_in1k"


def outputs(model: Any) -> Tensor:
    clip = torch.randn(
        1, model.config.in_chans, model.config.clip_frames, 32, 32, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        return model.eval()(clip, [torch.tensor([[1.0, 2.0, 20.0, 30.0]])] if model.config.roi else None)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("slowfast_r50_4x16", {"fusion": "time_to_channel_concat", "beta": 1 / 6, "width": 12}),
        ("slowfast_r101_nl_8x8", {}),
        ("slow_r50_4x16_det.mmaction2_ava21", {"num_classes": 81}),
        ("i3d_r50_32x2.mmaction2_k400", {"in_chans": 1}),
        (BUNDLED, {"width": 12, "num_classes": 12}),
    ],
)
def test_round_trip(tmp_path: Path, name: str, overrides: dict[str, Any]) -> None:
    """The folder alone makes the network again: configuration, weights, labels, preprocessing."""
    model = awake(name, **overrides)
    assert model.save_pretrained(tmp_path / "model") == tmp_path / "model"
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again = sfz.create_model(f"local-dir:{tmp_path / 'model'}")
    assert type(again) is type(model)
    assert again.config == model.config
    assert same_weights(again, model)
    assert torch.equal(outputs(again), outputs(model))
    for key in ("mean", "std", "scale", "crop", "num_classes", "architecture", "input_size"):
        assert again.pretrained_cfg[key] == model.pretrained_cfg[key], key
    assert str(sfz.create_transform(f"local-dir:{tmp_path / 'model'}")) == str(sfz.create_transform(model))
    assert same_weights(VideoNetwork.from_pretrained(tmp_path / "model"), model)


def test_a_fine_tuned_model(tmp_path: Path) -> None:
    """Another classifier with names of its own, saved and used for video."""
    model = sfz.create_model(BUNDLED, pretrained=True, num_classes=3)
    with pytest.raises(ValueError, match="has 3 classes, but 2 labels"):
        model.save_pretrained(tmp_path, labels=["a", "b"])
    with pytest.raises(TypeError, match="strings"):
        model.save_pretrained(tmp_path, labels=[1, 2, 3])
    assert list(tmp_path.iterdir()) == []
    model.save_pretrained(tmp_path / "mine", labels=["jump", "run", "sit"])
    content = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert content["labels"] == ["jump", "run", "sit"]
    assert content["weights"] is None  # these are no published weights any more
    assert content["based_on"] == BUNDLED
    assert "may have been trained further" in (tmp_path / "mine" / "README.md").read_text()
    assert f"local-dir:{tmp_path / 'mine'}" in (tmp_path / "mine" / "README.md").read_text()
    untrained = sfz.create_model(BUNDLED)  # has the name, not the weights
    untrained.save_pretrained(tmp_path / "untrained")
    assert json.loads((tmp_path / "untrained" / "config.json").read_text())["based_on"] == ""
    again = sfz.create_model(f"local-dir:{tmp_path / 'mine'}")
    assert again.pretrained_cfg["labels"] == ("jump", "run", "sit")
    assert again.pretrained_cfg["tag"] == ""
    classifier = sfz.VideoClassifier(again)
    assert classifier.labels == ("jump", "run", "sit")
    assert sfz.VideoClassifier(f"local-dir:{tmp_path / 'mine'}").labels_known
    # Its names go with a copy, and are dropped with the classifier.
    again.save_pretrained(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "config.json").read_text()) == content
    other = sfz.create_model(f"local-dir:{tmp_path / 'mine'}", num_classes=4)
    assert other.pretrained_cfg["labels"] is None
    assert other.num_classes == 4
    features = sfz.create_model(f"local-dir:{tmp_path / 'mine'}", features_only=True, out_indices=(4,))
    assert len(features(torch.randn(1, 3, 16, 32, 32))) == 1


def test_from_pretrained() -> None:
    assert isinstance(SlowFast.from_pretrained(BUNDLED), SlowFast)
    assert SlowFast.from_pretrained(BUNDLED, num_classes=3).num_classes == 3
    with pytest.raises(TypeError, match="is a SlowFast, not a ResNet3D"):
        ResNet3D.from_pretrained(BUNDLED)


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        sfz.create_model(f"local-dir:{tmp_path / 'nowhere'}")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        sfz.create_model(f"local-dir:{tmp_path}")
    awake("slow_r50_4x16").save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    good = json.loads(config.read_text())
    broken: list[str] = [
        "", "{", "[]", "null", "{}",
        json.dumps({"model_type": "vit", "hidden_size": 768}),
        json.dumps({**good, "config": {"family": "vit"}}),
        json.dumps({**good, "config": {**good["config"], "frames": -1}}),
        json.dumps({**good, "config": {**good["config"], "new_field": 1}}),
        json.dumps({**good, "preprocessing": None}),
        json.dumps({**good, "weights": {"name": "x"}}),
        *(
            json.dumps({**good, "preprocessing": {**good["preprocessing"], name: value}})
            for name, value in (
                ("clips", "x"), ("clips", 0), ("crops", []), ("crops", 2), ("clip_sampling", {}), ("view_average", 3),
                ("flip", "x"), ("mean", ["a", "a", "a"]), ("std", [True] * 3), ("scale", 256.5), ("crop", None),
            )
        ),
    ]  # fmt: skip
    for text in broken:
        config.write_text(text)
        with pytest.raises(sfz.WeightsError, match="is no network of slowfast_zoo"):
            sfz.create_model(f"local-dir:{tmp_path}")
    config.write_text(json.dumps({**good, "config": {**good["config"], "width": 16}}))
    with pytest.raises(sfz.WeightsError, match="of another shape"):
        sfz.create_model(f"local-dir:{tmp_path}")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        sfz.create_model(f"local-dir:{tmp_path}")
    for name in ("hf-hub:repo", "hf-hub:/repo", "hf-hub:a/b/c"):
        with pytest.raises(ValueError, match="'hf-hub:owner/repo'"):
            sfz.create_model(name)


# -- the Hub ---------------------------------------------------------------------------------------------------------


def in_process(script: str, server: HubServer, home: Path, **environment: str) -> dict[str, Any]:
    """Runs a script where the Hub's client has just been imported; it prints JSON."""
    env = {
        k: v
        for k, v in os.environ.items()
        if not k.lower().endswith("_proxy") and not k.startswith(("HF_", "SLOWFAST"))
    }
    env |= {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=env, cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def test_push_and_load_again(tmp_path: Path) -> None:
    with HubServer({}) as server:
        pushed = in_process(
            "import json, slowfast_zoo as sfz\n"
            f"model = sfz.create_model({BUNDLED!r}, pretrained=True, num_classes=2)\n"
            "commit = model.push_to_hub('me/mine', labels=['yes', 'no'])\n"
            "print(json.dumps([commit, float(model.head.fc.weight.sum())]))",
            server, tmp_path / "a", HF_TOKEN="hf_x",
        )  # fmt: skip
        assert pushed[0] == COMMIT
        assert sorted(server.repos["me/mine"].files) == ["README.md", "config.json", "model.safetensors"]
        script = (
            "import json, slowfast_zoo as sfz\n"
            "model = sfz.create_model('hf-hub:me/mine{}')\n"
            "again = type(model).from_pretrained('me/mine{}')\n"
            "print(json.dumps([float(model.head.fc.weight.sum()), model.pretrained_cfg['labels']]))"
        )
        for revision in ("", f"@{COMMIT}"):
            got = in_process(script.format(revision, revision), server, tmp_path / "b")
            assert got == [pushed[1], ["yes", "no"]]
        before = len(server.requests)
        assert in_process(script.format(f"@{COMMIT}", f"@{COMMIT}"), server, tmp_path / "b") == got
        assert len(server.requests) == before  # a commit in the cache asks nobody
        assert in_process(script.format("", ""), server, tmp_path / "b", HF_HUB_OFFLINE="1") == got
        refused = in_process(
            "import json, slowfast_zoo as sfz\n"
            "problems = []\n"
            "model = sfz.create_model('slow_tiny_4x8')\n"
            "for call in (lambda: model.push_to_hub('me/other'), lambda: sfz.create_model('hf-hub:me/nothing')):\n"
            "    try:\n"
            "        call()\n"
            "    except sfz.WeightsError as error:\n"
            "        problems.append(str(error))\n"
            "print(json.dumps(problems))",
            server, tmp_path / "c",
        )  # fmt: skip
        assert "cannot upload to 'me/other'" in refused[0]
        assert "hf auth login" in refused[0]
        assert "me/nothing" in refused[1]
        assert "no such repository" in refused[1]


def test_publish(tmp_path: Path) -> None:
    """A dry run uploads nothing; a real one makes a repository that the manifest, so changed, is served from."""
    script = (
        "import json, sys\n"
        "from slowfast_zoo.cli.main import main\n"
        f"print(json.dumps(main(['publish', {BUNDLED!r}, '--namespace', 'zoo', *{{}}])))"
    )
    with HubServer({}) as server:
        assert in_process(script.format([]), server, tmp_path / "a", HF_TOKEN="hf_x") == 0
        assert server.requests == []
        assert in_process(script.format(["--push"]), server, tmp_path / "a", HF_TOKEN="hf_x") == 0
        files = server.repos[f"zoo/{BUNDLED}"].files
        content = json.loads(files["config.json"])
        assert content["weights"]["name"] == BUNDLED
        assert content["labels"][0] == "static"
        card = files["README.md"].decode()
        assert card.startswith("---\n")
        assert f'"hf-hub:zoo/{BUNDLED}"' in card
        for part in ("license: apache-2.0", "library_name: slowfast_zoo", "96.9", "measured by benchmarks/motion"):
            assert part in card
        found = in_process(
            "import dataclasses, json, pathlib\n"
            "from slowfast_zoo.weights import find_weights, records\n"
            f"record = records()[{BUNDLED!r}]\n"
            f"hub = {{'repo': 'zoo/{BUNDLED}', 'file': 'model.safetensors', 'revision': {COMMIT!r}}}\n"
            "path = find_weights(dataclasses.replace(record, file=None, hub=hub))\n"
            "print(json.dumps([str(path), path.read_bytes() == find_weights(record).read_bytes()]))",
            server, tmp_path / "b",
        )  # fmt: skip
        assert "models--zoo--" in found[0]
        assert found[1]


def test_publish_shows_the_entry_of_the_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", BUNDLED, "--namespace", "zoo"]) == 0
    printed = capsys.readouterr().out.partition("weights_manifest.json, then:\n")[2]
    entry = json.loads(printed)[BUNDLED]
    assert entry.pop("hub") == {"repo": f"zoo/{BUNDLED}", "file": "model.safetensors", "revision": "<the commit>"}
    written = json.loads((ROOT / "weights_manifest.json").read_text(encoding="utf-8"))["weights"][BUNDLED]
    assert entry == written


# -- the command line ------------------------------------------------------------------------------------------------


def test_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A publisher's file becomes the folder that a repository holds, the same one each time."""
    model = awake(IN1K, width=64, num_classes=1000)
    path = upstream.save(model.state_dict(), "pyslowfast", tmp_path / "R50_IN1K.pyth")
    for name in ("one", "two"):
        assert main(["convert", IN1K, "--checkpoint", str(path), "--output", str(tmp_path / name)]) == 0
    assert "model.safetensors" in capsys.readouterr().out
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert files == ["README.md", "config.json", "model.safetensors"]
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files[1:])
    again = sfz.create_model(f"local-dir:{tmp_path / 'one'}")
    assert same_weights(again, model)
    assert again.pretrained_cfg["tag"] == "pyslowfast_in1k"
    record = records()[IN1K]
    assert record.source
    card = (tmp_path / "one" / "README.md").read_text()
    assert record.source["url"] in card
    assert record.license in card
    assert str(record.metrics[0]["value"]) in card
    assert (
        json.loads((tmp_path / "one" / "config.json").read_text())["weights"]["source"]["url"] == record.source["url"]
    )


def test_convert_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = upstream.save(awake("slow_r50_4x16").state_dict(), "pyslowfast", tmp_path / "w.pyth")
    out = str(tmp_path / "out")
    hashed = "slow_r50_4x16.mmaction2_k400"
    for words, message in [
        (["convert", IN1K, "--checkpoint", str(other), "--output", out], "does not fit"),
        (["convert", IN1K, "--checkpoint", str(tmp_path / "no.pyth"), "--output", out], "no checkpoint at"),
        (["convert", IN1K, "--output", str(tmp_path)], "exists already"),
        (["convert", "slow_r50_4x16", "--output", out], "is no set of weights"),
        (["convert", hashed, "--checkpoint", str(other), "--output", out], "is not the file of"),
        (["publish", BUNDLED], "--namespace"),
        (["download", "slow_r50_4x16.nobody"], "no weights named"),
        (["download", "*nobody*"], "no set of weights matches"),
        (["download", "fast_r50_4x16"], "no published weights"),
        (["verify", "nobody"], "unknown model"),
    ]:
        assert main(words) == 2, words
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.pyth"]


def test_download_and_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the publisher's server into the cache, converted; then verified, damaged, noticed, fetched anew."""
    model = awake(IN1K, width=64, num_classes=1000)
    original = upstream.save(model.state_dict(), "pyslowfast", tmp_path / "R50_IN1K.pyth").read_bytes()
    from tests.servers import CdnFile, CdnServer

    with CdnServer({"R50_IN1K.pyth": CdnFile(original)}) as server:
        script = f"""
import dataclasses, json
import slowfast_zoo.weights.manifest as manifest
old = manifest.records()[{IN1K!r}]
new = dataclasses.replace(old, source=dict(old.source, url="{server.url}/R50_IN1K.pyth"))
table = {{old.name: new, {BUNDLED!r}: manifest.records()[{BUNDLED!r}]}}
import slowfast_zoo.weights as weights, slowfast_zoo.weights.checkpoint as checkpoint, slowfast_zoo.factory as factory
for module in (manifest, weights, factory, checkpoint):
    module.records = lambda: table
from slowfast_zoo.cli.main import main
print(json.dumps(main([*WORDS, "--cache-dir", {str(tmp_path / "cache")!r}])))
"""

        def run(*words: str) -> Any:
            return in_process(script.replace("WORDS", repr(words)), hub, tmp_path)

        hub = HubServer({})
        with hub:
            assert run("download", IN1K, BUNDLED) == 0
            assert run("download", "*in1k") == 0
            assert server.count(method="GET") == 1
            assert run("verify") == 0
            (cached,) = (tmp_path / "cache").rglob("*in1k.safetensors")
            content = bytearray(cached.read_bytes())
            content[-1] ^= 1
            cached.write_bytes(content)
            assert run("verify", IN1K) == 2
            assert run("download", IN1K) == 0
            assert server.count(method="GET") == 2
            assert run("verify") == 0
    loaded = sfz.create_model(IN1K, checkpoint_path=cached)
    assert same_weights(loaded, model)
    capsys.readouterr()


def test_info_shows_a_record_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("slowfast_r50_8x8.mmaction2_k400", "slowfast_r101_nl_8x8_det.pyslowfast_ava21", BUNDLED):
        assert main(["info", name]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        record = records()[name]
        assert record.license in shown
        assert record.dataset in shown
        assert str(record.metrics[0]["value"]) in shown
        for note in record.notes:
            assert " ".join(note.split()) in shown
        if record.source:
            assert record.source["url"] in shown
            assert "not published there yet" in shown
        assert main(["info", name, "--json"]) == 0
        weights = json.loads(capsys.readouterr().out)["weights"]
        assert weights["source"] == (dict(record.source) if record.source else None)


def test_repo_faults_reach_the_user(tmp_path: Path) -> None:
    model = awake("slow_r50_4x16")
    model.save_pretrained(tmp_path / "m")
    files = {p.name: p.read_bytes() for p in (tmp_path / "m").iterdir()}
    with HubServer({"a/gated": Repo(files, "gated"), "a/bad": Repo(files, "corrupt")}) as server:
        got = in_process(
            "import json, slowfast_zoo as sfz\n"
            "problems = []\n"
            "for name in ('hf-hub:a/gated', 'hf-hub:a/bad'):\n"
            "    try:\n"
            "        sfz.create_model(name)\n"
            "    except sfz.WeightsError as error:\n"
            "        problems.append(str(error))\n"
            "print(json.dumps(problems))",
            server, tmp_path / "home",
        )  # fmt: skip
    assert "access has to be asked for" in got[0]
    assert "was downloaded twice" in got[1]
