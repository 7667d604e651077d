"""The embedded corpus: English prose that every CPython carries, so that a demo needs no download.

The language reference in `pydoc_data.topics` (a document per topic) and the docstrings of the
standard library (a document per source file), about 1.5 MB; the same for every run of one Python
version. Only paragraphs of prose stay, unwrapped to one a line: headings, grammar rules, code and
tables go. A paragraph seen before goes too: topics quote each other, and that would leak from the
held-out documents into the others.
"""

import ast
import functools
import hashlib
import inspect
import pathlib
import pydoc_data.topics
import re
import sysconfig
from collections.abc import Iterator

VERSION = b"1"  # of the rules below
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings"}
MARKUP = re.compile(r"``?|(?<!\w)\*{1,2}(?=\w)|(?<=[\w.)])\*{1,2}(?!\w)|^[-*•] ")
WORD = re.compile(r"[A-Za-z]{2,}")


@functools.cache
def documents() -> tuple[tuple[str, str], ...]:
    """Returns (id, text) of every document."""
    seen: set[str] = set()
    found = []
    for name, parts in _raw_documents():
        lines = {line: None for part in parts for line in _prose(part) if line not in seen}
        seen.update(lines)
        if lines:
            found.append((name, "\n".join(lines)))
    return tuple(found)


@functools.cache
def fingerprint() -> str:
    """Returns a hash of what `documents` reads; quicker than reading it."""
    digest = hashlib.blake2b(VERSION, digest_size=16)
    digest.update(repr(sorted(pydoc_data.topics.topics.items())).encode())
    for name, path in _library():
        digest.update(name.encode() + path.read_bytes())
    return digest.hexdigest()


def _raw_documents() -> Iterator[tuple[str, list[str]]]:
    for topic, text in sorted(pydoc_data.topics.topics.items()):
        yield f"topics/{topic}", [text]
    for name, path in _library():
        yield name, _docstrings(path)


@functools.cache
def _library() -> list[tuple[str, pathlib.Path]]:
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    files = [(p.relative_to(root), p) for p in root.rglob("*.py")]
    return sorted((f"lib/{r.as_posix()}", p) for r, p in files if not SKIPPED_FOLDERS & {*r.parts})


def _docstrings(path: pathlib.Path) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [n for n in ast.walk(ast.parse(path.read_bytes())) if isinstance(n, kinds)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))  # walk() goes breadth first
    return [doc for node in nodes if (doc := ast.get_docstring(node))]


def _prose(text: str) -> Iterator[str]:
    """Yields the paragraphs that are prose, each unwrapped to one line."""
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        line = MARKUP.sub("", " ".join(block.split()))
        letters = sum(c.isalpha() or c == " " for c in line)
        ends = line.endswith((".", "!", "?", ":", '."', ".)"))
        if ends and len(WORD.findall(line)) >= 5 and letters >= 0.85 * len(line):
            yield line
