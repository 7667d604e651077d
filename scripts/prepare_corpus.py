r"""Tokenizes a corpus into shards: the step that train.py does by itself, alone, for big corpora.

    python scripts/prepare_corpus.py --source=text/wikipedia --tokenizer=bert-base-uncased-vocab.txt

Without --output the corpus goes where train.py looks for it. Start the same command again after an
interruption: it goes on at the first unfinished shard. With --runner=beam an Apache Beam pipeline
does the work (extra `beam`), in this process or, by Beam's own options, on other machines:

    python scripts/prepare_corpus.py --source=PATH --tokenizer=vocab.txt --runner=beam \
        --beam=runner=FlinkRunner --beam=flink_master=HOST:8081
"""

import pathlib

import ml_collections
from absl import app, flags

import errors
from data_pipeline import (
    beam,
    corpus,
    progress,
    sources,
    text_files,
    tokenizer_training,
    tokenizers,
)

SOURCE = flags.DEFINE_string("source", "embedded", "See data_pipeline/sources.py.")
LAYOUT = flags.DEFINE_enum("layout", "auto", list(text_files.LAYOUTS), "Of text files.")
TOKENIZER = flags.DEFINE_string("tokenizer", None, "Vocabulary, file or folder. None: train one.")
KIND = flags.DEFINE_enum("tokenizer_kind", None, list(tokenizers.KINDS), "Of a trained one.")
VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 30522, "Of a trained vocabulary.")
LOWERCASE = flags.DEFINE_bool("lowercase", None, "Of a trained vocabulary; default: false.")
SPECIALS = flags.DEFINE_enum(
    "specials",
    "",
    ["", *tokenizer_training.SPECIALS],
    "Of a trained vocabulary, if not its kind's.",
)
SENTINELS = flags.DEFINE_integer(
    "sentinels", 0, "Of a sentencepiece that is trained for T5: 100.", lower_bound=0
)
OUTPUT = flags.DEFINE_string("output", None, "Folder of the corpus; default: in --cache_dir.")
CACHE_DIR = flags.DEFINE_string("cache_dir", "~/.cache/bert-to-gpt3", "As data.cache_dir.")
VALID_FRACTION = flags.DEFINE_float("valid_fraction", 0.02, "Share of held-out documents.")
WORKERS = flags.DEFINE_integer("workers", None, "Processes; default: all cores.", lower_bound=1)
RUNNER = flags.DEFINE_enum("runner", "local", ["local", "beam"], "What does the work.")
BEAM = flags.DEFINE_multi_string("beam", [], "KEY=VALUE of Beam's options; repeatable.")
SHARD_MB = flags.DEFINE_integer("shard_mb", 16, "Megabytes of text in a shard.", lower_bound=1)


@errors.exit_on_user_error
def main(argv: list[str]) -> None:
    """Prepares the corpus and prints where it is and what is in it."""
    if len(argv) > 1:
        raise errors.UserError(f"{argv[1]!r} is not a flag: give --source={argv[1]}.")
    if (TOKENIZER.value is None) == (KIND.value is None):
        raise errors.UserError("Give either --tokenizer or, to train one, --tokenizer_kind.")
    if RUNNER.value != "beam" and BEAM.value:
        raise errors.UserError("--beam has options of --runner=beam: set that, or leave it out.")
    if RUNNER.value == "beam" and WORKERS.value:
        raise errors.UserError("--workers are those of --runner=local: leave it out.")
    writer = None
    if RUNNER.value == "beam":
        writer = beam.Writer([f"--{option}" for option in BEAM.value])
    cache = pathlib.Path(CACHE_DIR.value).expanduser()
    source = sources.open_source(SOURCE.value, LAYOUT.value)
    with progress.shown() as report:
        if TOKENIZER.value is not None:
            tokenizer = tokenizers.load(
                TOKENIZER.value, lowercase=LOWERCASE.value, sentinels=SENTINELS.value or None
            )
        else:
            wanted = ml_collections.ConfigDict(
                {
                    "kind": KIND.value,
                    "path": None,
                    "vocab_size": VOCAB_SIZE.value,
                    "lowercase": bool(LOWERCASE.value),
                    "specials": SPECIALS.value,
                    "sentinels": SENTINELS.value,
                }
            )
            tokenizer = corpus.prepare_tokenizer(source, wanted, cache, report)
        fraction = VALID_FRACTION.value
        output = OUTPUT.value or corpus.cache_directory(cache, source, tokenizer, fraction)
        made = corpus.prepare_corpus(
            source,
            tokenizer,
            output,
            valid_fraction=fraction,
            workers=WORKERS.value,
            shard_bytes=SHARD_MB.value << 20,
            progress=report,
            writer=writer,
        )
    print(made.directory)
    for split, counts in made.manifest["splits"].items():
        print(f"{split}: " + ", ".join(f"{counts[unit]:,} {unit}" for unit in corpus.UNITS))


if __name__ == "__main__":
    app.run(main, flags_parser=errors.parse_flags)
