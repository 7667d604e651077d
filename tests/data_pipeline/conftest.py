"""A vocabulary and documents that are small enough to check by eye."""

import types

import numpy as np
import pytest

from configs import common
from data_pipeline.tasks import squad

VOCAB_SIZE = 1000


@pytest.fixture
def tokenizer():
    """What the pipelines need of a tokenizer: every third token continues a word."""
    return types.SimpleNamespace(
        kind="wordpiece",
        vocab_size=VOCAB_SIZE,
        pad_id=0,
        cls_id=2,
        sep_id=3,
        mask_id=4,
        eot_id=5,
        doubles_sep=False,
        cls_last=False,
        continues_word=np.arange(VOCAB_SIZE) % 3 == 0,
    )


@pytest.fixture
def documents():
    """60 documents of 1 to 20 sentences of 1 to 30 tokens."""
    rng = np.random.default_rng(0)
    sizes = [rng.integers(1, 31, size=rng.integers(1, 21)) for _ in range(60)]
    return [(rng.integers(10, VOCAB_SIZE, size=s.sum()), s) for s in sizes]


@pytest.fixture
def data():
    """The data section of a config, with rows of 64 tokens."""
    data = common.base().data
    data.length = 64
    data.masking.max_predictions = 10
    return data


@pytest.fixture(scope="session")
def squad_train(shared):
    """The questions of SQuAD v1.1's training set."""
    return squad.read(squad.TASKS["squad-v1.1"], shared / "data", "train")
