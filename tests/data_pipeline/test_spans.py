"""Windows on SQuAD's contexts."""

import collections

import numpy as np
import pytest
import squads
import vocabularies

from configs import finetune
from data_pipeline import pipeline, tokenizers
from data_pipeline.tasks import spans, squad
from errors import UserError
from evaluation import squad as scores
from model import batch as batches

V1, V2 = squad.TASKS["squad-v1.1"], squad.TASKS["squad-v2.0"]
WORDS = "in paris rain fell on monday and snow on friday . when where did it fall ?".split()


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory):
    return vocabularies.wordpiece(tmp_path_factory.mktemp("vocabulary"), [*WORDS, ",", "##s"])


def test_answers_elsewhere_are_counted_and_left_out_of_training(tmp_path, data, wordpiece, caplog):
    questions = [
        ("good", "When?", "Monday"),
        ("late", "When?", ("Monday", 23)),
        ("early", "When?", ("Monday", -3)),
        ("other", "When?", ("Tuesday", 22)),
    ]
    path = squads.write(tmp_path / "dev-v1.1.json", (squads.CONTEXT, questions))
    found = squad.read(V1, path, "train")
    assert "3 of 4 questions have an answer that does not stand at its answer_start" in caplog.text
    assert "the first of them late" in caplog.text
    made = spans.Spans(data, wordpiece)
    assert made.write(found, training=True).question.tolist() == [0]
    assert "3 of 4 questions are not trained on" in caplog.text
    assert made.write(found, training=False).question.tolist() == [0, 1, 2, 3]


# Windows


@pytest.fixture
def data(data):
    data.pipeline, data.length = "spans", 24
    data.spans.update(stride=3, question_length=4)
    return data


def make(data, tokenizer, *questions, context=squads.CONTEXT, training=True):
    golds = [
        squad.Question(
            str(i), text, 0, tuple(squad.Answer(a, context.index(a)) for a in answers), not answers
        )
        for i, (text, *answers) in enumerate(questions)
    ]
    made = spans.Spans(data, tokenizer)
    windows = made.write(squad.Questions("it", [context], golds), training=training)
    rows = made.read([*windows.records, b""], None)
    batches.check(rows)
    return windows, rows


def words(tokenizer, row):
    return " ".join(tokenizer.id_to_token(i) for i in row)


def test_a_row_is_question_and_window(data, wordpiece):
    _, rows = make(data, wordpiece, ("When did it fall?", "Monday"), ("Where?",))
    context = "in paris rain fell on monday , and snow on friday ."
    expected = f"[CLS] when did it fall [SEP] {context} [SEP]"  # the question is cut to 4
    assert words(wordpiece, rows["tokens"][0]) == expected + " [PAD]" * 5
    assert rows["token_types"][0].tolist() == [0] * 6 + [1] * 13 + [0] * 5
    assert rows["segment_ids"].sum(axis=1).tolist() == [19, 17, 0]
    assert (rows["answer_start"].tolist(), rows["answer_end"].tolist()) == ([11, 0, 0],) * 2
    assert rows["label"][:2].tolist() == [0, 1]
    assert rows["example_weights"].tolist() == [1, 1, 0]
    places = np.flatnonzero(rows["answer_places"][0]).tolist()
    assert places == [0, *range(6, 18)]
    assert rows["pair_positions"].tolist() == [[0]] * 3


def test_windows_overlap_and_hold_the_answer_or_none(data, wordpiece):
    data.length = 15  # a window of 8 beside a question of 4
    windows, rows = make(
        data, wordpiece, ("When did it fall", "snow on Friday"), ("Where", "Paris")
    )
    assert windows.question.tolist() == [0, 0, 0, 1, 1]
    assert windows.first.tolist() == [0, 3, 6, 0, 3]
    assert windows.size.tolist() == [8, 8, 6, 11, 9]
    assert windows.offset.tolist() == [6] * 3 + [3] * 2
    texts = [words(wordpiece, row[row != 0]) for row in rows["tokens"]]
    assert texts[1] == "[CLS] when did it fall [SEP] fell on monday , and snow on friday [SEP]"
    # Only the second and third windows hold all of "snow on Friday".
    assert rows["answer_start"][:3].tolist() == [0, 11, 8]
    assert rows["answer_end"][:3].tolist() == [0, 13, 10]
    assert rows["label"][:5].tolist() == [1, 0, 0, 0, 1]


def test_rows_of_roberta_and_xlnet(data, tmp_path):
    specials = {"r": vocabularies.ROBERTA, "x": vocabularies.XLNET}
    made = {
        name: vocabularies.wordpiece(tmp_path, [*WORDS, ","], tokens)
        for name, tokens in specials.items()
    }
    windows, rows = make(data, made["r"], ("Where", "Paris"), context="In Paris rain fell")
    text = "<s> where </s> </s> in paris rain fell </s>"
    assert words(made["r"], rows["tokens"][0]) == text + " <pad>" * 15
    assert not rows["token_types"].any()
    assert (rows["answer_start"][0], rows["answer_end"][0]) == (5, 5)
    questions = ("Where", "Paris"), ("When",)
    windows, rows = make(data, made["x"], *questions, context="In Paris rain fell")
    text = "in paris rain fell <sep> where <sep> <cls>"
    assert words(made["x"], rows["tokens"][0]) == text + " <pad>" * 16
    assert rows["token_types"][0].tolist() == [0] * 5 + [1] * 2 + [2] + [0] * 16
    # That there is no answer is the span of the class token, wherever it is.
    assert rows["answer_start"][:2].tolist() == [1, 7] and rows["label"][:2].tolist() == [0, 1]
    assert np.flatnonzero(rows["answer_places"][1]).tolist() == [0, 1, 2, 3, 7]


def slowly(pieces, room, stride):
    """The doc spans of run_squad.py."""
    found, start = [], 0
    while start < pieces:
        length = min(pieces - start, room)
        found.append((start, length))
        if start + length == pieces:
            break
        start += min(length, stride)
    return found


def best_slowly(windows, piece):
    """_check_is_max_context of run_squad.py, for all windows."""
    best, number = None, None
    for i, (start, length) in enumerate(windows):
        if not start <= piece < start + length:
            continue
        score = min(piece - start, start + length - 1 - piece) + 0.01 * length
        if best is None or score > best:
            best, number = score, i
    return number


def test_windows_and_their_context_are_those_of_bert():
    for pieces in range(1, 60):
        for room, stride in ((7, 3), (10, 10), (5, 9), (20, 8)):
            found = list(spans.cut(pieces, room, stride))
            assert found == slowly(pieces, room, stride)
            best = spans.most_context(*np.array(found).T)
            assert best.tolist() == [best_slowly(found, i) for i in range(pieces)]
    assert list(spans.cut(0, 7, 3)) == [
        (0, 0)
    ]  # a question without a context gets a row all the same


def test_an_answer_is_its_pieces(wordpiece):
    (pieces,) = wordpiece.locate_batch(["In Paris, snows"])
    assert [words(wordpiece, pieces.ids)] == ["in paris , snow ##s"]
    find = lambda text, start: spans.find("In Paris, snows", pieces, squad.Answer(text, start))  # noqa: E731
    assert find("Paris", 3) == (1, 1) and find("Paris,", 3) == (1, 2)
    assert find("snow", 10) == (3, 3) and find("snows", 10) == (3, 4)
    assert find("aris", 4) == (1, 1)  # the whole piece
    assert find("Paris", 4) is None and find("Rome", 3) is None


BERT_WINDOWS = {"train": 88_641, "valid": 10_833}  # of run_squad.py, 384 tokens, stride 128


def round_trips(found, tokenizer, every=1):
    """Counts questions by what became of their answers, and returns examples."""
    questions = found.questions[::every]
    used = sorted({q.context for q in questions})
    located = dict(zip(used, tokenizer.locate_batch([found.contexts[i] for i in used])))
    counts, examples = collections.Counter(), collections.defaultdict(list)
    for question in questions:
        context, (answer, *_) = found.contexts[question.context], question.answers
        place = spans.find(context, located[question.context], answer)
        if place is None:
            counts["not found"] += 1
            continue
        pieces = located[question.context].spans
        text = context[pieces[place[0], 0] : pieces[place[1], 1]]
        reason = "same"
        if scores.normalize(text) != scores.normalize(answer.text):
            # Nothing but the rest of the first and of the last piece is too much.
            start, end = pieces[place[0]][0], pieces[place[1]][1]
            inside = start <= answer.start and answer.start + len(answer.text) <= end
            first, last = pieces[place[0]][1], pieces[place[1]][0]
            cut = first > answer.start and last < answer.start + len(answer.text)
            reason = "ends inside a piece" if inside and cut else "other"
        counts[reason] += 1
        examples[reason].append((answer.text, text))
    return counts, examples


VOCABULARIES = {
    "bert-base-uncased-vocab.txt": 175,
    "bert-base-cased-vocab.txt": 171,
    "roberta": 179,
    "gpt1": 183,
    "albert/spiece.model": 171,
    "t5/spiece.model": 167,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VOCABULARIES)
def test_every_answer_survives_the_round_trip(shared, squad_train, name):
    """Of 87,599 answers all but those that begin or end inside of a piece, such as "7" in "17"."""
    counts, examples = round_trips(squad_train, tokenizers.load(shared / "data" / "vocab" / name))
    assert set(counts) == {"same", "ends inside a piece"}, examples["other"][:5]
    assert counts["ends inside a piece"] == VOCABULARIES[name]
    assert counts.total() == 87_599


@pytest.mark.parametrize("name", ["bert-base-uncased-vocab.txt", "albert/spiece.model", "roberta"])
def test_some_answers_survive_the_round_trip(shared, squad_train, name):
    tokenizer = tokenizers.load(shared / "data" / "vocab" / name)
    counts, examples = round_trips(squad_train, tokenizer, every=40)
    assert set(counts) <= {"same", "ends inside a piece"}, examples["other"][:5]
    assert counts.total() == 2190 and counts["ends inside a piece"] < 10


def config(shared):
    c = finetune.get_config("bert-tiny,task=squad-v1.1")
    c.data.path = str(shared / "data")
    c.data.tokenizer.path = str(shared / "data" / "vocab" / "bert-base-uncased-vocab.txt")
    c.model.update(vocab_size=30522, max_positions=512)
    c.data.length = 384
    return c


@pytest.mark.slow
def test_train_has_the_windows_of_bert(shared):
    data = pipeline.prepare_data(config(shared))
    assert {"train": len(data.train), "valid": len(data.valid)} == BERT_WINDOWS


def test_dev_has_the_windows_of_bert(shared):
    data = pipeline.prepare_data(config(shared), training=False)
    assert len(data.valid) == BERT_WINDOWS["valid"] == len(data.asked.records)
    rows = data.valid.batch(np.arange(0, 10_833, 100))
    batches.check(rows)
    # The tokens of an answer are those of its text.
    for i, row in enumerate(rows["tokens"][:50]):
        question = data.asked.questions.questions[data.asked.question[100 * i]]
        if rows["label"][i]:
            continue
        ids = row[rows["answer_start"][i] : rows["answer_end"][i] + 1].tolist()
        assert ids == data.tokenizer.encode(question.answers[0].text)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.task": "squad"}, "Did you mean 'squad-v"),
        ({"data.task": "sst-2"}, "Unknown data.task 'sst-2'"),
        ({"data.spans.stride": 0}, "data.spans.stride and question_length must be at least 1"),
        ({"data.length": 30}, "data.length=30 has no room for a window"),
        ({"data.tokenizer.path": None}, "set config.init_from"),
        ({"batch_size": 64}, "squad-v1.1 has 2 training rows, fewer than batch_size=64"),
    ],
)
def test_a_wrong_config_is_told(tmp_path, wordpiece, overrides, message):
    for split in ("train", "dev"):
        questions = [("a", "When?", "Monday"), ("b", "Where?", "Paris")]
        squads.write(tmp_path / f"{split}-v1.1.json", (squads.CONTEXT, questions))
    wordpiece.save(tmp_path / "vocabulary")
    c = finetune.get_config("bert-tiny,task=squad-v1.1,quick=1")
    c.data.path, c.batch_size = str(tmp_path), 2
    c.data.tokenizer.path = str(tmp_path / "vocabulary")
    c.data.spans.question_length = 30
    c.model.vocab_size = wordpiece.vocab_size
    assert len(pipeline.prepare_data(c).train) == 2
    c.update_from_flattened_dict(overrides)
    with pytest.raises(UserError) as error:
        pipeline.prepare_data(c)
    assert message in str(error.value) and "\n" not in str(error.value)
