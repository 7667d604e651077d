"""The training steps of `transformers` on PyTorch, which ours are measured beside.

Each network has the published sizes of ours, and the loss that its authors trained it with; a batch
is one of ours, so that both sides see the same shapes. `depth` makes a network shorter.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from errors import UserError

Batch = Mapping[str, Any]  # field -> torch.Tensor


def libraries():
    """Returns PyTorch, set to all our cores, and `transformers`.

    Raises:
      UserError: if they are not installed.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError(
            f"The peer of this benchmark is not installed ({error}): make install "
            "EXTRAS=dev,parity,eval."
        ) from error
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    return torch, transformers


def train_step(build: Callable, dtype: str, depth: int | None, device: str = "cpu"):
    """Returns (parameters, step(batch) -> loss), which takes a step of AdamW.

    Args:
      build: one of the functions below.
      dtype: float32, or bfloat16: by autocast.
      depth: see above; None: the published one.
      device: cpu; or cuda, where the network is compiled (`torch.compile`) and the optimizer fused.
    """
    torch, transformers = libraries()
    network, loss = build(torch, transformers, depth)
    network.train().to(device)
    parameters = list(network.parameters())
    compiled = device != "cpu"
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=compiled or None)
    if compiled:
        torch.set_float32_matmul_precision("high")
        for part in network if isinstance(network, torch.nn.ModuleList) else [network]:
            part.compile()

    def step(batch: Batch):
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            value = loss(batch)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value.detach()

    return sum(p.numel() for p in parameters), step


def tensors(batch: Mapping[str, np.ndarray], device: str = "cpu") -> Batch:
    """Returns one of our batches for these networks."""
    torch, _ = libraries()
    fields = {name: torch.tensor(np.asarray(x), device=device) for name, x in batch.items()}
    return {k: x if x.is_floating_point() else x.long() for k, x in fields.items()}


Built = tuple[Any, Callable[[Batch], Any]]  # a network and its loss


def bert(torch, transformers, depth, **sizes) -> Built:
    """BERT-base, or of other sizes: masked LM and next sentence."""
    config = transformers.BertConfig(**sizes | _deep(num_hidden_layers=depth))
    network = transformers.BertForPreTraining(config)
    return network, lambda batch: pretraining_loss(torch, network, batch)


def pretraining_loss(torch, network, batch: Batch, pair: str = "next_sentence_label"):
    """Returns the loss of masked LM and of pairs, whose labels the network calls `pair`."""
    labels = {"labels": _labels(torch, batch), pair: batch["pair_labels"]}
    return network(**_encoded(batch), **labels).loss


def bert_masked_lm(torch, transformers, depth) -> Built:
    """BERT-base: masked LM alone, for a batch of the library's own collator."""
    config = transformers.BertConfig(**_deep(num_hidden_layers=depth))
    network = transformers.BertForMaskedLM(config)
    return network, lambda batch: network(**batch).loss


def bert_full_rows(torch, transformers, depth, **sizes) -> Built:
    """BERT: masked LM alone, on rows that are taken to be full, so that there is no mask."""
    config = transformers.BertConfig(**sizes | _deep(num_hidden_layers=depth))
    network = transformers.BertForMaskedLM(config)

    def loss(batch):
        return network(input_ids=batch["tokens"], labels=_labels(torch, batch)).loss

    return network, loss


def albert(torch, transformers, depth) -> Built:
    """ALBERT-base: masked LM and sentence order."""
    config = transformers.AlbertConfig(
        hidden_size=768,
        num_attention_heads=12,
        intermediate_size=3072,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        **_deep(num_hidden_layers=depth),
    )
    network = transformers.AlbertForPreTraining(config)
    return network, lambda batch: pretraining_loss(torch, network, batch, "sentence_order_label")


def electra(torch, transformers, depth) -> Built:
    """ELECTRA-small, by hand: a generator, what is drawn from it, and a discriminator."""
    config = transformers.ElectraConfig(
        embedding_size=128,
        hidden_size=256,
        num_attention_heads=4,
        intermediate_size=1024,
        **_deep(num_hidden_layers=depth),
    )
    small = transformers.ElectraConfig(
        embedding_size=128,
        hidden_size=64,
        num_attention_heads=1,
        intermediate_size=256,
        num_hidden_layers=config.num_hidden_layers,
    )
    generator = transformers.ElectraForMaskedLM(small)
    discriminator = transformers.ElectraForPreTraining(config)
    generator.electra.embeddings = discriminator.electra.embeddings
    generator.generator_lm_head.weight = generator.electra.embeddings.word_embeddings.weight

    def loss(batch):
        labels, fields = _labels(torch, batch), _encoded(batch)
        there = labels >= 0
        found = generator(**fields, labels=labels)
        with torch.no_grad():
            drawn = torch.distributions.Categorical(logits=found.logits[there].float()).sample()
        tokens = fields["input_ids"].clone()
        tokens[there] = drawn
        replaced = torch.zeros_like(tokens)
        replaced[there] = (drawn != labels[there]).long()
        judged = discriminator(**fields | {"input_ids": tokens}, labels=replaced)
        return found.loss + 50 * judged.loss

    return torch.nn.ModuleList([generator, discriminator]), loss


def gpt2(torch, transformers, depth, **sizes) -> Built:
    """GPT-2 124M, or of other sizes: the next token, without dropout as ours."""
    without = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = transformers.GPT2Config(**without | sizes | _deep(n_layer=depth))
    network = transformers.GPT2LMHeadModel(config)

    def loss(batch):
        return network(input_ids=batch["tokens"], labels=batch["tokens"]).loss

    return network, loss


def t5(torch, transformers, depth) -> Built:
    """T5-small: corrupted spans."""
    config = transformers.T5Config(
        vocab_size=32128, decoder_start_token_id=0, **_deep(num_layers=depth)
    )
    network = transformers.T5ForConditionalGeneration(config)

    def loss(batch):
        labels = torch.where(batch["weights"] > 0, batch["targets"], -100)
        ids = (batch["segment_ids"] > 0).long()
        return network(input_ids=batch["tokens"], attention_mask=ids, labels=labels).loss

    return network, loss


def _deep(**depth):
    return {name: value for name, value in depth.items() if value is not None}


def _encoded(batch):
    return {
        "input_ids": batch["tokens"],
        "attention_mask": (batch["segment_ids"] > 0).long(),
        "token_type_ids": batch["token_types"],
    }


def _labels(torch, batch):
    """Returns the targets at their places in the row, -100 elsewhere."""
    labels = torch.full_like(batch["tokens"], -100)
    targets = torch.where(batch["weights"] > 0, batch["targets"], -100)
    return labels.scatter_(1, batch["masked_positions"], targets)
