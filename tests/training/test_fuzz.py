"""Whatever stands in a config, a text or a file that is read: a result, or a UserError.

Any other exception is a traceback that a user would see. `make drills` tries a hundred times as
many examples.
"""

import json
import os
import shutil
import string

import hypothesis
import numpy as np
import pytest
import safetensors.numpy
from checkpoints import abstract, data_files, make_state, open_at
from hypothesis import strategies as st

from configs import bert, gpt2, t5, xlnet
from data_pipeline import corpus, shapes, sources, tokenizer_training
from errors import UserError
from training import resume, setup
from training.huggingface import files as published

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))


def examples(count):
    return hypothesis.settings(
        max_examples=count * TIMES,
        deadline=None,
        derandomize=TIMES == 1,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


# Config overrides.

PAGES = {"bert": bert, "gpt2": gpt2, "t5": t5, "xlnet": xlnet}


def flat(config, above=""):
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


KEYS = {
    name: [key for key, _ in flat(page.get_config("tiny,quick=1"))] for name, page in PAGES.items()
}
NUMBERS = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([0.0, 0.5, 1.0, -1.0, 2.5, float("nan"), float("inf"), 2**31, 2**40]),
)
VALUES = st.one_of(
    NUMBERS,
    st.booleans(),
    st.text(string.printable, max_size=8),
    st.sampled_from(["adamw", "lamb", "linear", "gelu", "spans", "(", "masked_lm", "encoder"]),
    st.lists(NUMBERS, max_size=3).map(tuple),
)


@st.composite
def overrides(draw):
    page = draw(st.sampled_from(sorted(PAGES)))
    keys = draw(st.lists(st.sampled_from(KEYS[page]), min_size=1, max_size=3, unique=True))
    return page, {key: draw(VALUES) for key in keys}


@examples(15)
@hypothesis.example(("gpt2", {"objective.logit_chunks": 0}))  # once found by `make drills`
@hypothesis.given(overrides())
def test_config_overrides(chosen):
    """As train.py and plan.py go: the flag's types, then all that is built before the text."""
    page, values = chosen
    config = PAGES[page].get_config("tiny,quick=1").lock()
    config.mesh.data = 8
    for key, value in values.items():
        try:
            config.update_from_flattened_dict({key: value})
        except (TypeError, ValueError, AttributeError, KeyError):
            hypothesis.reject()  # told by errors.parse_flags
    try:
        made = setup.prepare(config)
        shapes.example(config)
        with made.placed():
            made.abstract()
    except UserError as error:
        assert "\n" not in str(error)


# Text.


@examples(60)
@hypothesis.given(
    st.one_of(
        st.binary(max_size=60),
        st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists, max_leaves=4).map(
            lambda value: json.dumps({"text": value}).encode() + b"\n"
        ),
        st.integers(1, 5).map(lambda n: b'{"text": ' + b"[" * 10**n),
        st.sampled_from([b'{"text": "\\ud800"}', b'{"text": NaN}', b'\xef\xbb\xbf{"text": "a"}']),
    )
)
def test_jsonl(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_bytes(content)
    try:
        for document in sources.open_source(str(path)).documents():
            document.text.encode()
    except UserError:
        pass


# Files that are damaged: bytes are changed, cut out, or put in.


@st.composite
def damage(draw, size):
    position = draw(st.integers(0, size - 1))
    kind = draw(st.sampled_from(["flip", "cut", "insert", "digit"]))
    return kind, position, draw(st.binary(min_size=1, max_size=9)), draw(st.integers(0, 9))


def damaged(content, change):
    kind, position, new, digit = change
    position = min(position, len(content) - 1)
    if kind == "flip":
        return content[:position] + bytes([content[position] ^ new[0]]) + content[position + 1 :]
    if kind == "digit":  # stays JSON now and then
        digits = [i for i, byte in enumerate(content) if chr(byte).isdigit()] or [position]
        at = digits[position % len(digits)]
        return content[:at] + str(digit).encode() + content[at + 1 :]
    return content[:position] + (new if kind == "insert" else b"") + content[position + 1 :]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("saved")
    checkpointer = open_at(folder)
    for step in (1, 2):
        checkpointer.save(step, make_state(step), meta={"at": step})
    checkpointer.close()
    return folder


@examples(12)
@hypothesis.given(change=damage(4000))
def test_manifests_of_checkpoints(saved, tmp_path_factory, change):
    """The damaged one is never taken for whole: the one before it is used."""
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    manifest = folder / "2" / "manifest" / "metadata"
    before = manifest.read_bytes()
    manifest.write_bytes(damaged(before, change))
    checkpointer = open_at(folder)
    state, meta = checkpointer.restore(abstract(make_state(0)))
    checkpointer.close()
    same = json_or_none(manifest, folder) == json.loads(before)
    assert meta == {"at": 2 if same else 1} and int(state.step) == meta["at"]
    assert len(data_files(folder / "1")) > 1


def json_or_none(manifest, folder):
    """What the file says now, wherever it was set aside."""
    path = manifest if manifest.exists() else folder / "2.damaged" / "manifest" / "metadata"
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A finished corpus."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text.txt").write_text("\n\n".join(f"Number {i} is {i * i}." for i in range(99)))
    source = sources.open_source(str(folder / "text.txt"))
    tokenizer = tokenizer_training.train(
        "byte_bpe", [d.text for d in source.documents()], 300, False
    )
    made = corpus.prepare_corpus(
        source, tokenizer, folder / "made", valid_fraction=0.2, workers=1
    )  # fmt: skip
    return source, tokenizer, made.directory


@examples(60)
@hypothesis.given(change=damage(900), name=st.sampled_from(["manifest.json", "plan.json"]))
def test_manifests_of_corpora(prepared, change, name):
    source, tokenizer, directory = prepared
    path = directory / name
    whole = path.read_bytes()
    path.write_bytes(damaged(whole, change))
    try:
        made = corpus.prepare_corpus(source, tokenizer, directory, valid_fraction=0.2, workers=1)
        for split in corpus.SPLITS:
            assert all(os.path.dirname(shard) == str(directory) for shard in made.shards(split))
    except UserError:
        pass
    finally:
        path.write_bytes(whole)


@examples(30)
@hypothesis.given(content=st.one_of(st.binary(max_size=20), st.sampled_from([b"[[1]]", b"[1]"])))
def test_what_a_run_has_left_out(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp()
    (folder / "left_out.json").write_bytes(content)
    try:
        resume.left_out(folder)
    except UserError:
        pass


# Weights of others.


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b.c": np.ones(4, np.float16)}
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
    return path


@examples(100)
@hypothesis.given(change=damage(180))
def test_headers_of_safetensors(weights, change):
    whole = weights.read_bytes()
    weights.write_bytes(damaged(whole, change))
    try:
        tensors = published.Tensors(weights.parent)
        for name in tensors:
            np.asarray(tensors[name])
    except UserError:
        pass
    finally:
        weights.write_bytes(whole)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "..", "", 3, None, "a\0b"])
def test_an_index_names_files_of_its_own_folder(weights, tmp_path, name):
    index = {"weight_map": {"a": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="must name files of its own folder"):
        published.Tensors(tmp_path)
