"""Every size has the published number of parameters; every config has every key."""

import importlib
import pathlib
import subprocess
import sys

import pytest

from configs import common
from model import objectives
from training import state

CONFIGS = pathlib.Path(common.__file__).parent
PAGES = sorted(p.stem for p in CONFIGS.glob("*.py") if p.stem not in ("__init__", "common"))

# From the tensor shapes of the released checkpoints: the token table once (tied); for BERT with
# pooler, masked-LM and next-sentence heads; for GPT-2 the authors' corrected counts.
PUBLISHED = [
    ("bert", "base", {}, 110_106_428),
    ("bert", "large", {}, 336_226_108),
    ("bert", "base", {"model.vocab_size": 28996}, 108_932_934),
    ("bert", "large", {"model.vocab_size": 28996}, 334_661_958),
    ("gpt2", "124m", {}, 124_439_808),
    ("gpt2", "355m", {}, 354_823_168),
    ("gpt2", "774m", {}, 774_030_080),
    ("gpt2", "1558m", {}, 1_557_611_200),
]
# The miniatures of BERT's README, with pooler and without the two heads.
MINIATURES = [("mini", 11_170_560), ("small", 28_763_648), ("medium", 41_373_184)]


def load(page, arg):
    return importlib.import_module(f"configs.{page}").get_config(arg)


@pytest.mark.parametrize(("page", "arg", "overrides", "count"), PUBLISHED)
def test_parameter_count_is_the_published_one(page, arg, overrides, count):
    config = load(page, arg)
    config.update_from_flattened_dict(overrides)
    assert state.count_parameters(objectives.build(config, "cpu")) == count


@pytest.mark.parametrize(("arg", "count"), [*MINIATURES, ("tiny", 4_385_920)])
def test_miniatures(arg, count):
    config = load("bert", arg)
    config.model.vocab_size = 30522
    width, vocab = config.model.width, config.model.vocab_size
    heads = (width**2 + 3 * width + vocab) + (2 * width + 2)  # masked LM, next sentence
    assert state.count_parameters(objectives.build(config, "cpu")) == count + heads


@pytest.mark.parametrize("page", PAGES)
def test_every_page_has_the_same_keys(page):
    assert set(load(page, None or "")) == set(common.base())


@pytest.mark.parametrize("page", PAGES)
def test_quick_keeps_derived_values_right(page):
    config = load(page, "bert-tiny,quick=1" if page == "finetune" else "tiny,quick=1")
    assert config.model.mlp_width == 4 * config.model.width
    assert config.model.vocab_size == config.data.tokenizer.vocab_size


def test_bert_phases():
    first, second = load("bert", "large"), load("bert", "large,phase=2")
    assert (first.data.length, first.total_steps) == (128, 900_000)
    assert (second.data.length, second.total_steps) == (512, 1_000_000)
    assert first.optim.to_dict() == second.optim.to_dict()  # one schedule over both
    assert second.data.masking.max_predictions == 77


def test_finetuning_steps_follow_the_batch():
    config = load("finetune", "bert-base,task=mrpc")
    # int(3668 / 32 * 3), as in BERT's README
    assert (config.total_steps, config.optim.warmup_steps) == (343, 34)
    config.batch_size = 16
    assert (config.total_steps, config.optim.warmup_steps) == (687, 68)
    config.total_steps = 100
    assert (config.total_steps, config.optim.warmup_steps, config.batch_size) == (100, 10, 16)
    augmented = load("finetune", "bert-base,task=sst-2,epochs=2,rows=1000000")
    assert augmented.total_steps == 2 * 1_000_000 // 32
    assert load("finetune", "model=bert-large,task=mnli").model == load("bert", "large").model


@pytest.mark.parametrize(
    "arg", ["bert-huge", "brt-base", "bert-base,task=sst2", "bert-base,epochs=0", "common-base"]
)
def test_wrong_finetuning_is_told(arg):
    with pytest.raises(ValueError, match="Unknown|must be|there is no configs"):
        load("finetune", arg)


def test_gpt2_residual_init_follows_depth():
    config = load("gpt2", "124m")
    assert config.model.residual_init_std == pytest.approx(0.00408, abs=1e-5)
    config.model.depth = 48
    assert config.model.residual_init_std == pytest.approx(0.00204, abs=1e-5)


@pytest.mark.parametrize(
    "arg", ["huge", "base,phase=3", "base,quik=1", "base,phase=x", "tiny,base"]
)
def test_wrong_arguments_are_told(arg):
    with pytest.raises(ValueError, match="Unknown|must be|key=value"):
        load("bert", arg)


def test_configs_need_no_jax():
    pages = ", ".join(f"configs.{page}" for page in PAGES)
    code = f"import sys; import {pages}; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CONFIGS.parent)
