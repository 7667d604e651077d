r"""GPT-1: Improving Language Understanding by Generative Pre-Training (Radford et al., 2018).

    python train.py --config=configs/gpt1.py:tiny --workdir=runs/gpt1-tiny
    python train.py --config=configs/gpt1.py:base --workdir=DIR --config.data.source=PATH \
        --config.data.tokenizer.path=FOLDER

A decoder with post-norm blocks, and no norm but theirs (section 4.1). The paper gives neither
Adam's betas and epsilon, which are those of its fine-tuning code here (opt.py), nor a clipping of
gradients in pre-training: there is none. Fine-tuning is in configs/finetune.py: model=gpt1-base.

Plans of these steps are in docs/plans.md:

    python scripts/plan.py --config=configs/gpt1.py:base --topology=v5e:4x4
"""

from configs import common, gpt2

SIZES = {
    "tiny": dict(depth=4, width=128, heads=4),
    "base": dict(depth=12, width=768, heads=12),
}


def get_config(arg="base"):
    """Returns the config; `arg` is `SIZE[,quick=1]`."""
    args = common.parse_arg(arg, size="base", quick=False)
    config = common.base()
    config.model = common.network(
        "decoder",
        **common.pick_size(args.size, SIZES),
        vocab_size=40478,
        max_positions=512,
        token_types=0,
        norm_first=False,
        norm_eps=1e-5,
        activation="gelu_tanh",
        init="normal",
        init_std=0.02,
        position_init_std=0.02,
        residual_init_std=0.02,  # scaled by the depth from GPT-2 on
        dropout=0.1,
        attention_dropout=0.1,
        dtype="bfloat16",
        remat="dots",
    )
    # Logits of 40478 tokens are the largest array by far: an eighth of them at a time.
    config.objective = dict(name="causal_lm", logit_chunks=8)

    config.batch_size = 64
    # 100 epochs of BooksCorpus, whose tokens the paper does not count: of about 1 G words, and
    # 32,768 tokens in a step.
    config.total_steps = 3_600_000
    config.optim.update(
        name="adamw",
        lr=2.5e-4,
        schedule="cosine",
        warmup_steps=2000,
        final_lr=0.0,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        weight_decay=0.01,
        no_decay=("bias", "scale"),  # "all non bias or gain weights" decay, tables too
        bias_correction=True,
        clip_norm=0.0,
    )

    config.data.pipeline = "causal_stream"
    config.data.source = ""
    config.data.source_hint = (
        "GPT-1 was trained on BooksCorpus: give text with --config.data.source=PATH, or "
        "hf:bookcorpus/bookcorpus/plain_text:train with a network"
    )
    config.data.length = 512
    config.data.tokenizer.update(kind="word_bpe", vocab_size=40478, lowercase=True)
    if args.size == "tiny":
        gpt2.tiny(config)
        config.optim.lr = 1e-3
    return common.quick(config) if args.quick else config
