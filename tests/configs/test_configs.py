"""Every size has the published number of parameters; every config has every key."""

import importlib
import pathlib
import subprocess
import sys

import jax
import optax
import pytest

from configs import common, finetune, recipes
from model import objectives
from training import optimizer, state

CONFIGS = pathlib.Path(common.__file__).parent
NO_PAGES = ("__init__", "common", "recipes", "transe")  # transe: of a script of its own
PAGES = sorted(p.stem for p in CONFIGS.glob("*.py") if p.stem not in NO_PAGES)

# From the tensor shapes of the released checkpoints: the token table once (tied); for BERT with
# pooler, masked-LM and next-sentence heads; for GPT-2 the authors' corrected counts; for GPT-3 what
# its table 2.1 gives with GPT-2's shapes, within half a percent of appendix D; T5's table has 28
# rows more than there are tokens.
PUBLISHED = [
    ("bert", "base", {}, 110_106_428),
    ("bert", "large", {}, 336_226_108),
    ("bert", "base", {"model.vocab_size": 28996}, 108_932_934),
    ("bert", "large", {"model.vocab_size": 28996}, 334_661_958),
    ("gpt2", "124m", {}, 124_439_808),
    ("gpt2", "355m", {}, 354_823_168),
    ("gpt2", "774m", {}, 774_030_080),
    ("gpt2", "1558m", {}, 1_557_611_200),
    ("t5", "small", {}, 60_506_624),
    ("t5", "base", {}, 222_903_552),
    ("t5", "large", {}, 737_668_096),
    ("t5", "3b", {}, 2_851_598_336),
    ("t5", "11b", {}, 11_307_321_344),
    ("t5", "1.1-small", {}, 76_961_152),
    ("t5", "1.1-base", {}, 247_577_856),
    ("t5", "1.1-large", {}, 783_150_080),
    ("t5", "1.1-xl", {}, 2_849_757_184),
    ("t5", "1.1-xxl", {}, 11_135_332_352),
    ("gpt1", "base", {}, 116_534_784),
    ("gpt3", "125m", {}, 125_226_240),
    ("gpt3", "350m", {}, 355_871_744),
    ("gpt3", "760m", {}, 760_300_032),
    ("gpt3", "1.3b", {}, 1_315_723_264),
    ("gpt3", "2.7b", {}, 2_651_553_280),
    ("gpt3", "6.7b", {}, 6_658_404_352),
    ("gpt3", "13b", {}, 12_853_386_240),
    ("gpt3", "175b", {}, 174_604_259_328),
    # 116,718,336 and 360,268,800 without the output bias
    ("xlnet", "base", {}, 116_718_336 + 32_000),
    ("xlnet", "large", {}, 360_268_800 + 32_000),
]
# From the papers' tensor shapes, with all pre-training heads. RoBERTa: the released table has two
# rows that are never read. ELECTRA: generator and discriminator, what they share counted once.
ENCODERS = [
    ("roberta", "base", 124_696_665 - 2 * 768),
    ("roberta", "large", 355_411_033 - 2 * 1024),
    ("albert", "base", 11_813_810),
    ("albert", "large", 17_847_474),
    ("albert", "xlarge", 59_021_490),
    ("albert", "xxlarge", 223_158_450),
    ("electra", "small", 14_196_219),
    ("electra", "base", 119_386_427),
    ("electra", "large", 354_655_291),
]
# Students without the teacher and without what only distillation needs.
STUDENTS = [
    ("distilbert", "base", ("network", "masked_lm"), 66_985_530),
    ("distilbert", "base", ("network",), 66_362_880),
    ("tinybert", "4", ("network",), 14_252_592),
    ("tinybert", "6", ("network",), 66_364_416),
    ("electra", "small", ("network", "replaced_token"), 13_549_057),
    ("electra", "base", ("network", "replaced_token"), 109_483_009),
    ("electra", "large", ("network", "replaced_token"), 335_142_913),
]
# ALBERT, table 4, in millions as printed; the last digit depends on what the authors counted.
SHARING = {
    768: {"all": 31, "attention": 83, "mlp": 57, "none": 108},
    128: {"all": 12, "attention": 64, "mlp": 38, "none": 89},
}
# The miniatures of BERT's README, with pooler and without the two heads.
MINIATURES = [("mini", 11_170_560), ("small", 28_763_648), ("medium", 41_373_184)]


def load(page, arg):
    return importlib.import_module(f"configs.{page}").get_config(arg)


@pytest.mark.parametrize(("page", "arg", "overrides", "count"), PUBLISHED)
def test_parameter_count_is_the_published_one(page, arg, overrides, count):
    config = load(page, arg)
    config.update_from_flattened_dict(overrides)
    assert state.count_parameters(objectives.build(config, "cpu")) == count


@pytest.mark.parametrize(("page", "arg", "count"), ENCODERS)
def test_parameter_count_of_the_encoder_line(page, arg, count):
    assert state.count_parameters(objectives.build(load(page, arg), "cpu")) == count


# Layers with one projection for queries and keys and layers with two, and entries of the positions.
REFORMERS = [
    ("copy", 1, 0, 1024 * 256),
    ("enwik8", 3, 9, 128 * 256 + 512 * 512),
    ("imagenet64", 6, 0, 64 * 384 + 64 * 384 + 3 * 256),
]


@pytest.mark.parametrize(("arg", "shared", "separate", "positions"), REFORMERS)
def test_parameter_count_of_reformers(arg, shared, separate, positions):
    """From the shapes in the released code; no projection of attention has a bias."""
    config = load("reformer", arg)
    c = config.model
    attention = (3 * shared + 4 * separate) * c.width * c.heads * 64
    mlp = (shared + separate) * (2 * c.width * c.mlp_width + c.mlp_width + c.width)
    norms = (shared + separate) * 4 * c.width + 2 * (2 * c.width)
    ends = c.vocab_size * c.width + positions + (2 * c.width + 1) * c.vocab_size
    count = attention + mlp + norms + ends
    assert state.count_parameters(objectives.build(config, "cpu")) == count


def test_parameter_count_of_ernie():
    """114 M in the paper, without the entities' vectors; by the shapes of the released code."""
    config = load("ernie", "base")
    params = jax.eval_shape(
        state.Init(objectives.build(config, "cpu"), optax.identity()), jax.random.key(0)
    ).params
    table = params["network"]["knowledge"].pop("entities")
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    assert count([params["network"], params["pooler"]]) == 114_050_244
    assert count(params["entity_key"]) == 77_100
    assert 0 <= count(table) - 100 * 5_040_987 < 100 * 128  # with row 0, and filled up


def count_groups(config, groups):
    init = state.Init(objectives.build(config, "cpu"), optax.identity())
    params = jax.eval_shape(init, jax.random.key(0)).params
    return sum(x.size for group in groups for x in jax.tree.leaves(params[group]))


@pytest.mark.parametrize(("page", "arg", "groups", "count"), STUDENTS)
def test_parameter_count_of_what_is_kept(page, arg, groups, count):
    assert count_groups(load(page, arg), groups) == count


@pytest.mark.parametrize("width", SHARING)
@pytest.mark.parametrize("sharing", SHARING[128])
def test_parameter_count_of_alberts_sharing_table(width, sharing):
    config = load("albert", "base")
    config.model.update(embed_width=width, sharing=sharing)
    count = count_groups(config, ("network", "pooler")) / 1e6
    assert abs(count - SHARING[width][sharing]) < 1.1, count


def test_a_projection_of_tinybert_has_the_published_size():
    config = load("tinybert", "4")
    config.objective.shared_projection = True  # as in the code, with a bias
    assert count_groups(config, ("project_hidden",)) == 240_384


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("small,variant=electr", "Unknown variant"),
        ("base,start=techer", "must be teacher or random"),
        ("4,stage=task", "must be general"),
        ("4,stage=prediction", "A task is given"),
        ("large,objective=mlm", "must be permutation_lm or masked_lm"),
        ("kagnet:base,form=codes", "must be one of: paper, code"),
        ("kagnet:base,task=mrpc", "must be one of"),
        ("kagnet:base,encoder=gpt1", "is no encoder"),
        ("kagnet:huge", "Unknown size"),
    ],
)
def test_wrong_arguments_of_the_encoder_line(arg, message):
    pages = {"small": "electra", "base": "distilbert", "4": "tinybert", "large": "xlnet"}
    page, _, rest = arg.rpartition(":")
    page = page or pages[arg.split(",")[0]]
    arg = rest
    with pytest.raises(ValueError, match=message):
        load(page, arg)


def test_a_student_starts_from_its_teacher_unless_told_otherwise():
    config = load("distilbert", "base").lock()
    config.part_from.teacher = "teacher"
    assert config.init_from == "teacher"
    config.init_from = "another"
    assert config.part_from.teacher == "teacher"
    assert load("distilbert", "base,start=random").init_from is None


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
    ("arg", "steps", "warmup", "batch", "lr", "length"),
    [
        ("roberta-base,task=rte", 2490 * 10 // 16, 93, 16, 2e-5, 512),  # table 10, released configs
        ("roberta-base,task=qnli", 104_743 * 10 // 32, 1963, 32, 1e-5, 512),
        ("albert-base,task=mnli-mm", 10_000, 1000, 128, 3e-5, 512),  # table 14
        ("albert-base,task=rte", 800, 200, 32, 3e-5, 512),
        ("electra-large,task=rte", 2490 * 10 // 32, 77, 32, 5e-5, 128),  # table 7
        ("electra-small,task=mrpc", 2 * 3668 * 3 // 32, 68, 32, 3e-4, 128),  # in both orders
        ("xlnet-large,task=mnli", 10_000, 1000, 128, 2e-5, 128),  # table 8
        ("tinybert-4,task=cola", 801, 80, 32, 3e-5, 64),
        ("gpt1-base,task=sst-2", 67_349 * 3 // 32, 12, 32, 6.25e-5, 128),
        ("t5-small,task=mrpc", 2**18, 0, 8, 1e-3, 512),
        ("t5-base,task=squad-v1.1", 2**18, 0, 128, 1e-3, 512),
        ("bert-base,task=swag", 73_546 * 3 // 16, 1378, 16, 2e-5, 128),  # section 4.4
        ("roberta-large,task=race", 87_866 * 4 // 16, 1317, 16, 1e-5, 512),  # table 10
        ("roberta-large,task=commonsenseqa", 3000, 150, 16, 1e-5, 64),
        ("albert-xxlarge,task=race", 12_000, 1000, 32, 2e-5, 512),  # table 14
        ("xlnet-large,task=race", 12_000, 1000, 32, 2e-5, 512),  # table 8
        ("gpt1-base,task=race-high", 62_445 * 3 // 32, 11, 32, 6.25e-5, 512),
        ("electra-small,task=mrpc,recipe=bert", 343, 34, 32, 2e-5, 128),
    ],
)
def test_recipes_are_the_papers(arg, steps, warmup, batch, lr, length):
    c = load("finetune", arg)
    found = c.total_steps, c.optim.warmup_steps, c.batch_size, c.optim.lr, c.data.length
    assert found == (steps, warmup, batch, lr, length)


def test_recipes_differ_where_the_papers_do():
    albert = load("finetune", "albert-base,task=qqp").model
    assert albert.dropout == albert.attention_dropout == 0.1
    assert load("finetune", "albert-base,task=mrpc").model.dropout == 0.0
    assert load("finetune", "electra-base").optim.layer_decay == 0.8
    assert load("finetune", "electra-large").optim.layer_decay == 0.9
    assert load("finetune", "roberta-base").optim.no_decay == ()
    # Steps that the paper counts belong to the published training set; epochs replace them.
    assert load("finetune", "albert-base,task=rte,rows=4980").total_steps == 1600
    assert load("finetune", "albert-base,task=rte,epochs=2").total_steps == 2 * 2490 // 32


@pytest.mark.parametrize("page", sorted(recipes.RECIPES))
def test_recipes_name_tasks_and_sizes_that_exist(page):
    recipe = recipes.RECIPES[page]
    assert set(recipe.get("tasks", {})) <= set(finetune.TASKS)
    for size in recipe.get("sizes", {}):
        load("finetune", f"{page}-{size}")


@pytest.mark.parametrize("page", sorted(recipes.RECIPES))
@pytest.mark.parametrize("task", ["sts-b", "mnli"])
def test_every_network_can_be_tuned(page, task):
    c = load("finetune", f"{page}-tiny,task={task},quick=1")
    init = state.Init(objectives.build(c, "cpu"), optimizer.build(c.optim, c.total_steps))
    params = jax.eval_shape(init, jax.random.key(0)).params
    heads = {"seq2seq_lm": set(), "gpt_classification": {"task_classifier"}}
    own = heads.get(c.objective.name, {"pooler", "task_classifier"})
    assert set(params) == {"network"} | own


@pytest.mark.parametrize("model", ["t5-tiny", "distilbert-tiny", "xlnet-tiny", "gpt1-tiny"])
def test_quick_tunes_the_network_of_the_quick_page(model):
    page, _, size = model.partition("-")
    tuned, trained = load("finetune", f"{model},quick=1"), load(page, f"{size},quick=1")
    names = ("depth", "width", "heads", "mlp_width")
    assert [tuned.model[n] for n in names] == [trained.model[n] for n in names]
    assert tuned.total_steps == 20


@pytest.mark.parametrize(
    "arg",
    [
        "bert-huge",
        "brt-base",
        "bert-base,task=sst2",
        "t5-base,task=swag",
        "t5-base,task=squad-v2.0",
        "bert-base,epochs=-1",
        "bert-base,recipe=brt",
        "common-base",
        "recipes-base",
    ],
)
def test_wrong_finetuning_is_told(arg):
    with pytest.raises(
        ValueError, match="Unknown|must be|there is no configs|needs an encoder|has no text"
    ):
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
