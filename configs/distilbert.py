r"""DistilBERT, a distilled version of BERT (Sanh et al., 2019).

    python train.py --config=configs/bert.py:tiny --workdir=runs/bert-tiny
    python train.py --config=configs/distilbert.py:tiny --workdir=runs/distilbert-tiny \
        --config.part_from.teacher=runs/bert-tiny
    python train.py --config=configs/distilbert.py:base --workdir=DIR --config.data.source=PATH \
        --config.part_from.teacher=FOLDER     # a workdir, or BERT in Hugging Face's layout

Half of BERT's layers, without segment types and pooler, taught by three losses (section 2): the
teacher's distribution, masked LM, the direction of the last hidden state. The student starts from
the teacher's layers (section 3); --config.init_from= with another run, or table 4's random start
with `start=random`. The vocabulary and the sizes of the teacher come from its checkpoint.

Where the paper is silent, these are the values of the released code.

Plans of these steps are in docs/plans.md:

    python scripts/plan.py --config=configs/distilbert.py:base --topology=v5e:16x16
"""

from configs import bert, common

# Section 3. `layers` of the teacher, from 0, start the student: one of two, as the paper has it.
# The code (scripts/extract_distilbert.py) has others: --config.init_layers=(0,2,4,7,9,11).
SIZES = {
    "tiny": dict(depth=1, width=128, heads=2, layers=(0,)),  # of bert.py:tiny
    "base": dict(depth=6, width=768, heads=12, layers=(0, 2, 4, 6, 8, 10)),  # 66 M
}


def get_config(arg="base"):
    """Returns the config; `arg` is `SIZE[,start=teacher|random][,quick=1]`."""
    args = common.parse_arg(arg, size="base", start="teacher", quick=False)
    size = dict(common.pick_size(args.size, SIZES))
    layers = size.pop("layers")
    if args.start not in ("teacher", "random"):
        raise ValueError(f"start={args.start!r} must be teacher or random.")
    config = common.base()
    config.model = common.network(
        "encoder",
        **size,
        vocab_size=30522,
        max_positions=512,
        token_types=0,
        norm_first=False,
        norm_eps=1e-12,
        activation="gelu",
        init="normal",
        init_std=0.02,
        position_init_std=0.02,
        residual_init_std=0.02,
        dropout=0.1,  # the code has none behind attention, where BERT has it
        attention_dropout=0.1,
        dtype="bfloat16",
        remat="dots",
    )
    config.objective = dict(
        name="distill",
        classes=0,  # text, not a task
        teacher=bert.get_config("base").model.to_dict(),  # until a checkpoint gives its own
        # The code's README; the paper does not give them.
        weights=dict(soft=5.0, masked_lm=2.0, cosine=1.0, embedding=0.0, hidden=0.0, attention=0.0),
        temperature=2.0,
        mapping="uniform",
        shared_projection=False,
        logit_chunks=8,
    )
    if args.start == "teacher":
        config.init_from = config.part_from.get_ref("teacher").identity()
        config.init_layers = layers

    config.batch_size = 4096  # section 3: up to 4K
    config.total_steps = 60_000  # 3 epochs of 16 GB of text
    config.optim.update(
        name="adamw",
        lr=5e-4,
        schedule="linear",
        warmup_steps=3000,  # 5 %
        b1=0.9,
        b2=0.98,
        eps=1e-6,
        weight_decay=0.0,
        bias_correction=True,
        clip_norm=5.0,
        frozen=("^teacher/",),
    )

    config.data.pipeline = "masked_lm"
    config.data.source = ""
    config.data.source_hint = (
        "DistilBERT was trained on English Wikipedia and BooksCorpus, which are not shipped: give "
        "text with --config.data.source=PATH, or hf:wikimedia/wikipedia/20231101.en:train with a "
        "network"
    )
    config.data.length = 512
    config.data.tokenizer.update(kind="wordpiece", vocab_size=30522, lowercase=True)
    config.data.format.update(
        name="doc_sentences", negatives="none", negative_rate=0.0, short_seq_prob=0.0, passes=1
    )
    config.data.masking.update(
        # The code draws rare tokens more often (count ** -0.7); the paper masks as RoBERTa does.
        rate=0.15,
        max_predictions=77,
        mask=0.8,
        random=0.1,
    )
    if args.size == "tiny":
        bert.tiny(config)
    if args.quick:
        common.quick(config)
        config.model.depth = 1  # of the two that any quick teacher has
        if args.start == "teacher":
            config.init_layers = (0,)
    return config
