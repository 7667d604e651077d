"""KagNet's tables from TransE: sizes for the config, and the vectors that training starts from."""

from collections.abc import Mapping

import ml_collections
import numpy as np
from jaxtyping import PyTree

from data_pipeline.knowledge import store
from training import entity_vectors

ENTITIES, RELATIONS = ("concepts", "table"), ("paths", "relations")  # in the group `graph`


def complete(config: ml_collections.ConfigDict) -> None:
    """Sets the sizes of the tables by those of `data.graphs.path`, where it is given; in place.

    And notes a hash of its names, for a folder that is made anew may number them otherwise.

    Raises:
      UserError: if it holds no vectors.
    """
    if config.objective.get("name") != "kagnet" or config.data.graphs.path is None:
        return
    shapes = store.shapes(config.data.graphs.path)
    (entities, width), (relations, _) = shapes["entities"], shapes["relations"]
    config.objective.reasoner.update(entities=entities, relations=relations, width=width)
    config.data.graphs.digest = store.digest(config.data.graphs.path)


def fill(config: ml_collections.ConfigDict, params: Mapping[str, PyTree]) -> Mapping[str, PyTree]:
    """Returns fresh parameters with the vectors in the reasoner's tables, where it has these.

    Row 0 stands for none; a relation and its inverse have the same vector, as in the released code.

    Args:
      config: a whole config.
      params: on their devices.
    """
    if config.objective.name != "kagnet" or config.data.graphs.path is None:
        return params
    found = store.load(config.data.graphs.path)
    graph = dict(params["graph"])
    vectors = {
        ENTITIES: found.entity_vectors,
        RELATIONS: np.concatenate([found.relation_vectors] * 2),
    }
    for (part, name), values in vectors.items():
        table = entity_vectors.table(graph[part][name]["table"], values)
        graph[part] = {**graph[part], name: {"table": table}}
    return {**params, "graph": graph}
