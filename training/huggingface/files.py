"""The files of a published checkpoint: config.json, safetensors, vocabulary."""

import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes  # noqa: F401  teaches numpy the type bfloat16, which safetensors asks it for
import numpy as np
import safetensors
import safetensors.numpy

from data_pipeline import tokenizers, vocabulary_files
from errors import UserError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt*")


def read_config(folder: str | os.PathLike) -> dict[str, Any]:
    """Reads config.json.

    Raises:
      UserError: if there is no such folder or file, or it is damaged.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}: download the checkpoint first, and give the folder with "
            "its config.json."
        )
    return _read_json(folder / CONFIG)


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a folder by name, each read from its file when it is asked for."""

    def __init__(self, folder: str | os.PathLike):
        """Opens model.safetensors, or the files that model.safetensors.index.json names.

        Raises:
          UserError: if they are missing, incomplete or damaged.
        """
        folder = pathlib.Path(folder)
        if (folder / WEIGHTS).exists():
            self._files = self._open(folder / WEIGHTS)
        elif (folder / INDEX).exists():
            listed = _read_json(folder / INDEX).get("weight_map", {})
            if not isinstance(listed, dict) or not all(map(_is_file_name, listed.values())):
                raise UserError(f"{folder / INDEX} must name files of its own folder.")
            self._files = {}
            for name in sorted(set(listed.values())):
                self._files |= self._open(folder / name)
            if lost := sorted(listed.keys() - self._files.keys()):
                raise UserError(
                    f"{folder / INDEX} names {lost[0]}, which no file holds: download again."
                )
        else:
            raise UserError(_no_weights(folder))

    @staticmethod
    def _open(path: pathlib.Path) -> dict[str, Any]:
        try:
            file = safetensors.safe_open(path, framework="np")
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise UserError(
                f"{path} is missing or damaged ({error}): download it again."
            ) from error
        return dict.fromkeys(file.keys(), file)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._files[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def read_tokenizer(folder: str | os.PathLike, sentinels: int = 0) -> tokenizers.Tokenizer | None:
    """Reads the vocabulary beside the weights; None where there is none.

    Older checkpoints hold vocab.txt or vocab.json and merges.txt; what `transformers` 5 writes is
    tokenizer.json alone.

    Args:
      folder: of the checkpoint.
      sentinels: how many the vocabulary has where the folder does not say.

    Raises:
      UserError: if it is damaged, or of a kind that we do not have.
    """
    folder = pathlib.Path(folder)
    layouts = [names for group in vocabulary_files.LAYOUTS.values() for names in group]
    if any(all((folder / name).exists() for name in names) for names in layouts):
        tokenizer = tokenizers.load(folder)
        if sentinels and not tokenizer.sentinel_ids:
            tokenizer = tokenizers.load(folder, sentinels=sentinels)
        return tokenizer
    if not (folder / TOKENIZER).exists():
        return None
    content = _read_json(folder / TOKENIZER)
    try:
        return _from_tokenizer_json(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder / TOKENIZER} is not a WordPiece or byte-level BPE vocabulary: put vocab.txt, "
            "vocab.json and merges.txt, or spiece.model beside it."
        ) from error


def write(
    folder: str | os.PathLike,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    tokenizer: tokenizers.Tokenizer | None,
) -> None:
    """Writes model.safetensors, the vocabulary and config.json; the last says that all is there.

    Raises:
      UserError: if the folder holds a checkpoint already, or the disk is full.
    """
    folder = pathlib.Path(folder)
    for name in (CONFIG, WEIGHTS, INDEX):
        if (folder / name).exists():
            raise UserError(
                f"{folder} already holds {name}: choose an empty folder for the export."
            )
    # The library writes the memory behind an array, whatever its strides say.
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    text = json.dumps(config, indent=2) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(
            folder / WEIGHTS,
            # `transformers` refuses a file that does not say which framework's layout it has.
            lambda path: safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"}),
        )
        if tokenizer is not None:
            tokenizer.save(folder)
        _replace(folder / CONFIG, lambda path: path.write_text(text))
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"Could not write {folder} ({error}): make room or choose another folder."
        ) from error


def _replace(path: pathlib.Path, save: Callable[[pathlib.Path], Any]) -> None:
    """Saves under another name first, so that a half-written file never has this one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no {path}: give a folder with a whole checkpoint.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): download it again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object: download it again.")
    return content


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _no_weights(folder: pathlib.Path) -> str:
    pickles = sorted(path.name for kind in PICKLES for path in folder.glob(kind))
    if pickles:
        return (
            f"{folder} has its weights only as {pickles[0]}, a pickle, which can run any code and "
            "is never loaded: save the checkpoint as safetensors first."
        )
    return f"{folder} has neither {WEIGHTS} nor {INDEX}: download the safetensors files too."


def _from_tokenizer_json(content: Mapping[str, Any]) -> tokenizers.Tokenizer:
    model = content["model"]
    vocab = dict(model["vocab"]) | {t["content"]: t["id"] for t in content["added_tokens"]}
    tokens = sorted(vocab, key=vocab.get)
    if [vocab[token] for token in tokens] != list(range(len(tokens))):
        raise ValueError("the ids have gaps")
    if model["type"] == "WordPiece":
        files = {"vocab.txt": "".join(token + "\n" for token in tokens).encode()}
        return tokenizers.WordPiece(files, content["normalizer"]["lowercase"])
    pre_tokenizer = content["pre_tokenizer"]
    word = pre_tokenizer["type"] == "BertPreTokenizer"
    if model["type"] != "BPE" or not (word or pre_tokenizer["type"] == "ByteLevel"):
        raise ValueError(f"a {model['type']} model")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    files = {
        "vocab.json": json.dumps(
            {token: vocab[token] for token in tokens}, ensure_ascii=False
        ).encode(),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]).encode(),
    }
    return (tokenizers.WordBpe if word else tokenizers.ByteBpe)(files, lowercase=word)
