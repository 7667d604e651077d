"""Trains a vocabulary and saves it in its published layout.

    python scripts/train_tokenizer.py --source=embedded --kind=wordpiece --output=FOLDER

The same text and flags give the same files.
"""

import pathlib

from absl import app, flags

import errors
from data_pipeline import corpus, progress, sources, text_files, tokenizer_training, tokenizers

SOURCE = flags.DEFINE_string("source", "embedded", "See data_pipeline/sources.py.")
LAYOUT = flags.DEFINE_enum("layout", "auto", list(text_files.LAYOUTS), "Of text files.")
KIND = flags.DEFINE_enum("kind", "wordpiece", list(tokenizers.KINDS), "Of the vocabulary.")
VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 30522, "Tokens, special ones included.")
LOWERCASE = flags.DEFINE_bool("lowercase", False, "Lower-case the text, now and in use.")
SPECIALS = flags.DEFINE_enum(
    "specials", "", ["", *tokenizer_training.SPECIALS], "Special tokens, if not the kind's own."
)
SENTINELS = flags.DEFINE_integer("sentinels", 0, "Of a sentencepiece for T5: 100.", lower_bound=0)
OUTPUT = flags.DEFINE_string("output", None, "Folder to write.", required=True)


@errors.exit_on_user_error
def main(argv: list[str]) -> None:
    """Trains, saves and prints what was made."""
    if len(argv) > 1:
        raise errors.UserError(f"{argv[1]!r} is not a flag: give --source={argv[1]}.")
    output = pathlib.Path(OUTPUT.value)
    if output.exists() and any(output.iterdir()):
        raise errors.UserError(f"{output} is not empty: give a new --output.")
    source = sources.open_source(SOURCE.value, LAYOUT.value)
    with progress.shown() as report:
        texts = corpus.Sample(source, report)
        tokenizer = tokenizer_training.train(
            KIND.value,
            texts,
            VOCAB_SIZE.value,
            LOWERCASE.value,
            SPECIALS.value,
            SENTINELS.value,
        )
    tokenizer.save(output)
    print(f"{output}: {tokenizer.kind}, {tokenizer.vocab_size} tokens")


if __name__ == "__main__":
    app.run(main, flags_parser=errors.parse_flags)
