import concurrent.futures
import dataclasses
import hashlib
import multiprocessing
import pickle

import numpy as np
import pytest
from array_record.python import array_record_module

from configs import common
from data_pipeline import example_records, pipeline, records
from errors import UserError
from model import batch as batches


@dataclasses.dataclass(frozen=True)
class SmallCorpus:
    """What `prepare_examples` asks of a corpus."""

    paths: dict
    manifest: dict

    def shards(self, split):
        return [str(path) for path in self.paths[split]]


@pytest.fixture
def small_corpus(tmp_path, documents):
    """Three shards of 18 documents for training, one of 6 held out."""
    paths = {
        "train": [tmp_path / f"train-{i:05d}.array_record" for i in range(3)],
        "valid": [tmp_path / "valid-00000.array_record"],
    }
    for i, path in enumerate([*paths["train"], *paths["valid"]]):
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for tokens, lengths in documents[18 * i : 18 * (i + 1)]:
            writer.write(records.encode_arrays(tokens, lengths))
        writer.close()
    return SmallCorpus(paths, {"documents": 60})


@pytest.fixture
def make(tmp_path, small_corpus, data, tokenizer):
    """Makes the train and valid records below tmp_path/cache."""

    def make_records(kind="masked_lm", seed=0, **options):
        made = pipeline.PIPELINES[kind](data, tokenizer)
        return made, example_records.prepare_examples(
            small_corpus, made, tmp_path / "cache", seed=seed, **options
        )

    return make_records


@pytest.fixture
def train_and_valid(make):
    made, records = make(workers=1)
    return [pipeline.Dataset(made, records[s], 0, s == "train") for s in ("train", "valid")]


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


# Example records


def test_examples_are_made_once(make, data, tmp_path):
    calls = []
    make(workers=1, progress=lambda *call: calls.append(call))
    assert calls == [("examples", i, 4) for i in (1, 2, 3, 4)]
    (folder,) = (tmp_path / "cache").iterdir()
    times = {p: p.stat().st_mtime_ns for p in folder.iterdir() if p.suffix == ".array_record"}
    assert len(times) == 4
    data.masking.rate = 0.3  # noise is not in the records
    make(progress=lambda *call: calls.append(call))
    assert len(calls) == 4 and times == {p: p.stat().st_mtime_ns for p in times}
    make(workers=1, seed=1)
    data.format.passes = 2
    make(workers=1)
    data.length = 32
    make(workers=1)
    make("causal_stream", workers=1)
    assert len(list((tmp_path / "cache").iterdir())) == 5


def test_a_restart_makes_only_what_is_missing(make, tmp_path, monkeypatch):
    _, records = make(workers=1)
    (folder,) = (tmp_path / "cache").iterdir()
    whole = contents(folder)
    # As if killed in the third shard.
    lost = folder / "train-00002.array_record"
    kept = folder / "train-00001.array_record"
    (folder / "manifest.json").unlink()
    lost.rename(folder / "train-00002.array_record.17.tmp")
    before = kept.stat().st_mtime_ns
    calls = []
    _, again = make(workers=1, progress=lambda *call: calls.append(call))
    assert calls == [("examples", 4, 4)]
    assert kept.stat().st_mtime_ns == before
    assert contents(folder) == whole
    assert len(again["train"]) == len(records["train"])
    # All shards done, but killed before the manifest.
    (folder / "manifest.json").unlink()
    make(workers=1)
    assert contents(folder) == whole


def test_a_failure_leaves_no_half_file(make, data, tokenizer, tmp_path, monkeypatch):
    def write(self, documents, rng):
        yield b"12345678"
        raise KeyError("a bug")

    monkeypatch.setattr(pipeline.PIPELINES["masked_lm"], "write", write)
    with pytest.raises(KeyError):
        make(workers=1)
    (folder,) = (tmp_path / "cache").iterdir()
    assert not any(name.endswith((".array_record", ".json")) for name in contents(folder))


def test_processes_write_the_same_bytes(make, tmp_path):
    make(workers=1)
    (folder,) = (tmp_path / "cache").iterdir()
    alone = contents(folder)
    folder.rename(tmp_path / "alone")
    make(workers=2)
    assert contents(folder) == alone


def test_passes_cut_at_other_places_and_held_out_text_is_cut_once(make, data):
    counts = {}
    for data.format.passes in (1, 3):
        _, records = make(workers=1)
        counts[data.format.passes] = {s: len(records[s]) for s in records}
        train = [records["train"][i] for i in range(len(records["train"]))]
        assert len(set(train)) > 0.95 * len(train)
    assert counts[3]["valid"] == counts[1]["valid"] > 0
    assert counts[3]["train"] == pytest.approx(3 * counts[1]["train"], rel=0.1)


# Datasets


def digest(dataset, indices):
    rows = dataset.batch(indices)
    return hashlib.sha256(b"".join(rows[name].tobytes() for name in sorted(rows))).hexdigest()


def test_rows_are_a_pure_function_of_their_index(train_and_valid):
    for dataset in train_and_valid:
        n = len(dataset)
        indices = np.arange(n - 20, n + 20)  # the end of an epoch in the middle
        whole = dataset.batch(indices)
        batches.check(whole)
        for i in (0, 19, 20, 39):
            assert_equal(dataset.example(n - 20 + i), {k: v[i] for k, v in whole.items()})
        hosts = [dataset.batch(indices[20 * h : 20 * (h + 1)]) for h in range(2)]
        assert_equal({k: np.concatenate([h[k] for h in hosts]) for k in whole}, whole)
        assert_equal(pickle.loads(pickle.dumps(dataset)).batch(indices), whole)


def test_another_process_makes_the_same_rows(train_and_valid):
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
        for dataset in train_and_valid:
            assert pool.submit(digest, dataset, range(64)).result() == digest(dataset, range(64))


def unmasked(rows):
    """The rows' tokens before they were masked, as bytes: names of the records."""
    tokens = rows["tokens"].copy()
    row, i = np.nonzero(rows["weights"])
    tokens[row, rows["masked_positions"][row, i]] = rows["targets"][row, i]
    return [t.tobytes() for t in tokens]


@pytest.mark.parametrize("static", [False, True])
def test_epochs_shuffle_and_mask_anew(make, data, static):
    data.masking.static = static
    made, records = make(workers=1)
    dataset = pipeline.Dataset(made, records["train"], 0, True)
    n = len(dataset)
    epochs = [dataset.batch(np.arange(n) + e * n) for e in range(2)]
    names = [unmasked(rows) for rows in epochs]
    assert sorted(names[0]) == sorted(names[1])  # each record once an epoch
    assert names[0] != names[1]
    stored = unmasked(made.read([records["train"][i] for i in range(n)], np.ones(n, np.uint64)))
    assert sorted(stored) == sorted(names[0]) and stored != names[0]
    one, two = ({t.tobytes() for t in rows["tokens"]} for rows in epochs)
    assert one == two if static else len(one & two) < 0.1 * n
    other = pipeline.Dataset(made, records["train"], 1, True).batch(np.arange(n))
    assert unmasked(other) != names[0]


def test_held_out_rows_are_fixed_and_end(train_and_valid):
    _, valid = train_and_valid
    n = len(valid)
    rows = valid.batch(np.arange(n + 7))
    stored = [valid.records[i] for i in range(n)]
    assert unmasked(rows)[:n] == unmasked(valid.pipeline.read(stored, np.ones(n, np.uint64)))
    for name in ("segment_ids", "weights", "pair_weights"):
        assert rows[name][:n].any(axis=1).all() and not rows[name][n:].any()


# From a config


@pytest.fixture
def config(tmp_path):
    """A whole config for 300 documents of a few sentences each."""
    rng = np.random.default_rng(0)
    words = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in ("la", "mor", "nek", "s")]
    documents = [
        "\n".join(
            " ".join(rng.choice(words, rng.integers(4, 12))).capitalize() + "."
            for _ in range(rng.integers(2, 9))
        )
        for _ in range(300)
    ]
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(documents))
    config = common.base()
    config.batch_size = 16
    config.model.vocab_size, config.model.max_positions = 400, 64
    config.data.source, config.data.cache_dir = str(text), str(tmp_path / "cache")
    config.data.valid_fraction = 0.1
    config.data.tokenizer.vocab_size = 400
    config.data.pipeline, config.data.length = "masked_lm", 64
    return config


@pytest.mark.parametrize("kind", ["masked_lm", "causal_stream"])
def test_from_text_to_rows(config, tmp_path, kind):
    config.data.pipeline = kind
    if kind == "causal_stream":
        config.data.tokenizer.update({"kind": "byte_bpe", "lowercase": False})
    stages = set()
    data = pipeline.prepare_data(
        config, tmp_path / "run", progress=lambda stage, *_: stages.add(stage)
    )
    assert "examples" in stages
    for dataset in (data.train, data.valid):
        rows = dataset.batch(range(16))
        batches.check(rows)
        assert rows["weights"].sum() > 16 and rows["tokens"].max() < 400
    words = data.tokenizer.decode(data.train.batch(range(1))["targets"][0].tolist())
    assert any(part in words for part in ("la", "mor", "nek"))

    again = pipeline.prepare_data(config, tmp_path / "run", progress=pytest.fail)  # all is there
    assert_equal(again.train.batch(range(40)), data.train.batch(range(40)))
    assert again.tokenizer.fingerprint == data.tokenizer.fingerprint
    assert again.fingerprint == data.fingerprint
    with open(config.data.source, "a") as file:
        file.write("\n\nla mor nek.\n")
    assert pipeline.prepare_data(config, tmp_path / "run").fingerprint != data.fingerprint


def test_a_resumed_run_keeps_its_vocabulary(config, tmp_path):
    first = pipeline.prepare_data(config, tmp_path / "run")
    config.data.cache_dir = str(tmp_path / "another")  # where it would be trained anew
    second = pipeline.prepare_data(config, tmp_path / "run")
    assert second.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert_equal(second.train.batch(range(40)), first.train.batch(range(40)))

    config.data.tokenizer.kind = "byte_bpe"
    with pytest.raises(UserError, match="wordpiece vocabulary, not byte_bpe"):
        pipeline.prepare_data(config, tmp_path / "run")
    config.data.tokenizer.kind = "wordpiece"
    vocabulary = (tmp_path / "run" / "vocab.txt").read_text().splitlines()
    other = tmp_path / "vocab.txt"
    other.write_text("\n".join(vocabulary[:-1]) + "\n")
    config.data.tokenizer.path = str(other)
    config.model.vocab_size = len(vocabulary)
    with pytest.raises(UserError, match="give the same path or a new --workdir"):
        pipeline.prepare_data(config, tmp_path / "run")


def prepared(config, run):
    return digest(pipeline.prepare_data(config, run).train, range(32))


def test_two_processes_may_prepare_at_once(config, tmp_path):
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, spawn) as pool:
        both = [pool.submit(prepared, config, tmp_path / "run") for _ in range(2)]
        assert both[0].result() == both[1].result() == prepared(config, tmp_path / "run")


BAD = [
    ({"data.pipeline": "masked_ln"}, "Did you mean 'masked_lm'"),
    ({"data.length": 65}, "data.length=65 is longer than model.max_positions=64"),
    ({"model.vocab_size": 50}, "tokens but model.vocab_size is 50"),
    ({"batch_size": 100000}, "fewer than batch_size=100000"),
    ({"data.pipeline": "causal_stream"}, "data.tokenizer.kind=byte_bpe"),
    ({"data.masking.max_predictions": 100}, "max_predictions=100 must be between"),
]


@pytest.mark.parametrize("values, message", BAD)
def test_what_does_not_fit_is_refused(config, values, message):
    config.update_from_flattened_dict(values)
    with pytest.raises(UserError, match=message):
        pipeline.prepare_data(config)


def test_a_given_vocabulary_must_belong_to_the_model(config, tmp_path):
    pipeline.prepare_data(config, tmp_path / "run")
    config.data.tokenizer.path = str(tmp_path / "run")
    config.model.vocab_size = 30522
    with pytest.raises(UserError, match="but model.vocab_size is 30522"):
        pipeline.prepare_data(config)
