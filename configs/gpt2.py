r"""GPT-2: Language Models are Unsupervised Multitask Learners (Radford et al., 2019).

    python train.py --config=configs/gpt2.py:tiny --workdir=runs/gpt2-tiny
    python train.py --config=configs/gpt2.py:124m --workdir=DIR --config.data.source=PATH \
        --config.data.tokenizer.path=FOLDER

The paper gives architecture, context, vocabulary and batch (section 2.3). It does not publish the
optimizer, schedule, steps or dropout; here these are GPT-3's (Brown et al., 2020, appendix B and
table 2.1), the nearest that was.

Plans of these steps are in docs/plans.md:

    python scripts/plan.py --config=configs/gpt2.py:124m --topology=v5e:16x16
    python scripts/plan.py --config=configs/gpt2.py:355m --topology=v5e:16x16
    python scripts/plan.py --config=configs/gpt2.py:774m --topology=v5e:16x16 \
        --config.mesh.fsdp=16
    python scripts/plan.py --config=configs/gpt2.py:1558m --topology=v5e:16x16 \
        --config.mesh.fsdp=16
"""

from configs import common

# Table 2, with the heads of the released models (64 wide each) and GPT-3's learning rate for the
# nearest size. The paper calls them 117M, 345M, 762M and 1542M; its authors corrected the counts.
SIZES = {
    "tiny": dict(depth=4, width=128, heads=4, lr=2e-3),
    "124m": dict(depth=12, width=768, heads=12, lr=6e-4),
    "355m": dict(depth=24, width=1024, heads=16, lr=3e-4),
    "774m": dict(depth=36, width=1280, heads=20, lr=2.5e-4),
    "1558m": dict(depth=48, width=1600, heads=25, lr=2e-4),
}


def get_config(arg="124m"):
    """Returns the config; `arg` is `SIZE[,quick=1]`."""
    args = common.parse_arg(arg, size="124m", quick=False)
    size = dict(common.pick_size(args.size, SIZES))
    lr = size.pop("lr")
    config = common.base()
    config.model = common.network(
        "decoder",
        **size,
        vocab_size=50257,
        max_positions=1024,
        token_types=0,
        norm_first=True,
        norm_eps=1e-5,
        activation="gelu_tanh",
        init="normal",
        init_std=0.02,
        position_init_std=0.01,  # released code, src/model.py
        dropout=0.0,  # none in the released code; the value in training is not published
        attention_dropout=0.0,
        dtype="bfloat16",
        remat="dots",
    )
    # Section 2.3: 1/sqrt(N), N the number of residual layers: two in each block.
    depth = config.model.get_ref("depth").to_float()
    config.model.residual_init_std = 0.02 * (2 * depth) ** -0.5
    # Logits of 50257 tokens are the largest array by far: an eighth of them at a time.
    config.objective = dict(name="causal_lm", logit_chunks=8)

    config.batch_size = 512
    config.total_steps = 100_000  # 52 G tokens
    config.optim.update(
        name="adamw",
        lr=lr,
        schedule="cosine",
        warmup_steps=715,  # 375 M tokens
        final_lr=0.1,
        b1=0.9,
        b2=0.95,
        eps=1e-8,
        weight_decay=0.1,
        bias_correction=True,
        clip_norm=1.0,
    )

    config.data.pipeline = "causal_stream"
    config.data.source = ""
    config.data.source_hint = (
        "GPT-2 was trained on WebText, which was never released: give text with "
        "--config.data.source=PATH, or hf:Skylion007/openwebtext:train with a network"
    )
    config.data.length = 1024
    config.data.tokenizer.update(kind="byte_bpe", vocab_size=50257, lowercase=False)
    config.data.stream.mask_documents = False
    if args.size == "tiny":
        tiny(config)
    return common.quick(config) if args.quick else config


def tiny(config):
    """Sets what makes the smallest size learn from the embedded corpus within minutes."""
    config.data.source = "embedded"
    config.data.length = config.model.max_positions = 128
    config.data.valid_fraction = 0.1  # of so few documents
    config.data.tokenizer.vocab_size = config.model.vocab_size = 2048  # 1.5 MB of text
    config.objective.logit_chunks = 1
    config.batch_size = 16
    config.total_steps = 700
    config.optim.warmup_steps = 100
    config.evals.update(every=500, batches=0)
    config.checkpoint.every = 500
