"""Continues prompts with a GPT or an XLNet, answers them with a T5, or fills a BERT's [MASK]s.

    python scripts/generate.py --checkpoint=runs/gpt2-tiny --prompt="The file is" --top_p=0.9
    python scripts/generate.py --checkpoint=runs/bert-tiny --prompt="The [MASK] is closed."
    python scripts/generate.py --checkpoint=runs/t5-tiny --prompt="The <extra_id_0> is closed."

A checkpoint is a --workdir of train.py or a folder in Hugging Face's layout.
"""

import pathlib
import sys

from absl import app, flags

from errors import UserError, exit_on_user_error, parse_flags
from evaluation import decoding, fill_mask, load
from training import compilation_cache

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A workdir or a Hugging Face folder.", required=True
)
_STEP = flags.DEFINE_string("step", None, 'A step of the workdir, or "best"; default: the newest.')
_PROMPT = flags.DEFINE_multi_string("prompt", [], "Text to continue or to fill; may be repeated.")
_PROMPTS = flags.DEFINE_string(
    "prompts", None, "A file with a prompt on each line; -: standard input."
)
_MAX_TOKENS = flags.DEFINE_integer("max_tokens", 50, "The most new tokens for a prompt.")
_TEMPERATURE = flags.DEFINE_float(
    "temperature", 1.0, "Divides the scores; 0: always the likeliest."
)
_TOP_K = flags.DEFINE_integer(
    "top_k",
    None,
    "Draw from the k likeliest tokens (default: all), or show k for a mask (default: 5).",
)
_TOP_P = flags.DEFINE_float("top_p", 1.0, "Draw from the fewest tokens with this much probability.")
_BEAMS = flags.DEFINE_integer("beams", 1, "More than 1: beam search instead of drawing.")
_LENGTH_PENALTY = flags.DEFINE_float(
    "length_penalty", 1.0, "Beam search: above 0 favors long texts."
)
_SAMPLES = flags.DEFINE_integer("samples", 1, "Continuations of each prompt.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the draws: the same seed gives the same text.")


@exit_on_user_error
def main(argv):
    """Prints the texts."""
    compilation_cache.enable()
    if len(argv) > 1:
        raise UserError(f"Unexpected argument {argv[1]!r}: give text with --prompt.")
    prompts = _prompts()
    model = load.load(_CHECKPOINT.value, step=_STEP.value)
    name = model.config.objective.name
    if name in ("masked_lm", "electra", "distill"):  # ELECTRA: by its generator
        _fill(model, prompts)
    elif name in ("causal_lm", "permutation_lm", "seq2seq_lm"):
        _continue(model, prompts)
    else:
        raise UserError(
            f"{_CHECKPOINT.value} was trained for {name}, which gives no text: name a masked, a "
            "causal or a sequence-to-sequence language model."
        )


def _prompts() -> list[str]:
    prompts = list(_PROMPT.value)
    if _PROMPTS.value:
        try:
            file = _PROMPTS.value
            text = sys.stdin.read() if file == "-" else pathlib.Path(file).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--prompts={_PROMPTS.value} cannot be read: {error}.") from error
        prompts += [line for line in text.splitlines() if line.strip()]
    if not prompts:
        raise UserError("There is nothing to do: give --prompt=TEXT or --prompts=FILE.")
    return prompts


def _fill(model: load.Model, prompts: list[str]) -> None:
    filled = fill_mask.fill_masks(
        model.objective,
        model.params,
        model.tokenizer,
        prompts,
        candidates=5 if _TOP_K.value is None else _TOP_K.value,
    )
    for prompt, masks in zip(prompts, filled):
        print(prompt)
        for number, candidates in enumerate(masks, start=1):
            shown = ", ".join(f"{c.token} {c.probability:.1%}" for c in candidates)
            print(f"  mask {number}: {shown}")


def _continue(model: load.Model, prompts: list[str]) -> None:
    tokenizer, continues = model.tokenizer, model.objective.continues
    if continues:
        ids = tokenizer.encode_batch(prompts)
    else:  # an input as in training
        ids = [[*tokenizer.encode_with_sentinels(p), tokenizer.eot_id] for p in prompts]
    common = dict(
        max_tokens=_MAX_TOKENS.value,
        eot_id=tokenizer.eot_id,
        vocab_size=tokenizer.vocab_size,
        samples=_SAMPLES.value,
    )
    if _BEAMS.value > 1:
        if _TOP_K.value or _TOP_P.value != 1 or _TEMPERATURE.value != 1:
            raise UserError(
                "Beam search does not draw: leave out --beams, or --temperature, --top_k, --top_p."
            )
        texts = decoding.beam_search(
            model.objective,
            model.params,
            ids,
            beams=_BEAMS.value,
            length_penalty=_LENGTH_PENALTY.value,
            **common,
        )
    else:
        texts = decoding.sample(
            model.objective,
            model.params,
            ids,
            temperature=_TEMPERATURE.value,
            top_k=_TOP_K.value or 0,
            top_p=_TOP_P.value,
            seed=_SEED.value,
            **common,
        )
    for i, (prompt, samples) in enumerate(zip(ids, texts), start=1):
        for j, sample in enumerate(samples, start=1):
            if len(prompts) * len(samples) > 1:
                print(f"--- prompt {i}, sample {j}")
            print(tokenizer.decode(prompt + sample if continues else sample))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
