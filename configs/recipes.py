"""How each paper fine-tunes: RECIPES, by the page of the network.

A recipe holds the values of `every` task, then those of some sizes and of some tasks; later ones
win. Keys: batch_size; length (tokens in a row, or in the part of it that has one choice); epochs,
or steps where the paper counts these (for the published training set); warmup, its share of the
steps as a fraction; dropout, of the network where it is not that of pre-training; scale, what a
regression's output is multiplied by; both_orders, as in the data section; all others are of the
optim section.
"""

import ml_collections

# Devlin et al., 2019, section 4.1 and appendix A.3, and optimization.py. The paper takes the best
# of four learning rates (5e-5, 4e-5, 3e-5, 2e-5) on the dev set; its README's command has 2e-5.
_BERT = dict(
    batch_size=32,
    length=128,
    epochs=3,
    warmup=(1, 10),
    name="adamw",
    lr=2e-5,
    schedule="linear_from_start",
    b1=0.9,
    b2=0.999,
    eps=1e-6,
    weight_decay=0.01,
    no_decay=("bias", "scale"),
    bias_correction=False,  # the paper says Adam and no more
    clip_norm=1.0,
)


RACE = ("race", "race-middle", "race-high")
# No paper tells the lengths of choices but RACE's: these hold at least 99 % of the questions whole,
# in BERT's pieces (of SWAG, which is not measured, they are those of transformers' example).
LENGTHS = dict.fromkeys(RACE, 512) | {
    "swag": 128,
    "hellaswag": 128,
    "codah": 64,
    "commonsenseqa": 64,
    "commonsenseqa-1.0": 64,
    "arc-easy": 128,
    "arc-challenge": 128,
    "openbookqa": 64,
    "piqa": 128,
    "winogrande": 64,
    "socialiqa": 64,
}

# Devlin et al., 2019, section 4.4: SWAG, and tasks made like it. BoolQ's passages are longer than
# the sentences of GLUE.
_BERT_TASKS = {
    **dict.fromkeys(("swag", "hellaswag", "codah"), dict(batch_size=16)),
    "boolq": dict(length=256),
    # Devlin et al., 2019, sections 4.2 and 4.3: 384 tokens as in the README's commands.
    "squad-v1.1": dict(lr=5e-5, length=384),
    "squad-v2.0": dict(lr=5e-5, length=384, epochs=2, batch_size=48),
}


def _steps(steps, warmup, **values):
    return dict(steps=steps, warmup=(warmup, steps), **values)


RECIPES = {
    "bert": dict(every=_BERT, tasks=_BERT_TASKS),
    # Liu et al., 2019, table 10; for each task the learning rate and batch size, of {1e-5, 2e-5,
    # 3e-5} and {16, 32}, that fairseq's examples/roberta/config/finetuning has.
    "roberta": dict(
        every=_BERT
        | dict(
            length=512,
            epochs=10,  # at most: the best checkpoint on the dev set counts
            warmup=(6, 100),
            lr=1e-5,
            schedule="linear",
            b2=0.98,
            weight_decay=0.1,
            no_decay=(),  # as in its pre-training
            bias_correction=True,
            clip_norm=0.0,
        ),
        tasks={
            "rte": dict(lr=2e-5, batch_size=16),
            "mrpc": dict(batch_size=16),
            "sts-b": dict(lr=2e-5, batch_size=16, scale=5.0),
            "cola": dict(batch_size=16),
            **dict.fromkeys(RACE, dict(batch_size=16, epochs=4)),
            # fairseq's examples/roberta/commonsense_qa, without its marks Q: and A:
            "commonsenseqa": _steps(3000, 150, batch_size=16, weight_decay=0.01),
            # allenai/winogrande, sample_training.sh
            "winogrande": dict(batch_size=16, epochs=3, warmup=(1, 10), length=80),
            **dict.fromkeys(
                ("squad-v1.1", "squad-v2.0"),
                dict(lr=1.5e-5, batch_size=48, epochs=2, weight_decay=0.01),
            ),
        },
    ),
    # Lan et al., 2020, table 14.
    "albert": dict(
        every=_BERT | dict(length=512, dropout=0.0),
        tasks={
            "cola": _steps(5336, 320, lr=1e-5, batch_size=16),
            "sts-b": _steps(3598, 214, lr=2e-5, batch_size=16),
            "sst-2": _steps(20935, 1256, lr=1e-5, batch_size=32),
            "mnli": _steps(10000, 1000, lr=3e-5, batch_size=128),
            "qnli": _steps(33112, 1986, lr=1e-5, batch_size=32),
            "qqp": _steps(14000, 1000, lr=5e-5, batch_size=128, dropout=0.1),
            "rte": _steps(800, 200, lr=3e-5, batch_size=32, dropout=0.1),
            "mrpc": _steps(800, 200, lr=2e-5, batch_size=32),
            "wnli": _steps(2000, 250, lr=2e-5, batch_size=16, dropout=0.1),
            # The second models have lr=1e-5 and no dropout (the code's README).
            "race": _steps(12000, 1000, lr=2e-5, batch_size=32, dropout=0.1),
            "squad-v1.1": _steps(3649, 365, lr=5e-5, batch_size=48, length=384),
            "squad-v2.0": _steps(8144, 814, lr=3e-5, batch_size=48),
        },
    ),
    # Clark et al., 2020, table 7.
    "electra": dict(
        every=_BERT
        | dict(
            lr=1e-4,
            layer_decay=0.8,
            schedule="linear",
            weight_decay=0.0,  # configure_finetuning.py: 0.01
        ),
        sizes={
            "tiny": dict(lr=3e-4),  # not in the paper: as small
            "small": dict(lr=3e-4),
            "large": dict(lr=5e-5, layer_decay=0.9),
        },
        tasks={
            **_BERT_TASKS,
            # Both orders and the scores between 0 and 1 are the code's.
            "rte": dict(epochs=10),
            "sts-b": dict(epochs=10, both_orders=True, scale=5.0),
            "mrpc": dict(both_orders=True),
            # configure_finetuning.py has 512 tokens
            **dict.fromkeys(("squad-v1.1", "squad-v2.0"), dict(epochs=2, length=512)),
        },
    ),
    # Zhang et al., 2019, section 4.2, and the commands in the code's README. After the warm-up the
    # rate stays.
    "ernie": dict(
        every=_BERT | dict(schedule="constant"),
        tasks={
            **_BERT_TASKS,
            "fewrel": dict(epochs=10, length=256),
            "open-entity": dict(batch_size=16, epochs=10),
            "figer": dict(batch_size=2048, length=256, warmup=(2, 10)),
        },
    ),
    # Sanh et al., 2019, do not tell theirs.
    "distilbert": dict(every=_BERT, tasks=_BERT_TASKS),
    # Jiao et al., 2020, section 4.1, the stage of predictions, of {1e-5, 2e-5, 3e-5} and {16, 32};
    # the schedule is the code's.
    "tinybert": dict(
        every=_BERT | dict(lr=3e-5, schedule="linear"),
        tasks={**_BERT_TASKS, "cola": dict(length=64), "sst-2": dict(length=64)},
    ),
    # Yang et al., 2019, table 8 for MNLI, RACE and SQuAD, the code's README for STS-B; the others
    # are not told.
    "xlnet": dict(
        every=_BERT | dict(schedule="linear"),
        tasks={
            "mnli": _steps(10_000, 1000, batch_size=128),  # the warm-up is not told either
            "sts-b": _steps(1200, 120, lr=5e-5),
            "race": _steps(12_000, 1000),  # the warm-up is the code's
            "boolq": dict(length=256),
            **dict.fromkeys(
                ("squad-v1.1", "squad-v2.0"),
                _steps(8000, 1000, lr=3e-5, batch_size=48, length=512, layer_decay=0.75),
            ),
        },
    ),
    # Radford et al., 2018, section 4.1; what it is silent about is the code's.
    "gpt1": dict(
        every=_BERT
        | dict(
            lr=6.25e-5,
            # 0.2 % of the training; opt.py's decay is in effect meanwhile too, ours is not.
            warmup=(1, 500),
            eps=1e-8,
            bias_correction=True,
        ),
        tasks={"boolq": dict(length=256)},
    ),
    # Raffel et al., 2020, section 3.7: rows of 512 tokens, 128 of them, but 8 for each task of GLUE
    # alone.
    "t5": dict(
        every=_BERT
        | dict(
            batch_size=8,
            length=512,
            steps=2**18,  # the best checkpoint on the dev set counts
            warmup=(0, 1),
            name="adafactor",
            lr=1e-3,
            schedule="constant",
            weight_decay=0.0,
            clip_norm=0.0,  # Adafactor clips each parameter's update
        ),
        tasks={"squad-v1.1": dict(batch_size=128)},
    ),
}


def apply(
    config: ml_collections.ConfigDict,
    recipe: str,
    size: str,
    task: str,
    *,
    published: int,
    rows: int,
    epochs: int,
) -> dict:
    """Sets the hyperparameters of a recipe, in place.

    The number of steps is int(epochs x rows / batch_size), as in BERT's run_classifier.py, and
    follows an overridden batch size; the warm-up follows the number of steps.

    Args:
      config: with its model.
      recipe: a key of RECIPES.
      size: of the page.
      task: of configs/finetune.py.
      published: rows of the task's training set.
      rows: those of another one that is used instead; 0: it is the published one.
      epochs: 0: those, or the steps, of the recipe.

    Returns:
      What is for the objective, where that has it.

    Raises:
      ValueError: for an unknown recipe.
    """
    if recipe not in RECIPES:
        raise ValueError(f"Unknown recipe {recipe!r}. Choose one of: {', '.join(RECIPES)}.")
    layers = RECIPES[recipe]
    values = dict(layers["every"])
    values["length"] = LENGTHS.get(task, values["length"])
    values |= layers.get("sizes", {}).get(size, {})
    values |= layers.get("tasks", {}).get(task, {})

    config.batch_size = values.pop("batch_size")
    config.data.both_orders = values.pop("both_orders", False)
    steps, recommended = values.pop("steps", 0), values.pop("epochs")
    if steps and not epochs:
        config.total_steps = steps * (rows or published) // published
    else:
        orders = 2 if config.data.both_orders else 1
        whole = (epochs or recommended) * orders * (rows or published)
        config.total_steps = whole // config.get_ref("batch_size")
    part, of = values.pop("warmup")
    config.optim.warmup_steps = config.get_ref("total_steps") * part // of
    config.data.length = min(values.pop("length"), config.model.max_positions)
    if "dropout" in values:
        config.model.dropout = config.model.attention_dropout = values.pop("dropout")
    objective = {"scale": values.pop("scale", 1.0)}
    config.optim.update(values)
    return objective
