"""Labeled tasks from TFDS and `datasets`, made on this machine in the layouts that these have."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipeline import remote
from data_pipeline.tasks import TASKS, glue, published, task_files
from errors import UserError

# In the library's own order of labels: entailment, neutral, contradiction.
ROWS = [
    {"premise": "Ça va.", "hypothesis": "It goes.", "label": 0, "idx": 7},
    {"premise": "A cat.", "hypothesis": "A dog.", "label": 2, "idx": 8},
    {"premise": "One.", "hypothesis": "Two.", "label": 1, "idx": 9},
]
UNLABELED = [row | {"label": -1} for row in ROWS]
EXAMPLES = [
    glue.Example(("Ça va.", "It goes."), 1.0, "0"),
    glue.Example(("A cat.", "A dog."), 0.0, "1"),
    glue.Example(("One.", "Two."), 2.0, "2"),
]


class Mnli(tfds.core.GeneratorBasedBuilder):
    """MNLI as TFDS lays it out: text is bytes, numbers are numpy's."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                "premise": tfds.features.Text(),
                "hypothesis": tfds.features.Text(),
                "label": tfds.features.ClassLabel(names=("entailment", "neutral", "contradiction")),
                "idx": tfds.features.Scalar(np.int32),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        rows = {"train": ROWS, "validation_matched": ROWS, "test_matched": UNLABELED}
        return {split: self._generate_examples(given) for split, given in rows.items()}

    def _generate_examples(self, rows):
        yield from enumerate(rows)


@pytest.fixture(scope="module")
def in_tfds(tmp_path_factory):
    builder = Mnli(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=1))
    return f"tfds:{builder.data_dir}"


@pytest.fixture(scope="module")
def in_hf(tmp_path_factory):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("hf")
    splits = {"train": ROWS, "validation_matched": ROWS, "test_matched": UNLABELED}
    datasets.DatasetDict(
        {split: datasets.Dataset.from_list(rows) for split, rows in splits.items()}
    ).save_to_disk(folder)
    return f"hf:{folder}"


@pytest.fixture(params=["in_tfds", "in_hf"])
def path(request):
    return request.getfixturevalue(request.param)


def by_text(examples):
    return sorted((e.texts, e.label) for e in examples)


def test_rows_of_a_library_are_those_of_the_files(path):
    """TFDS shuffles; labels come in our order and text as text."""
    for split in ("train", "valid"):
        found = glue.read(TASKS["mnli"], path, split)
        assert by_text(found) == by_text(EXAMPLES)
        assert [e.id for e in found] == ["0", "1", "2"]
    found = {e.id: (e.texts, e.label) for e in glue.read(TASKS["mnli"], path, "test")}
    assert found == {str(7 + i): (e.texts, None) for i, e in enumerate(EXAMPLES)}


def test_without_a_path_the_table_says_where(in_hf, monkeypatch):
    monkeypatch.setitem(
        published.PUBLISHED, "mnli", published.PUBLISHED["mnli"]._replace(path=in_hf)
    )
    assert glue.read(TASKS["mnli"], None, "train") == EXAMPLES


def test_every_task_has_a_source():
    assert set(TASKS) <= set(published.PUBLISHED)
    for source in published.PUBLISHED.values():
        assert source.path.partition(":")[0] in published.LIBRARIES
        assert len(source.splits) == len(task_files.SPLITS)


@pytest.mark.parametrize(
    ("task", "path", "name"),
    [
        ("cola", None, ("nyu-mll/glue", "cola", "validation")),
        ("mnli-mm", None, ("nyu-mll/glue", "mnli", "validation_mismatched")),
        ("sts-b", "tfds:glue", ("glue/stsb", "validation")),
    ],
)
def test_what_libraries_are_asked_for(task, path, name, monkeypatch):
    asked = []

    def table(*args):
        asked.append(args)
        return remote.Table([], [], "", None)

    monkeypatch.setattr(remote, "hf_table", table)
    monkeypatch.setattr(remote, "tfds_table", table)
    assert list(published.rows(task, path, "valid")) == []
    assert asked == [name]


@pytest.mark.parametrize(
    ("task", "split", "message"),
    [
        ("ax", "train", "ax has no train split: it is for predictions alone"),
        ("qnli", "valid", "The qnli of .* has no field 'question' but"),
        ("mnli-mm", "valid", "Split 'validation_mismatched' of .* cannot be read"),
    ],
)
def test_what_does_not_fit_is_told(task, split, message, in_hf, monkeypatch):
    source = published.Source(in_hf, splits=("train", "validation_matched", "test_matched"))
    if task == "qnli":
        monkeypatch.setitem(published.PUBLISHED, task, source)
    with pytest.raises(UserError, match=message):
        glue.read(TASKS[task], in_hf, split)


def test_a_split_without_labels_is_not_learned_from(in_hf, monkeypatch):
    source = published.PUBLISHED["mnli"]._replace(splits=("test_matched",) * 3)
    monkeypatch.setitem(published.PUBLISHED, "mnli", source)
    with pytest.raises(UserError, match="train split of mnli has the label -1"):
        glue.read(TASKS["mnli"], in_hf, "train")
