"""Our models behind the interface of lm-eval, EleutherAI's evaluation harness (extra `eval`).

Texts are parted into context and continuation as lm-eval's own PyTorch backend parts them, so that
the same weights get the same scores.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging
from lm_eval import utils
from lm_eval.api import instance, model
from lm_eval.models import utils as model_utils

from errors import UserError
from evaluation import decoding, likelihood, load, packed, pseudo_likelihood

Requests = Sequence[instance.Instance]
FIRST_TOKENS = 16  # that are generated before it is looked whether a text has ended
GENERATED = 256  # tokens, where a task does not say how many; lm-eval's number
SAMPLING = ("temperature", "top_k", "top_p")


class LanguageModel(model.LM):
    """A GPT, an XLNet or a T5.

    Attributes:
      cut: how many requests were longer than the model has positions, and lost the beginning.
    """

    def __init__(
        self,
        loaded: load.Model,
        *,
        whole: bool = False,
        batch_tokens: int = 0,
        batch_size: int = 8,
        report: packed.Report | None = None,
    ):
        """Takes a model.

        Args:
          loaded: the model.
          whole: whether it is an error that more than a quarter of the requests are longer than the
            model has positions.
          batch_tokens: see packed.look_up.
          batch_size: prompts that are continued at a time.
          report: as data_pipeline/progress.py gives it.

        Raises:
          UserError: if it is no language model.
        """
        super().__init__()
        likelihood.check(loaded)
        self._model, self._whole, self.cut = loaded, whole, 0
        self._batch_size = batch_size
        self._options = {"batch_tokens": batch_tokens, "report": report}

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in lm-eval's cache of requests."""
        return self._model.tokenizer.fingerprint

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Returns how many tokens each text has."""
        return [len(ids) for ids in self._model.tokenizer.encode_batch(texts)]

    def loglikelihood(self, requests: Requests, disable_tqdm: bool = False):
        """Returns (log-likelihood, whether it is the greedy one) of each continuation.

        Raises:
          UserError: if too many of them are too long, where they must be whole.
        """
        del disable_tqdm
        encoded = self._encode([request.args for request in requests])
        cut = [number for number, e in enumerate(encoded) if likelihood.is_cut(self._model, e)]
        self._tell_cut(cut, [len(e.context) + len(e.continuation) for e in encoded])
        scores = likelihood.score(self._model, encoded, **self._options)
        return [tuple(score) for score in scores]

    def loglikelihood_rolling(self, requests: Requests, disable_tqdm: bool = False) -> list[float]:
        """Returns the log-likelihood of each text, whose first token follows the end of a text."""
        del disable_tqdm
        texts = [request.args[0] for request in requests]
        windows, whose = [], []
        for number, ids in enumerate(self._model.tokenizer.encode_batch(texts)):
            found = utils.get_rolling_token_windows(
                ids,
                prefix_token=self._model.tokenizer.eot_id,
                max_seq_len=self._model.objective.network.config.max_positions,
                context_len=1,
            )
            found = [likelihood.Request(*utils.make_disjoint_window(window)) for window in found]
            windows += found
            whose += [number] * len(found)
        totals = [0.0] * len(texts)
        scores = likelihood.score(self._model, windows, **self._options)
        for number, score in zip(whose, scores, strict=True):
            totals[number] += score.log_likelihood
        return totals

    def generate_until(self, requests: Requests, disable_tqdm: bool = False) -> list[str]:
        """Returns what follows each prompt, up to the first of the texts that end it.

        Raises:
          UserError: for options that our decoding does not have, or if too many prompts are too
            long, where they must be whole.
        """
        del disable_tqdm
        texts: list[str] = [""] * len(requests)
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(repr(request.args[1]), []).append(number)
        for numbers in alike.values():
            prompts = [requests[number].args[0] for number in numbers]
            answers = self._generate(prompts, requests[numbers[0]].args[1])
            for number, answer in zip(numbers, answers, strict=True):
                texts[number] = answer
        return texts

    def _encode(self, pairs: Sequence[tuple[str, str]]) -> list[likelihood.Request]:
        """Returns the tokens of (context, continuation); spaces between them go to the latter."""
        tokenizer, continues = self._model.tokenizer, self._model.objective.continues
        contexts, rest = [], []
        for context, continuation in pairs:
            contexts.append(context.rstrip())
            behind = context[len(contexts[-1]) :] + continuation
            rest.append(contexts[-1] + behind if continues else behind)
        texts = list(dict.fromkeys([*contexts, *rest]))
        ids = dict(zip(texts, tokenizer.encode_batch(texts), strict=True))
        encoded = []
        for context, text in zip(contexts, rest, strict=True):
            before, after = ids[context], ids[text]
            if continues:
                after, before = after[len(before) :], before or [tokenizer.eot_id]
            else:
                before = [*before, tokenizer.eot_id]
            encoded.append(likelihood.Request(before, after))
        return encoded

    def _tell_cut(self, cut: Sequence[int], lengths: Sequence[int]) -> None:
        if not cut:
            return
        self.cut += len(cut)
        most = self._model.objective.network.config.max_positions
        longest = max(lengths[number] for number in cut)
        if self._whole and 4 * len(cut) > len(lengths):
            raise UserError(
                f"{len(cut)} of {len(lengths)} prompts do not fit into the model's {most} "
                f"positions, the longest has {longest} tokens: lower --shots."
            )
        logging.warning(
            "%d of %d prompts are longer than the model's %d positions, the longest has %d tokens: "
            "they lose their beginning.",
            *(len(cut), len(lengths), most, longest),
        )

    def _generate(self, prompts: Sequence[str], options: Mapping[str, Any]) -> list[str]:
        options = model_utils.normalize_gen_kwargs(dict(options), GENERATED)
        until = [text for text in options.pop("until") if text]
        most_tokens, draws = options.pop("max_gen_toks"), options.pop("do_sample")
        sampling = {name: options.pop(name) for name in SAMPLING if name in options}
        if options:
            raise UserError(
                f"The task asks for {', '.join(options)} in its generation_kwargs, which our "
                f"decoding does not have: leave {', '.join(SAMPLING)}, until and max_gen_toks."
            )
        continues = self._model.objective.continues
        most = self._model.objective.network.config.max_positions
        if most_tokens > most // 2:
            logging.warning(
                "The task asks for up to %d tokens: %d are generated, half of the positions.",
                *(most_tokens, most // 2),
            )
            most_tokens = most // 2
        room = most - most_tokens if continues else most
        tokenizer = self._model.tokenizer
        encoded = tokenizer.encode_batch(prompts)
        if not continues:
            encoded = [[*ids, tokenizer.eot_id] for ids in encoded]
        cut = [number for number, ids in enumerate(encoded) if len(ids) > room]
        self._tell_cut(cut, [len(ids) + most_tokens * continues for ids in encoded])
        # The longest first: a batch is as wide as its longest prompt.
        order = sorted(range(len(prompts)), key=lambda number: -len(encoded[number]))
        encoded = [ids[-room:] or [tokenizer.eot_id] for ids in encoded]
        whole = draws or not continues
        found = self._continue(
            [encoded[number] for number in order], until, most_tokens, whole, sampling
        )
        return [text for _, text in sorted(zip(order, found, strict=True))]

    def _continue(self, prompts, until, most_tokens, whole, sampling) -> list[str]:
        """Returns what follows prompts of tokens.

        Decoding knows of no texts that end a text. So it goes on by a few tokens, then twice as
        many, where no end has come yet: greedy tokens are the same however they are parted.
        """
        tokenizer = self._model.tokenizer
        found: list[list[int]] = [[] for _ in prompts]
        texts, going = [""] * len(prompts), list(range(len(prompts)))
        stretch = most_tokens if whole else min(FIRST_TOKENS, most_tokens)
        while going:
            more = decoding.sample(
                self._model.objective,
                self._model.params,
                [[*prompts[i], *found[i]] for i in going],
                max_tokens=stretch,
                eot_id=tokenizer.eot_id,
                vocab_size=tokenizer.vocab_size,
                batch_size=self._batch_size,
                **{"temperature": 0.0, **sampling},
            )
            still = []
            for i, (tokens,) in zip(going, more, strict=True):
                found[i] += tokens
                text = tokenizer.decode(found[i])
                texts[i] = model_utils.postprocess_generated_text(text, until, None)
                if len(tokens) == stretch and texts[i] == text and len(found[i]) < most_tokens:
                    still.append(i)
            going = still
            if going:
                generated = len(found[going[0]])
                stretch = min(generated, most_tokens - generated)
        return texts


class MaskedLanguageModel(model.LM):
    """A masked language model, which scores whole sentences by their pseudo-log-likelihood."""

    def __init__(
        self,
        loaded: load.Model,
        *,
        batch_tokens: int = 0,
        report: packed.Report | None = None,
    ):
        """Takes a model; see LanguageModel."""
        super().__init__()
        self._model = loaded
        self._options = {"batch_tokens": batch_tokens, "report": report}
        self.cut = 0

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Returns how many tokens each text has."""
        return [len(ids) for ids in self._model.tokenizer.encode_batch(texts)]

    def loglikelihood(self, requests: Requests, disable_tqdm: bool = False):
        """Returns (pseudo-log-likelihood, whether every token is the likeliest) of each sentence.

        Raises:
          UserError: for what has a context.
        """
        del disable_tqdm
        if any(request.args[0] for request in requests):
            raise UserError(ENCODER)
        sentences = [request.args[1] for request in requests]
        scores = pseudo_likelihood.score(self._model, sentences, **self._options)
        return [tuple(score) for score in scores]

    def loglikelihood_rolling(self, requests: Requests, disable_tqdm: bool = False):
        """Raises a UserError: a masked LM does not read from left to right."""
        raise UserError(ENCODER)

    def generate_until(self, requests: Requests, disable_tqdm: bool = False):
        """Raises a UserError: a masked LM does not write."""
        raise UserError(ENCODER)


ENCODER = (
    "A masked language model scores whole sentences only and continues none: give a GPT, an XLNet "
    "or a T5, or --task=blimp."
)


def wrap(loaded: load.Model, *, whole: bool = False, **options) -> model.LM:
    """Returns the backend that suits a model.

    Args:
      loaded: the model.
      whole: see LanguageModel.
      **options: of the backend.

    Raises:
      UserError: for a model that is neither a language model nor a masked one.
    """
    if loaded.config.objective.name in pseudo_likelihood.SCORED:
        return MaskedLanguageModel(loaded, **options)
    return LanguageModel(loaded, whole=whole, **options)
