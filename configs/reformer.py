r"""Reformer: The Efficient Transformer (Kitaev et al., 2020).

    python train.py --config=configs/reformer.py:tiny --workdir=runs/reformer-tiny
    python train.py --config=configs/reformer.py:copy,rounds=4 --workdir=DIR
    python train.py --config=configs/reformer.py:enwik8 --workdir=DIR \
        --config.data.source=jsonl:PATH
    python train.py --config=configs/reformer.py:imagenet64 --workdir=DIR \
        --config.data.source=IMAGES.npy

The paper gives data, sizes and rounds (sections 2 and 5); enwik8 and imagenet64 here are the models
whose settings were released (trax, reformer_enwik8.gin and reformer_imagenet64.gin). Those see all
keys of a chunk, in each round anew; the copy task has the paper's masks. Two things differ from
the released code: initial values are normal, not uniform, and dropout within the feed-forward
network, before its activation, is left out.

Plans of these steps are in docs/plans.md:

    python scripts/plan.py --config=configs/reformer.py:enwik8 --topology=v5e:2x4
    python scripts/plan.py --config=configs/reformer.py:imagenet64 --topology=v5e:2x4
"""

from configs import common

# Learning rate: lr * min(1, step / warmup_steps) / sqrt(max(step, warmup_steps)).
SIZES = {
    "tiny": dict(depth=4, width=128, heads=4, head_size=32, mlp_width=512),
    "copy": dict(depth=1, width=256, heads=4, head_size=64, mlp_width=256),  # table 2
    "enwik8": dict(depth=12, width=768, heads=8, head_size=64, mlp_width=2048),
    "imagenet64": dict(depth=6, width=1024, heads=8, head_size=64, mlp_width=4096),
}


def get_config(arg="enwik8"):
    """Returns the config; `arg` is `SIZE[,rounds=R][,quick=1]`, R of hashing, 0: the size's own."""
    args = common.parse_arg(arg, size="enwik8", rounds=0, quick=False)
    size = common.pick_size(args.size, SIZES)
    config = common.base()
    config.model = dict(
        name="reformer",
        **size,
        vocab_size=258,
        max_positions=65536,
        attention="lsh",
        rounds=2,
        buckets=(),
        lsh_chunk=64,
        local_chunk=64,
        bucket_mask=False,
        duplicate_mask=False,
        hash_seed=0,
        reversible=True,
        mlp_chunks=1,
        axial_shape=(),
        axial_widths=(),
        norm_eps=1e-6,
        activation="relu",
        init="normal",
        init_std=0.02,
        position_init_std=0.02,
        residual_init_std=0.02,
        dropout=0.0,
        attention_dropout=0.0,
        dtype="bfloat16",
        remat="dots",
    )
    config.objective = dict(name="causal_lm", logit_chunks=8)
    config.optim.update(
        name="adamw",
        lr=0.03125,
        schedule="noam",
        b1=0.9,
        b2=0.98,
        eps=1e-9,
        weight_decay=0.0,
        clip_norm=0.0,
    )
    config.data.stream.mask_documents = False
    PAGES[args.size](config)
    if args.rounds:
        config.model.rounds = args.rounds
    return quick(config) if args.quick else config


def enwik8(config):
    """Sets what belongs to rows of 65,536 bytes of Wikipedia."""
    config.model.update(
        attention="local,local,lsh,local",
        lsh_chunk=256,
        buckets=(512,),
        local_chunk=128,
        axial_shape=(128, 512),
        axial_widths=(256, 512),
        position_init_std=1.0,
        dropout=0.2,
        attention_dropout=0.2,
        mlp_chunks=16,
    )
    config.objective.logit_chunks = 16
    _bytes(config)
    config.data.length = 65536
    config.data.source = ""
    config.data.source_hint = (
        "Give enwik8, the first 100 MB of a dump of Wikipedia, with "
        "--config.data.source=jsonl:PATH, a page a line; of a plain text file the white space "
        "around lines is not kept"
    )
    config.batch_size = 8  # a sequence on each of 8 devices
    config.total_steps = 100_000
    config.optim.warmup_steps = 2000


def imagenet64(config):
    """Sets what belongs to images of 64 x 64 pixels of three colors."""
    config.model.update(
        vocab_size=256,
        max_positions=12288,
        lsh_chunk=128,
        buckets=(192,),
        axial_shape=(64, 64, 3),
        axial_widths=(384, 384, 256),
        position_init_std=1.0,
        activation="gelu_tanh",
        attention_dropout=0.2,
        mlp_chunks=4,
    )
    config.data.pipeline = "images"
    config.data.length = 12288
    config.data.source = ""
    config.data.source_hint = (
        "Give the images of imagenet64 with --config.data.source=PATH, a file .npy or .npz of "
        "uint8 [images, 64, 64, 3]"
    )
    config.data.tokenizer.update(kind="byte_bpe", vocab_size=257, lowercase=False)  # unused
    config.batch_size = 8
    config.total_steps = 500_000
    config.optim.warmup_steps = 8000


def copy(config):
    """Sets table 2's task, 0w0w with 511 symbols of 127 kinds in w; its rate is not published."""
    config.model.update(
        vocab_size=128,
        max_positions=1024,
        rounds=4,
        bucket_mask=True,
        duplicate_mask=True,
        dtype="float32",
    )
    config.objective.logit_chunks = 1
    config.data.pipeline = "copy"
    config.data.length = 1024
    config.data.tokenizer.update(kind="byte_bpe", vocab_size=257, lowercase=False)  # unused
    config.batch_size = 32
    config.total_steps = 150_000
    config.optim.update(lr=0.03125, warmup_steps=1000)


def tiny(config):
    """Sets what learns from the embedded corpus within minutes."""
    config.model.update(
        attention="local,lsh",
        max_positions=256,
        lsh_chunk=32,
        local_chunk=32,
        axial_shape=(16, 16),
        dtype="float32",
    )
    config.objective.logit_chunks = 1
    _bytes(config)
    config.data.source = "embedded"
    config.data.length = 256
    config.data.valid_fraction = 0.1  # of so few documents
    config.batch_size = 16
    config.total_steps = 700
    config.optim.update(lr=0.03, warmup_steps=200)
    config.evals.update(every=500, batches=0)
    config.checkpoint.every = 500


def _bytes(config):
    """Sets the bytes and an end of text as vocabulary; the tables have a row more, as released."""
    config.data.pipeline = "causal_stream"
    config.data.tokenizer.update(kind="byte_bpe", vocab_size=257, lowercase=False)


PAGES = {"tiny": tiny, "copy": copy, "enwik8": enwik8, "imagenet64": imagenet64}


def quick(config):
    """Shrinks any size to a minute, on the text of the embedded corpus or the copy task."""
    common.quick(config)
    config.model.update(head_size=0, mlp_width=config.model.get_ref("width") * 4, mlp_chunks=2)
    config.model.update(lsh_chunk=16, local_chunk=16, buckets=(), max_positions=64)
    if len(config.model.attention.split(",")) > 2:
        config.model.attention = "local,lsh"
    if config.model.axial_shape:
        config.model.update(axial_shape=(8, 8), axial_widths=())
    if config.data.pipeline == "images":
        config.data.pipeline = "causal_stream"
    return config
