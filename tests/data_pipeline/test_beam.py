"""A corpus by Apache Beam has the records of one that this machine's processes make."""

import json

import pytest
import runs

from data_pipeline import beam, corpus, sources, tokenizer_training
from data_pipeline import records as record_files
from errors import UserError


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Two files of documents that differ in length; one document is there twice."""
    folder = tmp_path_factory.mktemp("text")
    for name in "ab":
        documents = [
            f"The {name} number {i} is here. " * (1 + i % 7) + f"\nIt ends with {i * i}."
            for i in range(150)
        ]
        (folder / f"{name}.txt").write_text("\n\n".join([*documents, "The same one. Twice."]))
    return folder


@pytest.fixture(scope="module")
def source(text):
    return sources.open_source(str(text))


@pytest.fixture(scope="module")
def tokenizer(source):
    return tokenizer_training.train("wordpiece", [d.text for d in source.documents()], 260, True)


def prepare(source, tokenizer, directory, **kwargs):
    return corpus.prepare_corpus(
        source, tokenizer, directory, valid_fraction=0.1, shard_bytes=8000, workers=1, **kwargs
    )


def all_records(made, split):
    return sorted(record_files.Records([shard])[i] for shard in made.shards(split)
                  for i in range(len(record_files.Records([shard]))))  # fmt: skip


def test_the_same_records_in_other_shards(source, tokenizer, tmp_path):
    pytest.importorskip("apache_beam")
    local = prepare(source, tokenizer, tmp_path / "local")
    made = prepare(source, tokenizer, tmp_path / "beam", writer=beam.Writer())
    assert len(made.shards("train")) == 5
    for split in corpus.SPLITS:
        assert all_records(made, split) == all_records(local, split)
        for unit in corpus.UNITS:
            assert made.manifest["splits"][split][unit] == local.manifest["splits"][split][unit]

    # Another runner's order of work changes no byte.
    again = prepare(
        source,
        tokenizer,
        tmp_path / "again",
        writer=beam.Writer(["--runner=BundleBasedDirectRunner"]),
    )
    assert again.manifest == made.manifest
    for one, other in zip(made.shards("train"), again.shards("train"), strict=True):
        assert record_files.Records([one])[0] == record_files.Records([other])[0]

    # A finished corpus is one, whoever made it; what Beam has begun, processes do not go on with.
    assert prepare(source, tokenizer, tmp_path / "beam").manifest == made.manifest
    (tmp_path / "beam" / "manifest.json").unlink()
    with pytest.raises(UserError, match="was begun with another writer"):
        prepare(source, tokenizer, tmp_path / "beam")


def test_unreadable_text_is_told_as_without_beam(tokenizer, tmp_path):
    pytest.importorskip("apache_beam")
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps({"text": "Good."}) + "\nnot json\n")
    source = sources.open_source(str(path))
    with pytest.raises(UserError) as alone:
        prepare(source, tokenizer, tmp_path / "local")
    with pytest.raises(UserError) as by_beam:
        prepare(source, tokenizer, tmp_path / "beam", writer=beam.Writer())
    assert str(by_beam.value) == str(alone.value)
    assert not (tmp_path / "beam" / "manifest.json").exists()


def test_the_script(text, tokenizer, tmp_path):
    pytest.importorskip("apache_beam")
    tokenizer.save(tmp_path / "vocabulary")
    flags = [f"--source={text}", f"--tokenizer={tmp_path}/vocabulary", "--valid_fraction=0.1"]
    flags += [f"--output={tmp_path}/corpus", "--runner=beam", "--beam=direct_num_workers=1"]
    out = runs.script("prepare_corpus.py", *flags)
    made = corpus.open_corpus(tmp_path / "corpus")
    documents = sum(made.manifest["splits"][split]["documents"] for split in corpus.SPLITS)
    assert documents == 302 and f"{tmp_path}/corpus" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--beam=runner=FlinkRunner"], "--beam has options of --runner=beam"),
        (["--runner=beam", "--workers=2"], "--workers are those of --runner=local"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_flags_of_the_other_runner_are_refused(flags, message):
    told = runs.script("prepare_corpus.py", "--tokenizer=x", *flags, status=2)
    assert message in told
