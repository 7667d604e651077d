"""scripts/convert.py: from a published folder to a workdir and back; its files and its errors."""

import json
import os
import pathlib
import resource
import signal
import subprocess
import sys

import jax
import numpy as np
import parity
import pytest
import safetensors.numpy

from data_pipeline import tokenizer_training, tokenizers
from errors import UserError
from evaluation import load
from scripts import convert
from training import huggingface
from training.huggingface import bert, files, gpt2, t5

ROOT = pathlib.Path(__file__).resolve().parents[3]
TEXTS = ["The quick brown fox jumps over the lazy dog.", "Ein Mädchen, naïve: 1234!"] * 20
SIZES = {
    "bert": dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20),
    "gpt2": dict(n_embd=12, n_layer=2, n_head=3, n_positions=16),
    "t5": dict(d_model=12, d_kv=4, d_ff=20, num_layers=2, num_heads=3, n_positions=16),
}
KINDS = {"bert": ("wordpiece", True), "gpt2": ("byte_bpe", False), "t5": ("sentencepiece", False)}


@pytest.fixture(params=["bert", "gpt2"])
def family(request):
    return request.param


@pytest.fixture
def published(tmp_path, family):
    """A published folder with a vocabulary, and its parameters."""
    kind, lowercase = KINDS[family]
    specials = ("t5", 10) if family == "t5" else ()
    tokenizer = tokenizer_training.train(kind, TEXTS, 300, lowercase, *specials)
    module = {"bert": bert, "gpt2": gpt2, "t5": t5}[family]
    model = module.read_config(SIZES[family] | {"vocab_size": tokenizer.vocab_size + 3})
    objective, _ = module.objective(("pooler",))
    params = parity.random_params(parity.build(model, objective))
    huggingface.save(tmp_path / "hf", model, objective, params, tokenizer)
    return tmp_path / "hf", params


@pytest.mark.parametrize("family", KINDS, indirect=True)
def test_a_workdir_and_back_is_the_same_bit_for_bit(tmp_path, published, family, capsys):
    folder, params = published
    convert.import_published(folder, tmp_path / "run")
    assert "made anew" not in capsys.readouterr().out
    run = load.load(tmp_path / "run")
    parity.assert_same_bits(run.params, params)
    assert run.tokenizer.fingerprint == tokenizers.load(folder).fingerprint
    assert run.tokenizer.kind == run.config.data.tokenizer.kind == KINDS[family][0]

    convert.export_run(tmp_path / "run", tmp_path / "again", step="0")
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


@pytest.mark.parametrize("family", ["bert"], indirect=True)
def test_absent_heads_are_made_anew_and_told(tmp_path, published, capsys):
    folder, params = published
    parity.change_tensors(
        folder, lambda t: {k: v for k, v in t.items() if "cls." not in k} | {"qa.bias": np.ones(2)}
    )
    convert.import_published(folder, tmp_path / "run")
    said = capsys.readouterr().out
    assert "made anew: masked_lm/dense/kernel" in said
    assert "made anew: classifier/dense/bias" in said
    assert "no place for it: qa.bias" in said

    found = load.load(tmp_path / "run").params
    for kept in ("network", "pooler"):
        parity.assert_same_bits(found[kept], params[kept])
    assert np.std(found["masked_lm"]["dense"]["kernel"]) == pytest.approx(0.02, rel=0.3)
    assert not found["classifier"]["dense"]["bias"].any()


@pytest.mark.parametrize("family", KINDS, indirect=True)
def test_transformers_reads_our_vocabulary(published, family):
    transformers = pytest.importorskip("transformers")
    folder, _ = published
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = tokenizers.load(folder)
    for text in TEXTS[:2]:
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
    config = transformers.AutoConfig.from_pretrained(folder)
    if family == "bert":
        assert config.pad_token_id == theirs.pad_token_id == ours.pad_id
    else:
        assert config.eos_token_id == theirs.eos_token_id == ours.eot_id
    if family == "gpt2":
        assert config.bos_token_id == ours.eot_id
    if family == "t5":
        text = "the <extra_id_3> fox"
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ids == ours.encode_with_sentinels(text) and len(theirs) == ours.vocab_size


def test_we_read_the_vocabulary_that_transformers_5_writes(tmp_path, published):
    """It writes tokenizer.json alone."""
    transformers = pytest.importorskip("transformers")
    folder, _ = published
    ours = tokenizers.load(folder)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "v5")
    assert not list((tmp_path / "v5").glob("vocab*"))
    found = files.read_tokenizer(tmp_path / "v5")
    assert found.fingerprint == ours.fingerprint


@pytest.mark.parametrize("kind", ["uncased", "cased"])
def test_published_vocabularies_of_bert_survive_tokenizer_json(tmp_path, shared, kind):
    transformers = pytest.importorskip("transformers")
    path = shared / "data" / "vocab" / f"bert-base-{kind}-vocab.txt"
    ours = tokenizers.load(path)
    ours.save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    transformers.AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "v5")
    assert files.read_tokenizer(tmp_path / "v5").fingerprint == ours.fingerprint


# Bad input


def no_folder(folder):
    return folder / "nowhere"


def no_config(folder):
    (folder / "config.json").unlink()


def damaged_config(folder):
    (folder / "config.json").write_text('{"model_type": ')


def no_model_type(folder):
    (folder / "config.json").write_text('{"hidden_size": 12}')


def only_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def cut_short(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lost_part(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"wte.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def incomplete_part(folder):
    path = folder / "model.safetensors"
    index = {"weight_map": dict.fromkeys([*safetensors.numpy.load_file(path), "more"], "a.st")}
    path.rename(folder / "a.st")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def other_vocabulary(folder):
    tokens = [*tokenizer_training.WORDPIECE_SPECIALS, *(f"a{i}" for i in range(1000))]
    for path in folder.glob("*vocab*"):
        path.unlink()
    (folder / "vocab.txt").write_text("".join(token + "\n" for token in tokens))


def no_vocabulary(folder):
    for path in folder.glob("vocab*"):
        path.unlink()


def unigram_vocabulary(folder):
    no_vocabulary(folder)
    content = {"model": {"type": "Unigram", "vocab": [["a", 0.0]]}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(content))


BAD_FOLDERS = {
    no_folder: "There is no folder",
    no_config: "There is no .*config.json",
    damaged_config: "config.json cannot be read",
    no_model_type: "model_type",
    only_a_pickle: "pytorch_model.bin, a pickle",
    no_weights: "neither model.safetensors nor",
    cut_short: "model.safetensors is missing or damaged",
    lost_part: "model-00001-of-00002.safetensors is missing or damaged",
    incomplete_part: "names more, which no file holds",
    other_vocabulary: "1005 tokens",
    no_vocabulary: "holds no vocabulary",
    unigram_vocabulary: "not a WordPiece or byte-level BPE",
}


@pytest.mark.parametrize("family", ["bert"], indirect=True)
@pytest.mark.parametrize("change", BAD_FOLDERS, ids=lambda f: f.__name__)
def test_bad_folders_are_told_in_one_sentence_and_leave_nothing(tmp_path, published, change):
    folder, _ = published
    folder = change(folder) or folder
    with pytest.raises(UserError, match=BAD_FOLDERS[change]) as error:
        convert.import_published(folder, tmp_path / "run")
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("family", ["gpt2"], indirect=True)
def test_nothing_is_overwritten(tmp_path, published):
    folder, _ = published
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        convert.import_published(folder, tmp_path / "run")
    convert.import_published(folder, tmp_path / "other")
    with pytest.raises(UserError, match="already holds config.json"):
        convert.export_run(tmp_path / "other", folder)


@pytest.mark.parametrize("family", ["gpt2"], indirect=True)
def test_a_full_disk_leaves_no_half_checkpoint(tmp_path, published):
    """A limit on the size of files stands for the disk."""
    folder, _ = published
    loaded = huggingface.load(folder)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(UserError, match="make room or choose another folder"):
            huggingface.save(tmp_path / "full", loaded.model, loaded.objective, loaded.params)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list((tmp_path / "full").iterdir())
    huggingface.save(tmp_path / "full", loaded.model, loaded.objective, loaded.params)
    parity.assert_same_bits(huggingface.load(tmp_path / "full").params, loaded.params)


def run_script(*args):
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "convert.py", *args],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("family", ["gpt2"], indirect=True)
def test_the_command_line(tmp_path, published):
    folder, params = published
    done = run_script(f"--hf={folder}", f"--checkpoint={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert f"{sum(x.size for x in jax.tree.leaves(params)):,} parameters" in done.stdout

    done = run_script(f"--hf={folder}", f"--checkpoint={tmp_path / 'run'}", "--export")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
