r"""Writes a task's training file with many variants of each example (TinyBERT, algorithm 1).

    python scripts/augment.py --checkpoint=BERT --task=sst-2 --data=GLUE --output=FILE.tsv \
        --vectors=glove.6B.300d.txt

Training reads it by --config.data.train_path=FILE.tsv. The paper makes 20 copies for every task;
the released code 30 for CoLA, MRPC, STS-B and RTE, 20 for SST-2 and QNLI, 10 for MNLI and QQP.
What else is the paper's, the code's and ours: evaluation/augmentation.py.
"""

import pathlib

from absl import app, flags

from data_pipeline import files
from data_pipeline.tasks import glue
from errors import UserError, exit_on_user_error, one_of, parse_flags
from evaluation import augmentation, load, word_vectors
from training import compilation_cache

_PAPER = augmentation.Settings()
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A pre-trained BERT: a workdir or a Hugging Face folder.", required=True
)
_TASK = flags.DEFINE_string("task", None, "A name in data_pipeline/tasks.", required=True)
_DATA = flags.DEFINE_string("data", None, "The folder of the task or of GLUE.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "The file to write.", required=True)
_VECTORS = flags.DEFINE_string(
    "vectors", None, "Word vectors in GloVe's text format; default: the model's token embeddings."
)
_REPLACE = flags.DEFINE_float("replace", _PAPER.replace, "How probably a word is replaced.")
_CANDIDATES = flags.DEFINE_integer("candidates", _PAPER.candidates, "Candidates for each word.")
_COPIES = flags.DEFINE_integer("copies", _PAPER.copies, "Copies of each example, at most.")
_SEED = flags.DEFINE_integer("seed", _PAPER.seed, "Of the draws.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Words that the model sees at a time.")


@exit_on_user_error
def main(argv):
    """Writes the file and prints how many rows it has."""
    compilation_cache.enable()
    if len(argv) > 1:
        raise UserError(f"Unexpected argument {argv[1]!r}: every flag begins with --.")
    task = glue.TASKS[one_of("--task", _TASK.value, glue.TASKS)]
    settings = augmentation.Settings(_REPLACE.value, _CANDIDATES.value, _COPIES.value, _SEED.value)
    settings.check()
    table = glue.read_table(task, _DATA.value, "train")
    glue.examples(task, table, "train")  # a wrong label is told now, not in training
    vectors = word_vectors.read_glove(_VECTORS.value) if _VECTORS.value else None
    model = load.load(_CHECKPOINT.value)
    if model.config.objective.name != "masked_lm":
        raise UserError(
            f"{_CHECKPOINT.value} is no masked language model: give the pre-trained one."
        )
    finder = augmentation.CandidateFinder(
        model.objective, model.params, model.tokenizer, vectors, _BATCH_SIZE.value
    )
    output = pathlib.Path(_OUTPUT.value).expanduser()
    count = 0
    with files.replacing(output) as temporary, temporary.open("w", encoding="utf-8") as file:
        if table.header is not None:
            file.write(table.header + "\n")
        for row in augmentation.augment(task, table, finder, settings):
            file.write("\t".join(row) + "\n")
            count += 1
    print(f"{output}: {count:,} rows from {len(table.rows):,}.")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
