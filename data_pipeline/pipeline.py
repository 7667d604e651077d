"""From a config to datasets whose rows are pure functions of (seed, index).

`prepare_data` makes what is missing in the cache: the vocabulary, the corpus, and the example
records of a pipeline (see example_records.py). What it returns needs the files only.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections
import numpy as np

from data_pipeline import (
    annotated_rows,
    annotations,
    corruption,
    example_records,
    files,
    mixture,
    noise,
    permutation,
    rows,
    sources,
    tasks,
    textless,
    tokenizer_training,
    tokenizers,
)
from data_pipeline import corpus as corpora
from data_pipeline import records as record_files
from data_pipeline.tasks import (
    choice,
    classification,
    gpt,
    knowledge,
    mention_rows,
    spans,
    squad,
    text_to_text,
)
from errors import UserError, one_of

PIPELINES = {
    "masked_lm": rows.MaskedLM,
    "annotated_lm": annotated_rows.AnnotatedLM,
    "causal_stream": rows.CausalStream,
    "corruption": corruption.TextToText,
    "permutation_lm": permutation.PermutationLM,
    "mixture": corruption.TextToText,  # and tasks in text
    "classification": classification.Classification,
    "mentions": mention_rows.Mentions,
    "gpt_classification": gpt.GptClassification,
    "text_to_text": text_to_text.LabeledText,
    "choice": choice.Choice,
    "gpt_choice": choice.GptChoice,
    "knowledge_choice": knowledge.KnowledgeChoice,
    "spans": spans.Spans,
    "squad_text": text_to_text.SquadText,
    **textless.PIPELINES,
}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Rows by index; picklable.

    A training set has no end: index i is in epoch i // len, each epoch in its own pseudo-random
    order and, unless masks are static, with its own noise. A held-out set is read in order, its
    noise never changes, and rows beyond its end are padding with weight 0: it is measured whole,
    whatever the batch size.
    """

    pipeline: rows.Pipeline
    records: Sequence[bytes]
    seed: int
    training: bool

    def __len__(self) -> int:
        return len(self.records)

    def batch(self, indices: Sequence[int] | np.ndarray) -> rows.Rows:
        """Returns the rows with these indices: the fields of model/batch.py, each [B, ...]."""
        indices = np.asarray(indices, np.int64)
        epochs, places = np.divmod(indices, len(self))
        if self.training:
            places = noise.shuffled_epochs(indices, len(self), self.seed)
            records = [self.records[i] for i in places]
        else:
            records = [b"" if e else self.records[i] for e, i in zip(epochs, places, strict=True)]
        if self.pipeline.static or not self.training:
            epochs = np.zeros_like(epochs)
        return self.pipeline.read(records, noise.make_keys(self.seed, 1, epochs, places))

    def example(self, index: int) -> rows.Rows:
        """Returns one row, without the axis B."""
        return {name: value[0] for name, value in self.batch([index]).items()}


class Data(NamedTuple):
    """What a run needs from its text."""

    tokenizer: tokenizers.Tokenizer
    train: Dataset | None  # None: a task of which only held-out rows were asked for
    valid: Dataset
    manifest: dict  # of the corpus: counts of documents, tokens and bytes; {} for a task
    # What the held-out rows ask, where answers are parts of a context.
    asked: spans.Windows | text_to_text.Asked | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of the training text, and of the training rows that are not cut from text."""
        digest = hashlib.blake2b(self.manifest.get("source", "").encode(), digest_size=16)
        parts = self.train.parts if isinstance(self.train, mixture.Mixture) else {"": self.train}
        for part in parts.values():
            if isinstance(part.records, record_files.Records):
                continue  # the text's
            once = isinstance(part.records, textless.Repeated)
            for record in [part.records[0]] if once else part.records:
                digest.update(len(record).to_bytes(8) + record)
        return digest.hexdigest()


def chosen(config: ml_collections.ConfigDict) -> type:
    """Returns the config's entry of PIPELINES.

    Raises:
      UserError: if there is none, or rows are longer than the model's positions.
    """
    data = config.data
    kind = PIPELINES[one_of("data.pipeline", data.pipeline, PIPELINES)]
    if data.length > config.model.max_positions:
        raise UserError(
            f"data.length={data.length} is longer than model.max_positions="
            f"{config.model.max_positions}: lower the first or raise the second."
        )
    return kind


def prepare_data(
    config: ml_collections.ConfigDict,
    tokenizer_dir: str | os.PathLike | None = None,
    progress: corpora.Progress | None = None,
    *,
    training: bool = True,
    split: str = "valid",
) -> Data:
    """Makes whatever is missing in the cache (vocabulary, corpus, examples) and opens it.

    Args:
      config: a whole config.
      tokenizer_dir: where the run keeps its vocabulary; one that is there is used, else it is saved
        there.
      progress: called as the work goes on.
      training: whether a task's training rows are needed too.
      split: of a task, whose rows are held out.

    Raises:
      UserError: for anything in the config that does not fit the text, the vocabulary or the model.
    """
    data, kind = config.data, chosen(config)
    cache = pathlib.Path(data.cache_dir or "~/.cache/bert-to-gpt3").expanduser()
    if data.pipeline in ("spans", "squad_text"):
        return _squad_data(kind, config, cache, tokenizer_dir, training, split)
    if issubclass(kind, tasks.Labeled):
        return _task_data(kind, config, cache, tokenizer_dir, training, split)
    if data.pipeline == "mixture" and not data.mixture.unsupervised:
        tokenizer = _given_tokenizer(config, cache, tokenizer_dir, "data.mixture without text")
        return _mixture_data(config, tokenizer, None, training)
    if data.pipeline == "copy":
        return _textless_data(config, kind, tokenizer_dir)
    if not data.source:
        raise UserError(f"config.data.source is not set. {data.source_hint}.")
    if data.pipeline == "images":
        return _textless_data(config, kind, tokenizer_dir)
    source = sources.open_source(data.source, data.layout)
    if getattr(source, "tokenized", False):
        if kind is not annotated_rows.AnnotatedLM:
            raise UserError(f"data.source={data.source} is for data.pipeline=annotated_lm alone.")
        if data.tokenizer.path is None:
            raise UserError(
                f"data.source={data.source} holds ids, and not the vocabulary that they are of: "
                "set data.tokenizer.path to it."
            )
    tokenizer = _tokenizer(source, data.tokenizer, cache, tokenizer_dir, progress)
    _check_vocabulary(tokenizer, config)
    annotator = None
    if kind is annotated_rows.AnnotatedLM:
        names = annotations.prepare_entities(source, data.entities, cache, tokenizer_dir)
        annotator = annotations.Annotator(tokenizer, names, data.entities.marks)
        pipeline = kind(data, tokenizer, names)
    else:
        pipeline = kind(data, tokenizer)
    denoises = config.objective.get("name") == "entity_lm"
    if denoises and not (annotator and data.entities.predictions):
        raise UserError(
            "config.objective.name=entity_lm denoises entities: set data.pipeline=annotated_lm and "
            "data.entities.predictions above 0, or the objective to masked_lm."
        )
    if config.objective.get("sentence_pair") and not getattr(pipeline, "labeled", False):
        raise UserError(
            f"config.objective.sentence_pair=True needs labeled pairs, which config.data.pipeline="
            f"{data.pipeline} does not give: set config.data.format.negatives to random or "
            "swapped, or objective.sentence_pair to False."
        )
    corpus = corpora.prepare_corpus(
        source,
        tokenizer,
        corpora.cache_directory(cache, source, tokenizer, data.valid_fraction, annotator),
        valid_fraction=data.valid_fraction,
        progress=progress,
        annotator=annotator,
    )
    train, valid = (
        Dataset(pipeline, records, config.seed, training=split == "train")
        for split, records in example_records.prepare_examples(
            corpus, pipeline, cache / "examples", seed=config.seed, progress=progress
        ).items()
    )
    _check_rows(
        train, config, f"{data.source} gives", "lower batch_size or data.length, or give more text"
    )
    text = Data(tokenizer, train, valid, corpus.manifest)
    if data.pipeline == "mixture":
        return _mixture_data(config, tokenizer, text, training)
    return text


def _check_rows(train, config, what, advice):
    """Refuses a training set that does not fill one batch."""
    if len(train) < config.batch_size:
        raise UserError(
            f"{what} {len(train)} training rows, fewer than batch_size={config.batch_size}: "
            f"{advice}."
        )


def _mixture_data(config, tokenizer, text, training):
    """Mixes tasks, and the corrupted text where there is some, by their numbers of examples."""
    data, mixed = config.data, config.data.mixture
    if not mixed.tasks:
        raise UserError("data.mixture.tasks is empty: name tasks, or set data.pipeline=corruption.")
    target = text.train.pipeline.target_length if text else mixed.target_length
    parts = {"train": {}, "valid": {}}
    for name in mixed.tasks:
        form = text_to_text.FORMS[one_of("data.mixture.tasks", name, text_to_text.FORMS)]
        pipeline = text_to_text.TextTask(form, tokenizer, data.length, target)
        for split, found in parts.items():
            if split == "valid" or training:
                records = pipeline.write(tasks.read_examples(name, data.path, split))
                found[name] = Dataset(pipeline, records, config.seed, training=split == "train")
    weights = {name: min(len(part), mixed.limit) for name, part in parts["train"].items()}
    if text:
        parts["train"]["text"], parts["valid"]["text"] = text.train, text.valid
        weights["text"] = mixed.unsupervised
    train, valid = (
        mixture.Mixture(found, weights, config.seed, training=split == "train")
        for split, found in parts.items()
    )
    return Data(tokenizer, train if training else None, valid, text.manifest if text else {})


def _task_data(kind, config, cache, tokenizer_dir, training, split):
    """Reads a task; its rows are made anew in every run, and nothing is cached."""
    data = config.data
    name = one_of("data.task", data.task, kind.TASKS)
    classes = kind.classes(name)
    if config.objective.get("classes", classes) != classes:
        meaning = {0: ", which means multiple choice", 1: ", which means regression"}
        raise UserError(
            f"config.objective.classes={config.objective.classes} does not suit {name}: set it to "
            f"{classes}{meaning.get(classes, '')}."
        )
    what = f"The task {name}"
    tokenizer = _given_tokenizer(config, cache, tokenizer_dir, what, kind.adapt)
    pipeline = kind(data, tokenizer)
    if kind is mention_rows.Mentions and len(pipeline.names) and tokenizer_dir is not None:
        with files.exclusive(pathlib.Path(tokenizer_dir)):  # for what starts from this run
            pipeline.names.save(tokenizer_dir)

    train = None
    if training:
        examples = kind.examples(name, data.train_path or data.path, "train")
        if data.both_orders:
            if not classes or kind is mention_rows.Mentions:
                raise UserError(f"data.both_orders is for pairs, which {name} has not: leave it.")
            examples += [example._replace(texts=example.texts[::-1]) for example in examples]
        train = Dataset(pipeline, pipeline.write(examples), config.seed, training=True)
        _check_rows(train, config, f"{name} has", "lower batch_size")
    held_out = pipeline.write(kind.examples(name, data.path, split))
    return Data(tokenizer, train, Dataset(pipeline, held_out, config.seed, training=False), {})


def _squad_data(kind, config, cache, tokenizer_dir, training, split):
    """Reads questions and their contexts; as of other tasks, nothing is cached."""
    data = config.data
    task = squad.TASKS[one_of("data.task", data.task, squad.TASKS)]
    tokenizer = _given_tokenizer(config, cache, tokenizer_dir, f"The task {data.task}")
    pipeline = kind(data, tokenizer)
    train = None
    if training:
        found = squad.read(task, data.train_path or data.path, "train")
        asked = pipeline.write(found, training=True)
        train = Dataset(pipeline, asked.records, config.seed, training=True)
        _check_rows(train, config, f"{data.task} has", "lower batch_size")
    asked = pipeline.write(squad.read(task, data.path, split), training=False)
    valid = Dataset(pipeline, asked.records, config.seed, training=False)
    return Data(tokenizer, train, valid, {}, asked)


def _textless_data(config, kind, tokenizer_dir):
    """Opens rows that no vocabulary is needed for; one of the bytes takes its place."""
    pipeline = kind(config.data)
    if pipeline.largest >= config.model.vocab_size:
        raise UserError(
            f"model.vocab_size={config.model.vocab_size} must be at least {pipeline.largest + 1}, "
            f"for the tokens of data.pipeline={config.data.pipeline}."
        )
    tokenizer = tokenizer_training.train("byte_bpe", (), tokenizer_training.SMALLEST, False)
    if tokenizer_dir is not None:
        with files.exclusive(pathlib.Path(tokenizer_dir)):
            tokenizer.save(tokenizer_dir)
    train, valid = (
        Dataset(pipeline, pipeline.records(split), config.seed, training=split == "train")
        for split in textless.SPLITS
    )
    what = f"{config.data.source} gives"
    _check_rows(train, config, what, "lower batch_size, or give more images")
    return Data(tokenizer, train, valid, {})


def _given_tokenizer(config, cache, directory, what, adapt=lambda tokenizer: tokenizer):
    """Returns the vocabulary of the run or the config, where no text is there to train one on."""
    own = directory and (pathlib.Path(directory) / "tokenizer_config.json").exists()
    if config.data.tokenizer.path is None and not own:
        raise UserError(
            f"{what} brings no vocabulary: set config.init_from to the model that is fine-tuned, "
            "or data.tokenizer.path."
        )
    tokenizer = _tokenizer(None, config.data.tokenizer, cache, directory, None, adapt)
    _check_vocabulary(tokenizer, config)
    return tokenizer


def _tokenizer(source, config, cache, directory, progress, adapt=lambda tokenizer: tokenizer):
    """Loads the run's own vocabulary, or takes the config's, adapts and saves it for the run."""

    def prepare():
        return adapt(corpora.prepare_tokenizer(source, config, cache, progress))

    if directory is None:
        return prepare()
    directory = pathlib.Path(directory)
    with files.exclusive(directory):  # several processes of one machine may be here
        if not (directory / "tokenizer_config.json").exists():
            tokenizer = prepare()
            tokenizer.save(directory)
            return tokenizer
    tokenizer = tokenizers.load(directory)
    if config.path is not None:
        wanted = prepare()
        if wanted.fingerprint != tokenizer.fingerprint:
            raise UserError(
                f"This run was started with the vocabulary in {directory}, not with "
                f"data.tokenizer.path={config.path}: give the same path or a new --workdir."
            )
    elif config.kind != tokenizer.kind:
        raise UserError(
            f"This run was started with a {tokenizer.kind} vocabulary, not {config.kind}: "
            "give the same data.tokenizer.kind or a new --workdir."
        )
    return tokenizer


def _check_vocabulary(tokenizer, config):
    """Refuses a vocabulary that the model's table cannot hold, or clearly was not made for it."""
    table, size = config.model.vocab_size, tokenizer.vocab_size
    if size > table:
        raise UserError(
            f"The vocabulary has {size} tokens but model.vocab_size is {table}: set it to at least "
            f"{size}."
        )
    # Tables are padded to a multiple of 128 at most; one that is trained may come out smaller on
    # little text.
    if config.data.tokenizer.path is not None and table - size > 128:
        raise UserError(
            f"{config.data.tokenizer.path} has {size} tokens but model.vocab_size is {table}: "
            f"set model.vocab_size to {size}, or give the vocabulary that belongs to the model."
        )
