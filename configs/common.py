"""Every key that a config can have, the mesh presets and the sharding rules.

A paper's config starts from `base()` and fills in its page. All keys exist in every config, so a
dump is complete and a mistyped key fails. Reading this file needs no JAX.
"""

import ml_collections
from ml_collections import config_dict

# Logical axis -> mesh axes. Parameters and activations have separate names, and tables have names
# of their own: an embedding table sharded on `embed` would make XLA rematerialize the lookup. The
# first rule of a name holds whose mesh axes no other axis of the array has taken, and divide it.
RULES = (
    # parameters
    ("vocab_table", "tensor"),
    # Of millions of vectors few are looked up: they are cut apart, and none of them in pieces.
    ("entity_table", ("fsdp", "tensor")),
    ("embed_table", ("fsdp", "tensor")),  # where `tensor` does not divide the vocabulary
    ("embed_table", "fsdp"),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("head_width", None),
    ("mlp", "tensor"),
    ("layers", None),
    ("norm", "tensor"),  # as the activations that it scales
    ("features", None),  # what heads make of the width, and the inner width of a narrow table
    # activations
    ("act_batch", ("data", "fsdp")),
    ("act_length", None),
    ("act_embed", "tensor"),  # between blocks: what is kept for the backward pass is cut as well
    ("act_heads", "tensor"),
    ("act_vocab", "tensor"),
)


def base() -> ml_collections.ConfigDict:
    """Returns a config with every key and no paper in it."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.batch_size = 256  # rows in one step, over all devices and microbatches
    config.microbatches = 1  # the step runs this many slices of the batch one after another
    config.total_steps = 1000
    # The first steps have `start` rows, and then more and more, in equal parts of batch_size, which
    # all of them have from step `steps` on (GPT-3, appendix B). 0: no ramp.
    config.batch_ramp = ml_collections.ConfigDict({"start": 0, "steps": 0})
    config.model = ml_collections.ConfigDict()  # the fields of a network's configuration
    config.objective = ml_collections.ConfigDict({"name": ""})
    config.data = data()
    config.optim = optim()
    # -1 on one axis: all devices that are left.
    config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    config.rules = RULES
    config.evals = ml_collections.ConfigDict(
        {
            "every": 1000,  # steps between evaluations on held-out documents; 0: only at the end
            "batches": 20,  # batches of one evaluation; 0: all that the held-out documents give
            # How answers are chosen from spans, see evaluation/answers.py.
            "n_best": 20,  # that are written for each question
            "max_answer": 30,  # pieces
            "null_threshold": 0.0,  # "no answer" where its odds are higher (SQuAD v2.0)
        }
    )
    config.checkpoint = ml_collections.ConfigDict(
        {
            "every": 1000,  # steps between saves; the last step is always saved
            "keep": 2,  # the newest ones
            "keep_best": 1,  # and those that are best on held-out rows
            "best": "min:valid/loss",  # by this metric: max: the more, the better
        }
    )
    # A step is bad whose loss or gradient is not finite, or whose loss is a spike (guard.py).
    config.guard = ml_collections.ConfigDict(
        {
            "policy": "stop",  # skip: do not take it; rollback: to the last checkpoint, other rows
            "spike": 0.0,  # a loss above so many times the mean of the last ones; 0: none is
            "limit": 10,  # bad steps in a row, or rollbacks, after which the run stops all the same
        }
    )
    config.log = ml_collections.ConfigDict(
        {
            "every": 50,
            "tensorboard": True,
            "profile": (),  # (first step, last step): a trace for TensorBoard's profile tab
        }
    )
    config.init_from = config_dict.placeholder(str)  # a workdir of ours or a Hugging Face folder
    config.init_layers = ()  # which of its layers, from 0, the network's get; (): all in order
    # Parts of an objective that come from a run of their own, filled like init_from.
    config.part_from = ml_collections.ConfigDict(
        {
            "teacher": config_dict.placeholder(str),  # of a distillation; gives the sizes as well
            "generator": config_dict.placeholder(str),  # ELECTRA's
            # The vectors of ERNIE's entities, see training/entity_vectors.py.
            "entities": config_dict.placeholder(str),
        }
    )
    return config


def data() -> ml_collections.ConfigDict:
    """Returns the data section: from text to batches."""
    config = ml_collections.ConfigDict()
    config.source = "embedded"  # see data_pipeline/sources.py
    config.source_hint = ""  # told when no source is given: where the paper's corpus comes from
    config.layout = "auto"  # how documents are marked in text files: auto, blank_lines, wiki, book
    config.cache_dir = config_dict.placeholder(str)  # default: ~/.cache/bert-to-gpt3
    config.valid_fraction = 0.02  # of the documents, chosen by a hash of their text
    config.tokenizer = ml_collections.ConfigDict(
        {
            "kind": "wordpiece",  # wordpiece, byte_bpe, word_bpe, sentencepiece
            "path": config_dict.placeholder(str),  # a vocabulary file or folder; none: train one
            "vocab_size": 30522,
            "lowercase": True,
            # Special tokens of a vocabulary that is trained; "": those of the kind's first user
            # (BERT, GPT-2, ALBERT); roberta: of a byte_bpe; t5, xlnet: of a sentencepiece.
            "specials": "",
            "sentinels": 0,  # <extra_id_0>, ...: the last ids of a sentencepiece (T5: 100)
        }
    )
    config.pipeline = ""  # see data_pipeline/pipeline.py and textless.py
    config.length = 128  # tokens in a row; of multiple choice: in each choice
    config.packing = False  # first-fit several examples into a row, kept apart by segment ids
    config.workers = 0  # processes that build batches beside the training process
    config.prefetch = 8  # batches built ahead
    # how masked language models cut text, see data_pipeline/formats.py
    config.format = ml_collections.ConfigDict(
        {
            "name": "segment_pairs",
            "negatives": "random",  # what a pair's label is about: random, swapped, none
            "negative_rate": 0.5,
            "short_seq_prob": 0.1,
            "passes": 10,  # times the corpus is cut, each time at other places
        }
    )
    config.masking = ml_collections.ConfigDict(
        {
            "rate": 0.15,
            "max_predictions": 20,  # P, per row
            "mask": 0.8,  # of the chosen tokens: replaced by [MASK]
            "random": 0.1,  # and by a random token; the rest stays as it is
            "whole_word": False,
            "ngram": 1,  # the most words (tokens, unless whole words) that are masked together
            # Of annotated text: masked as one, with one fate, are phrases, or also entities.
            "spans": "",  # "", phrase, entity (Baidu's ERNIE)
            "static": False,  # the same masks in every epoch
        }
    )
    # entities of annotated text (ERNIE), see data_pipeline/annotations.py
    config.entities = ml_collections.ConfigDict(
        {
            "marks": "given",  # given: with the text; names: found by capital letters; none
            # Their names: a folder with entity2id.txt or entities.txt, or such a file. Without it
            # those of init_from, or the most frequent ones of the text.
            "path": config_dict.placeholder(str),
            "count": 0,  # the most there may be: model.entities
            "predictions": 0,  # J, per row; 0: rows have no entities
            "least": 0,  # examples with fewer are left out
            "replace": 0.05,  # of the mentions in the input: told another entity
            "drop": 0.15,  # and told none
            "threshold": 0.3,  # mentions that a linker is less sure of are left out (fine-tuning)
        }
    )
    # how text becomes an input and a target (T5), see data_pipeline/corruption.py
    config.corruption = ml_collections.ConfigDict(
        {
            "name": "spans",
            "rate": 0.15,  # of the tokens
            "mean_span": 3.0,  # tokens in a row that are corrupted together, on average
        }
    )
    # several tasks as text, by the number of their examples (T5), see data_pipeline/mixture.py
    config.mixture = ml_collections.ConfigDict(
        {
            "tasks": (),  # of data_pipeline/tasks/text_to_text.py, in the folder data.path
            "limit": 2**19,  # no task counts for more examples than this
            "unsupervised": 0,  # what corrupted text counts for; 0: there is none
            "target_length": 84,  # tokens of a target; more, where corrupted text needs it
        }
    )
    # a stream of concatenated documents (GPT)
    config.stream = ml_collections.ConfigDict(
        {
            "mask_documents": False,  # attention does not cross the end of a document
        }
    )
    # predictions in a random order (XLNet), see data_pipeline/permutation.py
    config.permutation = ml_collections.ConfigDict(
        {
            "k": 6,  # of so many tokens one is predicted
            "span": 5,  # the most tokens that are predicted together; 1: each by itself
            "reuse": 256,  # tokens at the beginning of a row that just go on with the text
            "block": 256,  # tokens that are ordered among themselves
            "memory": 384,  # tokens before a row that are remembered; 0: none
            "bidirectional": True,  # every text is read from right to left too
        }
    )
    # the copy task (Reformer)
    config.copy = ml_collections.ConfigDict(
        {
            "symbols": 127,  # that a word is made of
        }
    )
    # a labeled task (fine-tuning)
    config.task = ""  # see data_pipeline/tasks
    # The folder of the task, GLUE or SQuAD, or a library's set (tfds:glue, hf:nyu-mll/glue); none:
    # the library that has it, see data_pipeline/tasks/published.py.
    config.path = config_dict.placeholder(str)
    # another file of training rows, such as the one that scripts/augment.py writes
    config.train_path = config_dict.placeholder(str)
    config.both_orders = False  # train on every pair in both orders, which doubles the rows
    # a graph of concepts for each choice (KagNet), see data_pipeline/knowledge/schema_graphs.py
    config.graphs = ml_collections.ConfigDict(
        {
            "path": config_dict.placeholder(str),  # an --output of scripts/train_transe.py
            "digest": config_dict.placeholder(str),  # of its names, which training notes
            "hops": 3,  # the most of a path
            "threshold": 0.15,  # of a path's score; 0: no path is pruned
            "search": 100,  # paths between two concepts after which the search ends
            # what has room beside a choice
            "concepts": 64,  # and one of them stands for none
            "pairs": 16,  # of a concept of the question and one of the choice
            "paths": 48,  # of all pairs
        }
    )
    # questions whose answer is a span of a context (SQuAD), see data_pipeline/tasks/spans.py
    config.spans = ml_collections.ConfigDict(
        {
            "stride": 128,  # pieces from the beginning of a window to that of the next
            "question_length": 64,  # pieces of the question that are kept
        }
    )
    return config


def optim() -> ml_collections.ConfigDict:
    """Returns the optimizer section; see training/optimizer.py."""
    return ml_collections.ConfigDict(
        {
            "name": "adamw",  # or lamb, adafactor, lion, muon
            "lr": 1e-4,
            "schedule": "linear",
            "warmup_steps": 0,
            "decay_steps": 0,  # where the schedule ends; 0: at total_steps
            "final_lr": 0.0,  # of lr, at the end of the schedule
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "weight_decay": 0.01,
            "no_decay": ("bias", "scale"),  # regular expressions searched in a parameter's path
            "frozen": (),  # regular expressions: parameters that are not trained
            "layer_decay": 1.0,  # of lr, for each layer further from the heads
            # (regular expression, factor) pairs: parameters whose lr is another
            "lr_factors": (),
            "bias_correction": True,
            "clip_norm": 1.0,  # global norm; 0: no clipping
        }
    )


def parse_arg(arg: str, **defaults):
    """Parses the part of `--config=FILE:ARG` behind the colon.

    "large", "size=large,phase=2" and "large,quick=1" are all understood: a first item without
    `=` is the value of the first default.

    Args:
      arg: the text behind the colon, or None.
      **defaults: every accepted key with its default; values are cast to its type.

    Returns:
      A ConfigDict with a value for every key.

    Raises:
      ValueError: for an unknown key or a value of the wrong type.
    """
    values = dict(defaults)
    for i, item in enumerate(filter(None, (arg or "").split(","))):
        key, sep, value = item.partition("=")
        if not sep:
            if i:
                raise ValueError(f"{item!r} is not key=value. Keys: {', '.join(defaults)}.")
            key, value = next(iter(defaults)), item
        if key not in defaults:
            raise ValueError(f"Unknown config argument {key!r}. Keys: {', '.join(defaults)}.")
        kind = type(defaults[key])
        try:
            values[key] = bool(int(value)) if kind is bool else kind(value)
        except ValueError as error:
            raise ValueError(f"{key}={value!r} must be of type {kind.__name__}.") from error
    return ml_collections.ConfigDict(values)


def pick_size(size: str, sizes: dict[str, dict]) -> dict:
    """Returns `sizes[size]`, or raises a ValueError that lists the sizes."""
    if size not in sizes:
        raise ValueError(f"Unknown size {size!r}. Choose one of: {', '.join(sizes)}.")
    return sizes[size]


def network(name: str, **knobs) -> ml_collections.ConfigDict:
    """Returns a model section; `mlp_width` follows an overridden width, as in every paper here."""
    common = {"name": name, "gpu_attention": "flash", "scan_layers": True}
    model = ml_collections.ConfigDict({**common, **knobs})
    model.mlp_width = 4 * model.get_ref("width")
    return model


def quick(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Shrinks any config to one that runs on a laptop in a minute, in place."""
    config.batch_size, config.microbatches = 8, 1
    config.batch_ramp.update(start=0, steps=0)
    config.total_steps = 20
    config.data.source = "embedded"
    config.data.tokenizer.path = None
    config.data.tokenizer.vocab_size = config.model.vocab_size = 2048
    config.data.length = min(config.data.length, 64)
    config.data.format.passes = 1
    config.data.masking.max_predictions = min(config.data.masking.max_predictions, 10)
    half = config.data.length // 2
    config.data.permutation.update(reuse=half, block=half, memory=half)
    config.data.spans.update(stride=half // 2, question_length=half // 2)
    config.model.width, config.model.heads, config.model.depth = 64, 2, 2
    if config.model.get("embed_width"):
        config.model.embed_width = 32
    config.optim.warmup_steps, config.optim.decay_steps = 5, 0
    config.evals.update({"every": 10, "batches": 2})
    config.checkpoint.every = 10
    config.log.every = 5
    return config
