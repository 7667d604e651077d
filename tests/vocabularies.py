"""Vocabularies of a few whole words."""

from data_pipeline import tokenizer_training, tokenizers

# What stands first, and tells the pipelines which layout rows have.
ROBERTA = ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")
XLNET = ("<pad>", "<s>", "</s>", "[UNK]", "<cls>", "<sep>", "<mask>")


def wordpiece(folder, words, specials=tokenizer_training.WORDPIECE_SPECIALS):
    """A WordPiece vocabulary, which lies in vocab.txt; of words that repeat the first ones."""
    path = folder / "vocab.txt"
    path.write_text("\n".join(dict.fromkeys([*specials, *words])) + "\n")
    return tokenizers.load(path)
