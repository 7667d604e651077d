r"""GPT-3: Language Models are Few-Shot Learners (Brown et al., 2020).

    python train.py --config=configs/gpt3.py:tiny --workdir=runs/gpt3-tiny
    python train.py --config=configs/gpt3.py:125m --workdir=DIR --config.data.source=PATH \
        --config.data.tokenizer.path=FOLDER

GPT-2's network and vocabulary with every other layer's attention in a local band (section 2.1), and
the training of appendix B. What the paper leaves open, and is chosen here: which layers are dense
(the first, third, ...), the width of the band (128, that of the code of the Sparse Transformer, to
which the paper points), the dropout (none), what decays (all but biases and norms), how the ramp of
the batch depends on the size, and that the cosine begins where the warm-up ends. With
--config.model.bands="(0,)" all layers are dense, and the model can be exported as a GPT-2.

Plans of these steps are in docs/plans.md:

    python scripts/plan.py --config=configs/gpt3.py:125m --topology=v5e:4x4
    python scripts/plan.py --config=configs/gpt3.py:350m --topology=v5e:4x4
    python scripts/plan.py --config=configs/gpt3.py:760m --topology=v5e:4x4 \
        --config.mesh.fsdp=16 --config.microbatches=4 --config.batch_ramp.start=64
    python scripts/plan.py --config=configs/gpt3.py:1.3b --topology=v5p:2x2x4 \
        --config.mesh.fsdp=16 --config.microbatches=4 --config.batch_ramp.start=128
    python scripts/plan.py --config=configs/gpt3.py:2.7b --topology=v5p:2x2x4 \
        --config.mesh.fsdp=16 --config.microbatches=4 --config.batch_ramp.start=128
    python scripts/plan.py --config=configs/gpt3.py:6.7b --topology=v5p:4x4x4 \
        --config.microbatches=16 --config.batch_ramp.start=64
    python scripts/plan.py --config=configs/gpt3.py:13b --topology=v5p:4x8x8 \
        --config.mesh.fsdp=64 --config.mesh.tensor=4 --config.microbatches=4 \
        --config.batch_ramp.start=256
    python scripts/plan.py --config=configs/gpt3.py:175b --topology=v5p:8x8x8 \
        --config.mesh.fsdp=64 --config.mesh.tensor=8 --config.batch_size=1536 \
        --config.microbatches=3 --config.batch_ramp.start=512
"""

from configs import common, gpt2

# Table 2.1, named there Small, Medium, Large, XL, ...; batches in rows of 2048 tokens. Two lines of
# the table contradict themselves, and appendix D's counts say which of their numbers hold: XL has
# 16 heads of 128 (printed: 24, which makes 3072 and not the width of 2048), and 13B is 5120 wide
# (printed: 5140, no multiple of its 40 heads of 128).
SIZES = {
    "tiny": dict(depth=4, width=128, heads=4, lr=2e-3, rows=16),
    "125m": dict(depth=12, width=768, heads=12, lr=6e-4, rows=256),
    "350m": dict(depth=24, width=1024, heads=16, lr=3e-4, rows=256),
    "760m": dict(depth=24, width=1536, heads=16, lr=2.5e-4, rows=256),
    "1.3b": dict(depth=24, width=2048, heads=16, lr=2e-4, rows=512),
    "2.7b": dict(depth=32, width=2560, heads=32, lr=1.6e-4, rows=512),
    "6.7b": dict(depth=32, width=4096, heads=32, lr=1.2e-4, rows=1024),
    "13b": dict(depth=40, width=5120, heads=40, lr=1e-4, rows=1024),
    "175b": dict(depth=96, width=12288, heads=96, lr=6e-5, rows=1568),  # 3.2 M tokens
}
LENGTH = 2048
FIRST_ROWS = 16  # 32 k tokens in the first steps
# Rows -> tokens of the ramp: "the first 4-12 billion tokens of training, depending on the model
# size" is all that the paper says.
RAMP_TOKENS = {256: 4e9, 512: 6e9, 1024: 8e9, 1568: 12e9}


def get_config(arg="125m"):
    """Returns the config; `arg` is `SIZE[,quick=1]`."""
    args = common.parse_arg(arg, size="125m", quick=False)
    size = dict(common.pick_size(args.size, SIZES))
    lr, rows = size.pop("lr"), size.pop("rows")
    large = size["width"] >= 4096
    config = common.base()
    config.model = common.network(
        "decoder",
        **size,
        vocab_size=50257,
        max_positions=LENGTH,
        token_types=0,
        norm_first=True,
        norm_eps=1e-5,
        activation="gelu_tanh",
        init="normal",
        init_std=0.02,
        position_init_std=0.01,  # as in GPT-2
        dropout=0.0,
        attention_dropout=0.0,
        bands=(0, 128),
        dtype="bfloat16",
        remat="full" if large else "dots",
    )
    depth = config.model.get_ref("depth").to_float()
    config.model.residual_init_std = 0.02 * (2 * depth) ** -0.5  # GPT-2's "modified initialization"
    config.objective = dict(name="causal_lm", logit_chunks=8)

    config.batch_size = rows
    config.optim.update(
        name="adamw",
        lr=lr,
        schedule="cosine",
        final_lr=0.1,
        b1=0.9,
        b2=0.95,
        eps=1e-8,
        weight_decay=0.1,
        bias_correction=True,
        clip_norm=1.0,
    )
    if large:
        config.mesh.update(data=1, fsdp=-1)

    config.data.pipeline = "causal_stream"
    config.data.source = ""
    config.data.source_hint = (
        "GPT-3's corpus was never released: give text with --config.data.source=PATH, or "
        "hf:allenai/c4/en:train with a network"
    )
    config.data.length = LENGTH
    config.data.tokenizer.update(kind="byte_bpe", vocab_size=50257, lowercase=False)
    config.data.stream.mask_documents = False  # attention crosses the documents' ends
    if args.size == "tiny":
        tiny(config)
    else:
        spend(config, rows, RAMP_TOKENS[rows])
    return common.quick(config) if args.quick else config


def spend(config, rows, ramp_tokens):
    """Sets the batch's ramp, and the schedule's steps from what the paper gives in tokens.

    The ramp is linear in the steps, and so is the warm-up, although it lies inside the ramp: they
    reach the number of tokens that the paper gives at their ends.
    """
    first, full = FIRST_ROWS * LENGTH, rows * LENGTH
    ramp_steps = ramp_tokens / ((first + full) / 2)
    growth = (full - first) / ramp_steps  # tokens of a step, more than in the one before

    def steps(tokens):
        if tokens < ramp_tokens:  # first s + growth s^2 / 2 = tokens
            return ((first**2 + 2 * growth * tokens) ** 0.5 - first) / growth
        return ramp_steps + (tokens - ramp_tokens) / full

    config.microbatches = rows // FIRST_ROWS
    config.batch_ramp.update(start=FIRST_ROWS, steps=round(ramp_steps))
    config.optim.warmup_steps = round(steps(375e6))
    config.optim.decay_steps = round(steps(260e9))  # then constant, at a tenth
    config.total_steps = round(steps(300e9))


def tiny(config):
    """Sets what makes the smallest size learn from the embedded corpus within minutes."""
    gpt2.tiny(config)
    config.model.bands = (0, 16)
    config.microbatches = 4
    config.batch_ramp.update(start=4, steps=100)
    config.optim.decay_steps = 600
