import dataclasses

import numpy as np
import pytest

from data_pipeline import noise

BERT = noise.Masking(
    rate=0.15, max_predictions=20, mask=0.8, random=0.1, ngram=1, mask_id=4, vocab_size=1000
)


def rows(B=2000, T=128, seed=0):
    """Rows of 100 to 128 tokens, of which 0 is padding and 2 (two of them) is special."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(100, T + 1, B)
    tokens = rng.integers(10, 1000, (B, T)) * (np.arange(T) < lengths[:, None])
    tokens[:, [0, 50]] = 2
    return tokens, lengths, tokens > 2


def mask(tokens, lengths, candidates, *, starts=None, epoch=0, first=0, masking=BERT):
    keys = noise.make_keys(7, epoch, first + np.arange(len(tokens)))
    starts = candidates if starts is None else starts
    return noise.mask_tokens(tokens, lengths, candidates, starts, keys, masking)


def test_numbers_of_predictions_and_their_places():
    tokens, lengths, candidates = rows()
    out = mask(tokens, lengths, candidates)
    counts = out.weights.sum(axis=1)
    assert counts.tolist() == np.minimum(20, np.rint(0.15 * lengths)).tolist()
    real = out.weights > 0
    assert (np.diff(real.astype(int), axis=1) <= 0).all()  # real ones first
    np.testing.assert_array_equal(out.masked_positions[~real], 0)
    np.testing.assert_array_equal(out.targets[~real], 0)
    assert (np.diff(out.masked_positions, axis=1)[real[:, 1:]] > 0).all()
    rows_of = np.nonzero(real)[0]
    chosen = np.zeros(tokens.shape, bool)
    chosen[rows_of, out.masked_positions[real]] = True
    assert not (chosen & ~candidates).any()
    np.testing.assert_array_equal(tokens[chosen], out.targets[real])
    np.testing.assert_array_equal(np.where(chosen, 0, out.tokens), np.where(chosen, 0, tokens))


def test_all_candidates_are_chosen_equally_often():
    tokens = np.full((20000, 40), 11)
    out = mask(tokens, np.full(20000, 40), tokens > 0)
    counts = np.bincount(out.masked_positions[out.weights > 0], minlength=40)
    assert counts.sum() == 20000 * 6
    assert np.abs(counts / 3000 - 1).max() < 0.08  # 4 sigma


def test_eighty_ten_ten():
    tokens, lengths, candidates = rows(20000)
    out = mask(tokens, lengths, candidates)
    real = out.weights > 0
    given = np.take_along_axis(out.tokens, out.masked_positions, axis=1)[real]
    kept = given == out.targets[real]
    masked = given == BERT.mask_id
    assert masked.mean() == pytest.approx(0.8, abs=0.003)
    assert kept.mean() == pytest.approx(0.1, abs=0.003)
    # Random tokens are uniform over the whole vocabulary, special tokens included.
    others = np.bincount(given[~kept & ~masked], minlength=1000)
    assert others.sum() / len(given) == pytest.approx(0.1, abs=0.003)
    others = np.delete(others, BERT.mask_id)
    chi_square = ((others - others.mean()) ** 2 / others.mean()).sum()
    assert chi_square < 998 + 4 * np.sqrt(2 * 998)
    assert others[:10].sum() > 0


@pytest.mark.parametrize("share", [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_other_shares(share):
    tokens, lengths, candidates = rows(200)
    masking = dataclasses.replace(BERT, mask=share[0], random=share[1])
    out = mask(tokens, lengths, candidates, masking=masking)
    given = np.take_along_axis(out.tokens, out.masked_positions, axis=1)[out.weights > 0]
    kept = given == out.targets[out.weights > 0]
    assert (given == 4).all() if share[0] else (given != 4).any()
    assert kept.mean() < 0.02 if share[1] else kept.all() or share[0]


def test_whole_words_are_chosen_whole():
    tokens, lengths, candidates = rows()
    starts = candidates & ((tokens % 3 > 0) | ~np.pad(candidates[:, :-1], ((0, 0), (1, 0))))
    out = mask(tokens, lengths, candidates, starts=starts)
    words = np.where(candidates, np.cumsum(starts, axis=1), 0)
    budget = np.minimum(20, np.rint(0.15 * lengths))
    short = 0
    for row in range(len(tokens)):
        chosen = out.masked_positions[row][out.weights[row] > 0]
        picked = set(words[row, chosen].tolist())
        assert len(chosen) == np.isin(words[row], list(picked)).sum()
        assert len(chosen) <= budget[row]
        short += len(chosen) < budget[row]
    assert short < 0.02 * len(tokens)  # some single-token word nearly always fills the last place


# n-grams (ALBERT)

SPANS = dataclasses.replace(BERT, max_predictions=77, ngram=3)


def chosen_words(out, words):
    """[B, words + 1] bool; word 0 stands for what is no candidate."""
    found = np.zeros((len(words), words.max() + 1), bool)
    row, i = np.nonzero(out.weights)
    found[row, words[row, out.masked_positions[row, i]]] = True
    return found


def plain_ngrams(sizes, follows, room, order, draws, ngram):
    """ALBERT's create_pretraining_data.py for one row, on lists."""
    masked, covered = 0, set()
    for word, u in zip(order, draws, strict=True):
        if masked >= room or word >= len(sizes):
            continue
        available = [[word]]
        while len(available) < ngram and word + len(available) < len(sizes):
            if not follows[word + len(available)]:
                break
            available.append([*available[-1], word + len(available)])
        p = np.array([1 / n for n in range(1, len(available) + 1)])
        n = 1 + int((u >= np.cumsum(p / p.sum())[:-1]).sum())
        while n > 1 and masked + sum(sizes[w] for w in available[n - 1]) > room:
            n -= 1
        span = available[n - 1]
        size = sum(sizes[w] for w in span)
        if masked + size > room or covered & set(span):
            continue
        covered |= set(span)
        masked += size
    return covered


def test_ngrams_equal_the_rules_step_by_step():
    rng = np.random.default_rng(3)
    tokens, lengths, candidates = rows(300, seed=1)
    starts = candidates & (
        (rng.random(tokens.shape) < 0.7) | ~np.pad(candidates[:, :-1], ((0, 0), (1, 0)))
    )
    keys = noise.make_keys(7, 0, np.arange(len(tokens)))
    out = noise.mask_tokens(tokens, lengths, candidates, starts, keys, SPANS)
    choice = noise.fold_in(keys, 0)
    order = np.argsort(noise.random_bits(choice, 128), axis=1)
    draws = noise.uniform(noise.fold_in(keys, 3), 128)
    words = np.where(candidates, np.cumsum(starts, axis=1), 0)
    found = chosen_words(out, words)
    for row in range(len(tokens)):
        sizes = np.bincount(words[row])[1:].tolist()
        first = np.nonzero(starts[row])[0]
        follows = [i > 0 and bool(candidates[row, i - 1]) for i in first]
        room = min(77, max(1, round(0.15 * lengths[row])))
        expected = plain_ngrams(sizes, follows, room, order[row], draws[row], 3)
        assert set(np.nonzero(found[row, 1:])[0]) == expected


def test_lengths_of_ngrams_over_a_million_tokens():
    """6/11, 3/11, 2/11 for 1, 2, 3 words, where neither budget nor neighbours are in the way."""
    B, T = 8000, 128
    tokens = np.full((B, T), 11)
    # Room for one n-gram of any length in each row, then there is none left.
    masking = dataclasses.replace(SPANS, rate=3 / T)
    keys = noise.make_keys(5, 0, np.arange(B))
    out = noise.mask_tokens(tokens, np.full(B, T), tokens > 0, tokens > 0, keys, masking)
    order = np.argsort(noise.random_bits(noise.fold_in(keys, 0), T), axis=1)
    first, row = order[:, 0], np.arange(B)
    chosen = np.zeros((B, T + 3), bool)
    at, i = np.nonzero(out.weights)
    chosen[at, out.masked_positions[at, i]] = True
    inside = first < T - 3
    # The first n-gram begins at `first`; a later one of the same row may lie beside it, so n is
    # read from its draw only where the words around are unchosen.
    draw = noise.uniform(noise.fold_in(keys, 3), T)[:, 0]
    n = 1 + (draw[:, None] * (11 / 6) >= np.array([1, 1.5])).sum(axis=1)
    for k in range(3):
        assert chosen[row, first + k][inside & (k < n)].all()
    n = n[inside]
    for length, p in ((1, 6 / 11), (2, 3 / 11), (3, 2 / 11)):
        error = np.sqrt(p * (1 - p) / len(n))
        assert abs((n == length).mean() - p) < 3 * error
    # All of the budget is used, by whole n-grams.
    assert (out.weights.sum(axis=1) == 3).all()


def test_ngrams_stay_in_their_segment():
    tokens = np.full((3000, 40), 11)
    tokens[:, ::2] = 2  # no candidate has a neighbour
    masking = dataclasses.replace(SPANS, rate=0.2)
    out = mask(tokens, np.full(3000, 40), tokens > 2, masking=masking)
    assert (out.weights.sum(axis=1) == 8).all()
    assert (out.masked_positions[out.weights > 0] % 2 == 1).all()


def within(share, p, n):
    return abs(share - p) < 3 * np.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize("ngram", [1, 3])
def test_rates_over_a_million_tokens(ngram):
    """15 % of the tokens; of these 80, 10 and 10 %."""
    B, T = 10_000, 120
    tokens = np.random.default_rng(0).integers(10, 1000, (B, T))
    masking = dataclasses.replace(SPANS, ngram=ngram)
    out = mask(tokens, np.full(B, T), tokens > 0, masking=masking)
    real = out.weights > 0
    assert real.sum() == B * 18  # exactly 0.15 x 120 in every row
    given = np.take_along_axis(out.tokens, out.masked_positions, axis=1)[real]
    kept, masked = given == out.targets[real], given == 4
    n = real.sum()
    assert within(masked.mean(), 0.8 + 0.1 / 1000, n)
    assert within(kept.mean(), 0.1 + 0.1 / 1000, n)
    assert within((~kept & ~masked).mean(), 0.1 * 998 / 1000, n)


def test_a_word_beyond_the_budget_is_skipped():
    tokens = np.full((50, 10), 11)
    starts = np.zeros((50, 10), bool)
    starts[:, [0, 6, 7, 8, 9]] = True  # one word of 6 tokens, 4 words of one
    masking = dataclasses.replace(BERT, rate=0.3)
    out = mask(tokens, np.full(50, 10), tokens > 0, starts=starts, masking=masking)
    assert (out.weights.sum(axis=1) == 3).all()
    assert out.masked_positions[out.weights > 0].min() >= 6


def test_short_and_empty_rows():
    tokens = np.array([[2, 11, 2, 12, 2], [0, 0, 0, 0, 0]])
    out = mask(tokens, np.array([5, 0]), tokens > 2)
    assert out.weights.sum(axis=1).tolist() == [1, 0]  # max(1, round(0.75)); nothing to choose
    np.testing.assert_array_equal(out.tokens[1], 0)


def test_a_row_does_not_depend_on_its_neighbours():
    batch = rows(64)
    whole = mask(*batch)
    for first in (0, 13, 63):
        alone = mask(*(x[first : first + 1] for x in batch), first=first)
        for a, b in zip(whole, alone, strict=True):
            np.testing.assert_array_equal(a[first : first + 1], b)


def test_epochs_and_seeds_are_different_and_repeatable():
    batch = rows(64)
    again, other = mask(*batch), mask(*batch, epoch=1)
    np.testing.assert_array_equal(mask(*batch).tokens, again.tokens)
    assert (again.masked_positions != other.masked_positions).mean() > 0.7


def test_random_numbers_are_pinned():
    # The published first numbers of SplitMix64 from the seed 1234567.
    expected = [[6457827717110365317, 3203168211198807973, 9817491932198370423]]
    np.testing.assert_array_equal(noise.random_bits(np.array([1234567], np.uint64), 3), expected)
    # Ours; another value means other data for every run that is resumed.
    expected = [[3064208227166558636], [17567015044168434410]]
    np.testing.assert_array_equal(noise.random_bits(noise.make_keys(1, 2, [3, 4]), 1), expected)


def test_random_bits_look_random():
    keys = noise.make_keys(0, 0, np.arange(4000))
    u = noise.uniform(keys, 50)
    assert 0 <= u.min() and u.max() < 1
    assert u.mean() == pytest.approx(0.5, abs=0.003) and u.var() == pytest.approx(1 / 12, abs=0.001)
    u = u - u.mean()
    for neighbours in (u[1:] * u[:-1], u[:, 1:] * u[:, :-1]):  # records; numbers of one record
        assert abs(neighbours.mean()) < 4 / 12 / np.sqrt(neighbours.size)
    bits = noise.random_bits(keys, 50)
    ones = [((bits >> np.uint64(i)) & np.uint64(1)).mean() for i in range(64)]
    np.testing.assert_allclose(ones, 0.5, atol=0.006)


@pytest.mark.parametrize("size", [*range(1, 20), 255, 256, 257, 5000])
def test_shuffled_is_a_permutation(size):
    place = noise.shuffled(np.arange(size), size, noise.make_keys(0, 0))
    assert sorted(place.tolist()) == list(range(size))


def test_permutations_are_different_and_without_order():
    index = np.arange(5000)
    one, two = (noise.shuffled(index, 5000, noise.make_keys(0, epoch)) for epoch in range(2))
    assert (one == two).mean() < 0.002 and (one == index).mean() < 0.002
    for x, y in ((one, two), (one, index), (one[1:], one[:-1])):
        assert abs(np.corrcoef(x, y)[0, 1]) < 0.06  # 4 sigma
    mixed = noise.shuffled(index, 5000, noise.make_keys(0, index % 2))  # a key for each
    np.testing.assert_array_equal(mixed, np.where(index % 2, two, one))


def test_big_sets_need_no_memory():
    place = noise.shuffled(np.arange(100), 10**12, noise.make_keys(3))
    assert len(set(place.tolist())) == 100 and place.max() > 10**11 and place.max() < 10**12


def test_words_that_share_their_fate():
    tokens, lengths, candidates = rows()
    starts = candidates & (np.arange(128) % 3 == 0)
    starts[:, [1, 51]] = True  # behind special tokens
    masking = dataclasses.replace(BERT, together=True, random=0.0)
    out = mask(tokens, lengths, candidates, starts=starts, masking=masking)
    masked = out.tokens == 4
    inside = candidates & ~starts
    pairs = np.nonzero(inside)
    np.testing.assert_array_equal(masked[pairs], masked[pairs[0], pairs[1] - 1])
    chosen = np.zeros(tokens.shape, bool)
    chosen[np.nonzero(out.weights)[0], out.masked_positions[out.weights > 0]] = True
    assert masked[chosen].mean() == pytest.approx(0.8, abs=0.02)
    apart = mask(tokens, lengths, candidates, starts=starts)
    assert (apart.tokens == 4)[pairs].sum() != masked[pairs].sum()


def test_wrong_entities_are_as_many_as_asked_for():
    """5 % another one, 15 % none, 80 % as it was (ERNIE, section 3.4)."""
    rng = np.random.default_rng(0)
    entities = rng.integers(1, 8, (4000, 32)) * (rng.random((4000, 32)) < 0.25)
    numbers = noise.Misalignment(replace=0.05, drop=0.15, predictions=6, entities=7)
    keys = noise.make_keys(3, np.arange(4000))
    out = noise.misalign(entities, keys, numbers)
    there = entities > 0
    assert (out.entities[~there] == 0).all() and out.entities.max() == 7
    now, before = out.entities[there], entities[there]
    assert (now == 0).mean() == pytest.approx(0.15, abs=0.005)
    assert (now == before).mean() == pytest.approx(0.80, abs=0.005)
    others = (now - before)[(now > 0) & (now != before)] % 7
    assert np.bincount(others, minlength=7)[1:].std() / len(others) < 0.02  # each as often
    weights = out.entity_weights > 0
    np.testing.assert_array_equal(weights.sum(axis=1), np.minimum(there.sum(axis=1), 6))
    rows_of, _ = np.nonzero(weights)
    np.testing.assert_array_equal(
        out.entity_targets[weights], entities[rows_of, out.entity_positions[weights]]
    )
    assert (np.diff(out.entity_positions, axis=1)[weights[:, 1:]] > 0).all()
    # A row has its noise wherever it stands.
    part = noise.misalign(entities[7:9], keys[7:9], numbers)
    np.testing.assert_array_equal(part.entities, out.entities[7:9])
    one = noise.misalign(np.ones((9, 9), int), keys[:9], dataclasses.replace(numbers, entities=1))
    assert set(one.entities.ravel()) <= {0, 1}


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_epochs_are_shuffled_alike_however_the_indices_are_asked_for(size):
    index = np.concatenate([np.arange(4090, 4200), [3, 10**9, 3]])
    epochs, places = np.divmod(index, size)
    expected = noise.shuffled(places, size, noise.make_keys(5, 0, epochs))
    np.testing.assert_array_equal(noise.shuffled_epochs(index, size, 5), expected)
    epoch = noise.shuffled_epochs(np.arange(size, 2 * size), size, 5)
    np.testing.assert_array_equal(np.sort(epoch), np.arange(size))
