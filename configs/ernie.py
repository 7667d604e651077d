r"""ERNIE: Enhanced Language Representation with Informative Entities (Zhang et al., ACL 2019).

    python train.py --config=configs/ernie.py:tiny --workdir=runs/ernie-tiny
    python train.py --config=configs/ernie.py:base --workdir=DIR --config.init_from=BERT \
        --config.data.source=wiki_entity:FOLDER --config.data.entities.path=KG_EMBED \
        --config.part_from.entities=KG_EMBED/entity2vec.vec

The text is annotated: see data_pipeline/annotations.py for its forms. `BERT` is a workdir or a
published checkpoint of configs/bert.py, which fills the text's part; KG_EMBED is the released
folder of entity names and TransE vectors, which stand still. Without such vectors they are learned
with the rest: --config.optim.frozen="()". `variant=without_dea` leaves out the denoising of
entities (table 7).

Where the paper is silent or differs, these are the values of the released code: 5 plain layers, one
that fuses and 6 that also attend, instead of 6 and 6 (section 4.1); batches of 256 instead of 512;
examples of at least 5 entities; entities chosen among those of the batch.

Baidu's ERNIE shares the name alone: configs/ernie_baidu.py.

Plans of these steps are in docs/plans.md:

    python scripts/plan.py --config=configs/ernie.py:base --topology=v5e:4x4
"""

from configs import bert, common

# Section 4.1. `plain` layers are below those that fuse.
SIZES = {
    "tiny": dict(depth=3, width=128, heads=2, plain_layers=1, entity_width=32, entity_heads=2),
    "base": dict(
        depth=12, width=768, heads=12, plain_layers=5, entity_width=100, entity_heads=4
    ),  # 114 M without the table of entities
}
VARIANTS = ("ernie", "without_dea")


def get_config(arg="base"):
    """Returns the config; `arg` is `SIZE[,variant=NAME][,quick=1]`."""
    args = common.parse_arg(arg, size="base", variant="ernie", quick=False)
    if args.variant not in VARIANTS:
        raise ValueError(f"Unknown variant {args.variant!r}. Choose one of: {', '.join(VARIANTS)}.")
    config = common.base()
    config.model = common.network(
        "ernie",
        **common.pick_size(args.size, SIZES),
        entities=5_040_986,
        vocab_size=30522,
        max_positions=512,
        token_types=2,
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
    config.objective = dict(name="masked_lm", sentence_pair=True)
    if args.variant == "ernie":
        config.objective.update(name="entity_lm", candidates="batch")

    config.batch_size = 256
    config.total_steps = 70_000  # about an epoch of 4.5 billion pieces, in the paper's number
    config.optim.update(
        name="adamw",
        lr=5e-5,
        schedule="constant",  # behind the warm-up: run_pretrain.py
        warmup_steps=7_000,
        b1=0.9,
        b2=0.999,
        eps=1e-6,
        weight_decay=0.01,
        bias_correction=False,
        clip_norm=1.0,
    )

    config.data.pipeline = "annotated_lm"
    config.data.source = ""
    config.data.source_hint = (
        "ERNIE was trained on English Wikipedia whose links name entities, which is not shipped: "
        "give annotated text with --config.data.source=annotated:PATH, or wiki_entity:FOLDER"
    )
    config.data.length = 256
    config.data.tokenizer.update(kind="wordpiece", vocab_size=30522, lowercase=True)
    config.data.format.update(
        name="segment_pairs", negatives="random", negative_rate=0.5, short_seq_prob=0.1, passes=1
    )
    config.data.masking.update(rate=0.15, max_predictions=40, mask=0.8, random=0.1)
    config.data.entities.update(count=config.model.get_ref("entities"), predictions=40, least=5)
    config.optim.frozen = ("knowledge/entities/",)
    if args.size == "tiny":
        tiny(config)
    return quick(config) if args.quick else config


def tiny(config):
    """Sets what makes the smallest size learn from the embedded corpus within minutes."""
    bert.tiny(config)
    config.optim.schedule = "linear"
    names(config)
    config.model.entities = 2000


def names(config):
    """Takes names in the text for its entities, whose vectors are learned with the rest."""
    config.data.entities.update(marks="names", path=None, predictions=5, least=0)
    config.optim.frozen = ()


def quick(config):
    """Shrinks the config as `common.quick` does, in place."""
    common.quick(config)
    names(config)
    config.model.update(plain_layers=0, entity_width=16, entity_heads=2, entities=500)
    return config
