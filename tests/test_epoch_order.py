"""The order of an epoch is a function of seed and epoch: fair to every image, and cut anywhere without loss."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfrecsam_hf.training.dataset import EpochBatches

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=3)


def shown(batches: EpochBatches, epoch: int, start: int = 0) -> list[list[int]]:
    batches.epoch, batches.start = epoch, start
    assert all(key[0] == epoch for batch in batches for key in batch)
    return [[index for _, index in batch] for batch in batches]


@settings(deadline=None)
@given(
    lengths=LENGTHS,
    share=st.floats(0.3, 1.5),
    batch_size=st.integers(1, 4),
    multiple=st.integers(1, 3),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 20),
    data=st.data(),
)
def test_full_batches_in_multiples_cut_anywhere(lengths, share, batch_size, multiple, seed, epoch, data):
    shares = [share] * len(lengths)
    images = sum(round(length * share) for length in lengths)
    if images < batch_size * multiple:
        with pytest.raises(ValueError, match="do not fill one step"):
            EpochBatches(lengths, shares, batch_size, multiple, seed)
        return
    batches = EpochBatches(lengths, shares, batch_size, multiple, seed)
    whole = shown(batches, epoch)
    assert len(whole) == images // (batch_size * multiple) * multiple
    assert all(len(batch) == batch_size for batch in whole)
    assert all(0 <= index < sum(lengths) for batch in whole for index in batch)
    start = data.draw(st.integers(0, len(whole)))
    assert shown(batches, epoch, start) == whole[start:]
    assert len(batches) == len(whole) - start


@settings(deadline=None)
@given(lengths=LENGTHS, share=st.floats(0.1, 2.5), seed=st.integers(0, 99), epochs=st.integers(1, 12))
def test_every_image_of_a_source_is_seen_equally_often(lengths, share, seed, epochs):
    counts = [round(length * share) for length in lengths]
    if not sum(counts):
        return
    batches = EpochBatches(lengths, [share] * len(lengths), 1, 1, seed)
    seen = Counter(index for epoch in range(epochs) for batch in shown(batches, epoch) for index in batch)
    offset = 0
    for length, count in zip(lengths, counts, strict=True):
        times = [seen[index] for index in range(offset, offset + length)]
        assert max(times) - min(times) <= 1
        assert sum(times) == count * epochs
        offset += length


def test_sources_show_their_own_share():
    batches = EpochBatches([40, 30], [1.0, 0.4], 4, 1, seed=0)
    indices = [index for batch in shown(batches, 1) for index in batch]
    assert len(set(indices)) == 52
    assert sum(index < 40 for index in indices) == 40


def test_order_depends_on_seed_and_epoch():
    orders = [shown(EpochBatches([30], [1.0], 5, 1, seed), epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert orders[0] == orders[3]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]
