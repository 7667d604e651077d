"""Rows of multiple-choice questions, written out by hand."""

import numpy as np
import pytest
import vocabularies

from configs import common
from data_pipeline import pipeline, tokenizer_training
from data_pipeline.tasks import choice, choices, classification
from errors import UserError
from model import batch as batches

WORDS = "who ran away the dog cat it slept . a b c d e".split()
LENGTH = 10
NONE = "[PAD] " * LENGTH


@pytest.fixture
def wordpiece(tmp_path):
    return vocabularies.wordpiece(tmp_path, WORDS)


def question(context, asked, *texts, label=0):
    return choices.Question("q", context, asked, texts, label, tuple("ABCDE"[: len(texts)]))


def data(task, length=LENGTH):
    config = common.data()
    config.update(task=task, length=length, pipeline="choice")
    return config


def make(task, tokenizer, *questions, length=LENGTH):
    """The rows of questions, and one of padding."""
    made = choice.Choice(data(task, length), tokenizer)
    rows = made.read([*made.write(questions), b""], None)
    batches.check(rows)
    return rows


def read(tokenizer, rows, row):
    """The parts of a row as texts."""
    parts = np.split(rows["tokens"][row], rows["pair_positions"].shape[1])
    return [" ".join(map(tokenizer.id_to_token, part.tolist())) for part in parts]


def padded(*texts, length=LENGTH, pad="[PAD]"):
    return [" ".join([*text.split(), *[pad] * (length - len(text.split()))]) for text in texts]


def test_bert_reads_the_context_and_how_it_goes_on(wordpiece):
    asked = question("The dog ran.", "it", "slept", "ran away", "a", "b", label=2)
    rows = make("swag", wordpiece, asked)
    assert read(wordpiece, rows, 0) == padded(
        "[CLS] the dog ran . [SEP] it slept [SEP]",
        "[CLS] the dog ran . [SEP] it ran away [SEP]",
        "[CLS] the dog ran . [SEP] it a [SEP]",
        "[CLS] the dog ran . [SEP] it b [SEP]",
    )
    assert rows["token_types"][0, :LENGTH].tolist() == [0] * 6 + [1] * 3 + [0]
    assert rows["positions"][0, LENGTH : 2 * LENGTH].tolist() == list(range(LENGTH))
    assert rows["segment_ids"][0].reshape(4, -1).sum(1).tolist() == [9, 10, 9, 9]
    assert rows["pair_positions"].tolist() == [[0, 10, 20, 30]] * 2
    assert rows["label"].tolist() == [2, 0] and rows["example_weights"].tolist() == [1, 0]
    assert not rows["segment_ids"][1].any() and set(read(wordpiece, rows, 1)) == {NONE.strip()}


@pytest.mark.parametrize("task", ["commonsenseqa-1.0", "arc-easy", "openbookqa", "piqa"])
def test_a_question_without_context_and_its_answer(task, wordpiece):
    count = min(choices.CHOICES[task].counts)
    rows = make(task, wordpiece, question("", "who ran", *"abcde"[:count]))
    wanted = [f"[CLS] who ran [SEP] {x} [SEP]" for x in "abcde"[:count]]
    assert read(wordpiece, rows, 0)[:count] == padded(*wanted)


def test_choices_that_are_not_there_are_padding(wordpiece):
    three = question("", "who", "a", "b", "c", label=1)
    rows = make("arc-challenge", wordpiece, three, question("", "who", *"abcde", label=4))
    assert read(wordpiece, rows, 0)[2:] == [
        *padded("[CLS] who [SEP] c [SEP]"),
        NONE[:-1],
        NONE[:-1],
    ]
    there = rows["segment_ids"].reshape(3, 5, LENGTH).any(2)
    assert there.tolist() == [[True] * 3 + [False] * 2, [True] * 5, [False] * 5]
    assert rows["label"].tolist() == [1, 4, 0] and rows["example_weights"].tolist() == [1, 1, 0]


def test_winogrande_is_cut_at_its_blank(wordpiece):
    rows = make("winogrande", wordpiece, question("the dog ran . _ slept .", "", "the cat", "it"))
    assert read(wordpiece, rows, 0) == padded(
        "[CLS] the dog ran . [SEP] the cat slept [SEP]",
        "[CLS] the dog ran . [SEP] it slept . [SEP]",
    )


def test_race_fills_blanks_or_goes_on(wordpiece):
    filled = question("the dog ran .", "_ ran . _ slept", "a", "b", "c", "d")
    rows = make("race-high", wordpiece, filled, question("it", "who ran", *"abcd"), length=14)
    assert (
        read(wordpiece, rows, 0)[0]
        == padded("[CLS] the dog ran . [SEP] a ran . a slept [SEP]", length=14).pop()
    )
    assert read(wordpiece, rows, 1)[3] == padded("[CLS] it [SEP] who ran d [SEP]", length=14).pop()


def test_of_a_long_question_of_race_the_last_tokens_stay(wordpiece):
    """The passage is cut from the right to what the last 128 tokens of the question leave."""
    asked = question("the cat " * 300, "who " * 200, "a", "b", "c", "d")
    rows = make("race", wordpiece, asked, length=512)
    tokens = read(wordpiece, rows, 0)[1].split()
    assert tokens[-129:] == [*["who"] * 127, "b", "[SEP]"]
    assert tokens[: 512 - 129] == ["[CLS]", *["the", "cat"] * 190, "the", "[SEP]"]


def test_of_other_texts_the_longer_one_is_cut(wordpiece):
    asked = question("the dog " * 9, "", "a b c d", "it", "it", "it")
    assert read(wordpiece, make("codah", wordpiece, asked), 0)[:2] == [
        "[CLS] the dog the dog [SEP] a b c [SEP]",  # at equal lengths, the second
        "[CLS] the dog the dog the dog [SEP] it [SEP]",
    ]


def test_roberta_and_xlnet_lay_out_as_for_pairs(tmp_path):
    roberta = vocabularies.wordpiece(tmp_path, WORDS, vocabularies.ROBERTA)
    asked = question("", "who ran", "a", "b", label=1)
    rows = make("piqa", roberta, asked)
    wanted = "<s> who ran </s> </s> a </s>", "<s> who ran </s> </s> b </s>"
    assert read(roberta, rows, 0) == padded(*wanted, pad="<pad>")
    assert not rows["token_types"].any()
    xlnet = vocabularies.wordpiece(tmp_path, WORDS, vocabularies.XLNET)
    rows = make("piqa", xlnet, asked)
    wanted = "who ran <sep> a <sep> <cls>", "who ran <sep> b <sep> <cls>"
    assert read(xlnet, rows, 0) == padded(*wanted, pad="<pad>")
    assert rows["token_types"][0, LENGTH:].tolist() == [0, 0, 0, 1, 1, 2, 0, 0, 0, 0]
    assert rows["pair_positions"][0].tolist() == [5, 15]


def test_gpt1_reads_all_that_is_asked_before_the_delimiter():
    t = tokenizer_training.train("word_bpe", [" ".join(WORDS)] * 20, 300, True).with_specials()
    made = choice.GptChoice(data("arc-easy", 32), choice.GptChoice.adapt(t))
    asked = question("the dog ran .", "who ran away", "the cat", "it", "a", label=2)
    rows = made.read([*made.write([asked]), b""], None)
    batches.check(rows)
    assert rows["tokens"].shape == (2, 5 * 32)
    before = [t.start_id, *t.encode("the dog ran . who ran away"), t.sep_id]
    for i, text in enumerate(("the cat", "it", "a")):
        ids = [*before, *t.encode(text), t.cls_id]
        part = slice(32 * i, 32 * i + len(ids))
        assert rows["tokens"][0, part].tolist() == ids
        assert rows["positions"][0, part].tolist() == list(range(len(ids)))
        assert rows["targets"][0, part].tolist() == [*ids[1:], 0]
        assert rows["pair_positions"][0, i] == 32 * i + len(ids) - 1
    assert not rows["segment_ids"][0, 3 * 32 :].any() and not rows["weights"][0, 3 * 32 :].any()
    assert rows["label"].tolist() == [2, 0] and rows["example_weights"].tolist() == [1, 0]


def test_gpt1_fills_the_blank_too():
    t = tokenizer_training.train("word_bpe", [" ".join(WORDS)] * 20, 300, True).with_specials()
    made = choice.GptChoice(data("winogrande", 32), t)
    rows = made.read(made.write([question("the dog ran , _ slept", "", "it", "cat")]), None)
    ids = [t.start_id, *t.encode("the dog ran ,"), t.sep_id, *t.encode("cat slept"), t.cls_id]
    assert rows["tokens"][0, 32 : 32 + len(ids)].tolist() == ids


def config(folder, tokenizer, **data):
    c = common.base()
    c.model = dict(vocab_size=tokenizer.vocab_size, max_positions=16)
    c.objective = dict(name="classification", classes=0)
    c.data.update(path=str(folder), length=12, **data)
    c.data.tokenizer.path = str(folder / "vocab.txt")
    c.batch_size = 2
    return c


def test_boolq_is_a_class_of_question_and_passage(tmp_path, wordpiece):
    row = '{"question": "who ran", "title": "t", "answer": true, "passage": "the dog ran ."}\n'
    for split in ("train", "dev"):
        (tmp_path / f"{split}.jsonl").write_text(row * 3)
    c = config(tmp_path, wordpiece, task="boolq", pipeline="classification")
    c.objective.classes = 2
    rows = pipeline.prepare_data(c).valid.batch([0])
    assert rows["label"].tolist() == [1]
    wanted = padded("[CLS] who ran [SEP] the dog ran . [SEP]", length=12)
    assert [" ".join(map(wordpiece.id_to_token, rows["tokens"][0].tolist()))] == wanted
    assert classification.Classification.classes("boolq") == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"objective.classes": 4},
            "config.objective.classes=4 does not suit piqa: set it to 0, wh",
        ),
        ({"data.both_orders": True}, "data.both_orders is for pairs, which piqa has not"),
        ({"data.task": "piqq"}, "Did you mean 'piqa'"),
        ({"data.task": "mrpc"}, "data.task"),
        ({"data.length": 6}, "data.length=6 has no room"),
        ({"batch_size": 64}, "piqa has 2 training rows, fewer than batch_size=64"),
    ],
)
def test_a_wrong_config_is_told(tmp_path, wordpiece, overrides, message):
    rows = '{"goal": "who", "sol1": "a", "sol2": "b", "label": 1}\n' * 2
    for split in ("train", "valid"):
        (tmp_path / f"{split}.jsonl").write_text(rows)
    c = config(tmp_path, wordpiece, task="piqa", pipeline="choice")
    assert len(pipeline.prepare_data(c).train) == 2
    c.update_from_flattened_dict(overrides)
    with pytest.raises(UserError) as error:
        pipeline.prepare_data(c)
    assert message in str(error.value) and "\n" not in str(error.value)
