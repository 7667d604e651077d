r"""ALBERT: A Lite BERT for Self-supervised Learning (Lan et al., ICLR 2020).

    python train.py --config=configs/albert.py:tiny --workdir=runs/albert-tiny
    python train.py --config=configs/albert.py:xxlarge --workdir=DIR --config.data.source=PATH \
        --config.data.tokenizer.path=spiece.model --config.mesh.fsdp=8

Three changes to BERT: narrow embedding tables (E, table 3: model.embed_width), one set of
parameters for all layers (table 4: model.sharing = none, attention, mlp or all, in model.groups
groups), and the order of two segments as the sentence task (table 5: data.format.negatives =
swapped, random or none). Whole n-grams of words are masked (section 4.1).

Where the paper is silent or differs, these are the values of the released code.

Plans of these steps are in docs/plans.md:

    python scripts/plan.py --config=configs/albert.py:base --topology=v5e:16x16
    python scripts/plan.py --config=configs/albert.py:large --topology=v5e:16x16
    python scripts/plan.py --config=configs/albert.py:xlarge --topology=v5e:16x16
    python scripts/plan.py --config=configs/albert.py:xxlarge --topology=v5p:8x8x8
"""

from configs import bert, common

# Table 1; heads are width / 64 (section 3.1; the released xlarge has 16, each 128 wide). Without
# dropout the largest model is better (table 8).
SIZES = {
    "tiny": dict(depth=2, width=128, heads=2, embed_width=64, dropout=0.0),
    "base": dict(depth=12, width=768, heads=12, embed_width=128, dropout=0.1),  # 12 M
    "large": dict(depth=24, width=1024, heads=16, embed_width=128, dropout=0.1),  # 18 M
    "xlarge": dict(depth=24, width=2048, heads=32, embed_width=128, dropout=0.1),  # 60 M
    # 235 M in the paper, 223 M counted
    "xxlarge": dict(depth=12, width=4096, heads=64, embed_width=128, dropout=0.0),
}


def get_config(arg="base"):
    """Returns the config; `arg` is `SIZE[,quick=1]`."""
    args = common.parse_arg(arg, size="base", quick=False)
    size = dict(common.pick_size(args.size, SIZES))
    config = common.base()
    config.model = common.network(
        "encoder",
        **size,
        attention_dropout=size["dropout"],
        sharing="all",
        groups=1,
        vocab_size=30000,
        max_positions=512,
        token_types=2,
        norm_first=False,
        norm_eps=1e-12,
        activation="gelu_tanh",
        init="truncated_normal",
        init_std=0.02,
        position_init_std=0.02,
        residual_init_std=0.02,
        dtype="bfloat16",
        remat="dots",
    )
    config.objective = dict(name="masked_lm", sentence_pair=True)

    # Section 4.1.
    config.batch_size = 4096
    config.total_steps = 125_000
    config.optim.update(
        name="lamb",
        lr=0.00176,
        schedule="linear_from_start",
        warmup_steps=3125,
        b1=0.9,
        b2=0.999,
        eps=1e-6,
        weight_decay=0.01,
        bias_correction=False,  # as in lamb_optimizer.py
        clip_norm=1.0,
    )

    config.data.pipeline = "masked_lm"
    config.data.source = ""
    config.data.source_hint = (
        "ALBERT was trained on English Wikipedia and BooksCorpus, which are not shipped: give text "
        "with --config.data.source=PATH, or hf:wikimedia/wikipedia/20231101.en:train with a network"
    )
    config.data.length = 512
    config.data.tokenizer.update(kind="sentencepiece", vocab_size=30000, lowercase=True)
    config.data.format.update(
        name="segment_pairs",
        negatives="swapped",
        negative_rate=0.5,
        short_seq_prob=0.1,
        passes=40,  # dupe_factor of the released code
    )
    config.data.masking.update(
        rate=0.15,
        max_predictions=77,  # 0.15 x 512; the released command stops at 20 of them
        mask=0.8,
        random=0.1,
        whole_word=True,
        ngram=3,  # lengths 1, 2, 3 with p(n) ~ 1/n
        static=False,
    )
    if args.size == "tiny":
        tiny(config)
    return common.quick(config) if args.quick else config


def tiny(config):
    """Sets what makes the smallest size learn from the embedded corpus within minutes."""
    bert.tiny(config)
    config.data.format.passes = 10
    config.optim.name = "adamw"  # LAMB is for batches of thousands
