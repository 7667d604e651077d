r"""XLNet: Generalized Autoregressive Pretraining (Yang et al., NeurIPS 2019).

    python train.py --config=configs/xlnet.py:tiny --workdir=runs/xlnet-tiny
    python train.py --config=configs/xlnet.py:large --workdir=DIR --config.data.source=PATH \
        --config.data.tokenizer.path=spiece.model --config.mesh.fsdp=8

The parts that table 6 takes away are values: data.permutation.k (1 in K tokens is predicted),
memory (0: none), span (1: no spans) and bidirectional (False: no reversed text).

Memory: what is remembered is computed from the tokens before a row in the same step, without
gradient, so that a step is a function of the parameters and the batch. The released code keeps
the hidden states of the step before, computed with older parameters and with dropout, of the first
256 tokens of the row, and as many more as mem_len asks for from the step before that.

Where the paper is silent, these are the values of the released code.

Plans of these steps are in docs/plans.md:

    python scripts/plan.py --config=configs/xlnet.py:base --topology=v5e:4x4
    python scripts/plan.py --config=configs/xlnet.py:large --topology=v5p:8x8x8
"""

from configs import common

# Section 3.1 and table 7 (large); the base model has BERT's sizes. The pre-training of the paper's
# base model has BERT's hyperparameters: steps of 256 rows.
SIZES = {
    "tiny": dict(depth=2, width=128, heads=2),
    "base": dict(depth=12, width=768, heads=12),  # 117 M
    "large": dict(depth=24, width=1024, heads=16),  # 360 M
}


def get_config(arg="large"):
    """Returns the config; `arg` is `SIZE[,objective=O][,quick=1]`.

    The objective is permutation_lm or, for the row "DAE" of table 6, masked_lm: BERT's with this
    network.
    """
    args = common.parse_arg(arg, size="large", objective="permutation_lm", quick=False)
    if args.objective not in ("permutation_lm", "masked_lm"):
        raise ValueError(f"objective={args.objective!r} must be permutation_lm or masked_lm.")
    config = common.base()
    config.model = common.network(
        "xlnet",
        **common.pick_size(args.size, SIZES),
        vocab_size=32000,
        max_positions=512,
        norm_eps=1e-12,
        activation="gelu_tanh",
        init="normal",
        init_std=0.02,
        residual_init_std=0.02,
        dropout=0.1,
        dtype="bfloat16",
        remat="dots",
    )
    for name in ("attention_dropout", "mlp_dropout"):  # one rate, unless they are set
        config.model[name] = 1.0 * config.model.get_ref("dropout")
    config.objective = dict(name="permutation_lm")

    large = args.size == "large"
    config.batch_size = 8192 if large else 256
    config.total_steps = 500_000 if large else 1_000_000
    config.optim.update(
        name="adamw",
        lr=4e-4 if large else 1e-4,
        schedule="linear",
        warmup_steps=40_000 if large else 10_000,
        final_lr=0.0,  # the code's min_lr_ratio is 0.001 by default
        b1=0.9,
        b2=0.999,
        eps=1e-6,
        weight_decay=0.01,
        bias_correction=False,  # as in model_utils.py, where there is weight decay
        clip_norm=1.0,
    )

    config.data.pipeline = "permutation_lm"
    config.data.source = ""
    config.data.source_hint = (
        "XLNet was trained on English Wikipedia, BooksCorpus, Giga5, ClueWeb and Common Crawl, "
        "which are not shipped: give text with --config.data.source=PATH, or "
        "hf:wikimedia/wikipedia/20231101.en:train with a network"
    )
    config.data.length = 512
    config.data.tokenizer.update(
        kind="sentencepiece", specials="xlnet", vocab_size=32000, lowercase=False
    )
    config.data.permutation.update(
        k=6,  # 85 of 512 tokens; 7 is the other row of table 6
        span=5,
        reuse=256,
        block=256,
        memory=384,
        bidirectional=True,
    )
    if args.size == "tiny":
        tiny(config)
    if args.objective == "masked_lm":
        masked_lm(config)
    return common.quick(config) if args.quick else config


def masked_lm(config):
    """Sets BERT's objective, on as many predictions a row: 15 % of its tokens."""
    config.objective = dict(name="masked_lm", sentence_pair=False)
    config.data.pipeline = "masked_lm"
    config.data.format.update(name="full_sentences", negatives="none", passes=1)
    config.data.masking.max_predictions = int(0.15 * config.data.length)


def tiny(config):
    """Sets what makes the smallest size learn from the embedded corpus within minutes."""
    config.data.source = "embedded"
    config.data.length = config.model.max_positions = 64
    config.data.permutation.update(reuse=32, block=32, memory=32)
    config.data.valid_fraction = 0.1  # of so few documents
    config.data.tokenizer.vocab_size = config.model.vocab_size = 4096  # 1.5 MB of text
    config.batch_size = 64
    config.total_steps = 1500
    config.optim.update(lr=1e-3, warmup_steps=150)
    config.evals.update(every=500, batches=0)
    config.checkpoint.every = 500
