"""The shapes of a config's rows, known without its text."""

import ml_collections
import numpy as np

from data_pipeline import pipeline, rows, textless, tokenizer_training, tokenizers
from data_pipeline.tasks import Labeled, text_to_text


def example(config: ml_collections.ConfigDict) -> rows.Rows:
    """Returns a row of padding, without the axis B: every row has its shapes and dtypes.

    They do not depend on which pieces a vocabulary has, but for its special tokens, so that the
    smallest of the config's kind will do where the config names none.

    Args:
      config: a whole config; neither its text nor its task is read.

    Raises:
      UserError: for what `pipeline.prepare_data` would refuse before it reads a text.
    """
    data, kind = config.data, pipeline.chosen(config)
    if kind in textless.PIPELINES.values():
        made = kind(data)
    else:
        tokenizer = _vocabulary(data.tokenizer)
        if issubclass(kind, Labeled):
            tokenizer = kind.adapt(tokenizer)
        if data.pipeline == "mixture" and not data.mixture.unsupervised:  # tasks alone
            made = text_to_text.TextTask(None, tokenizer, data.length, data.mixture.target_length)
        else:
            made = kind(data, tokenizer)
    return {name: x[0] for name, x in made.read([b""], np.zeros(1, np.uint64)).items()}


def _vocabulary(c: ml_collections.ConfigDict) -> tokenizers.Tokenizer:
    """Returns the vocabulary that the config names, else the smallest of its kind."""
    if c.path is not None:
        return tokenizers.load(c.path, c.kind, c.lowercase, c.sentinels or None)
    size = tokenizer_training.SMALLEST + len(tokenizers.ROLES) + c.sentinels
    return tokenizer_training.train(c.kind, ("a",), size, c.lowercase, c.specials, c.sentinels)
