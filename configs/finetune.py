r"""Fine-tuning on a labeled task, by the recipe of the network's own paper (configs/recipes.py).

    python train.py --config=configs/finetune.py:model=bert-base,task=mrpc --workdir=DIR \
        --config.init_from=DIR --config.data.path=GLUE

`model` is PAGE-SIZE: the network of configs/PAGE.py:SIZE. Every encoder of the house reads a task
as BERT does (Devlin et al., 2019, section 4.1), model=gpt1-base as GPT-1 does (Radford et al.,
2018, sections 3.2 and 3.3) and model=t5-base as a text that asks for a text (Raffel et al., 2020,
section 2.4). `init_from` is a workdir of that page or a published checkpoint, whose vocabulary is
used and whose pre-training heads, all but the pooler, are left out.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import NamedTuple

import ml_collections

from configs import common, recipes

# A class, or a number (one class: regression), for a text or a pair: GLUE and BoolQ.
# data_pipeline/tasks has what is not here. `rows` of the published training set; `best`, the metric
# of the dev set by which a checkpoint is chosen: that of BERT's table 1.
CLASSIFICATION = {
    "cola": dict(classes=2, rows=8_551, best="matthews"),
    "sst-2": dict(classes=2, rows=67_349, best="accuracy"),
    "mrpc": dict(classes=2, rows=3_668, best="f1"),
    "sts-b": dict(classes=1, rows=5_749, best="spearman"),
    "qqp": dict(classes=2, rows=363_846, best="f1"),
    "mnli": dict(classes=3, rows=392_702, best="accuracy"),
    "mnli-mm": dict(classes=3, rows=392_702, best="accuracy"),
    "qnli": dict(classes=2, rows=104_743, best="accuracy"),
    "rte": dict(classes=2, rows=2_490, best="accuracy"),
    "wnli": dict(classes=2, rows=635, best="accuracy"),  # BERT's paper leaves it out
    "boolq": dict(classes=2, rows=9_427, best="accuracy"),
}
# Mentions in a text: their relation, or types, of which there may be several (ERNIE, section 4.3).
MENTIONS = {
    "fewrel": dict(classes=80, several=False, rows=8_000, best="macro_f1"),
    "open-entity": dict(classes=6, several=True, rows=2_000, best="micro_f1"),
    "figer": dict(classes=113, several=True, rows=2_000_000, best="micro_f1"),
}
# One of a few texts.
CHOICE = {
    "swag": dict(rows=73_546, best="accuracy"),
    "hellaswag": dict(rows=39_905, best="accuracy"),
    "codah": dict(rows=1_665, best="accuracy"),
    "commonsenseqa": dict(rows=9_741, best="accuracy"),
    "commonsenseqa-1.0": dict(rows=7_610, best="accuracy"),
    "race": dict(rows=87_866, best="accuracy"),
    "race-middle": dict(rows=25_421, best="accuracy"),
    "race-high": dict(rows=62_445, best="accuracy"),
    "arc-easy": dict(rows=2_251, best="accuracy"),
    "arc-challenge": dict(rows=1_119, best="accuracy"),
    "openbookqa": dict(rows=4_957, best="accuracy"),
    "piqa": dict(rows=16_113, best="accuracy"),
    "winogrande": dict(rows=40_398, best="accuracy"),
    "socialiqa": dict(rows=33_410, best="accuracy"),
}
# Of these pairs GPT-1 reads both orders.
SYMMETRIC = ("mrpc", "sts-b", "qqp")
# An answer is a span of a text: SQuAD.
SPANS = {
    "squad-v1.1": dict(rows=87_599, best="f1"),
    "squad-v2.0": dict(rows=130_319, best="f1"),
}
# Networks that read a text from both sides.
READERS = ("encoder", "ernie", "xlnet")
# Heads by page and task, where they are not BERT's; see model/objectives/span.py.
_XLNET_SPAN = dict(head="xlnet", beam=5)
_XLNET_ANSWERABLE = dict(**_XLNET_SPAN, answerable=0.5, dropout=0.1)
SPAN_HEADS = {
    "albert": {"squad-v2.0": _XLNET_ANSWERABLE},  # squad_utils.py; plain on v1.1
    "electra": {
        "squad-v1.1": dict(head="electra"),
        # Its files for the test set were written with evals.null_threshold=-2.75.
        "squad-v2.0": dict(head="electra", answerable=0.5),
    },
    "roberta": {"squad-v2.0": dict(answerable=1.0)},  # section 5.2
    "xlnet": {"squad-v1.1": _XLNET_SPAN, "squad-v2.0": _XLNET_ANSWERABLE},
}


class Network(NamedTuple):
    """The network that is tuned: model=PAGE-SIZE, and the config of its pre-training."""

    page: str
    size: str
    config: ml_collections.ConfigDict


def classification(config, network: Network, name: str, task: Mapping) -> None:
    """Sets the objective and the rows of a task of CLASSIFICATION; in place."""
    head = dict(classes=task["classes"], dropout=0.1, scale=1.0)
    if network.page == "gpt1":
        config.objective = dict(name="gpt_classification", lm_weight=0.5, logit_chunks=8, **head)
        config.data.pipeline = "gpt_classification"
        if name in SYMMETRIC:
            config.data.length = 2 * min(config.data.length, config.model.max_positions // 2)
    elif network.page == "t5":
        config.objective = network.config.objective
        config.data.pipeline = "text_to_text"
    else:
        config.objective = dict(name="classification", **head)
        config.data.pipeline = "classification"


def mentions(config, network: Network, name: str, task: Mapping) -> None:
    """Sets the objective and the rows of a task of MENTIONS; in place."""
    if network.config.model.name not in READERS:
        raise ValueError(f"task={name} needs an encoder, which {network.page} is not.")
    config.objective = dict(
        name="classification",
        classes=task["classes"],
        several=task["several"],
        dropout=0.1,
        scale=1.0,
    )
    config.data.pipeline = "mentions"


def choice(config, network: Network, name: str, task: Mapping) -> None:
    """Sets the objective and the rows of a task of CHOICE; in place."""
    del task
    head = dict(classes=0, dropout=0.1)  # the choices of a question are the classes
    if network.page == "gpt1":
        config.objective = dict(name="gpt_classification", lm_weight=0.5, logit_chunks=8, **head)
        config.data.pipeline = "gpt_choice"
    elif network.config.model.name in READERS:
        config.objective = dict(name="classification", **head)
        config.data.pipeline = "choice"
    else:
        raise ValueError(f"task={name} needs an encoder or gpt1, which {network.page} is not.")


def spans(config, network: Network, name: str, task: Mapping) -> None:
    """Sets the objective and the rows of a task of SPANS; in place."""
    del task
    if network.page == "t5":
        if name != "squad-v1.1":
            raise ValueError(f"task={name}: T5 has no text for a question without an answer.")
        config.objective = network.config.objective
        config.data.pipeline = "squad_text"
        config.data.mixture.target_length = 97  # t5x
        return
    if network.config.model.name not in READERS:
        raise ValueError(f"task={name} needs an encoder, which configs/{network.page}.py is not.")
    head = dict(head="independent", answerable=0.0, dropout=0.0, beam=20)
    head |= SPAN_HEADS.get(network.page, {}).get(name, {})
    config.objective = dict(name="span", **head)
    config.data.pipeline = "spans"
    if network.page == "xlnet":  # its run_squad.py
        config.evals.update(n_best=5, max_answer=64)


class Kind(NamedTuple):
    """Tasks that ask for the same: a table of them by name, and what sets a config to one."""

    tasks: Mapping[str, Mapping]
    prepare: Callable[[ml_collections.ConfigDict, Network, str, Mapping], None]


KINDS = {
    "classification": Kind(CLASSIFICATION, classification),
    "mentions": Kind(MENTIONS, mentions),
    "choice": Kind(CHOICE, choice),
    "spans": Kind(SPANS, spans),
}
TASKS = {name: kind for kind in KINDS for name in KINDS[kind].tasks}


def get_config(arg=""):
    """Returns the config of `model=PAGE-SIZE[,task=T][,epochs=E][,rows=N][,recipe=PAGE][,quick=1]`.

    `epochs` is the recipe's by default, `recipe` that of the network's page; `rows` is the size of
    another training set than the published one, such as an augmented one.
    """
    args = common.parse_arg(
        arg, model="bert-base", task="mrpc", epochs=0, rows=0, recipe="", quick=False
    )
    if args.task not in TASKS:
        raise ValueError(f"Unknown task {args.task!r}. Choose one of: {', '.join(TASKS)}.")
    if args.epochs < 0 or args.rows < 0:
        raise ValueError(f"epochs={args.epochs} and rows={args.rows} must be at least 0.")
    network = _network(args.model, args.quick)
    kind = KINDS[TASKS[args.task]]
    task = kind.tasks[args.task]

    config = common.base()
    config.model = network.config.model
    objective = recipes.apply(
        config,
        args.recipe or (network.page if network.page in recipes.RECIPES else "bert"),
        network.size,
        args.task.removesuffix("-mm"),
        published=task["rows"],
        rows=args.rows,
        epochs=args.epochs,
    )
    config.data.source = ""
    config.data.task = args.task
    config.data.tokenizer = network.config.data.tokenizer
    if network.config.model.name == "ernie":
        config.optim.frozen = network.config.optim.frozen  # the vectors of entities
        config.data.entities.count = config.model.get_ref("entities")
    config.checkpoint.best = f"max:valid/{task['best']}"
    kind.prepare(config, network, args.task, task)
    config.objective.update({k: v for k, v in objective.items() if k in config.objective})

    # Ten times in a run, so that there is a best checkpoint; on the whole dev set.
    config.evals.update(every=(config.get_ref("total_steps") + 9) // 10, batches=0)
    config.checkpoint.every = (config.get_ref("total_steps") + 9) // 10
    if args.quick:
        config.model = {}  # the page has shrunk it in its own way
        common.quick(config)
        config.model = network.config.model
    if network.page == "gpt1":
        config.model.vocab_size += 3  # start, delimiter and extract tokens
    return config


def _network(model, quick):
    """Returns the page and size that `model` names, and their config."""
    page, _, size = model.partition("-")
    others = ("finetune", "common", "recipes", "ablations")
    if page in others or not importlib.util.find_spec(f"configs.{page}"):
        raise ValueError(f"model={model!r}: there is no configs/{page}.py; give PAGE-SIZE.")
    arg = f"{size},quick=1" if quick else size
    return Network(page, size, importlib.import_module(f"configs.{page}").get_config(arg))
