"""One interface over WordPiece, BPE of words and of bytes, and SentencePiece: load, use, save.

A tokenizer is a kind, a case rule and the files of its published layout, kept as bytes: that is
what is pickled, hashed and saved. Special tokens are never found in text: "[MASK]" or
"<|endoftext|>" in a document is plain characters, as in the published code of BERT and GPT-2, so
that no text can forge one.
"""

import hashlib
import itertools
import json
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np
import sentencepiece
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers

import errors
from data_pipeline import alignment, vocabulary_files
from errors import UserError

END_OF_TEXT = "<|endoftext|>"
# Between documents: GPT-1's vocabulary has no end of text, but an end of line, which its splitting
# into words never produces.
END_OF_LINE = "\n</w>"
# GPT-1's for fine-tuning (train.py): they start, separate and end what is classified.
GPT_SPECIALS = ("_start_", "_delimiter_", "_classify_")
# Role -> its published names: BERT and ALBERT, XLNet, RoBERTa and T5, GPT-2, GPT-1. XLNet's
# vocabulary has the names of RoBERTa too, for other things, so that its own come first.
ROLES = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<cls>", "<s>", "_classify_"),
    "sep": ("[SEP]", "<sep>", "</s>", "_delimiter_"),
    "mask": ("[MASK]", "<mask>"),
    "eot": (END_OF_TEXT, "<eod>", "</s>", END_OF_LINE),
    "start": ("_start_",),
}
# Byte-level BPE writes bytes as printable characters: these are space, newline, tab and return.
BYTE_SPACES = ("Ġ", "Ċ", "ĉ", "č")


class Tokenizer:
    """Text to ids and back; a subclass for each kind.

    Attributes:
      kind: the name in `KINDS`.
      lowercase: whether text is lower-cased first.
      vocab_size: V.
      pad_id, unk_id, cls_id, sep_id, mask_id, eot_id, start_id: None where the vocabulary has no
        such token.
      special_ids: those of them that exist, ascending.
      doubles_sep: whether two separators stand between the segments of a pair, as in RoBERTa's.
      sentinel_ids: of <extra_id_0>, <extra_id_1>, ...: the last ids, counting down (T5); ().
      cls_last: whether the token of the class ends the row, as in XLNet's.
      continues_word: bool [V], True for a piece that does not start a word.
      fingerprint: hash of kind, case rule and vocabulary, 16 hex digits.
    """

    kind: str

    def __init__(self, files: dict[str, bytes], lowercase: bool, sentinels: int = 0):
        """Builds it from the files of the published layout (name -> content).

        Args:
          files: the files.
          lowercase: the case rule.
          sentinels: how many ids there are besides those of the files.
        """
        self._files, self.lowercase = files, lowercase
        self._tokens = self._read()
        last = len(self._tokens) + sentinels - 1
        self.sentinel_ids = tuple(last - i for i in range(sentinels))
        self._tokens += [f"<extra_id_{i}>" for i in reversed(range(sentinels))]
        self._ids = {token: i for i, token in enumerate(self._tokens)}
        self.vocab_size = len(self._tokens)
        ids = {
            role: next((self._ids[n] for n in names if n in self._ids), None)
            for role, names in ROLES.items()
        }
        self.pad_id, self.unk_id, self.cls_id = ids["pad"], ids["unk"], ids["cls"]
        self.sep_id, self.mask_id, self.eot_id = ids["sep"], ids["mask"], ids["eot"]
        self.start_id = ids["start"]
        self.special_ids = tuple(sorted({i for i in ids.values() if i is not None}))
        self.doubles_sep = self.cls_id is not None and self._tokens[self.cls_id] == "<s>"
        self.cls_last = self.cls_id is not None and self._tokens[self.cls_id] == "<cls>"
        self.continues_word = np.array([self._continues(token) for token in self._tokens])
        self.continues_word[list(self.special_ids)] = False
        parts = [self.kind.encode(), bytes([lowercase]), *(files[name] for name in sorted(files))]
        parts += [str(sentinels).encode()] if sentinels else []
        self.fingerprint = hashlib.blake2b(b"\0".join(parts), digest_size=8).hexdigest()

    def __reduce__(self):
        return type(self), (self._files, self.lowercase, len(self.sentinel_ids))

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without special tokens."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text, without special tokens."""
        return [e.ids for e in self._backend.encode_batch_fast(list(texts))]

    def locate_batch(self, texts: Sequence[str]) -> list[alignment.Located]:
        """Returns the ids of each text, and which of its characters each piece is."""
        return [
            alignment.locate(text, e.ids, e.offsets)
            for text, e in zip(texts, self._backend.encode_batch(list(texts)), strict=True)
        ]

    def encode_with_sentinels(self, text: str) -> list[int]:
        """Returns the ids of a text in which `<extra_id_0>` and so on are sentinels.

        Raises:
          UserError: for a sentinel that the vocabulary lacks.
        """
        ids = []
        for part in re.split(r"(<extra_id_\d+>)", text):
            if re.fullmatch(r"<extra_id_\d+>", part):
                if part not in self._ids:
                    raise UserError(
                        f"The vocabulary has {len(self.sentinel_ids)} sentinels, counted from "
                        f"<extra_id_0>, and no {part}: use one of these."
                    )
                ids.append(self._ids[part])
            elif part:
                ids += self.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text, as far as the kind keeps it: only byte-level BPE keeps all."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=False)

    def id_to_token(self, index: int) -> str:
        """Returns a piece as it stands in the vocabulary."""
        return self._tokens[index]

    def token_to_id(self, token: str) -> int | None:
        """Returns the id of a piece; None for one that the vocabulary lacks."""
        return self._ids.get(token)

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the published layout, and the rest into `tokenizer_config.json`."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            (directory / name).write_bytes(content)
        config = {"kind": self.kind, "lowercase": self.lowercase, "do_lower_case": self.lowercase}
        if self.sentinel_ids:
            config["extra_ids"] = len(self.sentinel_ids)
        (directory / "tokenizer_config.json").write_text(json.dumps(config) + "\n")


class WordPiece(Tokenizer):
    """BERT's: basic splitting, then the longest matching piece first (bert.md section 2)."""

    kind = "wordpiece"

    def _read(self) -> list[str]:
        # Not splitlines(): some pieces are characters that it takes for line ends.
        tokens = self._files["vocab.txt"].decode().removesuffix("\n").split("\n")
        if "[UNK]" not in tokens:
            raise UserError(
                "The WordPiece vocabulary has no [UNK]: give a vocab.txt of BERT's kind."
            )
        vocab = {token: i for i, token in enumerate(tokens)}
        # A longer word is one [UNK]: 100 characters as in Hugging Face's code (Google's has 200).
        model = models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100)
        self._backend = bert_backend(model, self.lowercase)
        return tokens

    def _continues(self, token: str) -> bool:
        return token.startswith("##")


class ByteBpe(Tokenizer):
    """GPT-2's and RoBERTa's; lossless (gpt2.md section 3)."""

    kind = "byte_bpe"

    def _read(self) -> list[str]:
        vocab = json.loads(self._files["vocab.json"])
        merges = vocabulary_files.merges(self._files["merges.txt"])
        self._backend = Backend(models.BPE(vocab, merges))
        self._backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._backend.decoder = decoders.ByteLevel()
        return sorted(vocab, key=vocab.get)

    def _continues(self, token: str) -> bool:
        return not token.startswith(BYTE_SPACES)


class WordBpe(Tokenizer):
    """GPT-1's: BERT's lower-casing and splitting, then merges of characters within each word.

    The last piece of a word ends in `</w>`. The released code splits by spaCy and repairs text by
    ftfy; like `transformers` without them this splits as BERT does, which loses line ends.
    """

    kind = "word_bpe"

    def _read(self) -> list[str]:
        vocab = json.loads(self._files["vocab.json"])
        if "<unk>" not in vocab:
            raise UserError("The word BPE vocabulary has no <unk>: give one of GPT-1's kind.")
        merges = vocabulary_files.merges(self._files["merges.txt"])
        model = models.BPE(
            vocab,
            merges,
            unk_token="<unk>",
            end_of_word_suffix=vocabulary_files.END_OF_WORD,
            fuse_unk=False,
        )
        self._backend = bert_backend(model, lowercase=True)
        self._backend.decoder = decoders.BPEDecoder(suffix=vocabulary_files.END_OF_WORD)
        return sorted(vocab, key=vocab.get)

    def with_specials(self) -> "WordBpe":
        """Returns it with GPT_SPECIALS behind the other tokens, or itself where it has them."""
        vocab = json.loads(self._files["vocab.json"])
        for token in GPT_SPECIALS:
            vocab.setdefault(token, len(vocab))
        return WordBpe(
            vocabulary_files.bpe_files(vocab, vocabulary_files.merges(self._files["merges.txt"])),
            self.lowercase,
        )

    def _continues(self, token: str) -> bool:
        return False  # told by the piece before, not by the piece


class SentencePiece(Tokenizer):
    """ALBERT's, XLNet's and T5's: a SentencePiece model, lower-casing before it where asked.

    T5's has sentinels behind the pieces of the model, which do not know of them.

    A vocabulary with [CLS] and [MASK] is ALBERT's, one with <cls> and <mask> is XLNet's: they get
    the clean-up of their tokenization.py and prepro_utils.py before the model, and behind it a
    comma that follows a digit stands by itself.
    """

    kind = "sentencepiece"

    def _read(self) -> list[str]:
        model = self._files["spiece.model"]
        self._backend = sentencepiece.SentencePieceProcessor(model_proto=model)
        tokens = [self._backend.id_to_piece(i) for i in range(self._backend.get_piece_size())]
        self.cleans = any(
            marks <= set(tokens) for marks in ({"[CLS]", "[MASK]"}, {"<cls>", "<mask>"})
        )
        self._split = {}  # id of a piece such as "5," -> ids of "5" and ","
        if self.cleans:
            for i, piece in enumerate(tokens):
                if re.fullmatch(r".*\d,", piece):
                    self._split[i] = self._without_comma(piece)
        return tokens

    def _without_comma(self, piece: str) -> list[int]:
        """Returns the ids of a piece and of its last comma (tokenization.py, encode_pieces)."""
        pieces = self._backend.encode(piece[:-1].replace("▁", ""), out_type=str)
        if not piece.startswith("▁") and pieces[0].startswith("▁"):
            pieces = [pieces[0][1:], *pieces[1:]] if len(pieces[0]) > 1 else pieces[1:]
        return [self._backend.piece_to_id(p) for p in (*pieces, ",")]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:  # noqa: D102 (see Tokenizer)
        if self.cleans:
            texts = [alignment.clean(text) for text in texts]
        texts = [text.lower() for text in texts] if self.lowercase else list(texts)
        ids = self._backend.encode(texts, num_threads=1)
        if not self._split:
            return ids
        return [
            [part for i in row for part in self._split.get(i, (i,))]
            if not self._split.keys().isdisjoint(row)
            else row
            for row in ids
        ]

    def locate_batch(self, texts: Sequence[str]) -> list[alignment.Located]:  # noqa: D102
        read, origins = zip(*(alignment.read(t, self.cleans, self.lowercase) for t in texts))
        found = self._backend.encode(list(read), return_type="offset_mapping", num_threads=1)
        return [self._locate(*each) for each in zip(texts, origins, found, strict=True)]

    def _locate(self, text, origins, pieces):
        ids, spans = [], []
        for i, (start, end) in zip(pieces["ids"], pieces["offsets"], strict=True):
            *parts, last = self._split.get(i, (i,))
            ids += [*parts, last]
            # A comma that is split off is the last character.
            spans += [(start, end - 1)] * len(parts) + [(end - 1 if parts else start, end)]
        starts, ends = np.array(spans, np.int64).reshape(-1, 2).T
        firsts, lasts = np.append(origins, [[len(text)] * 2], axis=0).T
        ends = np.where(ends > starts, lasts[ends - 1], firsts[starts])
        spans = np.stack([firsts[starts], ends], axis=1)
        return alignment.locate(text, ids, spans)

    def decode(self, ids: Sequence[int]) -> str:  # noqa: D102
        if not self.sentinel_ids:
            return self._backend.decode([int(i) for i in ids])
        pieces = self._backend.get_piece_size()
        parts = []
        for known, stretch in itertools.groupby((int(i) for i in ids), lambda i: i < pieces):
            stretch = list(stretch)
            text = (
                self._backend.decode(stretch) if known else "".join(map(self.id_to_token, stretch))
            )
            parts.append(text)
        return " ".join(part for part in parts if part)

    def _continues(self, token: str) -> bool:
        """Whether a piece goes on with a word, by ALBERT's rule (create_pretraining_data.py)."""
        starts = token.startswith(("▁", "<")) or not re.fullmatch(r"[a-z]+", token.lower())
        return not starts


KINDS: dict[str, type[Tokenizer]] = {
    c.kind: c for c in (WordPiece, ByteBpe, WordBpe, SentencePiece)
}


def bert_backend(model: models.Model, lowercase: bool) -> Backend:
    """Returns a pipeline with BERT's basic splitting around a model."""
    backend = Backend(model)
    # Lower-casing also strips accents, as in the released code.
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


# Load


def load(
    path: str | os.PathLike,
    kind: str | None = None,
    lowercase: bool | None = None,
    sentinels: int | None = None,
) -> Tokenizer:
    """Loads a vocabulary: a folder in a published layout, or one of its files.

    Args:
      path: a folder with vocab.txt, vocab.json + merges.txt, encoder.json + vocab.bpe or
        spiece.model; or one file: *.txt for WordPiece, *.model for SentencePiece.
      kind: None: found from the files.
      lowercase: None: from tokenizer_config.json beside the vocabulary; without it a WordPiece or
        SentencePiece vocabulary in which no piece has a capital letter is a lower-cased one.
      sentinels: None: from tokenizer_config.json; without it there are none.

    Raises:
      UserError: for missing, damaged or unknown files, and where they contradict the other
        arguments.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise UserError(f"There is no vocabulary at {path}: correct the path.")
    found, paths = vocabulary_files.find(path)
    if found == "byte_bpe" and vocabulary_files.ends_words(paths[0]):
        found = "word_bpe"
    if kind is not None and errors.one_of("tokenizer kind", kind, KINDS) != found:
        raise UserError(f"{path} is a {found} vocabulary: set the tokenizer's kind to {found}.")
    try:
        contents = [p.read_bytes() for p in paths]
        if not all(contents):
            raise ValueError("it is empty")
        files = vocabulary_files.canonical(
            dict(zip(vocabulary_files.LAYOUTS[found][0], contents, strict=True))
        )
        settings = vocabulary_files.settings(paths[0].parent)
        case = settings.get("lowercase", settings.get("do_lower_case"))
        stated = settings.get("extra_ids", sentinels or 0)
        if case is None and found == "sentencepiece":
            case = lowercase  # its pieces prove nothing: ALBERT lower-cases outside of the model
        if case is None:
            case = _is_lowercase(KINDS[found](files, lowercase=False))
        tokenizer = KINDS[found](files, case, stated)
    except UserError:
        raise
    except Exception as error:  # the library `tokenizers` raises no other class
        raise UserError(f"{path} is not a readable {found} vocabulary: {error}.") from error
    if lowercase is not None and lowercase != case:
        name = "lower-cased" if case else "cased"
        raise UserError(f"{path} is a {name} vocabulary: set the tokenizer's lowercase to {case}.")
    if sentinels is not None and sentinels != stated:
        raise UserError(
            f"{path} has {stated} sentinels: set the tokenizer's sentinels to {stated}."
        )
    return tokenizer


def _is_lowercase(tokenizer: Tokenizer) -> bool:
    if tokenizer.kind in ("byte_bpe", "word_bpe"):
        return tokenizer.kind == "word_bpe"
    tokens = map(tokenizer.id_to_token, range(tokenizer.vocab_size))
    return not any(t != t.lower() for t in tokens if not t.startswith(("[", "<")))
