r"""Fine-tuning on a GLUE task, by the recipe of BERT (Devlin et al., NAACL 2019, section 4.1).

With model=gpt1-base by that of GPT-1 (Radford et al., 2018, sections 3.2, 3.3 and 4.1).

    python train.py --config=configs/finetune.py:model=bert-base,task=mrpc --workdir=DIR \\
        --config.init_from=DIR --config.data.path=GLUE

`model` is PAGE-SIZE: the network of configs/PAGE.py:SIZE, so every encoder of the house is here.
`init_from` is a workdir of that page or a published checkpoint, whose vocabulary is used and whose
pre-training heads, all but the pooler, are left out.

The paper takes the best of four learning rates (5e-5, 4e-5, 3e-5, 2e-5) on the dev set, for large
models on small tasks also the best of several seeds; 2e-5 is the default of its README's commands.
"""

import importlib
import importlib.util

from configs import common

# Of these pairs GPT-1 reads both orders.
SYMMETRIC = ("mrpc", "sts-b", "qqp")
# Classes (1: regression) and published training rows. data_pipeline/tasks has the rest.
TASKS = {
    "cola": dict(classes=2, rows=8_551),
    "sst-2": dict(classes=2, rows=67_349),
    "mrpc": dict(classes=2, rows=3_668),
    "sts-b": dict(classes=1, rows=5_749),  # not in BERT's code: the raw score, as in TinyBERT's
    "qqp": dict(classes=2, rows=363_846),
    "mnli": dict(classes=3, rows=392_702),
    "mnli-mm": dict(classes=3, rows=392_702),
    "qnli": dict(classes=2, rows=104_743),
    "rte": dict(classes=2, rows=2_490),
    "wnli": dict(classes=2, rows=635),  # the paper leaves it out
}


def get_config(arg=""):
    """Returns the config; `arg` is `model=PAGE-SIZE[,task=T][,epochs=E][,rows=N][,quick=1]`.

    The number of steps is epochs x rows / batch_size, and follows an overridden batch_size; `rows`
    is the size of another training set than the published one, such as an augmented one.
    """
    args = common.parse_arg(arg, model="bert-base", task="mrpc", epochs=3, rows=0, quick=False)
    if args.task not in TASKS:
        raise ValueError(f"Unknown task {args.task!r}. Choose one of: {', '.join(TASKS)}.")
    if args.epochs < 1 or args.rows < 0:
        raise ValueError(f"epochs={args.epochs} must be at least 1 and rows={args.rows} positive.")
    task = TASKS[args.task]
    page = _page(args.model)

    config = common.base()
    config.model = page.model
    config.objective = dict(name="classification", classes=task["classes"], dropout=0.1)

    config.batch_size = 32
    # int(rows / batch * epochs), as in run_classifier.py
    config.total_steps = args.epochs * (args.rows or task["rows"]) // config.get_ref("batch_size")
    config.optim.update(
        name="adamw",
        lr=2e-5,
        schedule="linear_from_start",
        decay_steps=0,
        b1=0.9,
        b2=0.999,
        eps=1e-6,
        weight_decay=0.01,
        bias_correction=False,  # as in optimization.py; the paper says Adam and no more
        clip_norm=1.0,
    )
    config.optim.warmup_steps = config.get_ref("total_steps") // 10

    config.data.pipeline = "classification"
    config.data.source = ""
    config.data.task = args.task
    config.data.length = min(128, config.model.max_positions)
    config.data.tokenizer = page.data.tokenizer
    gpt1 = args.model.partition("-")[0] == "gpt1"
    if gpt1:
        _gpt1(config, task, args.task)
    config.evals.update(every=500, batches=0)  # the whole dev set
    config.checkpoint.every = 500
    if args.quick:
        common.quick(config)
    if gpt1:
        config.model.vocab_size += 3  # start, delimiter and extract tokens
    return config


def _gpt1(config, task, name):
    """Sets GPT-1's way: a language model beside the task, and its hyperparameters."""
    config.objective = dict(
        name="gpt_classification",
        classes=task["classes"],
        lm_weight=0.5,
        logit_chunks=8,
        dropout=0.1,
    )
    config.data.pipeline = "gpt_classification"
    if name in SYMMETRIC:
        config.data.length = 2 * min(128, config.model.max_positions // 2)
    config.optim.update(lr=6.25e-5, eps=1e-8, bias_correction=True)
    # 0.2 % of the training; opt.py's decay is in effect during the warm-up too, ours is not.
    config.optim.warmup_steps = config.get_ref("total_steps") // 500


def _page(model):
    """Returns the config of the page and size that `model` names."""
    name, _, size = model.partition("-")
    if name in ("finetune", "common") or not importlib.util.find_spec(f"configs.{name}"):
        raise ValueError(f"model={model!r}: there is no configs/{name}.py; give PAGE-SIZE.")
    return importlib.import_module(f"configs.{name}").get_config(size)
