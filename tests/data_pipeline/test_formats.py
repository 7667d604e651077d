import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import formats


def make_documents(sizes):
    """Documents whose tokens are all different, with sentences of the given sizes."""
    tokens = itertools.count()
    return [(np.array([next(tokens) for _ in range(sum(s))]), np.array(s, np.int32)) for s in sizes]


def plain_pairs(documents, length, random_next, short_seq_prob, rng):
    """BERT's rules on lists of sentences, in the order of Google's code."""
    texts = [np.split(t, np.cumsum(s)[:-1]) for t, s in documents]
    room, pairs = length - 3, []
    for number, document in enumerate(texts):
        target = room
        if rng.random() < short_seq_prob:
            target = rng.randint(2, room)
        chunk, i = [], 0
        while i < len(document):
            chunk.append(document[i])
            if i == len(document) - 1 or sum(map(len, chunk)) >= target:
                a_end = rng.randint(1, len(chunk) - 1) if len(chunk) >= 2 else 1
                a = [t for sentence in chunk[:a_end] for t in sentence]
                b = [t for sentence in chunk[a_end:] for t in sentence]
                is_random = len(chunk) == 1 or rng.random() < random_next
                if is_random:
                    for _ in range(10):
                        other = rng.randint(0, len(texts) - 1)
                        if other != number:
                            break
                    b, start = [], rng.randint(0, len(texts[other]) - 1)
                    for sentence in texts[other][start:]:
                        b.extend(sentence)
                        if len(b) >= target - len(a):
                            break
                    i -= len(chunk) - a_end  # put back
                while len(a) + len(b) > room:
                    longer = a if len(a) > len(b) else b
                    longer.pop(0 if rng.random() < 0.5 else -1)
                pairs.append((a, b, is_random))
                chunk = []
            i += 1
    return pairs


def cut(documents, seed=0, length=19, random_next=0.5, short_seq_prob=0.0):
    rules = formats.Rules(length, 3, 1, "random", random_next, short_seq_prob)
    return list(formats.segment_pairs(documents, rules, random.Random(seed)))


sizes_of_documents = st.lists(
    st.lists(st.integers(1, 40), min_size=1, max_size=12), min_size=1, max_size=6
)


@settings(deadline=None)
@given(
    sizes_of_documents, st.integers(0, 99), st.sampled_from([8, 20, 64]), st.sampled_from([0.1, 1])
)
def test_pairs_equal_the_rules_step_by_step(sizes, seed, length, short):
    documents = make_documents(sizes)
    expected = plain_pairs(documents, length, 0.5, short, random.Random(seed))
    pairs = cut(documents, seed, length, 0.5, short)
    assert [(p.a.tolist(), p.b.tolist(), p.label) for p in pairs] == expected
    assert all(len(p.a) and len(p.b) and len(p.a) + len(p.b) <= length - 3 for p in pairs)


def test_random_next_comes_out_above_its_probability():
    # A document of two sentences gives one true pair, or (first, random) and (second, random): with
    # one half each, 2 of 3 pairs are random.
    pairs = cut(make_documents([[5, 5]] * 4000), length=64)
    assert np.mean([p.label for p in pairs]) == pytest.approx(2 / 3, abs=0.015)


def test_a_single_sentence_always_gets_a_random_b():
    pairs = cut(make_documents([[5]] * 50), random_next=0.0)
    assert len(pairs) == 50 and all(p.label for p in pairs)
    assert all(p.a[0] // 5 != p.b[0] // 5 for p in pairs)  # of another document


def test_the_rest_of_a_chunk_is_put_back():
    documents = make_documents([[1] * 37, [1] * 50])
    pairs = cut(documents, random_next=1.0)
    assert all(p.label for p in pairs)
    assert np.concatenate([p.a for p in pairs]).tolist() == list(range(87))


def test_true_pairs_cover_a_document_once_in_order():
    pairs = cut(make_documents([[1] * 48]), random_next=0.0)  # three rows of 16
    assert [len(p.a) + len(p.b) for p in pairs] == [16, 16, 16]
    assert np.concatenate([[*p.a, *p.b] for p in pairs]).tolist() == list(range(48))
    assert len({len(p.a) for s in range(9) for p in cut(make_documents([[1] * 48]), s)}) > 5


def test_truncation_takes_from_the_longer_and_from_both_ends():
    firsts = []
    for seed in range(200):
        (pair,) = cut(make_documents([[60, 300]]), seed, length=67, random_next=0.0)
        assert len(pair.a) == len(pair.b) == 32
        firsts += [pair.a[0] / (60 - 32), (pair.b[0] - 60) / (300 - 32)]
    assert np.mean(firsts) == pytest.approx(0.5, abs=0.03)  # half of what is lost, from the front


def test_short_rows_are_drawn_once_for_a_document():
    documents = make_documents([[1] * 200] * 30)
    lengths = {}
    for p in cut(documents, length=23, random_next=0.0, short_seq_prob=1.0):
        lengths.setdefault(p.a[0] // 200, []).append(len(p.a) + len(p.b))
    assert all(len(set(of_one[:-1])) == 1 for of_one in lengths.values())
    targets = [of_one[0] for of_one in lengths.values()]
    assert len(set(targets)) > 8 and 2 <= min(targets) and max(targets) <= 20
    share = [cut(documents[:1], seed, 23, 0.0, 0.1)[0] for seed in range(2000)]
    # 0.1, of which 1 in 19 draws the full length.
    expected = 0.1 * 18 / 19
    assert np.mean([len(p.a) + len(p.b) < 20 for p in share]) == pytest.approx(expected, abs=0.02)


@given(sizes_of_documents, st.integers(2, 30))
def test_stream_predicts_every_token_once(sizes, length):
    documents = make_documents(sizes)
    stream = [-1] + [t for tokens, _ in documents for t in (*tokens.tolist(), -1)]
    windows = list(formats.token_stream(documents, length=length, eot_id=-1))
    assert [t for w in windows for t in w[1:].tolist()] == stream[1:]
    assert all(w[0] == v[-1] for v, w in itertools.pairwise(windows))
    assert all(len(w) == length + 1 for w in windows[:-1]) and 2 <= len(windows[-1]) <= length + 1


def test_pieces_end_where_documents_end():
    documents = make_documents([[3], [4, 4]])
    pieces = formats.document_pieces(documents, length=6, eot_id=-1)
    expected = [[-1, 0, 1, 2, -1], [-1, 3, 4, 5, 6, 7, 8], [8, 9, 10, -1]]
    assert [p.tolist() for p in pieces] == expected


# The other formats


def rules(length=19, negatives="none", rate=0.0, short=0.0, separators=1):
    return formats.Rules(length, -1, separators, negatives, rate, short)


def make(name, documents, rules, seed=0):
    return list(formats.FORMATS[name](documents, rules, random.Random(seed)))


def joined(examples):
    return [t for e in examples for t in (*e.a, *(() if e.b is None else e.b))]


@given(sizes_of_documents, st.sampled_from([8, 20, 64]))
def test_full_and_doc_sentences_hold_every_token_once(sizes, length):
    documents = make_documents(sizes)
    everything = list(range(sum(map(sum, sizes))))
    ends = np.cumsum([sum(s) for s in sizes])
    for name in ("full_sentences", "doc_sentences"):
        examples = make(name, documents, rules(length))
        assert all(e.b is None and 0 < len(e.a) <= length - 2 for e in examples)
        assert [t for t in joined(examples) if t >= 0] == everything
        for e in examples:
            documents_of = np.searchsorted(ends, [t for t in e.a if t >= 0], side="right")
            borders = (np.diff(documents_of) > 0).sum()
            assert list(e.a).count(-1) == borders  # a separator between documents, nowhere else
            assert name == "full_sentences" or borders == 0


def test_full_sentences_break_between_sentences():
    examples = make("full_sentences", make_documents([[4, 4, 4], [9]]), rules(12))
    assert [e.a.tolist() for e in examples] == [
        [0, 1, 2, 3, 4, 5, 6, 7],  # a third sentence would make 12, and there is room for 10
        [8, 9, 10, 11],
        list(range(12, 21)),
    ]
    one = make("full_sentences", make_documents([[2], [3]]), rules(12))
    assert [e.a.tolist() for e in one] == [[0, 1, -1, 2, 3, 4]]


@pytest.mark.parametrize("name", formats.LABELED)
@pytest.mark.parametrize("separators", [1, 2])
def test_lengths_and_labels_of_pairs(name, separators):
    documents = make_documents([[5] * 7, [9], [30, 2, 40]] * 50)
    for negatives in formats.NEGATIVES:
        r = rules(20, negatives, 0.5, separators=separators)
        for e in make(name, documents, r):
            if e.b is None:
                assert negatives == "none" and not e.label and 0 < len(e.a) <= 18
            else:
                assert 0 < len(e.a) and 0 < len(e.b) <= 18 - separators - len(e.a)
            assert negatives != "none" or not e.label


def test_sentence_pairs_are_neighbours_or_random():
    documents = make_documents([[3] * 10] * 3000)
    examples = make("sentence_pairs", documents, rules(20, "random", 0.5))
    true = [e for e in examples if not e.label]
    assert all(len(e.a) == len(e.b) == 3 and e.b[0] == e.a[0] + 3 for e in true)
    assert all(e.a[0] // 30 != e.b[0] // 30 for e in examples if e.label)
    singles = [e for e in examples if e.a[0] % 30 == 27]
    assert singles and all(e.label for e in singles)
    drawn = [e.label for e in examples if e.a[0] % 30 != 27]
    assert abs(np.mean(drawn) - 0.5) < 3 * 0.5 / np.sqrt(len(drawn))


@pytest.mark.parametrize("name", formats.LABELED)
def test_half_of_the_pairs_are_swapped(name):
    documents = make_documents([[4] * 40] * 1500)
    examples = make(name, documents, rules(27, "swapped", 0.5))
    labels = np.array([e.label for e in examples])
    assert abs(labels.mean() - 0.5) < 3 * 0.5 / np.sqrt(len(labels))
    assert all((e.b[0] > e.a[-1]) != e.label for e in examples)
    assert all(e.a[0] // 160 == e.b[0] // 160 for e in examples)
    (alone,) = make(name, make_documents([[4], [4, 4]])[:1] * 2, rules(27, "swapped", 0.0))[:1]
    assert alone.label  # a single sentence gets a B from elsewhere


def test_two_segments_follow_electra():
    documents = make_documents([[6] * 60] * 400)
    examples = make("two_segments", documents, rules(67))
    whole = [e for e in examples if len(joined([e])) > 40]
    single = np.array([e.b is None for e in whole])
    assert abs(single.mean() - 0.1) < 3 * np.sqrt(0.09 / len(single))
    # (67 - 3) // 2 = 32 tokens: five sentences, and a sixth half of the time.
    firsts = np.array([len(e.a) for e in whole if e.b is not None])
    assert set(firsts) == {30, 36}
    assert abs((firsts == 36).mean() - 0.5) < 3 * 0.5 / np.sqrt(len(firsts))
    for e in examples:
        tokens = joined([e])
        assert tokens == list(range(tokens[0], tokens[0] + len(tokens)))  # cut at the end only
        assert len(tokens) <= (65 if e.b is None else 64) and not e.label
    short = make("two_segments", documents, rules(67, short=1.0))
    lengths = [len(joined([e])) for e in short]
    assert len(set(lengths)) > 8 and max(lengths) <= 65
