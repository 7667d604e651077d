r"""BERT: Pre-training of Deep Bidirectional Transformers (Devlin et al., NAACL 2019).

    python train.py --config=configs/bert.py:tiny --workdir=runs/bert-tiny
    python train.py --config=configs/bert.py:large --workdir=DIR \
        --config.data.source=PATH --config.data.tokenizer.path=vocab.txt

Two phases (appendix A.2): 90 % of the steps on 128 tokens, the last 10 % on 512. The second goes on
where the first stopped when it is given the same workdir, optimizer and schedule included:

    python train.py --config=configs/bert.py:large,phase=2 --workdir=DIR ...

Where the paper is silent or differs, these are the values of the released code.

Plans of these steps are in docs/plans.md:

    python scripts/plan.py --config=configs/bert.py:base --topology=v5e:4x4
    python scripts/plan.py --config=configs/bert.py:large --topology=v5e:4x4
    python scripts/plan.py --config=configs/bert.py:large --topology=v5p:2x2x2 \
        --config.mesh.fsdp=8
    python scripts/plan.py --config=configs/bert.py:large,phase=2 --topology=v5e:4x4
"""

from configs import common

# Section 3, and the miniatures of the released code's README. Feed-forward width is 4 x width.
SIZES = {
    "tiny": dict(depth=2, width=128, heads=2),  # 4.4 M with the published vocabulary
    "mini": dict(depth=4, width=256, heads=4),  # 11.2 M
    "small": dict(depth=4, width=512, heads=8),  # 28.8 M
    "medium": dict(depth=8, width=512, heads=8),  # 41.4 M
    "base": dict(depth=12, width=768, heads=12),  # 110 M
    "large": dict(depth=24, width=1024, heads=16),  # 340 M in the paper, 336 M counted
}


def get_config(arg="base"):
    """Returns the config; `arg` is `SIZE[,phase=1|2][,quick=1]`."""
    args = common.parse_arg(arg, size="base", phase=1, quick=False)
    if args.phase not in (1, 2):
        raise ValueError(f"phase={args.phase} must be 1 (128 tokens) or 2 (512 tokens).")
    config = common.base()
    config.model = common.network(
        "encoder",
        **common.pick_size(args.size, SIZES),
        vocab_size=30522,  # uncased; 28996 cased
        max_positions=512,
        token_types=2,
        norm_first=False,
        norm_eps=1e-12,
        activation="gelu_tanh",
        init="truncated_normal",
        init_std=0.02,
        position_init_std=0.02,
        residual_init_std=0.02,
        dropout=0.1,
        attention_dropout=0.1,
        causal=False,  # True: table 5's left-to-right model
        dtype="bfloat16",  # the paper: float32 on TPU, whose products are bfloat16 anyway
        remat="dots",
    )
    config.objective = dict(name="masked_lm", sentence_pair=True)

    config.batch_size = 256
    config.total_steps = 1_000_000 if args.phase == 2 else 900_000
    config.optim.update(
        name="adamw",
        lr=1e-4,
        schedule="linear_from_start",
        warmup_steps=10_000,
        decay_steps=1_000_000,
        b1=0.9,
        b2=0.999,
        eps=1e-6,
        weight_decay=0.01,
        bias_correction=False,  # as in optimization.py
        clip_norm=1.0,
    )

    config.data.pipeline = "masked_lm"
    config.data.source = ""
    config.data.source_hint = (
        "BERT was trained on English Wikipedia and BooksCorpus, which are not shipped: give text "
        "with --config.data.source=PATH, or hf:wikimedia/wikipedia/20231101.en:train with a network"
    )
    config.data.length = 512 if args.phase == 2 else 128
    config.data.tokenizer.update(kind="wordpiece", vocab_size=30522, lowercase=True)
    config.data.format.update(
        name="segment_pairs", negatives="random", negative_rate=0.5, short_seq_prob=0.1, passes=10
    )
    config.data.masking.update(
        rate=0.15,
        max_predictions=77 if args.phase == 2 else 20,  # README: about 0.15 x length
        mask=0.8,
        random=0.1,
        whole_word=False,
        static=False,  # the paper masks once per pass; 10 passes with new masks are no worse
    )
    if args.size == "tiny":
        tiny(config)
    return common.quick(config) if args.quick else config


def tiny(config):
    """Sets what makes the smallest size learn from the embedded corpus within minutes."""
    config.data.source = "embedded"
    config.data.valid_fraction = 0.1  # of so few documents
    # 1.5 MB of text: short rows and a small vocabulary.
    config.data.length = 32
    config.data.masking.max_predictions = 5
    config.data.tokenizer.vocab_size = config.model.vocab_size = 2048
    # So small a model on so little text never overfits in minutes; dropout only slows it down.
    config.model.dropout = config.model.attention_dropout = 0.0
    # 0.02 suits a width of 768; here attention would begin, and for thousands of steps stay, even.
    config.model.init_std = config.model.residual_init_std = 0.05
    config.model.position_init_std = 0.15
    config.batch_size = 64
    config.total_steps = 1500
    # Without bias correction the first steps are too long for this learning rate.
    config.optim.update(lr=2e-3, warmup_steps=100, decay_steps=0, bias_correction=True)
    config.evals.update(every=500, batches=0)
    config.checkpoint.every = 500
