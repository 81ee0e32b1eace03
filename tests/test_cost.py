"""Promise: all that SF-RecSAM adds costs little beside SAM's encoder, counted in floating-point operations."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "benchmark.py"
PUBLISHED_RELEASE = 2946.0  # GFLOP of the published code for one image at 256 px with 8 samples


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def base(benchmark):
    rivals = (benchmark.OURS, benchmark.ONE_PASS, benchmark.PLAIN, benchmark.REPEATED)
    return {rival: benchmark.count(rival, "base") for rival in rivals}


def test_plain_sam_is_measured_at_our_geometry(benchmark, base):
    """12 blocks of 12 `hidden**2` weights on 32x32 tokens are 174 GFLOP; attention and neck add a little."""
    linear = 2 * 32 * 32 * 12 * 12 * 768**2 / 1e9
    encoder = base[benchmark.PLAIN]["gflop_by_part"]["vision_encoder"]
    assert linear < encoder < 1.15 * linear


def test_eight_samples_and_both_correctors_cost_at_most_a_quarter_more_than_plain_sam(benchmark, base):
    assert base[benchmark.OURS]["gflop"] <= 1.25 * base[benchmark.PLAIN]["gflop"]


def test_costs_at_most_a_tenth_of_the_published_release(benchmark, base):
    assert base[benchmark.OURS]["gflop"] <= PUBLISHED_RELEASE / 10


def test_at_least_six_times_cheaper_than_repeating_the_network(benchmark, base):
    assert 6 * base[benchmark.OURS]["gflop"] <= base[benchmark.REPEATED]["gflop"]


def test_the_encoder_is_not_repeated_for_samples(benchmark, base):
    encoders = [base[rival]["gflop_by_part"]["vision_encoder"] for rival in (benchmark.OURS, benchmark.ONE_PASS)]
    assert encoders[0] == encoders[1]


def test_counting_is_repeatable(benchmark, base):
    assert benchmark.count(benchmark.OURS, "base") == base[benchmark.OURS]
