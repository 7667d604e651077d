r"""TransE: vectors of a graph's entities and relations (Bordes et al., NeurIPS 2013).

    python scripts/train_transe.py --config=configs/transe.py --output=FOLDER \\
        --config.data.train=train.txt --config.data.test=test.txt --config.data.layout=rht

A job of its own, not of train.py. Entities lie in rows over `mesh.tensor`, which takes all devices
by default; their width, and the batch, lie over `mesh.fsdp`. With `merge=1` the relations of
ConceptNet become KagNet's 17, for whose paths KagNet (configs/kagnet.py) takes the vectors.
"""

import ml_collections

from configs import common


def get_config(arg=""):
    """Returns the config; `arg` is `[merge=1]`."""
    args = common.parse_arg(arg, merge=False)
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.batch_size = 2048  # triples
    config.epochs = 100  # the paper: at most 1000, of steps of its own
    # Width and margin as KagNet has them (embeddings/TransE.py); the paper takes both, and the
    # norm, from {20, 50}, {1, 2, 10} and {L1, L2} by the validation set.
    config.model = dict(width=100, margin=1.0, norm="l1", negatives=4)
    config.data = dict(
        train="",
        valid="",  # left out of the filtered ranks only
        test="",  # "": nothing is ranked
        layout="hrt",  # see data_pipeline/knowledge/triples.py
        merge=args.merge,
    )
    config.optim = common.optim()
    # The paper has plain gradient descent, which needs ten times the epochs.
    config.optim.update(name="adamw", lr=3e-3, schedule="linear", weight_decay=0.0, clip_norm=0.0)
    base = common.base()
    config.mesh, config.rules = base.mesh, base.rules
    config.mesh.update(data=1, tensor=-1)
    config.checkpoint = dict(every=1000, best=base.checkpoint.best)
    config.log = dict(every=500)
    return config
