"""Rows whose shapes are told before there is text have them when there is."""

import importlib

import numpy as np
import pytest

from data_pipeline import pipeline, shapes
from errors import UserError
from model import batch

PAGES = [
    ("albert", "xxlarge"),
    ("bert", "large,phase=2"),
    ("electra", "base"),
    ("ernie", "base"),
    ("ernie_baidu", "base"),
    ("gpt1", "base"),
    ("gpt2", "1558m"),
    ("gpt3", "175b"),
    ("reformer", "copy"),
    ("reformer", "enwik8"),
    ("reformer", "imagenet64"),
    ("roberta", "large"),
    ("t5", "11b"),
    ("t5", "base,mixture=1"),
    ("tinybert", "4"),
    ("xlnet", "large"),
    ("kagnet", "large"),
    ("finetune", "model=bert-base,task=mrpc"),
    ("finetune", "model=bert-base,task=figer"),
    ("finetune", "model=electra-large,task=squad-v1.1"),
    ("finetune", "model=ernie-base,task=fewrel"),
    ("finetune", "model=gpt1-base,task=sts-b"),
    ("finetune", "model=gpt1-base,task=race"),
    ("finetune", "model=roberta-large,task=swag"),
    ("finetune", "model=t5-base,task=mnli"),
    ("finetune", "model=xlnet-large,task=squad-v2.0"),
]


def config(page, arg):
    return importlib.import_module(f"configs.{page}").get_config(arg)


@pytest.mark.parametrize(("page", "arg"), PAGES)
def test_every_page_tells_them(page, arg):
    c = config(page, arg)
    row = shapes.example(c)
    batch.check({name: x[None] for name, x in row.items()})
    assert row["tokens"].size % c.data.length == 0


@pytest.mark.parametrize("page", ["bert", "gpt3", "t5", "xlnet"])
def test_they_are_those_of_the_text(page, tmp_path):
    c = config(page, "tiny,quick=1")
    c.data.tokenizer.vocab_size = c.model.vocab_size = 600
    c.data.source = str(tmp_path / "text.txt")
    words = "one two three four five six seven eight nine ten".split()
    rng = np.random.default_rng(0)
    sentences = [" ".join(rng.choice(words, 8)) + "." for _ in range(4000)]
    paragraphs = ("\n".join(sentences[i : i + 20]) for i in range(0, len(sentences), 20))
    (tmp_path / "text.txt").write_text("\n\n".join(paragraphs))
    c.data.cache_dir = str(tmp_path / "cache")
    row = pipeline.prepare_data(c).train.example(0)
    told = shapes.example(c)
    assert {k: (x.shape, x.dtype) for k, x in told.items()} == {
        k: (x.shape, x.dtype) for k, x in row.items()
    }


def test_packed_rows():
    c = config("bert", "large,phase=2")
    assert shapes.example(c)["pair_positions"].shape == (1,)
    c.data.packing = True
    assert shapes.example(c)["pair_positions"].shape == (16,)


def test_a_vocabulary_of_another_kind():
    c = config("bert", "base")
    c.data.tokenizer.update(kind="byte_bpe", lowercase=False)
    with pytest.raises(UserError, match="set data.tokenizer.kind=wordpiece"):
        shapes.example(c)
    c.data.length = 1024
    with pytest.raises(UserError, match="longer than model.max_positions=512"):
        shapes.example(c)
