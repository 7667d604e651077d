"""Every kind of source on small files, the layouts on real ones, and what is refused."""

import gzip
import json
import time

import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds

from data_pipeline import embedded, remote, sources
from errors import UserError

TWO = "First of one.\nSecond of one.\n\n \nOnly of two.\n"
TEXTS = ["First of one.\nSecond of one.", "Only of two."]


def read(spec, layout="auto"):
    return [d.text for d in sources.open_source(str(spec), layout).documents()]


def write(path, content):
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


# Text files


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "notes.md"])
def test_a_blank_line_parts_documents(tmp_path, name):
    path = write(tmp_path / name, TWO)
    assert read(path) == read(f"text:{path}") == TEXTS


def test_windows_files_read_the_same(tmp_path):
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbf" + TWO.replace("\n", "\r\n").encode())
    assert read(path) == TEXTS


def test_folder_and_glob_give_files_in_order(tmp_path):
    (tmp_path / "AA").mkdir()
    write(tmp_path / "b.txt", "b")
    write(tmp_path / "AA" / "a.txt.gz", "a")
    write(tmp_path / "INDEX.tsv", "no text")
    assert read(tmp_path) == ["a", "b"]
    assert read(f"{tmp_path}/**/*.gz") == ["a"]
    assert read(f"{tmp_path}/*.t*") == ["no text", "b"]


def test_wiki_layout_has_no_titles_and_no_marks(tmp_path):
    text = (
        '<doc id="7" url="u" title="A &quot;b&quot;">\nA &quot;b&quot;\n\nOne.\n\nTwo.\n</doc>\n'
        '<doc id="8" url="u" title="C">\nC\n\nThree.\n</doc>\n'
    )
    path = write(tmp_path / "wiki_00", text)
    assert read(tmp_path) == read(path, "wiki") == ["One.\nTwo.", "Three."]
    assert [d.id for d in sources.open_source(str(path)).documents()] == ["wiki_00:7", "wiki_00:8"]


def test_book_layout_is_one_document(tmp_path):
    path = write(
        tmp_path / "novel.txt", "A TALE.\n\n= CHAPTER I. =\n\nIt was so.\n\nAnd x = y = z.\n"
    )
    assert read(path) == read(path, "book") == ["A TALE.\nCHAPTER I.\nIt was so.\nAnd x = y = z."]


def test_layouts_of_real_files(shared):
    wiki = read(shared / "data/text/wikipedia")
    assert len(wiki) == 2226  # the number of articles in data/README.md
    assert not any("<doc" in text or "</doc>" in text for text in wiki)
    assert wiki[0].startswith("Romanian (obsolete spellings")
    novels = read(shared / "data/text/novels")
    assert len(novels) == 37
    assert novels[0].startswith("CHAPTER I.\nDESCRIPTION OF DOWLING LODGE")
    assert not any("\n= " in text for text in novels)
    # One sentence a line, documents parted by blank lines, odd Unicode.
    sample = read(shared / "data/text/small/bert_sample_text.txt")
    assert [len(text.split("\n")) for text in sample] == [3, 13, 15]
    assert "力加勝北区ᴵᴺᵀᵃছজটডণত" in sample[0]


# JSONL and Parquet


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_jsonl(tmp_path, name):
    rows = [{"text": "é one", "n": 1}, {"text": " "}, {"text": "two"}]
    path = write(tmp_path / name, "\n".join(map(json.dumps, rows)) + "\n\n")
    assert read(path) == read(f"jsonl:{tmp_path}") == ["é one", "two"]
    other = write(tmp_path / "other.json", '{"body": "b"}\n')
    assert read(f"jsonl:{other}#body") == ["b"]


def test_parquet(tmp_path):
    table = pyarrow.table({"text": ["one", None, "two"], "n": [1, 2, 3]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == read(f"parquet:{tmp_path}") == ["one", "two"]
    with pytest.raises(UserError, match="no field 'body'.*text, n"):
        read(f"{tmp_path}/a.parquet#body")
    with pytest.raises(UserError, match="'n' of .* row 0 is no text"):
        read(f"{tmp_path}/a.parquet#n")


# TFDS and Hugging Face


class Stories(tfds.core.GeneratorBasedBuilder):
    """Ten numbered texts."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(10):
            yield i, {"text": f"héllo {i}"}


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    builder = Stories(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return builder.data_dir


def test_tfds_from_a_folder(stories):
    assert sorted(read(f"tfds:{stories}")) == [f"héllo {i}" for i in range(10)]
    assert len(read(f"tfds:{stories}:train[:30%]")) == 3
    whole, part = (
        sources.open_source(f"tfds:{stories}:{split}").fingerprint()
        for split in ("train", "train[:30%]")
    )
    assert whole != part
    with pytest.raises(UserError, match="'test'.*Give one of train"):
        read(f"tfds:{stories}:test")
    with pytest.raises(UserError, match="no field 'body'"):
        read(f"tfds:{stories}#body")


@pytest.fixture
def offline(monkeypatch):
    """Every request goes to a proxy that is not there."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_tfds_without_network_fails_at_once(offline, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(UserError, match="tfds:lm1b must be downloaded, but .* cannot be reached"):
        sources.open_source("tfds:lm1b")
    assert time.monotonic() - start < 5


def test_hf_without_network_fails_at_once(offline):
    pytest.importorskip("datasets")
    start = time.monotonic()
    with pytest.raises(UserError, match="hf:owner/name must be downloaded, but"):
        sources.open_source("hf:owner/name")
    assert time.monotonic() - start < 8  # the library alone takes two to import


def test_hf_from_a_folder(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["one", "", "two"]}).save_to_disk(tmp_path)
    assert read(f"hf:{tmp_path}") == ["one", "two"]


def test_hf_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match="pip install"):
        sources.open_source("hf:owner/name")


def test_a_silent_host_is_given_up(monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE", 0.2)
    monkeypatch.setattr(remote.urllib.request, "urlopen", lambda *a, **k: time.sleep(5))
    start = time.monotonic()
    assert not remote.reachable("https://example.org")
    assert time.monotonic() - start < 2


# The embedded corpus


def test_embedded_is_clean_prose():
    source = sources.open_source("embedded")
    documents = list(source.documents())
    assert len(documents) > 300 and 1.2e6 < source.size() < 2.5e6
    lines = [line for d in documents for line in d.text.split("\n")]
    assert len(set(lines)) == len(lines)  # topics quote each other
    assert not any("::=" in line or line.startswith(">>>") for line in lines)
    assert len({d.id for d in documents}) == len(documents)


def test_embedded_is_the_same_twice():
    first, mark = embedded.documents(), embedded.fingerprint()
    for function in (embedded.documents, embedded.fingerprint, embedded._library):
        function.cache_clear()
    assert embedded.documents() == first and embedded.fingerprint() == mark


# Fingerprints


def test_fingerprint_follows_content_and_reading(tmp_path):
    def mark(content, layout="auto", name="a.txt"):
        path = write(tmp_path / name, content)
        return sources.open_source(str(path), layout).fingerprint()

    assert mark("one") == mark("one") == mark("one", name="b.txt")
    assert len({mark("one"), mark("two"), mark("one", "book")}) == 3


# What is refused


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "is empty"),
        ("a.txt", "\n \n", "holds no text"),
        ("a.txt", "caf\xe9\n".encode("latin1"), "not UTF-8.*iconv"),
        ("a.txt", 'x\n<doc id="1" url="" title="A">\n', None),
        ("a.txt", '<doc id="1" url="" title="A">\nA\n', "ends without </doc>"),
        ("a.txt", '<doc id="1" url="" title="A">\nA\n</doc>\nB\n', "line 4 stands outside"),
        ("a.txt", '<doc id="1" title="A">\n<doc id="2" title="B">\n', "line 2: a <doc> without"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("a.jsonl", '{"body": "a"}\n', "no field 'text'.*body"),
        ("a.jsonl", '["a"]\n', "no field 'text'"),
        ("a.jsonl", '{"text": 1}\n', "is no text"),
        ("a.jsonl", '{"text": "half a pair: \\ud83d"}\n', "line 1 is not UTF-8"),
        ("a.parquet", "PAR1", "not a readable Parquet file"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    if message is None:  # a tag in the middle of text is text
        assert len(read(path)) == 1
        return
    with pytest.raises(UserError, match=message):
        read(path)


def test_damaged_gzip(tmp_path):
    path = write(tmp_path / "a.txt.gz", "text\n" * 10_000)
    whole = path.read_bytes()
    for damaged in (whole[:-20], b"no gzip at all", whole[:30] + b"\0" * 20 + whole[50:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="a.txt.gz is damaged"):
            read(path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere.txt", "There is no file nowhere.txt"),
        ("nowhere/*.txt", "There is no file"),
        ("textt:a", "Unknown source kind 'textt'.*Did you mean 'text'"),
        ("tfds:no_such_data", "no data set 'no_such_data'"),
    ],
)
def test_bad_specifications(spec, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        sources.open_source(spec)


def test_bad_layout_and_empty_folder(tmp_path):
    with pytest.raises(UserError, match="Unknown layout 'wikki'.*'wiki'"):
        sources.open_source("embedded", "wikki")
    with pytest.raises(UserError, match="holds no"):
        sources.open_source(str(tmp_path))
