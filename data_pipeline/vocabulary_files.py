"""The files of published vocabularies: finding, reading and writing them."""

import json
import pathlib
from collections.abc import Iterable, Sequence

from errors import UserError

END_OF_WORD = "</w>"  # of GPT-1's BPE

# Kind -> the file names of its layouts; the first is the one that we write.
LAYOUTS = {
    "wordpiece": (("vocab.txt",),),
    "byte_bpe": (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")),
    "word_bpe": (("vocab.json", "merges.txt"), ("encoder_bpe_40000.json", "vocab_40000.bpe")),
    "sentencepiece": (("spiece.model",), ("sentencepiece.bpe.model",), ("tokenizer.model",)),
}
SUFFIX_KINDS = {".txt": "wordpiece", ".model": "sentencepiece"}


def find(path: pathlib.Path) -> tuple[str, list[pathlib.Path]]:
    """Returns the kind and the files of a vocabulary in a folder, or of the one named.

    Raises:
      UserError: if there is none.
    """
    folder = path if path.is_dir() else path.parent
    for kind, layouts in LAYOUTS.items():
        for names in layouts:
            files = [folder / name for name in names]
            if all(f.exists() for f in files) and (path.is_dir() or path in files):
                return kind, files
    if path.is_file() and path.suffix in SUFFIX_KINDS:
        return SUFFIX_KINDS[path.suffix], [path]
    layouts = "; ".join(" + ".join(names) for group in LAYOUTS.values() for names in group)
    raise UserError(f"{path} holds no vocabulary: give a folder with one of: {layouts}.")


def ends_words(vocab: pathlib.Path) -> bool:
    """Whether a BPE vocabulary is GPT-1's: one of bytes would have a token for the space."""
    try:
        tokens = json.loads(vocab.read_bytes())
        return "Ġ" not in tokens and any(token.endswith(END_OF_WORD) for token in tokens)
    except (OSError, ValueError, TypeError, AttributeError):
        return False  # told by `load`, as of any damaged vocabulary


def canonical(files: dict[str, bytes]) -> dict[str, bytes]:
    """Rewrites files so that equal vocabularies are equal bytes, whoever wrote them."""
    if "vocab.txt" in files:
        lines = (
            files["vocab.txt"].decode("utf-8-sig").replace("\r\n", "\n").rstrip("\n").split("\n")
        )
        return {"vocab.txt": ("\n".join(lines) + "\n").encode()}
    if "vocab.json" in files:
        vocab = json.loads(files["vocab.json"])
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise ValueError("its ids are not 0, 1, 2, ... without gaps")
        pairs = merges(files["merges.txt"])
        for merge in pairs:  # the library would panic
            if len(merge) != 2 or not vocab.keys() >= {*merge, "".join(merge)}:
                raise ValueError(f"merge {' '.join(merge)!r} does not fit its tokens")
        return bpe_files(vocab, pairs)
    return files


def merges(content: bytes) -> list[tuple[str, ...]]:
    """Returns the pairs of a merges.txt, in their order."""
    lines = content.decode().splitlines()
    return [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]


def bpe_files(vocab: dict[str, int], pairs: Iterable[Sequence[str]]) -> dict[str, bytes]:
    """Returns the published files of a BPE."""
    vocab = dict(sorted(vocab.items(), key=lambda item: item[1]))
    lines = ["#version: 0.2", *map(" ".join, pairs), ""]
    return {
        "vocab.json": json.dumps(vocab, ensure_ascii=False).encode(),
        "merges.txt": "\n".join(lines).encode(),
    }


def settings(folder: pathlib.Path) -> dict:
    """Returns what tokenizer_config.json says, if it is there."""
    config = folder / "tokenizer_config.json"
    return json.loads(config.read_bytes()) if config.exists() else {}
