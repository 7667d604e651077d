r"""TinyBERT: Distilling BERT for Natural Language Understanding (Jiao et al., EMNLP 2020 findings).

    python train.py --config=configs/bert.py:tiny --workdir=runs/bert-tiny
    python train.py --config=configs/tinybert.py:tiny --workdir=runs/tinybert-tiny \
        --config.part_from.teacher=runs/bert-tiny
    python train.py --config=configs/tinybert.py:4 --workdir=DIR --config.data.source=PATH \
        --config.part_from.teacher=FOLDER     # a workdir, or BERT in Hugging Face's layout

General distillation (section 3.2): a random student imitates the embeddings, hidden states and
attention scores of a pre-trained teacher, on plain text. Layer m learns from layer g(m) of the
teacher (section 3.1; --config.objective.mapping=uniform, top or bottom, table 4). Table 3's rows
are weights of --config.objective.weights set to 0.

Task distillation has two more stages, with a teacher that is fine-tuned (configs/finetune.py) and,
if wanted, data that scripts/augment.py has written:

    ... --config=configs/tinybert.py:4,stage=intermediate,task=sst-2 --workdir=B \
        --config.part_from.teacher=TUNED --config.init_from=GENERAL --config.data.path=GLUE
    ... --config=configs/tinybert.py:4,stage=prediction,task=sst-2 --workdir=C \
        --config.part_from.teacher=TUNED --config.init_from=B --config.data.path=GLUE

Where the paper is silent or differs, these are the values of the released code.

Plans of these steps are in docs/plans.md:

    python scripts/plan.py --config=configs/tinybert.py:6 --topology=v5e:4x4
"""

from configs import bert, common, finetune

# Section 4.1: M layers, width d', feed-forward width; the heads must be the teacher's.
SIZES = {
    "tiny": dict(depth=1, width=64, heads=2, mlp_width=256),  # of bert.py:tiny
    "4": dict(depth=4, width=312, heads=12, mlp_width=1200),  # 14.5 M with the pooler
    "6": dict(depth=6, width=768, heads=12, mlp_width=3072),  # 67.0 M with the pooler
}

# Section 4.1: epochs (20 but for larger and smaller tasks) and learning rate; the code's schedule.
STAGES = {
    "intermediate": dict(epochs=20, lr=5e-5, schedule="constant"),
    "prediction": dict(epochs=3, lr=3e-5, schedule="linear"),
}
EPOCHS = {"mnli": 10, "mnli-mm": 10, "qqp": 10, "qnli": 10, "cola": 50}  # of the first stage


def get_config(arg="4"):
    """Returns the config; `arg` is `SIZE[,stage=STAGE,task=T][,epochs=E][,rows=N][,quick=1]`.

    `rows` is the size of an augmented training set, see configs/finetune.py.
    """
    args = common.parse_arg(arg, size="4", stage="general", task="", epochs=0, rows=0, quick=False)
    if args.stage not in ("general", *STAGES):
        raise ValueError(f"stage={args.stage!r} must be general, {' or '.join(STAGES)}.")
    if bool(args.task) != (args.stage in STAGES):
        raise ValueError("A task is given with stage=intermediate and stage=prediction alone.")
    size = dict(common.pick_size(args.size, SIZES))
    mlp_width = size.pop("mlp_width")
    config = common.base()
    config.model = common.network(
        "encoder",
        **size,
        vocab_size=30522,
        max_positions=512,
        token_types=2,
        norm_first=False,
        norm_eps=1e-12,
        activation="gelu",
        init="normal",
        init_std=0.02,
        position_init_std=0.02,
        residual_init_std=0.02,
        dropout=0.1,
        attention_dropout=0.1,
        dtype="bfloat16",
        remat="dots",
    )
    if mlp_width != 4 * config.model.width:
        config.model.mlp_width = mlp_width
    config.objective = dict(
        name="distill",
        classes=0,  # text, not a task
        teacher=bert.get_config("base").model.to_dict(),  # until a checkpoint gives its own
        # Section 4.1: all weights are 1; no prediction loss in general distillation (section 3.2).
        weights=dict(soft=0.0, masked_lm=0.0, cosine=0.0, embedding=1.0, hidden=1.0, attention=1.0),
        temperature=1.0,
        mapping="uniform",
        shared_projection=False,  # the code: True
        logit_chunks=8,
    )

    config.batch_size = 256
    config.total_steps = 300_000  # 3 epochs of 2,500 M words
    config.optim.update(
        name="adamw",
        lr=5e-5,
        schedule="linear",
        warmup_steps=30_000,  # 10 %
        b1=0.9,
        b2=0.999,
        eps=1e-6,
        weight_decay=0.01,
        bias_correction=False,
        clip_norm=1.0,  # the code clips each parameter by itself
        frozen=("^teacher/",),
    )

    config.data.pipeline = "masked_lm"
    config.data.source = ""
    config.data.source_hint = (
        "TinyBERT was trained on English Wikipedia, which is not shipped: give text with "
        "--config.data.source=PATH, or hf:wikimedia/wikipedia/20231101.en:train with a network"
    )
    config.data.length = 128
    config.data.tokenizer.update(kind="wordpiece", vocab_size=30522, lowercase=True)
    config.data.format.update(
        name="segment_pairs", negatives="random", negative_rate=0.5, short_seq_prob=0.1, passes=3
    )
    config.data.masking.update(
        rate=0.15,  # as BERT; the code masks nothing unless it is told to
        max_predictions=20,
        mask=0.8,
        random=0.1,
    )
    if args.size == "tiny":
        bert.tiny(config)
    if args.task:
        distill_task(config, args)
    return common.quick(config) if args.quick else config


def distill_task(config, args):
    """Turns general into task distillation: the data of fine-tuning, one of the two stages."""
    stage = dict(STAGES[args.stage])
    epochs = stage.pop("epochs")
    if args.stage == "intermediate":
        epochs = EPOCHS.get(args.task, epochs)
    tune = finetune.get_config(
        f"model=bert-base,task={args.task},epochs={args.epochs or epochs},rows={args.rows}"
    )
    tokenizer = config.data.tokenizer
    config.data = tune.data
    config.data.tokenizer = tokenizer
    config.data.length = 64 if args.task in ("cola", "sst-2") else 128
    config.batch_size, config.total_steps = 32, tune.total_steps
    config.evals, config.checkpoint = tune.evals, tune.checkpoint
    if args.stage == "intermediate":
        config.checkpoint.best = "min:valid/loss"  # there is no answer yet to be scored
    config.optim.update(**stage, warmup_steps=0, decay_steps=0)
    if args.stage == "prediction":
        config.optim.warmup_steps = tune.optim.warmup_steps
    config.objective.classes = tune.objective.classes
    if args.stage == "prediction":
        config.objective.weights.update(soft=1.0, embedding=0.0, hidden=0.0, attention=0.0)
