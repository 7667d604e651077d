r"""T5: Exploring the Limits of Transfer Learning (Raffel et al., JMLR 2020).

    python train.py --config=configs/t5.py:tiny --workdir=runs/t5-tiny
    python train.py --config=configs/t5.py:base --workdir=DIR --config.data.source=PATH \
        --config.data.tokenizer.path=FOLDER --config.mesh.fsdp=8

Sizes `small` to `11b` are the paper's (version 1.0), `1.1-small` to `1.1-xxl` the second release:
gated feed-forward networks, logits with a kernel of their own, no dropout.

The objective is span corruption (section 3.3): 15 % of the tokens in spans of 3 on average. The
ablations begin from i.i.d. masking instead: data.corruption.name=iid, with exactly 15 % of a row,
where T5's code draws for each token by itself.

`mixture=1` trains on the tasks of GLUE besides, as text, in proportion to their examples (section
3.7, which mixes in all of its tasks); --config.data.path is GLUE's folder.

Plans of these steps are in docs/plans.md:

    python scripts/plan.py --config=configs/t5.py:base --topology=v5e:16x16
    python scripts/plan.py --config=configs/t5.py:large --topology=v5e:16x16 \
        --config.mesh.fsdp=16
    python scripts/plan.py --config=configs/t5.py:3b --topology=v5p:4x8x8 --config.mesh.fsdp=64 \
        --config.mesh.tensor=4
    python scripts/plan.py --config=configs/t5.py:11b --topology=v5p:8x8x8 --config.mesh.fsdp=64 \
        --config.mesh.tensor=8
    python scripts/plan.py --config=configs/t5.py:1.1-base --topology=v5e:16x16
    python scripts/plan.py --config=configs/t5.py:1.1-large --topology=v5e:16x16 \
        --config.mesh.fsdp=16
    python scripts/plan.py --config=configs/t5.py:1.1-xl --topology=v5p:4x8x8 \
        --config.mesh.fsdp=64 --config.mesh.tensor=4
    python scripts/plan.py --config=configs/t5.py:1.1-xxl --topology=v5p:8x8x8 \
        --config.mesh.fsdp=64 --config.mesh.tensor=8
"""

from configs import common

_V10 = dict(activation="relu", gated=False, tied=True)
_V11 = dict(activation="gelu_tanh", gated=True, tied=False)

# Section 3.7; the released configurations t5.1.0.*.gin and t5.1.1.*.gin. `depth` is that of each of
# the two stacks. The paper says 60, 220, 770 M, 2.8 and 11 B; "large" is 737,668,096 counted.
SIZES = {
    "tiny": dict(width=128, mlp_width=512, head_size=32, heads=4, depth=2, **_V10),
    "small": dict(width=512, mlp_width=2048, head_size=64, heads=8, depth=6, **_V10),
    "base": dict(width=768, mlp_width=3072, head_size=64, heads=12, depth=12, **_V10),
    "large": dict(width=1024, mlp_width=4096, head_size=64, heads=16, depth=24, **_V10),
    "3b": dict(width=1024, mlp_width=16384, head_size=128, heads=32, depth=24, **_V10),
    "11b": dict(width=1024, mlp_width=65536, head_size=128, heads=128, depth=24, **_V10),
    "1.1-small": dict(width=512, mlp_width=1024, head_size=64, heads=6, depth=8, **_V11),
    "1.1-base": dict(width=768, mlp_width=2048, head_size=64, heads=12, depth=12, **_V11),
    "1.1-large": dict(width=1024, mlp_width=2816, head_size=64, heads=16, depth=24, **_V11),
    "1.1-xl": dict(width=2048, mlp_width=5120, head_size=64, heads=32, depth=24, **_V11),
    "1.1-xxl": dict(width=4096, mlp_width=10240, head_size=64, heads=64, depth=24, **_V11),
}


# What the unsupervised text counts for in the mixture, in examples (section 3.7).
EXAMPLES = {
    "small": 710_000,
    "base": 2_620_000,
    "large": 8_660_000,
    "3b": 33_500_000,
    "11b": 133_000_000,
}
GLUE = ("cola", "sst-2", "mrpc", "sts-b", "qqp", "mnli", "qnli", "rte")


def get_config(arg="base"):
    """Returns the config; `arg` is `SIZE[,mixture=1][,quick=1]`."""
    args = common.parse_arg(arg, size="base", mixture=False, quick=False)
    size = common.pick_size(args.size, SIZES)
    config = common.base()
    config.model = dict(
        name="encoder_decoder",
        **size,
        vocab_size=32128,  # 32000 pieces and 100 sentinels, padded
        max_positions=512,
        relative_buckets=32,
        relative_distance=128,
        norm_first=True,
        norm="rms",
        norm_eps=1e-6,
        bias=False,
        scaled_scores=False,
        # Mesh TensorFlow's: kernels by 1/sqrt(inputs), the query's by 1/sqrt(K) besides.
        init="fan_in",
        init_std=1.0,
        residual_init_std=1.0,
        embed_init_std=1.0,
        dropout=0.0 if size["gated"] else 0.1,
        dtype="bfloat16",
        remat="dots",
    )
    for name in ("attention_dropout", "mlp_dropout"):  # one rate, unless they are set
        config.model[name] = 1.0 * config.model.get_ref("dropout")
    config.objective = dict(name="seq2seq_lm", logit_chunks=8, weights=dict(z_loss=1e-4))

    # Section 3.7; the baseline of the ablations (section 3.1) takes 2^19 steps of 128 rows.
    config.batch_size = 2048
    config.total_steps = 1_000_000
    config.optim.update(
        name="adafactor",
        lr=1.0,
        schedule="inverse_square_root",
        warmup_steps=10_000,  # 1 / sqrt(max(step, 10000)): the paper calls the flat part warm-up
        weight_decay=0.0,
        clip_norm=0.0,  # Adafactor clips each parameter's update
    )

    config.data.pipeline = "corruption"
    config.data.source = ""
    config.data.source_hint = (
        "T5 was trained on C4: give text with --config.data.source=PATH, or "
        "hf:allenai/c4:train with a network"
    )
    config.data.length = 512
    config.data.tokenizer.update(
        kind="sentencepiece", vocab_size=32100, lowercase=False, specials="t5", sentinels=100
    )
    if args.mixture:
        config.data.pipeline = "mixture"
        config.data.mixture.update(
            tasks=GLUE, unsupervised=EXAMPLES.get(args.size, EXAMPLES["small"])
        )
    if args.size == "tiny":
        tiny(config)
    if args.quick:
        common.quick(config)
        config.model.update(head_size=32, mlp_width=256)
        config.optim.lr = 0.1  # 1 / sqrt(5) of a parameter's size is too much for a step
    return config


def tiny(config):
    """Sets what makes the smallest size learn from the embedded corpus within minutes."""
    config.data.source = "embedded"
    config.data.length = config.model.max_positions = 128
    config.data.valid_fraction = 0.1  # of so few documents
    config.data.tokenizer.vocab_size = config.model.vocab_size = 2048
    config.objective.logit_chunks = 1
    config.batch_size = 16
    config.total_steps = 700
    # 0.025 for 400 steps: larger than the paper's 0.01, for the run is short.
    config.optim.update(lr=0.5, warmup_steps=400)
    config.evals.update(every=500, batches=0)
    config.checkpoint.every = 500
