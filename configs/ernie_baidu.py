r"""ERNIE: Enhanced Representation through Knowledge Integration (Sun et al., 2019): Baidu's, 1.0.

    python train.py --config=configs/ernie_baidu.py:tiny --workdir=runs/ernie-baidu-tiny
    python train.py --config=configs/ernie_baidu.py:base,stage=3 --workdir=DIR \
        --config.data.source=annotated:PATH --config.init_from=STAGE-2

A BERT whose masks cover what belongs together. `stage` 1 masks words as BERT does, 2 also phrases,
and 3 also entities as one, each stage starting from the one before. Phrases and entities come with
the text (data_pipeline/annotated_files.py). Learning rate and steps are BERT's: those of the
paper are not known here. Its text is Chinese, and so the vocabulary; dialogues are left out.

Plans of these steps are in docs/plans.md:

    python scripts/plan.py --config=configs/ernie_baidu.py:base --topology=v5e:4x4
"""

from configs import bert, common

SIZES = {name: bert.SIZES[name] for name in ("tiny", "base")}
STAGES = {1: "", 2: "phrase", 3: "entity"}


def get_config(arg="base"):
    """Returns the config; `arg` is `SIZE[,stage=1|2|3][,quick=1]`."""
    args = common.parse_arg(arg, size="base", stage=3, quick=False)
    common.pick_size(args.size, SIZES)
    if args.stage not in STAGES:
        raise ValueError(f"stage={args.stage} must be 1 (words), 2 (phrases) or 3 (entities).")
    config = bert.get_config(args.size)
    config.total_steps = 1500 if args.size == "tiny" else 1_000_000
    config.model.activation = "gelu"
    config.model.vocab_size = config.data.tokenizer.vocab_size
    config.data.pipeline = "annotated_lm"
    config.data.source_hint = (
        "ERNIE was trained on Chinese Wikipedia, Baidu's encyclopedia, news and forum, which are "
        "not shipped: give annotated text with --config.data.source=annotated:PATH"
    )
    config.data.masking.update(spans=STAGES[args.stage], whole_word=True)
    if args.size == "tiny":
        config.data.entities.marks = "names"
    if args.quick:
        common.quick(config)
        config.data.entities.marks = "names"
    return config
