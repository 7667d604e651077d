"""Inputs and targets of T5's objectives: lengths, noise, and that the text can be put together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import t5
from data_pipeline import corruption, noise
from errors import UserError
from model import batch as batches

EOS = 1


class Vocabulary:
    """What the pipeline asks of a tokenizer."""

    kind, pad_id, eot_id = "sentencepiece", 0, EOS

    def __init__(self, vocab_size=1100, sentinels=100):
        self.vocab_size = vocab_size
        self.sentinel_ids = tuple(vocab_size - 1 - i for i in range(sentinels))


def data_config(length=64, **overrides):
    data = t5.get_config("base").data
    data.length = length
    data.corruption.update(overrides)
    return data


def make_rows(pipeline, lengths, seed=0, epoch=0):
    """Returns raw texts of these lengths, and their rows."""
    rng = np.random.default_rng(seed)
    texts = [rng.integers(3, 1000, n).astype(np.int32) for n in lengths]
    records = [pipeline.codec.encode([n], text) for n, text in zip(lengths, texts)]
    rows = pipeline.read(records, noise.make_keys(seed, epoch, np.arange(len(lengths))))
    batches.check(rows)
    return texts, rows


def said(rows, i):
    """Returns input and target of a row without padding and end of text."""
    inputs = rows["tokens"][i][rows["segment_ids"][i] > 0]
    targets = rows["targets"][i][rows["weights"][i] > 0]
    assert inputs[-1] == targets[-1] == EOS and EOS not in inputs[:-1]
    return inputs[:-1].tolist(), targets[:-1].tolist()


# From the paper's code: density and mean span, then raw tokens and targets for inputs of 512.
LENGTHS = [
    (0.15, 3, 568, 114),
    (0.15, 2, 552, 126),
    (0.15, 5, 581, 105),
    (0.15, 10, 591, 99),
    (0.10, 3, 548, 74),
]


@pytest.mark.parametrize(("rate", "mean_span", "raw", "targets"), LENGTHS)
def test_lengths_are_those_of_the_paper(rate, mean_span, raw, targets):
    data = data_config(512, rate=rate, mean_span=float(mean_span))
    pipeline = corruption.TextToText(data, Vocabulary())
    assert (pipeline.raw, pipeline.target_length) == (raw, targets)
    _, rows = make_rows(pipeline, [raw] * 3)
    assert rows["tokens"].shape == (3, 512) and rows["targets"].shape == (3, targets)
    assert (rows["segment_ids"] == 1).all() and (rows["weights"] == 1).all()  # nothing is padded


def put_together(inputs, targets, sentinels):
    """Puts the target's noise in place of the input's sentinels."""
    number = {sentinel: k for k, sentinel in enumerate(sentinels)}
    runs = [[]]
    for token in targets:
        if token in number:
            runs.append([])
        else:
            runs[-1].append(token)
    if targets[0] in number:  # the text comes first
        runs = runs[1:]
    for side in (inputs, targets):  # numbered from 0 on both sides
        used = [number[token] for token in side if token in number]
        assert used == list(range(len(used)))
    return [t for token in inputs for t in (runs[number[token]] if token in number else [token])]


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["spans", "iid"]),
    length=st.integers(8, 120),
    rate=st.floats(0.05, 0.5),
    mean_span=st.floats(1.0, 8.0),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
)
def test_input_and_target_hold_the_text(name, length, rate, mean_span, shares, seed):
    data = data_config(length, name=name, rate=rate, mean_span=mean_span)
    vocabulary = Vocabulary()
    pipeline = corruption.TextToText(data, vocabulary)
    lengths = [max(2, round(share * pipeline.raw)) for share in shares]
    texts, rows = make_rows(pipeline, lengths, seed)
    for i, text in enumerate(texts):
        inputs, targets = said(rows, i)
        assert put_together(inputs, targets, vocabulary.sentinel_ids) == text.tolist()
        if name == "spans":
            assert inputs[0] == text[0] and targets[0] == vocabulary.sentinel_ids[0]
            assert inputs[-1] in vocabulary.sentinel_ids  # it ends with noise
        shifted = [batches.START, *targets]
        assert rows["decoder_tokens"][i][: len(shifted)].tolist() == shifted


def test_noise_has_the_density_the_number_of_runs_and_the_mean_span():
    numbers = corruption.Numbers(0.15, 3.0, 1100, np.zeros(0))
    lengths = np.full(2000, 568)
    keys = noise.make_keys(0, np.arange(2000))
    noisy = corruption.random_spans(lengths, 568, keys, numbers)
    assert (noisy.sum(axis=1) == 85).all()  # round(568 * 0.15)
    starts = noisy & ~np.pad(noisy[:, :-1], ((0, 0), (1, 0)))
    assert (starts.sum(axis=1) == 28).all()  # round(85 / 3)
    assert not noisy[:, 0].any() and noisy[:, -1].all()
    # All cuts are equally likely: a span has 1 token with probability 27 / 84.
    ones = starts[:, :-1] & ~noisy[:, 1:]
    assert ones.sum() / starts[:, :-1].sum() == pytest.approx(27 / 84, abs=0.02)
    # In the middle of the row every token is as likely as another.
    middle = noisy[:, 100:468].mean(axis=0)
    assert np.abs(middle - middle.mean()).max() < 0.05


def test_single_tokens_are_chosen_equally_often():
    numbers = corruption.Numbers(0.15, 3.0, 1100, np.zeros(0))
    keys = noise.make_keys(0, np.arange(20000))
    noisy = corruption.random_tokens(np.full(20000, 40), 44, keys, numbers)
    assert (noisy.sum(axis=1) == 6).all() and not noisy[:, 40:].any()
    assert np.abs(noisy[:, :40].mean(axis=0) / 0.15 - 1).max() < 0.08


def test_what_the_other_objectives_show():
    sentinel = Vocabulary().sentinel_ids[0]
    for name in ("drop_tokens", "prefix_lm", "bert_style", "mass_style", "deshuffling"):
        pipeline = corruption.TextToText(data_config(name=name), Vocabulary())
        texts, rows = make_rows(pipeline, [pipeline.raw, 20])
        for i, text in enumerate(texts):
            inputs, targets = said(rows, i)
            count = int(pipeline.numbers.noise(len(text)))
            if name == "drop_tokens":
                assert len(targets) == count and sorted(inputs + targets) == sorted(text)
            elif name == "prefix_lm":
                assert inputs + targets == text.tolist() and inputs and targets
            else:
                assert targets == text.tolist()
                changed = [a != b for a, b in zip(inputs, targets, strict=True)]
                if name == "mass_style":
                    assert inputs.count(sentinel) == sum(changed) == count
                elif name == "bert_style":
                    assert 0 < inputs.count(sentinel) <= count >= sum(changed)
                else:
                    assert sorted(inputs) == sorted(targets) and inputs != targets


def test_noise_is_a_pure_function_of_the_key():
    pipeline = corruption.TextToText(data_config(), Vocabulary())
    lengths = [pipeline.raw, 5, 40, pipeline.raw]
    texts, rows = make_rows(pipeline, lengths)
    record = pipeline.codec.encode([40], texts[2])
    alone = pipeline.read([record], noise.make_keys(0, 0, np.arange(3))[2:])
    for name, value in rows.items():
        np.testing.assert_array_equal(alone[name][0], value[2])
    _, again = make_rows(pipeline, lengths, epoch=1)
    assert (again["tokens"] != rows["tokens"]).any()


def test_a_row_of_nothing_counts_nothing():
    pipeline = corruption.TextToText(data_config(), Vocabulary())
    rows = pipeline.read([b"", b""], noise.make_keys(0, np.arange(2)))
    assert not any(value.any() for value in rows.values())


def test_every_token_of_the_documents_is_in_one_record():
    pipeline = corruption.TextToText(data_config(32), Vocabulary())
    rng = np.random.default_rng(0)
    documents = [(rng.integers(3, 1000, n), np.array([n])) for n in (5, 100, 1, 37)]
    records = list(pipeline.write(documents, None))
    header, flat = pipeline.codec.decode(records)
    assert header[:-1, 0].tolist() == [pipeline.raw] * (len(records) - 1)
    joined = np.concatenate([tokens for tokens, _ in documents])
    assert len(joined) - len(flat) < 2
    np.testing.assert_array_equal(flat, joined[: len(flat)])


@pytest.mark.parametrize(
    ("overrides", "sentinels", "message"),
    [
        ({"name": "span"}, 100, "Did you mean 'spans'"),
        ({"rate": 1.0}, 100, "rate must lie between 0 and 1"),
        ({"mean_span": 0.5}, 100, "mean_span be at least 1"),
        ({}, 2, "up to 3 sentinels in a row, but the vocabulary has 2: set data.tokenizer"),
        ({"name": "iid"}, 0, "up to 10 sentinels"),
    ],
)
def test_wrong_numbers_are_told(overrides, sentinels, message):
    with pytest.raises(UserError, match=message):
        corruption.TextToText(data_config(**overrides), Vocabulary(sentinels=sentinels))


def test_a_vocabulary_without_an_end_and_packing_are_told():
    vocabulary = Vocabulary()
    vocabulary.eot_id = None
    with pytest.raises(UserError, match="specials=t5"):
        corruption.TextToText(data_config(), vocabulary)
    data = data_config()
    data.packing = True
    with pytest.raises(UserError, match="nothing to pack"):
        corruption.TextToText(data, Vocabulary())
