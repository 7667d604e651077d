"""Training vocabularies of every kind, each with its special tokens."""

import collections
import io
import json
from collections.abc import Callable, Iterable

import sentencepiece
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

import errors
from data_pipeline import alignment, tokenizers, vocabulary_files
from errors import UserError

WORDPIECE_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_FIRST, ROBERTA_LAST = ("<s>", "<pad>", "</s>", "<unk>"), "<mask>"  # fairseq, dictionary.py
# Other special tokens than those of the kind's first user (BERT, GPT-2, ALBERT), and the kind that
# can have them.
SPECIALS = {"roberta": "byte_bpe", "t5": "sentencepiece", "xlnet": "sentencepiece"}
SMALLEST = 257  # all bytes and the end of text


def train(
    kind: str,
    texts: Iterable[str],
    vocab_size: int,
    lowercase: bool,
    specials: str = "",
    sentinels: int = 0,
) -> tokenizers.Tokenizer:
    """Trains a vocabulary; the same texts give the same one, in any process.

    Args:
      kind: a name in `tokenizers.KINDS`.
      texts: read twice by WordPiece and word BPE, so not an iterator.
      vocab_size: V, special tokens and sentinels included; a small text may give fewer.
      lowercase: lower-case the text, now and in use.
      specials: whose special tokens it gets, see SPECIALS.
      sentinels: how many ids stand for what is left out of a text (T5: 100).

    Raises:
      UserError: for an unknown kind and for a size that cannot hold the characters of the text.
    """
    errors.one_of("tokenizer kind", kind, tokenizers.KINDS)
    if kind == "byte_bpe" and lowercase:
        raise UserError(
            "Byte-level BPE keeps the case of letters: set the tokenizer's lowercase to False."
        )
    if kind == "word_bpe" and not lowercase:
        raise UserError(
            "Word BPE lower-cases, as GPT-1's: set the tokenizer's lowercase to True, or its kind "
            "to byte_bpe."
        )
    if specials and SPECIALS.get(specials) != kind:
        choices = ", ".join(f"{name} (of {k})" for name, k in SPECIALS.items())
        raise UserError(
            f"The tokenizer's specials={specials!r} are not of the kind {kind}: choose one of "
            f"{choices}, or leave it empty."
        )
    if sentinels < 0 or (sentinels and kind != "sentencepiece"):
        raise UserError(
            f"The tokenizer's sentinels={sentinels} must be 0, or above it with a sentencepiece."
        )
    pieces = vocab_size - sentinels
    if pieces < SMALLEST:
        raise UserError(
            f"vocab_size={vocab_size} cannot hold an alphabet: give {SMALLEST + sentinels} or more."
        )
    files = TRAINERS[kind](texts, pieces, lowercase, specials)
    return tokenizers.KINDS[kind](files, lowercase, sentinels)


def _train_wordpiece(
    texts: Iterable[str], vocab_size: int, lowercase: bool, specials: str
) -> dict[str, bytes]:
    del specials
    backend = tokenizers.bert_backend(models.WordPiece(unk_token="[UNK]"), lowercase)
    # The library numbers `##` characters in the random order of a hash table, and breaks ties
    # between merges by those numbers. Giving it the alphabet, with and without `##`, makes it
    # reproducible.
    counts = collections.Counter()
    for text in texts:
        counts.update(backend.normalizer.normalize_str(text))
    ranked = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    # 1000 as in the library, but never most of a small vocabulary; words with others become [UNK].
    alphabet = sorted(ranked[: min(1000, max(100, vocab_size // 8))])
    inside = ["##" + c for c in alphabet if _stands_in_words(backend, c)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*WORDPIECE_SPECIALS, *inside],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    vocab = backend.get_vocab()
    return {"vocab.txt": ("\n".join(sorted(vocab, key=vocab.get)) + "\n").encode()}


def _stands_in_words(backend: Backend, char: str) -> bool:
    """Whether a character can continue a word; punctuation and Chinese characters stand alone."""
    text = backend.normalizer.normalize_str(f"a{char}a")
    return len(backend.pre_tokenizer.pre_tokenize_str(text)) == 1


def _train_byte_bpe(
    texts: Iterable[str], vocab_size: int, lowercase: bool, specials: str
) -> dict[str, bytes]:
    del lowercase
    first, last = (ROBERTA_FIRST, ROBERTA_LAST) if specials else ((), tokenizers.END_OF_TEXT)
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(first) - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    merges = json.loads(backend.to_str())["model"]["merges"]
    vocab = backend.get_vocab()
    tokens = [*first, *sorted(vocab, key=vocab.get), last]
    return vocabulary_files.bpe_files({token: i for i, token in enumerate(tokens)}, merges)


def _train_word_bpe(
    texts: Iterable[str], vocab_size: int, lowercase: bool, specials: str
) -> dict[str, bytes]:
    del lowercase, specials
    end = vocabulary_files.END_OF_WORD
    backend = tokenizers.bert_backend(models.BPE(unk_token="<unk>", end_of_word_suffix=end), True)
    counts = collections.Counter()
    for text in texts:
        counts.update(backend.normalizer.normalize_str(text))
    ranked = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    alphabet = sorted(ranked[: min(1000, max(100, vocab_size // 8))])
    # As in WordPiece, the library would number them in the random order of a hash table.
    last = [c + end for c in alphabet]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        special_tokens=["<unk>", *alphabet, *last],  # in the order of the released vocabulary
        limit_alphabet=len(alphabet),
        initial_alphabet=alphabet,
        end_of_word_suffix=end,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    merges = json.loads(backend.to_str())["model"]["merges"]
    vocab = backend.get_vocab()
    tokens = [*sorted(vocab, key=vocab.get), tokenizers.END_OF_LINE]
    return vocabulary_files.bpe_files({token: i for i, token in enumerate(tokens)}, merges)


def _train_sentencepiece(
    texts: Iterable[str], vocab_size: int, lowercase: bool, specials: str
) -> dict[str, bytes]:
    lines = (line for text in texts for line in text.splitlines())
    if specials == "t5":
        layout = dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    else:  # as in the READMEs of XLNet and ALBERT
        lines = (alignment.clean(line) for line in lines)
        layout = dict(user_defined_symbols=list('()".-–£€'), character_coverage=0.99995)
        if specials == "xlnet":
            layout |= dict(unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
            layout["control_symbols"] = ["<cls>", "<sep>", "<pad>", "<mask>", "<eod>"]
            layout["user_defined_symbols"].insert(0, "<eop>")
        else:
            layout |= dict(pad_id=0, unk_id=1, eos_id=-1, bos_id=-1)
            layout["control_symbols"] = ["[CLS]", "[SEP]", "[MASK]"]
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line.lower() for line in lines) if lowercase else lines,
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            num_threads=1,  # another number of threads gives another vocabulary
            max_sentence_length=2**20,  # bytes; by default lines above 4 kB are left out
            pad_piece="<pad>",
            minloglevel=2,
            **layout,
        )
    except RuntimeError as error:
        raise UserError(f"SentencePiece could not train {vocab_size} pieces: {error}.") from error
    return {"spiece.model": model.getvalue()}


TRAINERS: dict[str, Callable[[Iterable[str], int, bool, str], dict[str, bytes]]] = {
    "wordpiece": _train_wordpiece,
    "byte_bpe": _train_byte_bpe,
    "word_bpe": _train_word_bpe,
    "sentencepiece": _train_sentencepiece,
}
