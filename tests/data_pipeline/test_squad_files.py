"""SQuAD's files, as they are read."""

import gzip
import json

import numpy as np
import pytest
import squads
import tensorflow_datasets as tfds

from configs import finetune
from data_pipeline.tasks import squad
from errors import UserError

V1, V2 = squad.TASKS["squad-v1.1"], squad.TASKS["squad-v2.0"]


def test_questions_are_read_in_their_order(tmp_path):
    paragraphs = (
        (
            squads.CONTEXT,
            [("a", "When did it rain?", "Monday", "on Monday"), ("b", "Where?", "Paris")],
        ),
        ("Nothing.", [("c", "When?")]),
    )
    path = squads.write(tmp_path / "dev-v2.0.json", *paragraphs)
    packed = tmp_path / "packed" / "dev-v2.0.part.json.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(path.read_bytes()))
    for where in (tmp_path, path, packed, packed.parent):
        found = squad.read(V2, where, "valid")
        assert found.contexts == [squads.CONTEXT, "Nothing."]
        first = squad.Question(
            "a", "When did it rain?", 0, (("Monday", 22), ("on Monday", 19)), False
        )
        assert found.questions[0] == first
        assert [(q.id, q.context, q.impossible) for q in found.questions[1:]] == [
            ("b", 0, False),
            ("c", 1, True),
        ]


class Library(tfds.core.GeneratorBasedBuilder):
    """SQuAD v2.0 with the fields that TFDS has."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        answers = tfds.features.Sequence({"text": text, "answer_start": np.int32})
        fields = dict.fromkeys(("id", "title", "context", "question"), text)
        features = tfds.features.FeaturesDict({**fields, "answers": answers})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "validation": self._generate_examples()}

    def _generate_examples(self):
        for key, golds in (("a", ["Monday", "on Monday"]), ("b", []), ("c", ["Paris"])):
            starts = [squads.CONTEXT.index(gold) for gold in golds]
            answers = {"text": golds, "answer_start": starts}
            texts = {"id": key, "title": "T", "context": squads.CONTEXT, "question": f"{key}?"}
            yield key, {**texts, "answers": answers}


def test_a_set_of_a_library(tmp_path):
    builder = Library(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    found = squad.read(V2, f"tfds:{builder.data_dir}", "valid")
    assert found.contexts == [squads.CONTEXT]
    by_id = {question.id: question for question in found.questions}  # TFDS shuffles
    golds = (("Monday", 22), ("on Monday", 19))
    assert by_id["a"] == squad.Question("a", "a?", 0, golds, False)
    assert by_id["b"] == squad.Question("b", "b?", 0, (), True)
    with pytest.raises(UserError, match="squad-v2.0 has no test split"):
        squad.read(V2, f"tfds:{builder.data_dir}", "test")


def test_official_files_have_their_published_questions(shared, squad_train):
    folder = shared / "data"
    for split, found in (("train", squad_train), ("valid", squad.read(V1, folder, "valid"))):
        assert len(found.questions) == V1.rows[split]
    part = squad.read(V2, folder, "valid").questions
    assert (len(part), sum(q.impossible for q in part)) == (3292, 1638)


def test_the_config_page_agrees_with_the_tasks():
    assert {name: task["rows"] for name, task in finetune.SPANS.items()} == {
        name: task.rows["train"] for name, task in squad.TASKS.items()
    }


def change(layout, *path, **values):
    """Sets or (by None) deletes fields of what the path leads to."""
    place = layout
    for key in path:
        place = place[key]
    for name, value in values.items():
        place.pop(name)
        if value is not None:
            place[name] = value
    return layout


ARTICLE = ("data", 0)
PARAGRAPH = (*ARTICLE, "paragraphs", 0)
QUESTION = (*PARAGRAPH, "qas", 0)
BAD = [
    ((), dict(data=None), "the whole has no 'data' that is a list"),
    (ARTICLE, dict(paragraphs={}), "article 1 has no 'paragraphs' that is a list"),
    (PARAGRAPH, dict(context=None), "paragraph 1 of article 1 has no 'context' that is text"),
    (PARAGRAPH, dict(qas=None), "paragraph 1 of article 1 has no 'qas'"),
    (PARAGRAPH, dict(qas=[]), "holds no questions"),
    (QUESTION, dict(id=None), "a question in paragraph 1 of article 1 has no 'id' that is text"),
    (QUESTION, dict(id=""), "has a question without an id"),
    (QUESTION, dict(id="b"), "has the id b twice"),
    (QUESTION, dict(question=7), "question a has no 'question' that is text"),
    (QUESTION, dict(answers=[{"text": "x"}]), "question a has no 'answer_start' that is a whole"),
    (QUESTION, dict(is_impossible="no"), "question a has no 'is_impossible' that is true or"),
    (QUESTION, dict(answers=[]), "has no answer to question a, as in v2.0: set data.task"),
]


@pytest.mark.parametrize(("path", "values", "message"), BAD)
def test_a_wrong_file_is_told(tmp_path, path, values, message):
    layout = squads.document((squads.CONTEXT, [("a", "When?", "Monday"), ("b", "Where?", "Paris")]))
    file = tmp_path / "train-v1.1.json"
    file.write_text(json.dumps(layout))
    squad.read(V1, file, "train")
    file.write_text(json.dumps(change(layout, *path, **values)))
    with pytest.raises(UserError) as error:
        squad.read(V1, file, "train")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_no_json_is_told(tmp_path):
    (tmp_path / "dev-v1.1.json").write_text('{"data": [')
    with pytest.raises(UserError, match="is no JSON"):
        squad.read(V1, tmp_path, "valid")
    (tmp_path / "dev-v1.1.json").write_text("[]")
    with pytest.raises(UserError, match="the whole has no 'data'"):
        squad.read(V1, tmp_path, "valid")
    with pytest.raises(UserError, match="There is no train-v1.1.json"):
        squad.read(V1, tmp_path, "train")
    with pytest.raises(UserError, match="There is nothing at"):
        squad.read(V1, tmp_path / "nowhere", "train")


def test_a_test_file_needs_no_answers(tmp_path):
    layout = squads.document((squads.CONTEXT, [("a", "When?")]))
    for name in ("answers", "is_impossible"):
        del layout["data"][0]["paragraphs"][0]["qas"][0][name]
    (tmp_path / "test-v1.1.json").write_text(json.dumps(layout))
    assert squad.read(V1, tmp_path, "test").questions[0].answers == ()
