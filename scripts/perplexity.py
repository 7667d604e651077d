"""Measures how well a GPT or an XLNet foretells a text: perplexity by sliding windows.

    python scripts/perplexity.py --checkpoint=runs/gpt2-tiny --text=FILE --stride=32
    python scripts/perplexity.py --checkpoint=FOLDER --text=wiki.test.tokens --detokenize=wikitext

The file is one text, UTF-8, perhaps gzipped. scripts/evaluate.py measures on the rows of training.
"""

import json
import pathlib

from absl import app, flags

from data_pipeline import files, progress
from data_pipeline.tasks import task_files
from errors import UserError, exit_on_user_error, one_of, parse_flags
from evaluation import load, perplexity
from training import compilation_cache, sharding

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A workdir or a Hugging Face folder.", required=True
)
_STEP = flags.DEFINE_string("step", None, 'A step of the workdir, or "best"; default: the newest.')
_TEXT = flags.DEFINE_string("text", None, "A file of text.", required=True)
_LENGTH = flags.DEFINE_integer(
    "length", 0, "Tokens of a window; 0: the model's positions.", lower_bound=0
)
_STRIDE = flags.DEFINE_integer(
    "stride", 0, "Tokens from window to window; 0: half of one.", lower_bound=0
)
_DETOKENIZE = flags.DEFINE_string(
    "detokenize", "none", f"How the text is written: {', '.join(perplexity.DETOKENIZERS)}."
)
_JSON = flags.DEFINE_string("json", None, "A file for the results.")


@exit_on_user_error
def main(argv):
    """Prints the results, one a line."""
    compilation_cache.enable()
    if len(argv) > 1:
        raise UserError(f"Unexpected argument {argv[1]!r}: name the file by --text.")
    detokenize = one_of("--detokenize", _DETOKENIZE.value, perplexity.DETOKENIZERS)
    text = task_files.read_text(pathlib.Path(_TEXT.value).expanduser())
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
    model = load.load(_CHECKPOINT.value, step=_STEP.value, mesh=mesh)
    with progress.shown() as report:
        results = perplexity.measure(
            model,
            text,
            length=_LENGTH.value,
            stride=_STRIDE.value,
            detokenize=perplexity.DETOKENIZERS[detokenize],
            report=report,
        )
    for name, value in results.items():
        print(f"{name:24} {value:.4f}" if isinstance(value, float) else f"{name:24} {value}")
    if _JSON.value:
        files.write_text(pathlib.Path(_JSON.value), json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
