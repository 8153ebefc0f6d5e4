"""The paper's costs, row by row, from the code."""

from __future__ import annotations

import pytest
import torch

import slowfast_zoo as sfz
from benchmarks.cost import batch_norm_outputs, gflops_and_parameters
from benchmarks.paper_tables import PAGE, R101_ALL, ROWS, Row, matches_gflops, matches_parameters, page
from slowfast_zoo.models import ARCHITECTURES


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.table}: {row.name}")
def test_row(row: Row) -> None:
    gflops, parameters = row.measure()
    assert matches_gflops(row.gflops, gflops), f"{gflops:.3f} instead of {row.gflops}"
    if row.parameters:
        assert matches_parameters(row.parameters, parameters), f"{parameters} instead of {row.parameters} M"


def test_all_rows_are_there() -> None:
    counts = {table: sum(row.table == table for row in ROWS) for table in {row.table for row in ROWS}}
    assert counts == {
        "Tables 2 and 3": 5,
        "Table 4": 1,
        "Table 5a": 7,
        "Table 5b": 6,
        "Table 5c": 5,
        "Table 6": 1,
    }


def test_matching_is_strict() -> None:
    assert matches_gflops("36.1", 36.14)
    assert not matches_gflops("36.1", 36.4)
    assert not matches_gflops("6.4", 6.46)
    assert matches_parameters("32.4", 32_454_096)
    assert not matches_parameters("0.53", 616_952)


def test_page_is_current() -> None:
    """docs/paper_tables.md is what the script writes (python benchmarks/paper_tables.py --write)."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_both_readings_of_r101() -> None:
    """106 GFLOPs and 127, which PyTorchVideo (127.20) counts with five operations for each output of a batch norm."""
    six, parameters_six = gflops_and_parameters(ARCHITECTURES["slowfast_r101_8x8"])
    in_all = ARCHITECTURES["slowfast_r101_8x8"].replace(**R101_ALL)
    every, parameters_every = gflops_and_parameters(in_all)
    assert (round(six, 2), round(parameters_six / 1e6, 2)) == (106.51, 53.77)
    assert (round(every, 2), round(parameters_every / 1e6, 2)) == (125.91, 62.83)
    assert matches_gflops("127.20", every + 5 * batch_norm_outputs(in_all))


# Table 1: rows of the Slow and the Fast pathway as kernels and channels, and the output sizes T x S^2 at 224 x 224.
TABLE_1 = {
    "res2": (3, ((1, 64), (1, 8)), (256, 32), 56),
    "res3": (4, ((1, 128), (1, 16)), (512, 64), 28),
    "res4": (6, ((3, 256), (3, 32)), (1024, 128), 14),
    "res5": (3, ((3, 512), (3, 64)), (2048, 256), 7),
}


def test_table_1() -> None:
    with torch.device("meta"):
        model = sfz.create_model("slowfast_r50_4x16").eval()
        features = sfz.create_model("slowfast_r50_4x16", features_only=True).eval()
        clip = torch.empty(1, 3, 32, 224, 224)
    for pathway, kernel, channels in ((model.slow, 1, 64), (model.fast, 5, 8)):
        conv = pathway.stem.conv1.conv
        assert (conv.kernel_size, conv.stride, conv.out_channels) == ((kernel, 7, 7), (1, 2, 2), channels)
        pool = pathway.stem.pool1
        assert (pool.kernel_size, pool.stride) == ((1, 3, 3), (1, 2, 2))
    stages = features(clip)
    assert [x.shape[1:] for x in stages[0]] == [(64, 4, 56, 56), (8, 32, 56, 56)]
    for i, (stage, (depth, inner, out, side)) in enumerate(TABLE_1.items()):
        for p, pathway in enumerate((model.slow, model.fast)):
            blocks = getattr(pathway, stage).blocks
            assert len(blocks) == depth
            kernel, channels = inner[p]
            if pathway is model.fast:
                kernel = 3  # "non-degenerate temporal convolutions in every block"
            for block in blocks:
                convs = [block.conv1.conv, block.conv2.conv, block.conv3.conv]
                assert [c.kernel_size for c in convs] == [(kernel, 1, 1), (1, 3, 3), (1, 1, 1)]
                assert [c.out_channels for c in convs] == [channels, channels, out[p]]
                assert all(c.stride[0] == 1 and c.bias is None for c in convs)
            assert stages[i + 1][p].shape[1:] == (out[p], (4, 32)[p], side, side)
    for stage, channels in (("stem", 8), ("res2", 32), ("res3", 64), ("res4", 128)):
        conv = model.lateral[stage].fast_to_slow.conv
        assert (conv.kernel_size, conv.stride, conv.out_channels) == ((5, 1, 1), (8, 1, 1), 2 * channels)
    assert model.head.fc.weight.shape == (400, 2048 + 256)
