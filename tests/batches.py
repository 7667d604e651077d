"""Random batches of any shape for tests of networks and steps."""

import numpy as np


def masked_lm(rows, length, predictions, vocab, *, seed=0, padding=0):
    """A batch of segment pairs whose last `padding` tokens are padding."""
    rng = np.random.default_rng(seed)
    ids = np.ones((rows, length), np.int32)
    ids[:, length - padding :] = 0
    order = np.argsort(rng.random((rows, length - padding)), axis=1)[:, :predictions]
    types = np.zeros((rows, length), np.int32)
    types[:, length // 2 : length - padding] = 1
    return {
        "tokens": rng.integers(5, vocab, (rows, length)).astype(np.int32) * ids,
        "token_types": types,
        "segment_ids": ids,
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "masked_positions": np.sort(order, axis=1).astype(np.int32),
        "targets": rng.integers(5, vocab, (rows, predictions)).astype(np.int32),
        "weights": (rng.random((rows, predictions)) < 0.8).astype(np.float32),
        "pair_positions": np.zeros((rows, 1), np.int32),
        "pair_labels": rng.integers(0, 2, (rows, 1)).astype(np.int32),
        "pair_weights": np.ones((rows, 1), np.float32),
    }


def seq2seq_lm(rows, length, targets, vocab, *, seed=0, padding=0):
    """A batch of inputs and targets whose last `padding` tokens are padding, on both sides."""
    rng = np.random.default_rng(seed)
    ids, decoder_ids = np.ones((rows, length), np.int32), np.ones((rows, targets), np.int32)
    ids[:, length - padding :] = decoder_ids[:, targets - padding :] = 0
    words = rng.integers(3, vocab, (rows, targets)).astype(np.int32) * decoder_ids
    return {
        "tokens": rng.integers(3, vocab, (rows, length)).astype(np.int32) * ids,
        "segment_ids": ids,
        "decoder_tokens": np.pad(words[:, :-1], ((0, 0), (1, 0))),
        "decoder_segment_ids": decoder_ids,
        "targets": words,
        "weights": decoder_ids.astype(np.float32),
    }


def causal_lm(rows, length, vocab, *, seed=0):
    """A batch of token windows."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab, (rows, length + 1)).astype(np.int32)
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": np.ones((rows, length), np.float32),
        "segment_ids": np.ones((rows, length), np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
    }


def permutation_lm(
    rows, length, predictions, vocab, *, seed=0, padding=0, memory=0, reversed=False
):
    """A batch of two segments in a random order, the last `padding` tokens being padding.

    What is not predicted ranks -1, but for every third of the other tokens, which rank among them.
    """
    rng = np.random.default_rng(seed)
    ids = np.ones((rows, length), np.int32)
    ids[:, length - padding :] = 0
    order = np.argsort(rng.random((rows, length - padding)), axis=1)
    rank = np.full((rows, length), -1)
    np.put_along_axis(rank, order, np.tile(np.arange(length - padding), (rows, 1)), axis=1)
    positions = np.sort(order[:, :: max(1, (length - padding) // predictions)][:, :predictions], 1)
    ranked = np.tile(np.arange(length) % 3 == 0, (rows, 1))
    np.put_along_axis(ranked, positions, True, axis=1)
    tokens = rng.integers(5, vocab, (rows, length))
    types = np.zeros((rows, length), int)
    types[:, length // 2 :] = 1
    batch = {
        "tokens": tokens * ids,
        "token_types": types,
        "segment_ids": ids,
        "positions": np.tile(np.arange(length), (rows, 1)),
        "rank": np.where(ranked, rank, -1),
        "masked_positions": positions,
        "targets": np.take_along_axis(tokens, positions, axis=1),
    }
    if memory:
        batch["memory_tokens"] = rng.integers(5, vocab, (rows, memory))
        batch["memory_segment_ids"] = np.ones((rows, memory))
    if reversed:
        batch["reversed"] = np.arange(rows) >= rows // 2
    weights = (rng.random((rows, predictions)) < 0.8).astype(np.float32)
    weights[:, 0] = 1
    return {name: value.astype(np.int32) for name, value in batch.items()} | {"weights": weights}


def choices(rows, choices, length, vocab, *, seed=0):
    """A batch of questions: row 0 lacks its last choice, the last row is padding.

    Each choice has its own number of tokens, and two token types.
    """
    rng = np.random.default_rng(seed)
    sizes = rng.integers(4, length + 1, (rows, choices))
    sizes[0, -1] = sizes[-1] = 0
    place = np.broadcast_to(np.arange(length), (rows, choices, length))
    real = place < sizes[..., None]
    fields = {
        "tokens": rng.integers(5, vocab, place.shape) * real,
        "token_types": real & (place >= 3),
        "segment_ids": real,
        "positions": place * real,
    }
    batch = {name: x.reshape(rows, -1).astype(np.int32) for name, x in fields.items()}
    return batch | {
        "pair_positions": np.tile(length * np.arange(choices, dtype=np.int32), (rows, 1)),
        "label": rng.integers(0, choices - 1, rows).astype(np.int32),
        "example_weights": (np.arange(rows) < rows - 1).astype(np.float32),
    }


def sequences(rows, parts, length, vocab, *, seed=0):
    """Rows of `parts` sequences of several lengths side by side; the last row is padding."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(4, length + 1, (rows, parts))
    sizes[-1] = 0
    place = np.broadcast_to(np.arange(length), (rows, parts, length))
    real, predicts = place < sizes[..., None], place < sizes[..., None] - 1
    tokens = rng.integers(1, vocab, place.shape) * real
    row = lambda x, kind=np.int32: x.reshape(rows, -1).astype(kind)  # noqa: E731
    return {
        "tokens": row(tokens),
        "segment_ids": row(real),
        "positions": row(place * real),
        "targets": row(np.roll(tokens, -1, -1) * predicts),
        "weights": row(predicts, np.float32),
        "pair_positions": (np.arange(parts) * length + np.maximum(sizes - 1, 0)).astype(np.int32),
        "label": rng.integers(0, 2, rows).astype(np.int32),
        "score": rng.uniform(0, 5, rows).astype(np.float32),
        "example_weights": (np.arange(rows) < rows - 1).astype(np.float32),
    }


def knowledge(rows, count, length, vocab, entities, relations, *, seed=0, sizes=(8, 4, 6, 2)):
    """A batch of `choices` with a graph beside each; the first choice of row 1 has no pair.

    `sizes` are those of the axes N, J, K and L. Some places, pairs, paths and hops are empty.
    """
    n, j, k, hops = sizes
    rng = np.random.default_rng(seed)
    shape = rows, count
    there = rng.integers(3, n, shape)  # concepts, from place 1
    place = np.arange(n)
    concepts = rng.integers(1, entities + 1, (*shape, n))
    concepts *= (place > 0) & (place <= there[..., None])
    edges = np.triu(rng.random((*shape, n, n)) < 0.5, 1)
    edges &= (concepts > 0)[..., None] & (concepts > 0)[..., None, :]
    pairs = rng.integers(1, j + 1, shape)
    pairs[1, 0] = 0
    of_pair = (np.arange(j) < pairs[..., None]).astype(int)
    path_pair = rng.integers(0, pairs[..., None] + 1, (*shape, k))
    lengths = rng.integers(1, hops + 1, (*shape, k)) * (path_pair > 0)
    real = np.arange(hops) < lengths[..., None]

    def some(*more):
        return 1 + rng.integers(0, there.reshape(*shape, *[1] * len(more)), (*shape, *more))

    batch = {
        "concepts": concepts,
        "pair_question": some(j) * of_pair,
        "pair_answer": some(j) * of_pair,
        "path_pair": path_pair,
        "path_heads": some(k, hops) * real,
        "path_relations": rng.integers(1, 2 * relations + 1, (*shape, k, hops)) * real,
        "path_tails": some(k, hops) * real,
    }
    batch = {name: x.astype(np.int32) for name, x in batch.items()}
    batch["concept_edges"] = (edges | edges.swapaxes(2, 3)).astype(np.int8)
    return choices(rows, count, length, vocab, seed=seed) | batch


def entity_lm(rows, length, predictions, vocab, *, seed=0, padding=0, entities=20, mentions=3):
    """The batch of `masked_lm` with mentions: the last row has none, the one before a single one.

    Of each row the input has a wrong entity at its first mention and none at its second.
    """
    rng = np.random.default_rng(seed + 1)
    batch = masked_lm(rows, length, predictions, vocab, seed=seed, padding=padding)
    order = np.argsort(rng.random((rows, length - padding - 1)), axis=1)[:, :mentions] + 1
    targets = rng.integers(1, entities + 1, order.shape)
    weights = np.ones(order.shape, np.float32)
    weights[-1] = weights[-2:-1, 1:] = 0
    order, targets = (np.where(weights > 0, x, 0).astype(np.int32) for x in (order, targets))
    given = np.where(weights > 0, targets, 0)
    given[:-2, 0], given[:-2, 1] = targets[:-2, 0] % entities + 1, 0
    fields = np.zeros((rows, length), np.int32)
    np.put_along_axis(fields, order, given, axis=1)
    fields[:, 0] = 0
    return batch | {
        "entities": fields,
        "entity_positions": order,
        "entity_targets": targets,
        "entity_weights": weights,
    }
