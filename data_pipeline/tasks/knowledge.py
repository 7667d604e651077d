"""The pipeline `knowledge_choice`: multiple choice, each choice with a graph of concepts (KagNet).

Rows are those of `choice`, and beside them, for each choice, its schema graph in fixed shapes.
Letters: `B` rows, `G` choices, `N` concepts, `J` pairs, `K` paths, `L` hops.
"""

import pathlib
import struct
from collections.abc import Iterable, Sequence

import ml_collections
import numpy as np
from absl import logging

from data_pipeline import tokenizers
from data_pipeline.knowledge import schema_graphs, store
from data_pipeline.tasks import choice, choices
from errors import UserError

_SIZE = struct.Struct("<I")


class KnowledgeChoice(choice.Choice):
    """A record is the size of that of `choice`, that record, and that of the schema graphs."""

    def __init__(self, data: ml_collections.ConfigDict, tokenizer: tokenizers.Tokenizer):
        """Takes the data section of a config; the graph is read when questions are.

        Raises:
          UserError: for a tokenizer, a length or limits that do not suit.
        """
        super().__init__(data, tokenizer)
        limits = data.graphs.to_dict()
        self.folder, self.digest = limits.pop("path"), limits.pop("digest", None)
        self.limits = schema_graphs.Limits(**limits)
        schema_graphs.check(self.limits)
        self.cache = pathlib.Path(data.cache_dir or "~/.cache/bert-to-gpt3").expanduser()
        self.task = data.task

    def write(self, questions: Iterable[choices.Question]) -> list[bytes]:
        """Returns a record for each question; says how many choices name no pair of concepts.

        Raises:
          UserError: without a graph, or with another one than the model was trained with.
        """
        if self.folder is None:
            raise UserError(
                "config.data.graphs.path is not set: name an --output of scripts/train_transe.py."
            )
        if self.digest not in (None, store.digest(self.folder)):
            raise UserError(
                f"config.data.graphs.path={self.folder} numbers concepts otherwise than the folder "
                "that the model was trained with: give that one."
            )
        questions = list(questions)
        records = super().write(questions)
        asked = [schema_graphs.Question(f"{q.context} {q.question}", q.choices) for q in questions]
        graphs = schema_graphs.prepare(
            asked, self.folder, self.limits, self.cache / "schema_graphs"
        )
        found = [graphs[i] for i in range(len(graphs))]
        counts = schema_graphs.count([g for x in found for g in schema_graphs.decode(x)])
        logging.warning(
            "%s: %s.", self.task, ", ".join(f"{n:,} {what}" for what, n in counts.items())
        )
        return [_SIZE.pack(len(x)) + x + y for x, y in zip(records, found, strict=True)]

    def read(self, records: Sequence[bytes], keys: np.ndarray) -> dict[str, np.ndarray]:
        """Returns a row for each record; `b""` is a row of padding, of weight 0."""
        texts, graphs = [], []
        for record in records:
            size = _SIZE.unpack_from(record)[0] if record else 0
            texts.append(record[_SIZE.size :][:size])
            graphs.append(schema_graphs.decode(record[_SIZE.size + size :]) if record else [])
        return super().read(texts, keys) | self._lay_out(graphs)

    def _lay_out(self, graphs):
        """Returns the fields of the graphs, each [B G ...]."""
        b, (g, limits) = len(graphs), (self.choices, self.limits)
        n, j, k, hops = limits.concepts, limits.pairs, limits.paths, limits.hops
        rows = {
            "concepts": np.zeros((b, g, n), np.int32),
            "concept_edges": np.zeros((b, g, n, n), np.int8),
            "pair_question": np.zeros((b, g, j), np.int32),
            "pair_answer": np.zeros((b, g, j), np.int32),
            "path_pair": np.zeros((b, g, k), np.int32),
        }
        hop_names = ("path_heads", "path_relations", "path_tails")
        rows |= {name: np.zeros((b, g, k, hops), np.int32) for name in hop_names}
        for row, found in enumerate(graphs):
            for column, graph in enumerate(found):
                at = {name: value[row, column] for name, value in rows.items()}
                _fill(at, graph, n)
        return rows


def _fill(at, graph, n):
    """Writes a schema graph into the fields of one choice."""
    at["concepts"][1 : len(graph.concepts) + 1] = graph.concepts + 1
    i, j = np.divmod(graph.edges, n)
    at["concept_edges"][i, j] = at["concept_edges"][j, i] = 1
    for name in ("pair_question", "pair_answer", "path_pair"):
        value = getattr(graph, name)
        at[name][: len(value)] = value
    hops = graph.path_hops
    real = np.arange(at["path_heads"].shape[1]) < hops[:, None]  # [paths L]
    last = np.cumsum(hops + 1) - 1  # a path of n hops has n + 1 concepts
    values = {
        "path_heads": np.delete(graph.path_concepts, last),
        "path_tails": np.delete(graph.path_concepts, last - hops),
        "path_relations": graph.path_relations,
    }
    for name, value in values.items():
        at[name][: len(hops)][real] = value
