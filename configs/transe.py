r"""TransE: vectors of a graph's entities and relations (Bordes et al., NeurIPS 2013).

    python scripts/train_transe.py --config=configs/transe.py --output=FOLDER \
        --config.data.train=train.txt --config.data.test=test.txt --config.data.layout=rht

A job of its own, not of train.py. Entities lie in rows over `mesh.fsdp` and `mesh.tensor`, which
takes all devices by default; the batch lies over `mesh.data` and `mesh.fsdp`. With `merge=1` the
relations of ConceptNet become KagNet's 17, for whose paths KagNet (configs/kagnet.py) takes the
vectors.
"""

import ml_collections

from configs import common


def get_config(arg=""):
    """Returns the config; `arg` is `[merge=1]`."""
    args = common.parse_arg(arg, merge=False)
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.batch_size = 2048  # triples
    config.epochs = 30  # the paper: at most 1000, of steps of its own
    # Margin, norm and learning rate by ConceptNet-100k's validation set, as in the paper, which has
    # others to choose from; KagNet's (embeddings/TransE.py) has this width and a margin of 1.
    config.model = dict(width=100, margin=0.5, norm="l2", negatives=4)
    config.data = dict(
        train="",
        valid="",  # left out of the filtered ranks only
        test="",  # "": nothing is ranked
        layout="hrt",  # see data_pipeline/knowledge/triples.py
        merge=args.merge,  # ConceptNet's relations into KagNet's 17
    )
    config.optim = common.optim()
    # The paper has plain gradient descent, which needs ten times the epochs.
    config.optim.update(name="adamw", lr=1e-2, schedule="linear", weight_decay=0.0, clip_norm=0.0)
    base = common.base()
    config.mesh, config.rules = base.mesh, base.rules
    config.mesh.update(data=1, tensor=-1)
    config.checkpoint = dict(every=1000, best=base.checkpoint.best)
    config.log = dict(every=500)
    return config
