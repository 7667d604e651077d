import gzip
import pickle

import numpy as np
import pytest
import vocabularies

from configs import finetune
from data_pipeline import pipeline, tokenizer_training
from data_pipeline.tasks import TASKS, classification, glue, gpt
from data_pipeline.tasks.choices import CHOICES
from errors import UserError
from model import batch as batches

WORDS = "good bad film plot dull fine the a".split()


@pytest.fixture
def wordpiece(tmp_path):
    return vocabularies.wordpiece(tmp_path, WORDS)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


# GPT-1's transformations


def gpt_rows(task, examples, length):
    """The tokenizer, and the rows of examples and one of padding."""
    t = tokenizer_training.train("word_bpe", [" ".join(WORDS)] * 20, 300, True).with_specials()
    data = finetune.get_config(f"gpt1-tiny,task={task}").data
    data.length = length
    made = gpt.GptClassification(data, gpt.GptClassification.adapt(t))
    rows = made.read([*made.write(examples), b""], None)
    batches.check(rows)
    return t, rows


def test_gpt_reads_a_text_between_start_and_extract():
    text = "the good film"
    t, rows = gpt_rows("cola", [glue.Example((text,), 1.0)], 16)
    ids = [t.start_id, *t.encode(text), t.cls_id]
    tokens = np.pad(ids, (0, 16 - len(ids)))
    assert rows["tokens"].tolist() == [tokens.tolist(), [0] * 16]
    assert rows["segment_ids"][0].tolist() == (np.arange(16) < len(ids)).tolist()
    assert rows["targets"][0, : len(ids) - 1].tolist() == ids[1:]
    assert rows["weights"].sum(1).tolist() == [len(ids) - 1, 0]
    assert rows["pair_positions"].tolist() == [[len(ids) - 1], [0]]
    assert (rows["label"].tolist(), rows["example_weights"].tolist()) == ([1, 0], [1, 0])


def test_gpt_separates_premise_and_hypothesis():
    t, rows = gpt_rows("rte", [glue.Example(("a film", "the plot"), 0.0)], 32)
    ids = [t.start_id, *t.encode("a film"), t.sep_id, *t.encode("the plot"), t.cls_id]
    assert rows["tokens"][0, : len(ids)].tolist() == ids
    # Of two long texts the longer one is cut, never the special tokens.
    t, rows = gpt_rows("rte", [glue.Example(("a " * 50, "the"), 0.0)], 16)
    assert rows["tokens"][0, 0] == t.start_id and rows["tokens"][0, -1] == t.cls_id
    assert (rows["tokens"][0] == t.sep_id).sum() == 1


def test_gpt_reads_both_orders_of_a_similar_pair():
    t, rows = gpt_rows("mrpc", [glue.Example(("a film", "the plot"), 1.0)], 48)
    a, b = t.encode("a film"), t.encode("the plot")
    size = len(a) + len(b) + 3
    for first, (x, y) in ((0, (a, b)), (24, (b, a))):
        ids = [t.start_id, *x, t.sep_id, *y, t.cls_id]
        assert rows["tokens"][0, first : first + size].tolist() == ids
        assert rows["positions"][0, first : first + size].tolist() == list(range(size))
    assert rows["pair_positions"].tolist() == [[size - 1, 24 + size - 1], [0, 24]]
    assert set(rows["segment_ids"][0].tolist()) == {0, 1, 2}
    with pytest.raises(UserError, match="make it a multiple of 2"):
        gpt_rows("mrpc", [], 49)


def test_gpt_needs_its_own_vocabulary(wordpiece):
    with pytest.raises(UserError, match="needs GPT-1's word_bpe vocabulary, not a wordpiece"):
        gpt.GptClassification.adapt(wordpiece)


# Reading


def read(task, path, split):
    return [(example.texts, example.label) for example in glue.read(task, path, split)]


def test_cola_has_no_header_but_in_its_test_file(tmp_path):
    write(tmp_path / "CoLA/train.tsv", 'a\t1\t\tHe said "no.\nb\t0\t*\tHim said.\n')
    write(tmp_path / "CoLA/test.tsv", "index\tsentence\n0\tThey left.\n")
    cola = TASKS["cola"]
    for path in (tmp_path, tmp_path / "CoLA"):
        assert read(cola, path, "train") == [(('He said "no.',), 1.0), (("Him said.",), 0.0)]
        assert read(cola, path, "test") == [(("They left.",), None)]


def test_mrpc_begins_with_a_byte_order_mark(tmp_path):
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
    write(tmp_path / "dev.tsv.gz", header + '1\t7\t8\t" A , b\tB "\r\n')
    assert read(TASKS["mrpc"], tmp_path, "valid") == [(('" A , b', 'B "'), 1.0)]


def test_only_a_newline_ends_a_line(tmp_path):
    write(tmp_path / "train.tsv", "sentence\tlabel\nA\u2028b\x0bc\x85d\t0\n")
    assert glue.read(TASKS["sst-2"], tmp_path, "train")[0].texts == ("A\u2028b\x0bc\x85d",)


def test_the_label_of_mnli_is_the_last_column_of_train_and_dev(tmp_path):
    parse = [f"p{i}" for i in range(7)]
    names = ["index", "promptID", "pairID", "genre", "sentence1_binary_parse"]
    names += ["sentence2_binary_parse", "sentence1_parse", "sentence2_parse"]
    for file, labels in (("train", 1), ("dev_matched", 5)):
        columns = [*names, "sentence1", "sentence2"]
        columns += [f"label{i + 1}" for i in range(labels)] + ["gold_label"]
        row = ["0", *parse, "One.", "Two.", *["neutral"] * labels, "entailment"]
        write(tmp_path / f"MNLI/{file}.tsv", "\t".join(columns) + "\n" + "\t".join(row) + "\n")
    for split in ("train", "valid"):
        assert read(TASKS["mnli"], tmp_path, split) == [(("One.", "Two."), 1.0)]
    with pytest.raises(UserError, match="There is no dev_mismatched.tsv"):
        glue.read(TASKS["mnli-mm"], tmp_path, "valid")


def test_malformed_lines_of_qqp_are_skipped(tmp_path):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    write(tmp_path / "train.tsv", header + "0\t1\t2\tWho?\tWhat?\t1\n3\t4\t5\tBroken\nline?\t0\n")
    assert read(TASKS["qqp"], tmp_path, "train") == [(("Who?", "What?"), 1.0)]


def test_the_whole_file_is_taken_before_a_part(tmp_path):
    text = "index\tquestion\tsentence\tlabel\n0\tWho?\tHe.\tnot_entailment\n"
    write(tmp_path / "QNLI/dev.part.tsv.gz", text)
    assert len(glue.read(TASKS["qnli"], tmp_path, "valid")) == 1
    write(tmp_path / "QNLI/dev.tsv", text + "1\tWho?\tShe.\tentailment\n")
    assert [e.label for e in glue.read(TASKS["qnli"], tmp_path, "valid")] == [1.0, 0.0]


REAL = [(task, split) for task in ("cola", "sst-2", "mrpc", "sts-b", "rte", "wnli") for split in
        glue.SPLITS] + [("qnli", "test")]  # fmt: skip


@pytest.mark.parametrize(("name", "split"), REAL)
def test_official_files_have_their_published_rows(shared, name, split):
    found = glue.read(TASKS[name], shared / "data" / "glue", split)
    assert len(found) == TASKS[name].rows[split]
    assert all(len(e.texts) == len(TASKS[name].texts) and all(e.texts) for e in found)
    labels = {e.label for e in found}
    if split == "test":
        assert labels == {None}
    elif name == "sts-b":
        assert min(labels) == 0 and max(labels) == 5 and len(labels) > 10
    else:
        assert labels == {0, 1}


def test_parts_of_official_files(shared):
    folder = shared / "data" / "glue"
    assert len(glue.read(TASKS["qnli"], folder, "valid")) == 3552
    mnli = glue.read(TASKS["mnli"], folder, "valid")
    assert len(mnli) == 6693
    assert mnli[0].label == 2  # neutral
    # Official: 3,213 contradictions, 3,479 entailments, 3,123 neutral; here two thirds of them.
    counts = np.bincount([int(e.label) for e in mnli]) / len(mnli)
    np.testing.assert_allclose(counts, np.array([3213, 3479, 3123]) / 9815, atol=0.02)


BAD = [
    ("sst-2", "train.tsv", "text\tlabel\nA\t1\n", "no column 'sentence' but text, label"),
    ("sst-2", "train.tsv", "sentence\tlabel\nA\t2\n", "the label '2' in example 1: it must be one"),
    ("sts-b", "train.tsv", "sentence1\tsentence2\tscore\nA\tB\tnan\n", "it must be a number"),
    ("sst-2", "train.tsv", "sentence\tlabel\nA\t1\t1\n", "Line 2 of .* has 3 fields instead of 2"),
    ("sst-2", "train.tsv", "sentence\tlabel\n", "holds no examples"),
    ("sst-2", "train.tsv", "", "holds no examples"),
    ("sst-2", "dev.tsv", "sentence\tlabel\nA\t1\n", "There is no train.tsv"),
]


@pytest.mark.parametrize(("task", "file", "text", "message"), BAD)
def test_a_wrong_file_is_told(tmp_path, task, file, text, message):
    write(tmp_path / file, text)
    with pytest.raises(UserError, match=message) as error:
        glue.read(TASKS[task], tmp_path, "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [b"sentence\tlabel\nT\xf6r\t1\n", gzip.compress(b"a\n" * 99)[:-9]],
    ids=[
        "latin-1",
        "cut",
    ],  # not the bytes: gzip's hold the time, and xdist's workers compare names
)
def test_an_unreadable_file_is_told(tmp_path, content):
    (tmp_path / "train.tsv").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        glue.read(TASKS["sst-2"], tmp_path, "train")
    with pytest.raises(UserError, match="There is nothing at"):
        glue.read(TASKS["sst-2"], tmp_path / "nowhere", "train")


# Rows


def slowly(a, b, room):
    """BERT's _truncate_seq_pair."""
    a, b = list(a), list(b)
    while len(a) + len(b) > room:
        (a if len(a) > len(b) else b).pop()
    return a, b


def test_truncation_is_that_of_bert():
    for la in range(12):
        for lb in range(12):
            for room in range(2, 20):
                a, b = list(range(la)), list(range(100, 100 + lb))
                assert classification.truncate(a, b, room) == slowly(a, b, room)


def ids(tokenizer, text):
    return [tokenizer.token_to_id(token) for token in text.split()]


def make(data, tokenizer, *examples):
    made = classification.Classification(data, tokenizer)
    records = made.write([glue.Example(*e) for e in examples])
    rows = made.read([*records, b""], np.zeros(len(records) + 1, np.uint64))
    batches.check(rows)
    return rows


def test_rows_of_single_texts(data, wordpiece):
    data.length = 8
    rows = make(data, wordpiece, (("The film",), 1.0), (("good " * 9,), 0.0))
    pad = " [PAD]" * 4
    assert rows["tokens"][0].tolist() == ids(wordpiece, "[CLS] the film [SEP]" + pad)
    assert rows["tokens"][1].tolist() == ids(wordpiece, "[CLS]" + " good" * 6 + " [SEP]")
    assert rows["segment_ids"][0].tolist() == [1] * 4 + [0] * 4
    assert rows["positions"][0].tolist() == [0, 1, 2, 3, 0, 0, 0, 0]
    assert not rows["token_types"].any() and not rows["pair_positions"].any()
    assert rows["label"].tolist() == [1, 0, 0]
    assert rows["example_weights"].tolist() == [1, 1, 0]
    assert not rows["segment_ids"][2].any()


def test_rows_of_pairs(data, wordpiece):
    data.length = 12
    rows = make(data, wordpiece, (("the film", "a plot"), 4.75), (("bad " * 9, "good " * 9), 0.0))
    row = "[CLS] the film [SEP] a plot [SEP]" + " [PAD]" * 5
    assert rows["tokens"][0].tolist() == ids(wordpiece, row)
    assert rows["token_types"][0].tolist() == [0] * 4 + [1] * 3 + [0] * 5
    row = "[CLS]" + " bad" * 5 + " [SEP]" + " good" * 4 + " [SEP]"
    assert rows["tokens"][1].tolist() == ids(wordpiece, row)
    assert rows["score"].tolist() == [4.75, 0, 0]


def test_rows_of_xlnet_end_with_their_class(data, tmp_path):
    xlnet = vocabularies.wordpiece(tmp_path, WORDS, vocabularies.XLNET)
    data.length = 9
    pairs = make(data, xlnet, (("the film", "a plot"), 1.0))
    row = "the film <sep> a plot <sep> <cls> <pad> <pad>"
    assert pairs["tokens"][0].tolist() == ids(xlnet, row)
    assert pairs["token_types"][0].tolist() == [0, 0, 0, 1, 1, 1, 2, 0, 0]
    rows = make(data, xlnet, (("bad",), 0.0), (("good " * 9,), 0.0))
    assert rows["tokens"][0].tolist()[:3] == ids(xlnet, "bad <sep> <cls>")
    assert rows["token_types"][0].tolist() == [0, 0, 2] + [0] * 6
    assert rows["tokens"][1].tolist() == ids(xlnet, "good " * 7 + "<sep> <cls>")
    assert rows["pair_positions"][:, 0].tolist() == [2, 8, 0]
    assert rows["segment_ids"].sum(axis=1).tolist() == [3, 9, 0]


def test_rows_of_roberta_have_two_separators_and_no_types(data, tmp_path):
    roberta = vocabularies.wordpiece(tmp_path, WORDS, vocabularies.ROBERTA)
    data.length = 10
    rows = make(data, roberta, (("the film", "a plot"), 1.0), (("bad " * 9, "good " * 9), 0.0))
    row = "<s> the film </s> </s> a plot </s> <pad> <pad>"
    assert rows["tokens"][0].tolist() == ids(roberta, row)
    row = "<s> bad bad bad </s> </s> good good good </s>"
    assert rows["tokens"][1].tolist() == ids(roberta, row)
    assert not rows["token_types"].any()


def test_a_vocabulary_without_cls_is_told(data):
    bpe = tokenizer_training.train("byte_bpe", ["some text"], 280, False)
    with pytest.raises(UserError, match=r"needs \[CLS\]"):
        classification.Classification(data, bpe)


# Data of a run


@pytest.fixture
def config(tmp_path, wordpiece):
    folder = tmp_path / "SST-2"
    lines = [f"{a} {b}\t{int(a == 'good')}\n" for a in ("good", "bad") for b in WORDS]
    write(folder / "train.tsv", "sentence\tlabel\n" + "".join(lines))
    write(folder / "dev.tsv", "sentence\tlabel\n" + "".join(lines[3:10]))
    c = finetune.get_config("bert-tiny,task=sst-2,quick=1")
    c.data.path = str(tmp_path)
    c.data.tokenizer.path = str(tmp_path / "vocab.txt")
    c.model.vocab_size = wordpiece.vocab_size
    c.batch_size = 4
    return c


def test_training_rows_are_a_pure_function_of_seed_and_index(config):
    data, again = pipeline.prepare_data(config), pipeline.prepare_data(config)
    assert (len(data.train), len(data.valid), data.manifest) == (16, 7, {})
    rows = data.train.batch(np.arange(48))
    for name, value in pickle.loads(pickle.dumps(again.train)).batch(np.arange(48)).items():
        np.testing.assert_array_equal(rows[name], value)
    epochs = [[row.tobytes() for row in e] for e in np.split(rows["tokens"], 3)]
    assert set(epochs[0]) == set(epochs[1]) and len(set(epochs[0])) == 16
    assert epochs[0] != epochs[1] != epochs[2]
    config.seed = 1
    other = pipeline.prepare_data(config).train.batch(np.arange(16))["tokens"]
    assert [row.tobytes() for row in other] != epochs[0]


def test_held_out_rows_come_in_order_and_end(config):
    valid = pipeline.prepare_data(config, training=False).valid
    rows = valid.batch(np.arange(8))
    assert rows["label"].tolist() == [1] * 5 + [0] * 3
    assert rows["example_weights"].tolist() == [1] * 7 + [0]


def test_another_training_file(config, tmp_path):
    write(tmp_path / "more.tsv", "sentence\tlabel\n" + "good plot\t1\n" * 21)
    config.data.train_path = str(tmp_path / "more.tsv")
    data = pipeline.prepare_data(config)
    assert (len(data.train), len(data.valid)) == (21, 7)


def test_without_a_training_file_a_task_can_be_evaluated(config, tmp_path):
    (tmp_path / "SST-2" / "train.tsv").unlink()
    assert pipeline.prepare_data(config, training=False).train is None
    with pytest.raises(UserError, match="There is no train.tsv"):
        pipeline.prepare_data(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.task": "sst2"}, "Did you mean 'sst-2'?"),
        ({"data.task": ""}, "Unknown data.task ''"),
        ({"data.task": "mnli"}, "config.objective.classes=2 does not suit mnli: set it to 3"),
        ({"data.task": "sts-b"}, "set it to 1, which means regression"),
        ({"data.path": "/does/not/exist"}, "There is nothing at /does/not/exist"),
        ({"data.tokenizer.path": None}, "set config.init_from"),
        ({"batch_size": 32}, "16 training rows, fewer than batch_size=32"),
        ({"data.length": 4}, "data.length=4 has no room"),
        ({"data.length": 1024}, "data.length=1024 is longer than model.max_positions"),
    ],
)
def test_a_wrong_config_is_told(config, overrides, message):
    config.update_from_flattened_dict(overrides)
    with pytest.raises(UserError) as error:
        pipeline.prepare_data(config)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_config_page_agrees_with_the_tasks():
    assert {*finetune.CHOICE, "boolq"} == set(CHOICES)
    for name, task in finetune.CHOICE.items():
        assert task["rows"] == CHOICES[name].rows["train"]
    assert set(finetune.CLASSIFICATION) == set(TASKS) - {"ax"}  # which has no training set
    for name in finetune.CLASSIFICATION:
        task = TASKS[name]
        assert finetune.CLASSIFICATION[name]["classes"] == max(1, len(task.classes))
        assert finetune.CLASSIFICATION[name]["rows"] == task.rows["train"]
