"""XLNet's rows: how they are cut, what is predicted, and the order."""

import random

import numpy as np
import pytest

from data_pipeline import noise, permutation, pipeline
from errors import UserError
from model import batch as batches

EOD, SEP, CLS = 5, 3, 2
LENGTH, REUSE, MEMORY = 64, 32, 24


@pytest.fixture
def data(data):
    data.permutation.update(reuse=REUSE, block=16, memory=MEMORY)
    return data


def make(data, tokenizer, documents, *, epoch=0):
    made = permutation.PermutationLM(data, tokenizer)
    records = list(made.write(documents, random.Random(0)))
    rows = made.read(records, noise.make_keys(0, epoch, np.arange(len(records))))
    batches.check(rows)
    return rows


def stream_of(documents):
    return np.concatenate([np.append(tokens, EOD) for tokens, _ in documents])


def test_rows_are_windows_of_the_stream_in_both_directions(data, tokenizer, documents):
    rows = make(data, tokenizer, documents)
    forward = stream_of(documents)
    boundaries = set(np.cumsum([n for _, sizes in documents for n in (*sizes, 1)]).tolist())
    continued = 0
    assert len(rows["tokens"]) % 2 == 0 and (rows["segment_ids"] == 1).all()
    for i, tokens in enumerate(rows["tokens"]):
        stream = forward[::-1] if i % 2 else forward
        assert rows["reversed"][i] == i % 2
        start = i // 2 * REUSE
        (first_sep,) = np.nonzero(rows["token_types"][i] == 1)[0][:1] - 1
        assert tokens[first_sep] == tokens[-2] == SEP and tokens[-1] == CLS
        types = [0] * (first_sep + 1) + [1] * (LENGTH - 2 - first_sep) + [2]
        assert rows["token_types"][i].tolist() == types
        a = tokens[:first_sep]
        assert (a == stream[start : start + first_sep]).all()
        before = min(start, MEMORY)
        assert rows["memory_segment_ids"][i].tolist() == [0] * (MEMORY - before) + [1] * before
        assert (rows["memory_tokens"][i][MEMORY - before :] == stream[start - before : start]).all()
        b = tokens[first_sep + 1 : -2]
        windows = np.lib.stride_tricks.sliding_window_view(stream, len(b))
        places = np.flatnonzero((windows == b).all(axis=1)).tolist()
        assert places  # B is a stretch of the same stream
        end = start + first_sep
        continued += end in places
        if end not in places:  # and begins a sentence
            assert any((p if not i % 2 else len(stream) - p) in boundaries | {0} for p in places)
    # Half are told to go on. Of those, some A's were cut short to make room, and then B does not
    # begin where A ends; of the others, as many as chance has it do.
    assert 0.25 < continued / len(rows["tokens"]) < 0.6


def test_one_direction_and_no_memory(data, tokenizer, documents):
    both = make(data, tokenizer, documents)
    data.permutation.update(bidirectional=False, memory=0)
    rows = make(data, tokenizer, documents)
    assert not {"reversed", "memory_tokens", "memory_segment_ids"} & rows.keys()
    assert 2 * len(rows["tokens"]) == len(both["tokens"])


@pytest.mark.parametrize("span", [5, 1])
@pytest.mark.parametrize("k", [6, 7])
def test_the_quota_is_exact_and_special_tokens_are_not_predicted(
    data, tokenizer, documents, span, k
):
    data.permutation.update(span=span, k=k)
    rows = make(data, tokenizer, documents)
    P = LENGTH // k
    assert rows["weights"].shape[1] == P and (rows["weights"] == 1).all()
    positions = rows["masked_positions"]
    assert (np.diff(positions, axis=1) > 0).all()
    assert ((positions < REUSE).sum(axis=1) == P - P // 2).all()
    tokens = np.take_along_axis(rows["tokens"], positions, axis=1)
    assert (tokens == rows["targets"]).all() and not np.isin(tokens, (SEP, CLS)).any()


def test_ranks_say_what_the_released_mask_says(data, tokenizer, documents):
    """The mask of each half, written out from data_utils.py's rule, and the two halves joined."""
    rows = make(data, tokenizer, documents)
    for tokens, rank, positions in zip(rows["tokens"], rows["rank"], rows["masked_positions"]):
        target = np.zeros(LENGTH, bool)
        target[positions] = True
        special = (tokens == CLS) & (np.arange(LENGTH) > REUSE)
        special |= (tokens == SEP) & (np.arange(LENGTH) > REUSE)
        hidden = np.zeros((LENGTH, LENGTH), bool)
        hidden[:REUSE, REUSE:] = True
        for half in (slice(0, REUSE), slice(REUSE, LENGTH)):
            ordered = (target | special)[half]
            index = rank[half] - (half.start and REUSE + 1)
            assert (index[~ordered] == -1).all() and (index[ordered] >= 0).all()
            own = np.where(target[half], index, index + 1)
            hidden[half, half] = (own[:, None] <= index) & ordered
        query = rank[None] >= rank[:, None]  # what a query at i may not see
        np.testing.assert_array_equal(query[target], hidden[target])
        content = rank[None] > rank[:, None]
        np.fill_diagonal(hidden, False)
        np.testing.assert_array_equal(content, hidden)


def test_all_blocks_of_a_half_have_the_same_order():
    ranks = permutation.random_ranks(np.zeros((50, 32), bool), noise.make_keys(1, np.arange(50)), 8)
    assert (np.sort(ranks, axis=1) == np.arange(32)).all()
    for block in range(4):
        assert (ranks[:, 8 * block : 8 * block + 8] == ranks[:, :8] + 8 * block).all()
    assert len({tuple(row) for row in ranks}) == 50


def spans_of(chosen):
    """Lengths of the runs in each row, the last one left out."""
    edges = np.diff(np.pad(chosen.astype(int), ((0, 0), (1, 1))), axis=1)
    begins, ends = np.nonzero(edges == 1), np.nonzero(edges == -1)
    lengths = ends[1] - begins[1]
    last = np.append(begins[0][1:] != begins[0][:-1], True)
    return lengths[~last]


def test_spans_have_lengths_by_the_law():
    """p(n) ~ 1/n, n = 1..5; in rows so long that all comes from spans."""
    B, L, quota = 40, 6000, 400
    ones = np.ones((B, L), bool)
    keys = noise.make_keys(0, np.arange(B))
    chosen = permutation.choose_targets(ones, ones, keys, quota=quota, k=6, span=5)
    assert (chosen.sum(axis=1) == quota).all()
    counts = np.bincount(spans_of(chosen), minlength=6)[1:]
    assert len(counts) == 5
    p = 1 / np.arange(1, 6)
    p /= p.sum()
    n = counts.sum()
    assert (np.abs(counts - n * p) < 3 * np.sqrt(n * p * (1 - p))).all()


def test_spans_begin_words():
    B, L = 30, 3000
    ones = np.ones((B, L), bool)
    starts = np.tile(np.arange(L) % 3 == 1, (B, 1))
    keys = noise.make_keys(4, np.arange(B))
    chosen = permutation.choose_targets(ones, starts, keys, quota=100, k=6, span=5)
    begins = np.nonzero(chosen & ~np.pad(chosen[:, :-1], ((0, 0), (1, 0))))[1]
    assert (begins % 3 == 1).all()


def test_single_targets_are_uniform():
    """Without spans every token is predicted as often as any other, and none beside another one
    more often than by chance."""
    B, L, quota = 4000, 32, 5
    ones = np.ones((B, L), bool)
    keys = noise.make_keys(2, np.arange(B))
    chosen = permutation.choose_targets(ones, ones, keys, quota=quota, k=6, span=1)
    p = quota / L
    counts = chosen.sum(axis=0)
    assert (np.abs(counts - B * p) < 4 * np.sqrt(B * p * (1 - p))).all()
    pairs = (chosen[:, 1:] & chosen[:, :-1]).sum() / (B * (L - 1))
    assert pairs == pytest.approx(p * (quota - 1) / (L - 1), rel=0.06)


def test_noise_is_a_function_of_the_key_alone(data, tokenizer, documents):
    made = permutation.PermutationLM(data, tokenizer)
    records = list(made.write(documents, random.Random(0)))[:20]
    keys = noise.make_keys(0, 0, np.arange(20))
    together = made.read(records, keys)
    for i in (0, 7, 19):
        alone = made.read(records[i : i + 1], keys[i : i + 1])
        for name, value in alone.items():
            np.testing.assert_array_equal(value[0], together[name][i])
    later = made.read(records, noise.make_keys(0, 1, np.arange(20)))
    for name in ("rank", "masked_positions"):
        assert (later[name] != together[name]).any(axis=1).mean() > 0.9
    np.testing.assert_array_equal(later["tokens"], together["tokens"])


def test_padding_has_no_weight(data, tokenizer, documents):
    made = permutation.PermutationLM(data, tokenizer)
    record = next(made.write(documents, random.Random(0)))
    rows = made.read([b"", record], noise.make_keys(0, 0, np.arange(2)))
    batches.check(rows)
    assert not any(rows[name][0].any() for name in ("tokens", "segment_ids", "weights"))
    assert rows["weights"][1].all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reuse": 60}, "reuse=60"),
        ({"block": 24}, "block=24 must divide"),
        ({"k": 1}, "k=1 must be at least 2"),
        ({"span": 0}, "span=0"),
        ({"memory": -1}, "memory"),
    ],
)
def test_wrong_numbers_are_told(data, tokenizer, change, message):
    data.permutation.update(change)
    with pytest.raises(UserError, match=message):
        permutation.PermutationLM(data, tokenizer)


def test_a_vocabulary_without_its_tokens_is_told(data, tokenizer):
    tokenizer.eot_id = None
    with pytest.raises(UserError, match="specials=xlnet"):
        pipeline.PIPELINES["permutation_lm"](data, tokenizer)
