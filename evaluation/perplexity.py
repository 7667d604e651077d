"""Perplexity of any text, by sliding windows, for each token, word and byte."""

import math
import re
from collections.abc import Callable

from errors import UserError
from evaluation import likelihood, load, packed


def measure(
    model: load.Model,
    text: str,
    *,
    length: int = 0,
    stride: int = 0,
    detokenize: Callable[[str], str] = str,
    batch_tokens: int = 0,
    report: packed.Report | None = None,
) -> dict[str, float]:
    """Measures how well a language model foretells a text.

    The text follows the end of another one, so that every token has something before it; but for
    that the windows are those of `likelihood.windows`.

    Args:
      model: a GPT or an XLNet.
      text: the text.
      length: tokens of a window; 0: as many as the model has positions.
      stride: tokens by which a window begins behind the one before; 0: half of the length.
      detokenize: what makes running text of a tokenized one. Words and bytes are counted before it:
        the numbers are of the text as it is given (GPT-2, section 3.1).
      batch_tokens: see packed.look_up.
      report: likewise.

    Returns:
      "tokens", scored ones, and "token_perplexity"; where the tokens keep all of the text also
      "words", "bytes", "word_perplexity", exp(nats / words), and "bits_per_byte". Words are what
      white space parts.

    Raises:
      UserError: for a model that does not go on with a text, or windows that do not suit it.
    """
    likelihood.check(model)
    if not model.objective.continues:
        raise UserError("A T5 answers a text and does not go on with it: give a GPT or an XLNet.")
    most = model.objective.network.config.max_positions
    length = length or most
    if length > most:
        raise UserError(f"Windows of {length} tokens exceed the model's {most} positions.")
    stride = stride or length // 2
    tokens = [model.tokenizer.eot_id, *model.tokenizer.encode(detokenize(text))]
    windows = likelihood.windows(tokens, length, stride)
    scores = likelihood.score(model, windows, batch_tokens=batch_tokens, report=report)
    scored = sum(len(window.continuation) for window in windows)
    nats = -math.fsum(score.log_likelihood for score in scores)
    results = {"tokens": scored, "token_perplexity": math.exp(nats / scored)}
    words, size = len(text.split()), len(text.encode())
    # Other kinds of tokens do not keep case, spaces or rare characters.
    if model.tokenizer.kind == "byte_bpe" and stride < length:
        results |= {
            "words": words,
            "bytes": size,
            "word_perplexity": math.exp(nats / words),
            "bits_per_byte": nats / size / math.log(2),
        }
    return results


# What WikiText's tokens are replaced with, in this order; before and after the brackets.
_MARKS = [("s '", "s'"), *((f" @{mark}@ ", mark) for mark in "-,.")]
_MARKS += [(f" {mark} ", f"{mark} ") for mark in ":;.!?,"]
_BRACKETS = ("()", "[]", "{}", '""', "''")
_REST = [(" ".join("=" * level), "=" * level) for level in (4, 3, 2)]
_REST += [(" ° ", "°"), (" \n", "\n"), ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s")]


def from_wikitext(text: str) -> str:
    """Returns running text from WikiText's tokens, by the rules of lm-eval's task wikitext.

    The rules by which GPT-2's authors undid tokenization were never published (section 3.1).
    """
    for tokens, written in _MARKS:
        text = text.replace(tokens, written)
    for opening, closing in map(tuple, _BRACKETS):
        inside = rf"{re.escape(opening)}\s*([^{re.escape(closing)}]*?)\s*{re.escape(closing)}"
        text = re.sub(inside, lambda found, a=opening, b=closing: f"{a}{found[1]}{b}", text)
    for tokens, written in _REST:
        text = text.replace(tokens, written)
    return text


DETOKENIZERS: dict[str, Callable[[str], str]] = {"none": str, "wikitext": from_wikitext}
