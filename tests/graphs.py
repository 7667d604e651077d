"""A graph that tells the answers of questions whose words do not, for tests of KagNet."""

import json
import string

import numpy as np

from data_pipeline.knowledge import relations, store

PLACES = [f"{x}place" for x in "abcdef"]
THINGS = [f"{a}{b}thing" for a in string.ascii_lowercase[:12] for b in string.ascii_lowercase[:10]]
QUESTION = "where does the {} stay"
WORDS = [*QUESTION.split(), *THINGS, *PLACES]


def folder(path, width=16):
    """A store: each thing is at one place, and related to two others; vectors by their classes."""
    rng = np.random.default_rng(0)
    entities, names = [*PLACES, *THINGS], list(relations.MERGED)
    first = len(PLACES)
    at, to = names.index("atlocation"), names.index("relatedto")
    home = rng.integers(0, first, len(THINGS))
    triples = []
    for i, place in enumerate(home.tolist()):
        others = (place + 1 + rng.permutation(first - 1)[:2]) % first
        triples += [(first + i, at, place), *((first + i, to, int(x)) for x in others)]
    vectors = rng.normal(size=(len(entities), width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    towards = rng.normal(size=(len(names), width)) / 4
    made = store.Store(
        entities,
        names,
        np.array(triples, np.int32),
        vectors.astype(np.float32),
        towards.astype(np.float32),
    )
    store.save(path, made)
    return home


def questions(path, home, *, unknown=False):
    """CommonsenseQA 1.0: things of the dev file are in no training question.

    The wrong choices are the two places that the thing is merely related to. With `unknown` the dev
    file ends with a question of which the graph knows nothing.
    """
    path.mkdir(parents=True, exist_ok=True)
    rng, read = np.random.default_rng(1), store.load(path.parent / "graph")
    order = rng.permutation(len(THINGS))
    for split, chosen in (("train", order[:88]), ("dev", order[88:])):
        lines = []
        for i in chosen.tolist():
            row = read.triples[read.triples[:, 0] == len(PLACES) + i]
            options = rng.permutation(row[:, 2])
            answer = "ABC"[int(np.flatnonzero(options == home[i])[0])]
            texts = [{"label": x, "text": PLACES[o]} for x, o in zip("ABC", options, strict=True)]
            stem = QUESTION.format(THINGS[i])
            question = {"stem": stem, "choices": texts}
            lines.append(json.dumps({"id": str(i), "question": question, "answerKey": answer}))
        if unknown and split == "dev":
            texts = [{"label": x, "text": "stay"} for x in "ABC"]
            question = {"stem": "where does the stay", "choices": texts}
            lines.append(json.dumps({"id": "x", "question": question, "answerKey": "A"}))
        (path / f"{split}_rand_split.jsonl").write_text("\n".join(lines) + "\n")
