r"""ELECTRA: Pre-training Text Encoders as Discriminators (Clark et al., ICLR 2020).

    python train.py --config=configs/electra.py:tiny --workdir=runs/electra-tiny
    python train.py --config=configs/electra.py:small --workdir=DIR --config.data.source=PATH \
        --config.data.tokenizer.path=vocab.txt

A small generator fills the masks by sampling; the discriminator tells of every token whether it was
replaced, and is what is kept. `variant` picks a row of table 5 or figure 3:

    electra      the method
    electra_15   the discriminator's loss on the masked tokens only
    replace_mlm  masked LM, but over rows that the generator has filled
    all_tokens   the same of all tokens, with a gate that copies the input
    masked_lm    the BERT that it is compared with: the same network and data, masked LM alone
    two_stage    first a generator, then a discriminator that starts from it while it stands still:
                 train variant=masked_lm, then this with --config.part_from.generator=WORKDIR

--config.objective.tie (section 3.2) says what the two networks share: none, tokens, embeddings or
all (with objective.generator_size=1.0). Where the paper is silent, these are the values of the
released code.

Plans of these steps are in docs/plans.md:

    python scripts/plan.py --config=configs/electra.py:base --topology=v5e:4x4
    python scripts/plan.py --config=configs/electra.py:large --topology=v5e:16x16
"""

from configs import bert, common

# Table 6. `generator` is the generator's share of heads, width and feed-forward width.
SIZES = {
    "tiny": dict(depth=2, width=128, heads=2, embed_width=64, generator=0.5),
    "small": dict(depth=12, width=256, heads=4, embed_width=128, generator=1 / 4),  # 14 M
    "base": dict(depth=12, width=768, heads=12, embed_width=768, generator=1 / 3),  # 110 M
    "large": dict(depth=24, width=1024, heads=16, embed_width=1024, generator=1 / 4),  # 335 M
}
# Table 6; the masked LM baselines run for 1.45 M, 1 M and 464 k steps.
TRAINING = {
    "tiny": dict(lr=2e-3, batch_size=64, total_steps=1500, length=32, mask=0.15),
    "small": dict(lr=5e-4, batch_size=128, total_steps=1_000_000, length=128, mask=0.15),
    "base": dict(lr=2e-4, batch_size=256, total_steps=766_000, length=512, mask=0.15),
    "large": dict(lr=2e-4, batch_size=2048, total_steps=400_000, length=512, mask=0.25),
}
VARIANTS = ("electra", "electra_15", "replace_mlm", "all_tokens", "masked_lm", "two_stage")


def get_config(arg="small"):
    """Returns the config; `arg` is `SIZE[,variant=NAME][,quick=1]`."""
    args = common.parse_arg(arg, size="small", variant="electra", quick=False)
    size = dict(common.pick_size(args.size, SIZES))
    generator_size, training = size.pop("generator"), TRAINING[args.size]
    if args.variant not in VARIANTS:
        raise ValueError(f"Unknown variant {args.variant!r}. Choose one of: {', '.join(VARIANTS)}.")
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
        init="truncated_normal",
        init_std=0.02,
        position_init_std=0.02,
        residual_init_std=0.02,
        dropout=0.1,
        attention_dropout=0.1,
        dtype="bfloat16",
        remat="dots",
    )
    config.objective = dict(
        name="electra",
        variant=args.variant,
        tie="embeddings",
        generator_size=generator_size,
        logit_chunks=8,
        # lambda of section 2; the variants that predict tokens weigh both losses alike.
        weights=dict(masked_lm=1.0, replaced_token=50.0, recovery=1.0),
    )

    config.batch_size = training["batch_size"]
    config.total_steps = training["total_steps"]
    config.optim.update(
        name="adamw",
        lr=training["lr"],
        schedule="linear",
        warmup_steps=10_000,
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
        "ELECTRA was trained on English Wikipedia and BooksCorpus (large: also ClueWeb, "
        "CommonCrawl and Gigaword), which are not shipped: give text with "
        "--config.data.source=PATH, or hf:wikimedia/wikipedia/20231101.en:train with a network"
    )
    config.data.length = training["length"]
    config.data.tokenizer.update(kind="wordpiece", vocab_size=30522, lowercase=True)
    config.data.format.update(
        name="two_segments", negatives="none", negative_rate=0.0, short_seq_prob=0.05, passes=1
    )
    config.data.masking.update(
        rate=training["mask"],
        max_predictions=int((training["mask"] + 0.005) * training["length"]),
        mask=1.0,  # section 2; the released code leaves 15 % of the chosen tokens as they are
        random=0.0,
    )
    if args.size == "tiny":
        bert.tiny(config)
        config.data.masking.max_predictions = 5
    if args.variant == "masked_lm":
        config.objective = dict(name="masked_lm", sentence_pair=False)
        config.data.masking.update(mask=0.8, random=0.1)  # BERT's
    if args.variant == "two_stage":  # section 3.2: of equal size, for weights to be copied
        config.objective.update(variant="electra", tie="none", generator_size=1.0)
        config.optim.frozen = ("^generator/", "^masked_lm/")
        config.init_from = config.part_from.get_ref("generator").identity()
    return common.quick(config) if args.quick else config
