r"""RoBERTa: A Robustly Optimized BERT Pretraining Approach (Liu et al., 2019).

    python train.py --config=configs/roberta.py:tiny --workdir=runs/roberta-tiny
    python train.py --config=configs/roberta.py:large --workdir=DIR --config.data.source=PATH \
        --config.data.tokenizer.path=FOLDER --config.microbatches=8

BERT's network without segment types, on a byte-level vocabulary; no sentence task, rows full of
sentences, new masks in every epoch, large batches. The rows of table 2 are values of
--config.data.format.name: segment_pairs and sentence_pairs (with data.format.negatives=random and
objective.sentence_pair=True), full_sentences, doc_sentences; table 1's static masks are
--config.data.masking.static=True with data.format.passes=10.

Where the paper is silent, these are the values of the released code (fairseq).

Plans of these steps are in docs/plans.md:

    python scripts/plan.py --config=configs/roberta.py:base --topology=v5e:16x16
    python scripts/plan.py --config=configs/roberta.py:large --topology=v5p:8x8x8
"""

from configs import bert, common

# Table 9. Feed-forward width is 4 x width.
SIZES = {
    "tiny": dict(depth=2, width=128, heads=2, lr=2e-3, warmup_steps=100),
    "base": dict(depth=12, width=768, heads=12, lr=6e-4, warmup_steps=24_000),  # 125 M
    "large": dict(depth=24, width=1024, heads=16, lr=4e-4, warmup_steps=30_000),  # 355 M
}


def get_config(arg="base"):
    """Returns the config; `arg` is `SIZE[,quick=1]`."""
    args = common.parse_arg(arg, size="base", quick=False)
    size = dict(common.pick_size(args.size, SIZES))
    lr, warmup_steps = size.pop("lr"), size.pop("warmup_steps")
    config = common.base()
    config.model = common.network(
        "encoder",
        **size,
        vocab_size=50265,
        max_positions=512,  # the released table has two more rows, which are never read
        token_types=0,
        norm_first=False,
        norm_eps=1e-5,
        activation="gelu",
        init="normal",
        init_std=0.02,
        position_init_std=0.02,
        residual_init_std=0.02,
        dropout=0.1,
        attention_dropout=0.1,
        dtype="bfloat16",  # the paper: float16 with loss scaling
        remat="dots",
    )
    config.objective = dict(name="masked_lm", sentence_pair=False)

    # Table 9.
    config.batch_size = 8192
    config.total_steps = 500_000
    config.optim.update(
        name="adamw",
        lr=lr,
        schedule="linear",
        warmup_steps=warmup_steps,
        b1=0.9,
        b2=0.98,
        eps=1e-6,
        weight_decay=0.01,
        no_decay=(),  # fairseq decays every parameter
        bias_correction=True,
        clip_norm=0.0,
    )

    config.data.pipeline = "masked_lm"
    config.data.source = ""
    config.data.source_hint = (
        "RoBERTa was trained on Wikipedia, BooksCorpus, CC-News, OpenWebText, Stories, which are "
        "not shipped: give text with --config.data.source=PATH, or "
        "hf:Skylion007/openwebtext:train with a network"
    )
    config.data.length = 512  # in every step; no phase of 128
    config.data.tokenizer.update(
        kind="byte_bpe", vocab_size=50265, lowercase=False, specials="roberta"
    )
    config.data.format.update(
        name="full_sentences", negatives="none", negative_rate=0.0, short_seq_prob=0.0, passes=1
    )
    config.data.masking.update(
        rate=0.15,
        max_predictions=77,
        mask=0.8,
        random=0.1,
        whole_word=False,
        static=False,
        # fairseq may also choose <s> and </s>; the paper does not say, and BERT never does.
    )
    if args.size == "tiny":
        bert.tiny(config)
    return common.quick(config) if args.quick else config
