import random

import numpy as np
import pytest

from data_pipeline import formats, noise, pipeline
from errors import UserError
from model import batch as batches


def make_rows(kind, data, tokenizer, documents, *, epoch=0):
    made = pipeline.PIPELINES[kind](data, tokenizer)
    records = list(made.write(documents, random.Random(0)))
    rows = made.read(records, noise.make_keys(0, epoch, np.arange(len(records))))
    batches.check(rows)
    return rows


def unmask(rows):
    """The tokens before they were masked."""
    tokens = rows["tokens"].copy()
    row, i = np.nonzero(rows["weights"])
    tokens[row, rows["masked_positions"][row, i]] = rows["targets"][row, i]
    return tokens


def plain_pairs(data, documents):
    rules = formats.Rules(data.length, 3, 1, "random", 0.5, 0.1)
    return list(formats.segment_pairs(documents, rules, random.Random(0)))


@pytest.mark.parametrize("packing", [False, True])
def test_masked_rows_hold_every_pair_once(data, tokenizer, documents, packing):
    data.packing = packing
    rows = make_rows("masked_lm", data, tokenizer, documents)
    tokens, found = unmask(rows), []
    for row in range(len(tokens)):
        segment_ids = rows["segment_ids"][row]
        for g in range(segment_ids.max()):
            (at,) = np.nonzero(segment_ids == g + 1)
            types = rows["token_types"][row][at].tolist()
            own = tokens[row][at].tolist()
            a, b = types.index(1), len(types)
            assert types == [0] * a + [1] * (b - a)
            assert rows["positions"][row][at].tolist() == list(range(b))
            assert rows["pair_positions"][row, g] == at[0]
            assert rows["pair_weights"][row, g] == 1
            assert own[0] == 2 and own[a - 1] == own[-1] == 3
            found.append((own[1 : a - 1], own[a:-1], rows["pair_labels"][row, g]))
        assert rows["pair_weights"][row].sum() == segment_ids.max()
        padding = segment_ids == 0
        for name in ("tokens", "token_types", "positions"):
            assert not rows[name][row][padding].any()
    expected = [(p.a.tolist(), p.b.tolist(), p.label) for p in plain_pairs(data, documents)]
    assert sorted(found) == sorted(expected)
    assert rows["pair_labels"].shape[1] == (2 if packing else 1)
    if packing:
        assert len(tokens) < 0.95 * len(expected) and (rows["segment_ids"] == 2).any()


@pytest.mark.parametrize("packing", [False, True])
def test_masked_rows_predict_fifteen_percent_and_no_special_token(
    data, tokenizer, documents, packing
):
    data.packing = packing
    rows = make_rows("masked_lm", data, tokenizer, documents)
    lengths = (rows["segment_ids"] > 0).sum(axis=1)
    expected = np.clip(np.rint(0.15 * lengths), 1, 10)
    np.testing.assert_array_equal(rows["weights"].sum(axis=1), expected)
    targets = rows["targets"][rows["weights"] > 0]
    assert targets.min() >= 10


def test_whole_words(data, tokenizer, documents):
    data.masking.whole_word = True
    rows = make_rows("masked_lm", data, tokenizer, documents)
    tokens = unmask(rows)
    continues = tokenizer.continues_word[tokens] & (tokens >= 10)
    continues &= np.pad(tokens[:, :-1] >= 10, ((0, 0), (1, 0)))  # a cut word begins after [SEP]
    chosen = np.zeros(tokens.shape, bool)
    row, i = np.nonzero(rows["weights"])
    chosen[row, rows["masked_positions"][row, i]] = True
    # A piece is chosen exactly when the piece before it is.
    assert (chosen[:, 1:] == chosen[:, :-1])[continues[:, 1:]].all()
    assert chosen.sum() > 0.8 * 0.15 * (tokens > 0).sum()


@pytest.mark.parametrize("name", formats.FORMATS)
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("packing", [False, True])
def test_every_format_is_laid_out(data, tokenizer, documents, name, double, packing):
    """[CLS] A [SEP] (B [SEP]), with RoBERTa's second separator before B; packed or not."""
    tokenizer.doubles_sep, data.packing, data.format.name = double, packing, name
    data.format.negatives = "swapped" if name in formats.LABELED else "none"
    rows = make_rows("masked_lm", data, tokenizer, documents)
    separators = 1 + double
    rules = formats.Rules(64, 3, separators, data.format.negatives, 0.5, 0.1)
    expected = []
    for e in formats.FORMATS[name](documents, rules, random.Random(0)):
        second = [] if e.b is None else [3] * (separators - 1) + [*e.b, 3]
        types = [0] * (len(e.a) + 2) + [1] * len(second)
        expected.append((([2, *e.a, 3] + second), types, int(e.label)))
    tokens, found = unmask(rows), []
    for row in range(len(tokens)):
        for g in range(rows["segment_ids"][row].max()):
            (at,) = np.nonzero(rows["segment_ids"][row] == g + 1)
            own = (tokens[row][at].tolist(), rows["token_types"][row][at].tolist())
            found.append((*own, int(rows["pair_labels"][row, g])))
            assert rows["pair_weights"][row, g] == (name in formats.LABELED)
    assert sorted(found) == sorted(expected)


def test_static_masks_are_the_same_in_every_epoch(data, tokenizer, documents, tmp_path):
    from data_pipeline import records

    for data.masking.static in (False, True):
        made = pipeline.PIPELINES["masked_lm"](data, tokenizer)
        path = tmp_path / f"{data.masking.static}.array_record"
        records.write_records(path, made.write(documents, random.Random(0)))
        dataset = pipeline.Dataset(made, records.Records([path]), seed=0, training=True)
        n = len(dataset)
        by_text = [{}, {}]
        for epoch in range(2):
            rows = dataset.batch(np.arange(n) + epoch * n)
            for text, masked in zip(unmask(rows), rows["tokens"], strict=True):
                by_text[epoch][text.tobytes()] = masked.tobytes()
        same = np.mean([by_text[1][text] == masked for text, masked in by_text[0].items()])
        assert same == 1 if data.masking.static else same < 0.1


def test_noise_is_new_in_every_epoch_and_the_pairs_are_not(data, tokenizer, documents):
    one, two = (make_rows("masked_lm", data, tokenizer, documents, epoch=e) for e in range(2))
    np.testing.assert_array_equal(unmask(one), unmask(two))
    assert (one["tokens"] != two["tokens"]).any(axis=1).mean() > 0.9


def stream(documents, eot=5):
    return [eot, *(t for tokens, _ in documents for t in (*tokens.tolist(), eot))]


def test_causal_stream_predicts_every_token_once(data, tokenizer, documents):
    rows = make_rows("causal_stream", data, tokenizer, documents)
    expected, real = stream(documents), rows["weights"] > 0
    assert rows["targets"][real].tolist() == expected[1:]
    assert rows["tokens"][real].tolist() == expected[:-1]
    np.testing.assert_array_equal(rows["segment_ids"], real)
    assert real[:-1].all()  # only the last row can be short
    np.testing.assert_array_equal(rows["positions"][:-1], [np.arange(64)] * (len(real) - 1))


@pytest.mark.parametrize("packing", [False, True])
def test_no_prediction_crosses_a_border_between_documents(data, tokenizer, documents, packing):
    data.packing, data.stream.mask_documents = packing, True
    rows = make_rows("causal_stream", data, tokenizer, documents)
    real = rows["weights"] > 0
    np.testing.assert_array_equal(real, rows["segment_ids"] > 0)
    for row, ids in enumerate(rows["segment_ids"]):
        for g in range(1, ids.max() + 1):
            (at,) = np.nonzero(ids == g)
            inputs, targets = rows["tokens"][row][at], rows["targets"][row][at]
            assert rows["positions"][row][at].tolist() == list(range(len(at)))
            # Each input is the target before it, and an end of text only ever stands first.
            np.testing.assert_array_equal(inputs[1:], targets[:-1])
            assert (inputs[1:] != 5).all() and (targets[:-1] != 5).all()
    counts = np.bincount(rows["targets"][real], minlength=1000)
    np.testing.assert_array_equal(counts, np.bincount(stream(documents)[1:], minlength=1000))
    assert rows["segment_ids"].max(axis=1).sum() > len(documents)  # long ones are in several rows


@pytest.mark.parametrize("kind", ["masked_lm", "causal_stream"])
@pytest.mark.parametrize("packing", [False, True])
def test_an_empty_record_is_a_row_of_padding(data, tokenizer, documents, kind, packing):
    data.packing = packing
    made = pipeline.PIPELINES[kind](data, tokenizer)
    (record, *_) = made.write(documents, random.Random(0))
    keys = noise.make_keys(0, [0, 1])
    rows, alone = made.read([record, b""], keys), made.read([record], keys[:1])
    batches.check(rows)
    for name, value in rows.items():
        np.testing.assert_array_equal(value[1], np.zeros_like(value[1]))
        np.testing.assert_array_equal(value[:1], alone[name])


BAD = [
    ("masked_lm", {"masking.max_predictions": 65}, {}, "between 1 and data.length=64"),
    ("masked_lm", {"masking.rate": 0.0}, {}, "rate must lie between 0 and 1"),
    ("masked_lm", {"masking.mask": 0.95}, {}, "must not exceed 1"),
    ("masked_lm", {"length": 7}, {}, "at least 8"),
    ("masked_lm", {}, {"mask_id": None}, "data.tokenizer.kind=wordpiece"),
    ("masked_lm", {"masking.ngram": 0}, {}, "ngram=0 must be at least 1"),
    ("masked_lm", {"format.name": "full_sentence"}, {}, "Did you mean 'full_sentences'"),
    ("masked_lm", {"format.negatives": "swap"}, {}, "Did you mean 'swapped'"),
    ("masked_lm", {"format.name": "doc_sentences"}, {}, "negatives=none, or the name to"),
    ("masked_lm", {"format.negative_rate": 1.5}, {}, "between 0 and 1"),
    ("masked_lm", {"format.passes": 0}, {}, "passes=0 must be at least 1"),
    ("causal_stream", {}, {"eot_id": None}, "data.tokenizer.kind=byte_bpe"),
    ("causal_stream", {"length": 1}, {}, "at least 2"),
]


@pytest.mark.parametrize("kind, values, vocabulary, message", BAD)
def test_what_does_not_suit_is_refused(data, tokenizer, kind, values, vocabulary, message):
    data.update_from_flattened_dict(values)
    vars(tokenizer).update(vocabulary)
    with pytest.raises(UserError, match=message):
        pipeline.PIPELINES[kind](data, tokenizer)
