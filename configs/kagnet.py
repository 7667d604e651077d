r"""KagNet: knowledge-aware graph networks for commonsense reasoning (Lin et al., EMNLP 2019).

    python scripts/train_transe.py --config=configs/transe.py:merge=1 --output=runs/concepts \
        --config.data.train=train.txt.gz --config.data.layout=rht
    python train.py --config=configs/finetune.py:model=bert-base,task=commonsenseqa \
        --workdir=runs/csqa --config.init_from=BERT --config.data.path=FOLDER
    python train.py --config=configs/kagnet.py:base,task=commonsenseqa --workdir=runs/kagnet \
        --config.init_from=runs/csqa --config.data.path=FOLDER \
        --config.data.graphs.path=runs/concepts

The encoder is tuned on the task first, then reasons with the graph (section 4). `encoder` is the
page of another one, `form` the paper's or the released code's (github.com/INK-USC/KagNet). Of the
paper we know the formulas, k = 4 concepts and the threshold of 0.15. Its sizes (100 and 50 units of
the GCN, a bidirectional LSTM of 128), its loss and its optimizer could not be verified: there both
forms follow the code, but for its frozen encoder. What has room beside a choice is ours (pairs,
paths, concepts); the code's amsgrad and its biases drawn from N(0, 1) are left out, and its weight
decay is taken off the weights, not added to the gradients.

Plans of these steps are in docs/plans.md:

    python scripts/plan.py --config=configs/kagnet.py:base --topology=v5e:2x2
    python scripts/plan.py --config=configs/kagnet.py:large --topology=v5e:2x2
"""

from configs import common, finetune

SIZES = {"tiny": {}, "base": {}, "large": {}}  # of the encoder's page


def get_config(arg="base"):
    """Returns the config; `arg` is `SIZE[,encoder=PAGE][,task=T][,form=paper|code][,quick=1]`."""
    args = common.parse_arg(
        arg, size="base", encoder="bert", task="commonsenseqa", form="paper", quick=False
    )
    common.pick_size(args.size, SIZES)
    if args.form not in FORMS:
        raise ValueError(f"form={args.form!r} must be one of: {', '.join(FORMS)}.")
    if args.task not in finetune.CHOICE:
        raise ValueError(f"task={args.task!r} must be one of: {', '.join(finetune.CHOICE)}.")
    quick = ",quick=1" if args.quick else ""
    recipe = f"model={args.encoder}-{args.size},task={args.task}{quick}"
    config = finetune.get_config(recipe + FORMS[args.form]["epochs"])
    if config.data.pipeline != "choice":
        raise ValueError(f"encoder={args.encoder} is no encoder: choose another page.")
    config.data.pipeline = "knowledge_choice"
    config.objective = dict(
        name="kagnet",
        reasoner=dict(
            entities=800_000,  # until data.graphs.path says how many, and how wide
            relations=17,
            width=100,
            gcn=(50, 25),
            gcn_form=args.form,
            concept_form=args.form,
            lstm=128,
            path_form=args.form,
            path_attention=True,
            pair_widths=(256, 128),
            score_form=args.form,
        ),
        loss="margin",  # cross_entropy: as in MHGRN's version of it
        margin=0.2,
        tune_encoder=args.form == "paper",
    )
    FORMS[args.form]["set"](config)
    if args.size == "tiny":
        # Little text has few concepts, and what is computed of empty places is lost.
        config.data.graphs.update(concepts=48, pairs=8, paths=24)
    if args.quick:
        config.objective.reasoner.update(
            entities=100, width=16, gcn=(16, 8), lstm=16, pair_widths=(32, 16)
        )
        config.data.graphs.update(hops=2, concepts=16, pairs=4, paths=8)
    return config


def paper(config):
    """Sets the search, and a learning rate of the reasoner that is the code's; in place."""
    config.data.graphs.update(hops=3)
    config.optim.lr_factors = (("^graph/", 50.0),)  # 1e-3, where BERT has 2e-5


def code(config):
    """Sets what models/main.py has, in place."""
    config.data.graphs.update(hops=2)
    config.batch_size = 50
    config.optim.update(
        lr=1e-3,
        schedule="constant",
        warmup_steps=0,
        eps=1e-8,
        weight_decay=1e-4,
        no_decay=(),
        bias_correction=True,
        clip_norm=0.0,
        frozen=("^network/",),
    )


FORMS = {
    "paper": dict(set=paper, epochs=""),  # those of the encoder's recipe
    "code": dict(set=code, epochs=",epochs=15"),  # at most: the best on the dev set counts
}
