"""TASKS: from a name in a config to a labeled task, and the rows that are made of its examples.

Letters: `B` rows, `T` tokens.
"""

from data_pipeline.tasks import glue

TASKS: dict[str, glue.Task] = dict(glue.TASKS)
