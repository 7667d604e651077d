"""Published vocabularies give the reference ids; trained ones are reproducible; what is refused."""

import gzip
import json
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

from data_pipeline import tokenizer_training, tokenizers, vocabulary_files
from errors import UserError
from training.huggingface import files

# Column of data/token_vectors/reference_ids -> vocabulary, and whether to lower-case
# (None: found out). The albert column was made without ALBERT's own lower-casing.
PUBLISHED = {
    "bert_uncased": ("bert-base-uncased-vocab.txt", None),
    "bert_cased": ("bert-base-cased-vocab.txt", None),
    "gpt2": ("gpt2", None),
    "roberta": ("roberta", None),
    "albert": ("albert", False),
    "t5": ("t5", None),
}
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "She sells sea shells by the sea shore; the shells are sea shells, I am sure.",
    "A naïve café in Zürich sold 42 pies (and 7 tarts) in 1984!",
] * 50
CASES = [
    ("wordpiece", True),
    ("wordpiece", False),
    ("byte_bpe", False),
    ("word_bpe", True),
    ("sentencepiece", True),
]


def load_published(shared, name):
    path, lowercase = PUBLISHED[name]
    return tokenizers.load(shared / "data/vocab" / path, lowercase=lowercase)


def small(kind, lowercase=False, size=300):
    return tokenizer_training.train(kind, TEXTS, size, lowercase)


# Published vocabularies


@pytest.mark.parametrize("name", PUBLISHED)
def test_reference_ids(shared, name):
    tokenizer = load_published(shared, name)
    with gzip.open(shared / "data/token_vectors/reference_ids.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == 918
    if name == "albert":  # these are its model's alone, without the clean-up around it
        tokenizer = tokenizer._backend
        assert [tokenizer.encode(row["text"]) for row in rows] == [row[name] for row in rows]
        return
    assert tokenizer.encode_batch([row["text"] for row in rows]) == [row[name] for row in rows]
    if tokenizer.kind == "byte_bpe":
        assert all(tokenizer.decode(row[name]) == row["text"] for row in rows)


@pytest.mark.parametrize(
    ("file", "name"), [("bert-bge", "bert_uncased"), ("gpt-2", "gpt2"), ("roberta-bpe", "roberta")]
)
def test_odd_strings_of_llama_cpp(shared, file, name):
    base = shared / "data/token_vectors/llama_cpp" / f"ggml-vocab-{file}.gguf"
    # read_bytes: reading as text would turn a carriage return into a newline
    texts = base.with_suffix(".gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    wanted = base.with_suffix(".gguf.out").read_text().split("\n")
    assert len(texts) == len(wanted) == 47
    ids = load_published(shared, name).encode_batch(texts)
    assert ids == [list(map(int, line.split())) for line in wanted]


def test_gpt1_equals_transformers(shared, tmp_path):
    """On the texts of the reference ids, published and trained here, and from its own files."""
    transformers = pytest.importorskip("transformers")
    ours = tokenizers.load(shared / "data/vocab/gpt1")
    assert (ours.kind, ours.vocab_size, ours.lowercase) == ("word_bpe", 40478, True)
    assert (ours.unk_id, ours.eot_id, ours.start_id) == (0, 40477, None)
    with gzip.open(shared / "data/token_vectors/reference_ids.jsonl.gz", "rt") as file:
        texts = [json.loads(line)["text"] for line in file]
    for name, t in (("published", ours), ("trained", small("word_bpe", True))):
        t.save(tmp_path / name)
        theirs = transformers.OpenAIGPTTokenizer.from_pretrained(tmp_path / name)
        ids = t.encode_batch(texts)
        assert ids == theirs(texts, add_special_tokens=False)["input_ids"]
        assert t.decode(ids[0]) == theirs.decode(ids[0], clean_up_tokenization_spaces=False)
        theirs.save_pretrained(tmp_path / "again")
        assert files.read_tokenizer(tmp_path / "again").encode_batch(texts) == ids
    assert ours.encode("Newlines\nare\tspaces") == ours.encode("newlines are spaces")


def test_the_special_tokens_of_gpt1_stand_behind_the_others(shared):
    plain = tokenizers.load(shared / "data/vocab/gpt1")
    t = plain.with_specials()
    assert (t.start_id, t.sep_id, t.cls_id, t.vocab_size) == (40478, 40479, 40480, 40481)
    assert t.fingerprint == t.with_specials().fingerprint != plain.fingerprint
    text = "It is _start_ed."
    assert t.encode(text) == plain.encode(text)


def test_squad_questions(shared):
    path = shared / "data/token_vectors/bert_uncased_squad_dev_questions.json.gz"
    rows = json.loads(gzip.decompress(path.read_bytes()))
    assert len(rows) == 5285
    tokenizer = load_published(shared, "bert_uncased")
    ids = tokenizer.encode_batch([row["original"] for row in rows])
    assert ids == [row["ids"] for row in rows]
    pieces = [[tokenizer.id_to_token(i).removeprefix("##") for i in row] for row in ids]
    assert pieces == [[w.removeprefix("##") for w in row["wordpiece"]] for row in rows]


@pytest.mark.parametrize(
    ("name", "kind", "size", "lowercase", "ids"),  # ids: pad, unk, cls, sep, mask, eot
    [
        ("bert_uncased", "wordpiece", 30522, True, (0, 100, 101, 102, 103, None)),
        ("bert_cased", "wordpiece", 28996, False, (0, 100, 101, 102, 103, None)),
        ("gpt2", "byte_bpe", 50257, False, (None, None, None, None, None, 50256)),
        ("roberta", "byte_bpe", 50265, False, (1, 3, 0, 2, 50264, 50260)),
        ("albert", "sentencepiece", 30000, False, (0, 1, 2, 3, 4, None)),
        ("t5", "sentencepiece", 32000, False, (0, 2, None, 1, None, 1)),
    ],
)
def test_what_published_files_are(shared, name, kind, size, lowercase, ids):
    t = load_published(shared, name)
    assert (t.kind, t.vocab_size, t.lowercase) == (kind, size, lowercase)
    assert (t.pad_id, t.unk_id, t.cls_id, t.sep_id, t.mask_id, t.eot_id) == ids
    assert t.special_ids == tuple(sorted({i for i in ids if i is not None}))
    assert t.continues_word.shape == (size,) and not t.continues_word[list(t.special_ids)].any()


@pytest.mark.parametrize("name", PUBLISHED)
def test_words_are_found_by_continuation(shared, name):
    t = load_published(shared, name)
    ids = t.encode(" unbelievably antidisestablishmentarianism")
    starts = np.flatnonzero(~t.continues_word[ids])
    assert len(ids) > 2 and len(starts) == 2 and starts[0] == 0


# Special tokens


@pytest.mark.parametrize(("kind", "lowercase"), CASES)
def test_text_cannot_forge_special_tokens(kind, lowercase):
    t = small(kind, lowercase)
    for i in t.special_ids:
        assert i not in set(t.encode(f"a {t.id_to_token(i)} b")) - {t.unk_id}


# Training


@pytest.mark.parametrize(("kind", "lowercase"), CASES)
def test_train_save_load(tmp_path, kind, lowercase):
    t = small(kind, lowercase)
    assert t.vocab_size <= 300
    t.save(tmp_path)
    names = {name for name in vocabulary_files.LAYOUTS[kind][0]} | {"tokenizer_config.json"}
    assert {p.name for p in tmp_path.iterdir()} == names
    for again in (
        tokenizers.load(tmp_path),
        tokenizers.load(tmp_path, kind, lowercase),
        pickle.loads(pickle.dumps(t)),
    ):
        assert again.fingerprint == t.fingerprint and again.lowercase == lowercase
        assert again.encode_batch(TEXTS) == t.encode_batch(TEXTS)
        assert np.array_equal(again.continues_word, t.continues_word)
    with pytest.raises(UserError, match=f"set the tokenizer's lowercase to {lowercase}"):
        tokenizers.load(tmp_path, lowercase=not lowercase)
    other = "byte_bpe" if kind != "byte_bpe" else "wordpiece"
    with pytest.raises(UserError, match=f"set the tokenizer's kind to {kind}"):
        tokenizers.load(tmp_path, kind=other)


@pytest.mark.parametrize(("kind", "lowercase"), CASES)
def test_training_is_reproducible(kind, lowercase):
    """Two processes with other hash seeds and thread counts: the libraries do not promise it."""
    code = (
        "from data_pipeline import tokenizer_training; import pydoc_data.topics;"
        "texts = list(pydoc_data.topics.topics.values());"
        f"print(tokenizer_training.train({kind!r}, texts, 2000, {lowercase}).fingerprint)"
    )
    marks = set()
    for threads in ("1", "2"):
        env = {"PYTHONHASHSEED": threads, "RAYON_NUM_THREADS": threads, "PYTHONPATH": "."}
        run = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        marks.add(run.stdout)
    assert len(marks) == 1


def test_trained_wordpiece_is_laid_out_as_published():
    t = small("wordpiece", True)
    assert [t.id_to_token(i) for i in range(5)] == list(tokenizer_training.WORDPIECE_SPECIALS)
    assert t.encode("SHELLS café") == t.encode("shells cafe")
    assert t.decode(t.encode("the quick brown fox")) == "the quick brown fox"
    assert t.unk_id in t.encode("力")
    assert "##(" not in {t.id_to_token(i) for i in range(t.vocab_size)}  # stands alone, always


def test_trained_byte_bpe_is_laid_out_as_published():
    t = small("byte_bpe")
    assert t.eot_id == t.vocab_size - 1
    # gpt2.md section 3: the ids of the bytes
    assert [t.token_to_id(c) for c in ("!", "Ġ", "Ċ", "ĉ", "Ā", "Ń")] == [
        0,
        220,
        198,
        197,
        188,
        255,
    ]
    odd = "naïve  café\n\n\ttab 力 \U0001f600 \x00 <|endoftext|>"
    assert t.decode(t.encode(odd)) == odd


def test_trained_robertas_byte_bpe():
    t = tokenizer_training.train("byte_bpe", TEXTS, 300, False, specials="roberta")
    assert [t.id_to_token(i) for i in range(4)] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert t.id_to_token(t.vocab_size - 1) == "<mask>" and t.mask_id == t.vocab_size - 1
    assert (t.cls_id, t.pad_id, t.sep_id, t.unk_id) == (0, 1, 2, 3) and t.doubles_sep
    plain = tokenizer_training.train("byte_bpe", TEXTS, 296, False)  # as many merges
    assert t.encode(TEXTS[0]) == [i + 4 for i in plain.encode(TEXTS[0])]
    assert not plain.doubles_sep


@pytest.mark.parametrize(
    ("specials", "ids"),
    [
        ("", (0, 1, 2, 3, 4, None)),
        ("t5", (0, 2, None, 1, None, 1)),
        ("xlnet", (5, 0, 3, 4, 6, 7)),
    ],
)
def test_trained_sentencepiece_is_laid_out_as_published(specials, ids):
    t = tokenizer_training.train("sentencepiece", TEXTS, 300, True, specials=specials)
    assert (t.pad_id, t.unk_id, t.cls_id, t.sep_id, t.mask_id, t.eot_id) == ids
    assert t.cleans == (specials != "t5") and t.cls_last == (specials == "xlnet")
    assert not t.doubles_sep
    if specials == "xlnet":
        pieces = "<unk> <s> </s> <cls> <sep> <pad> <mask> <eod> <eop>".split()
        assert [t.id_to_token(i) for i in range(9)] == pieces
    if specials != "t5":
        assert all(t.token_to_id(c) for c in '().-–£€"')


def test_sentinels_are_the_last_ids_and_are_found_where_asked_only(tmp_path):
    t = tokenizer_training.train("sentencepiece", TEXTS, 300, True, "t5", 20)
    plain = tokenizer_training.train("sentencepiece", TEXTS, 280, True, "t5")
    assert t.vocab_size == plain.vocab_size + 20 and t.fingerprint != plain.fingerprint
    assert t.sentinel_ids == tuple(range(t.vocab_size - 1, t.vocab_size - 21, -1))
    assert t.id_to_token(t.vocab_size - 1) == "<extra_id_0>"
    word = TEXTS[0].split()[0].lower()
    ids = t.encode_with_sentinels(f"{word} <extra_id_3> {word}")
    assert ids == [*t.encode(word), t.sentinel_ids[3], *t.encode(word)]
    assert t.decode(ids) == f"{word} <extra_id_3> {word}"
    assert not set(t.encode("<extra_id_3>")) & set(t.sentinel_ids)
    with pytest.raises(UserError, match="has 20 sentinels.* no <extra_id_20>"):
        t.encode_with_sentinels("<extra_id_20>")

    t.save(tmp_path)
    for again in (tokenizers.load(tmp_path), pickle.loads(pickle.dumps(t))):
        assert again.fingerprint == t.fingerprint and again.sentinel_ids == t.sentinel_ids
    with pytest.raises(UserError, match="has 20 sentinels: set the tokenizer's sentinels to 20"):
        tokenizers.load(tmp_path, sentinels=100)
    (tmp_path / "tokenizer_config.json").unlink()
    assert tokenizers.load(tmp_path, lowercase=True).fingerprint == plain.fingerprint
    assert tokenizers.load(tmp_path, None, True, 20).fingerprint == t.fingerprint
    with pytest.raises(UserError, match="sentinels=20 must be 0"):
        tokenizer_training.train("byte_bpe", TEXTS, 300, False, "", 20)


@pytest.mark.parametrize("kind, specials", [("wordpiece", "roberta"), ("byte_bpe", "bert")])
def test_specials_of_another_kind_are_refused(kind, specials):
    with pytest.raises(UserError, match="choose one of roberta"):
        tokenizer_training.train(kind, TEXTS, 300, False, specials=specials)


def test_alberts_clean_up(shared):
    t = load_published(shared, "albert")
    t = tokenizers.load(shared / "data/vocab/albert/spiece.model", lowercase=True)
    assert t.encode("A  naïve\tCafé") == t.encode("a naive cafe")
    assert t.encode("``so''") == t.encode('"so"')
    pieces = [t.id_to_token(i) for i in t.encode("in 1999, and 15,000 more")]
    assert not [p for p in pieces if len(p) > 1 and p.endswith(",")] and "," in pieces
    assert t.decode(t.encode("in 1999, and")) == "in 1999, and"


def test_albert_equals_transformers(shared):
    """On plain sentences. Its fast tokenizer does not split "5,", and takes the model's own symbols
    (parentheses, dashes, ...) for added tokens, behind which a word begins; SentencePiece does not.
    """
    transformers = pytest.importorskip("transformers")
    path = shared / "data/vocab/albert/spiece.model"
    ours = tokenizers.load(path, lowercase=True)
    theirs = transformers.AlbertTokenizer.from_pretrained(str(path.parent))
    file = sorted((shared / "data/text/wikipedia").glob("*.gz"))[0]
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")
    odd = re.compile(r"""^<|\d,|[-(".–£€)]\S|\s[-(".–£€)]""")
    lines = [line for line in lines if len(line) > 80 and not odd.search(line)][:400]
    assert len(lines) == 400
    wanted = [theirs.encode(line, add_special_tokens=False) for line in lines]
    assert ours.encode_batch(lines) == wanted


def test_words_of_albert_begin_where_its_code_says(shared):
    t = load_published(shared, "albert")
    for piece, continues in {
        "▁the": False,
        "ing": True,
        ".": False,
        "5": False,
        "é": False,
    }.items():
        index = t.token_to_id(piece)
        assert index is None or t.continues_word[index] == continues, piece


def test_long_lines_train_sentencepiece():
    """The library leaves out lines above 4192 bytes without an error."""
    line = " ".join(f"word{i}" for i in range(3000))
    t = tokenizer_training.train("sentencepiece", [line, "a b c"] * 3, 300, False)
    assert t.unk_id not in t.encode("word1234")


def test_alphabet_is_cut_to_the_vocabulary():
    letters = "".join(chr(c) for c in range(0x4E00, 0x4E00 + 2000))
    t = tokenizer_training.train("wordpiece", [*TEXTS, letters], 400, True)
    assert t.vocab_size <= 400 and t.unk_id not in t.encode("the quick shells")


# Files


def test_equal_vocabularies_have_equal_fingerprints(shared, tmp_path):
    published = shared / "data/vocab/bert-base-uncased-vocab.txt"
    (tmp_path / "vocab.txt").write_bytes(published.read_bytes().replace(b"\n", b"\r\n"))
    assert tokenizers.load(tmp_path).fingerprint == tokenizers.load(published).fingerprint
    gpt2 = tokenizers.load(shared / "data/vocab/gpt2")
    gpt2.save(tmp_path / "gpt2")  # as vocab.json and merges.txt
    assert tokenizers.load(tmp_path / "gpt2").fingerprint == gpt2.fingerprint
    assert tokenizers.load(tmp_path / "gpt2/vocab.json").fingerprint == gpt2.fingerprint
    assert small("wordpiece", True).fingerprint != small("wordpiece", False).fingerprint


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no vocabulary: give a folder with one of: vocab.txt"),
        ({"vocab.json": "{}"}, "holds no vocabulary"),
        ({"vocab.txt": "a\nb\n"}, r"has no \[UNK\]"),
        ({"vocab.txt": b"[UNK]\n\xff\n"}, "not a readable wordpiece vocabulary"),
        ({"vocab.json": "{", "merges.txt": "\n"}, "not a readable byte_bpe vocabulary"),
        ({"vocab.json": '{"a": 0, "b": 2}', "merges.txt": "\n"}, "without gaps"),
        ({"vocab.json": '["a"]', "merges.txt": "\n"}, "not a readable byte_bpe vocabulary"),
        ({"vocab.json": '{"a": 0, "b": 1}', "merges.txt": "a b\n"}, "not a readable byte_bpe"),
        ({"vocab.json": '{"a": 0, "b": 1}', "merges.txt": "a\n"}, "not a readable byte_bpe"),
        ({"spiece.model": b"\0\1\2"}, "not a readable sentencepiece vocabulary"),
        ({"spiece.model": b""}, "not a readable sentencepiece vocabulary: it is empty"),
    ],
)
def test_bad_files(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        tokenizers.load(tmp_path)


def test_bad_arguments(tmp_path):
    with pytest.raises(UserError, match="There is no vocabulary at"):
        tokenizers.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="Unknown tokenizer kind 'wordpeace'.*'wordpiece'"):
        tokenizer_training.train("wordpeace", TEXTS, 300, True)
    with pytest.raises(UserError, match="keeps the case"):
        tokenizer_training.train("byte_bpe", TEXTS, 300, True)
    with pytest.raises(UserError, match="vocab_size=100 cannot hold"):
        tokenizer_training.train("wordpiece", TEXTS, 100, True)


def test_case_must_fit_published_vocabularies(shared):
    with pytest.raises(UserError, match="is a cased vocabulary.*lowercase to False"):
        tokenizers.load(shared / "data/vocab/bert-base-cased-vocab.txt", lowercase=True)
    with pytest.raises(UserError, match="is a lower-cased vocabulary.*lowercase to True"):
        tokenizers.load(shared / "data/vocab/bert-base-uncased-vocab.txt", lowercase=False)
