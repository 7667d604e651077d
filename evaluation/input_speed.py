"""The way from prepared text to batches beside that of `datasets` and `transformers`."""

import itertools
import pathlib
import tempfile

import numpy as np

from data_pipeline import pipeline, sources
from errors import UserError
from evaluation import benchmarks, peers, training_speed

LENGTH = 128
ROWS, CALLS = 64, 64  # rows of a batch and batches of a call: of the pipeline alone
BATCHES = 4  # of a call, where networks are trained
NETWORK = training_speed.Row("bert", "base", 8, LENGTH, peers.bert_masked_lm)


def masking(options: benchmarks.Options) -> list[benchmarks.Result]:
    """Masked, full rows of 128 tokens from prepared text, 64 to a batch, in one thread.

    The peer is a `datasets` table of rows of that length, read in a random order by PyTorch's
    loader with `DataCollatorForLanguageModeling`.

    Raises:
      UserError: without PyTorch, `transformers` or `datasets`.
    """
    torch, transformers = peers.libraries()
    datasets = _datasets()
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        c = _config(options, "float32")
        data = pipeline.prepare_data(c, pathlib.Path(folder) / "tokenizer")
        vocabulary = _peer_tokenizer(transformers, folder)
        _full_rows(datasets, options, c, data.tokenizer).save_to_disk(f"{folder}/rows")
        table = datasets.load_from_disk(f"{folder}/rows").with_format("torch")
        collate = transformers.DataCollatorForLanguageModeling(vocabulary, mlm_probability=0.15)
        calls = 2 if options.quick else CALLS
        places = itertools.count()

        def ours():
            for _ in range(calls):
                start = ROWS * next(places)
                data.train.batch(range(start, start + ROWS))

        def theirs():
            loader = torch.utils.data.DataLoader(
                table, ROWS, shuffle=True, collate_fn=collate, drop_last=True
            )
            epochs = itertools.chain.from_iterable(itertools.repeat(loader))
            for _ in itertools.islice(epochs, calls):
                pass

        torch.set_num_threads(1)
        try:
            seconds = benchmarks.alternate({"ours": ours, "datasets": theirs}, options.repeats)
        finally:
            torch.set_num_threads(threads)
    return [benchmarks.Result("64 x 128", calls * ROWS * LENGTH, "tokens", seconds)]


def packing(options: benchmarks.Options) -> list[benchmarks.Result]:
    """Steps of BERT-base on lines of text, 8 rows of at most 128 tokens: tokens without padding.

    Ours packs what sentences of a document make up into rows, where none sees another; the peer
    takes a line for an example, cuts what is longer and pads the rest to the longest of its batch
    (`DataCollatorForLanguageModeling`), and computes in float32 or by autocast to bfloat16.

    Raises:
      UserError: without PyTorch or `transformers`, or if the two sides do not have as many
        parameters.
    """
    _, transformers = peers.libraries()
    with tempfile.TemporaryDirectory() as folder:
        c = _config(options, "float32")
        dtype, ours = training_speed.fastest(
            lambda dtype: training_speed.our_step(_config(options, dtype), BATCHES),
            training_speed.BOTH[:1] if options.quick else training_speed.BOTH,
        )
        data = pipeline.prepare_data(c, pathlib.Path(folder) / "tokenizer")
        vocabulary = _peer_tokenizer(transformers, folder)
        collate = transformers.DataCollatorForLanguageModeling(vocabulary, mlm_probability=0.15)
        batches = _padded(options, c, data.tokenizer, collate)
    padded = sum(int(batch["attention_mask"].sum()) for batch in batches)
    useful = {"ours": sum(int((batch["segment_ids"] > 0).sum()) for batch in ours.batches)}
    sides = {"ours": lambda: [ours.step() for _ in range(BATCHES)]}
    for other in training_speed.BOTH:
        count, step = peers.train_step(NETWORK.peer, other, options.depth)
        training_speed.check_parameters("BERT-base", ours.parameters, count)
        useful[other] = padded
        sides[other] = lambda step=step: [step(batch).item() for batch in batches]
    found = {
        side: [1000 * each / useful[side] for each in seconds]
        for side, seconds in benchmarks.alternate(sides, options.repeats).items()
    }
    return [
        benchmarks.Result(
            f"{options.source} (ours {dtype}, peer {other})",
            1000,
            "tokens",
            {"ours": found["ours"], "transformers": found[other]},
        )
        for other in training_speed.BOTH
    ]


def _config(options, dtype):
    """BERT-base on masked tokens alone, whole sentences packed into rows."""
    c = training_speed.packed(training_speed.config(NETWORK, dtype, options.depth))
    c.data.source = options.source
    return c


def _peer_tokenizer(transformers, folder):
    """The vocabulary that training found, for `transformers`."""
    return transformers.BertTokenizerFast(vocab_file=f"{folder}/tokenizer/vocab.txt")


def _lines(options, c, tokenizer):
    """Yields the ids of each line of the text, which are its sentences or paragraphs."""
    for document in sources.open_source(options.source, c.data.layout).documents():
        lines = [line for line in document.text.splitlines() if line.strip()]
        yield from filter(None, tokenizer.encode_batch(lines))


def _full_rows(datasets, options, c, tokenizer):
    """The text as a table of full rows between [CLS] and [SEP]."""
    ids, inside = itertools.chain.from_iterable(_lines(options, c, tokenizer)), LENGTH - 2
    text = np.fromiter(ids, np.int32)
    text = text[: len(text) // inside * inside].reshape(-1, inside)
    ends = (0, 0), (1, 1)
    rows = np.pad(text, ends, constant_values=((0, 0), (tokenizer.cls_id, tokenizer.sep_id)))
    special = np.pad(np.zeros_like(text), ends, constant_values=1)
    return datasets.Dataset.from_dict(
        {
            "input_ids": list(rows),
            "attention_mask": list(np.ones_like(rows)),
            "special_tokens_mask": list(special),
        }
    )


def _padded(options, c, tokenizer, collate):
    """The first lines of the text, eight of them to a batch."""
    lines = itertools.islice(_lines(options, c, tokenizer), 8 * BATCHES)
    rows = [[tokenizer.cls_id, *ids[: LENGTH - 2], tokenizer.sep_id] for ids in lines]
    return [
        collate([{"input_ids": ids} for ids in rows[i : i + 8]]) for i in range(0, len(rows), 8)
    ]


def _datasets():
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"`datasets` is not installed ({error}): make install EXTRAS=dev,parity,hf."
        ) from error
    return datasets
