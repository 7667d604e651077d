"""Heads for question answering beside those of `transformers`."""

import jax
import numpy as np
import parity
import pytest

from errors import UserError
from model import batch as batch_lib
from training import huggingface

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCAB = 97
BERT = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=16,
)
XLNET = dict(vocab_size=VOCAB, d_model=32, n_layer=2, n_head=4, d_inner=64)
CONFIGS = {
    "Bert": BERT,
    "Albert": BERT | dict(embedding_size=16),
    "Electra": BERT | dict(embedding_size=16),
    "Roberta": BERT | dict(max_position_embeddings=18, type_vocab_size=1),
    "DistilBert": dict(
        vocab_size=VOCAB, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=16
    ),
    "XLNet": XLNET,
}


def build(name, head="ForQuestionAnswering", **values):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**CONFIGS[name], **values)
    return getattr(transformers, name + head)(config)


def batch(types, padding=0, rows=3, length=12):
    """Questions of six tokens with their class token, and passages; answers from 7 on."""
    rng = np.random.default_rng(0)
    ids = np.ones((rows, length), np.int32)
    ids[1:, length - padding :] = 0
    passage = (np.arange(length) >= 6) * ids
    made = {
        "tokens": rng.integers(5, VOCAB, (rows, length)).astype(np.int32) * ids,
        "token_types": passage * types,
        "segment_ids": ids,
        "positions": np.arange(length, dtype=np.int32) * ids,
        "pair_positions": np.zeros((rows, 1), np.int32),
        "answer_places": np.maximum(passage, np.arange(length) == 0).astype(np.int32),
        "answer_start": np.int32([7, 0, 8]),
        "answer_end": np.int32([9, 0, 8]),
        "label": np.int32([0, 1, 0]),
        "example_weights": np.ones(rows, np.float32),
    }
    made = {k: v.astype(np.int32) if v.dtype == np.int64 else v for k, v in made.items()}
    batch_lib.check(made)
    return made


def theirs(model, given, types, **more):
    tensors = {"input_ids": given["tokens"], "attention_mask": given["segment_ids"]}
    if types:
        tensors["token_type_ids"] = given["token_types"]
    return model(**{k: torch.tensor(v).long() for k, v in tensors.items()}, **more)


def labels(given):
    return {
        f"{side}_positions": torch.tensor(given[f"answer_{side}"]).long()
        for side in ("start", "end")
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_scores_loss_and_gradients_equal_those_of_transformers(name, tmp_path):
    head = "ForQuestionAnsweringSimple" if name == "XLNet" else "ForQuestionAnswering"
    types = name not in ("Roberta", "DistilBert")
    oracle = parity.Oracle(build(name, head), tmp_path)
    assert oracle.published.objective["name"] == "span"
    assert (oracle.published.missing, oracle.published.unexpected) == ([], [])
    given = batch(types, padding=3)
    real = given["segment_ids"] > 0
    # The states of padding are those of its surroundings in theirs, and mean nothing in ours.
    padding = torch.tensor(~real)[..., None]
    oracle.torch_model.qa_outputs.register_forward_hook(
        lambda module, inputs, logits: logits.masked_fill(padding, -torch.inf)
    )
    output = theirs(oracle.torch_model, given, types, **labels(given))
    found, loss, gradients = oracle.run(given)
    for side in ("start", "end"):
        parity.assert_close(found[side][real], output[f"{side}_logits"].detach().numpy()[real])
        assert found[side][~real].max() < -1e6
    assert loss == pytest.approx(output.loss.item(), rel=1e-5)
    parity.assert_gradients_close(gradients, oracle.torch_gradients(output.loss))


def test_the_head_of_xlnet_equals_that_of_transformers(tmp_path):
    """The last token given the first, a beam of both, and the classifier."""
    model = build("XLNet", start_n_top=4, end_n_top=3)
    oracle = parity.Oracle(model, tmp_path)
    section = {"name": "span", "head": "xlnet", "answerable": 0.5, "dropout": 0.1, "beam": 5}
    assert oracle.published.objective == section
    given = batch(True, padding=2)
    forbidden = torch.tensor(1 - given["answer_places"]).float()
    cls = torch.zeros(3).long()
    output = theirs(model, given, True, cls_index=cls, p_mask=forbidden)
    apply = jax.jit(lambda p: oracle.objective.apply({"params": p}, given, train=False))
    _, metrics = apply(oracle.published.params)
    rows = {k: np.asarray(v) for k, v in metrics["rows"].prediction.items()}
    start, end = rows["start"][:, :4], rows["end"][:, :4, :3]
    np.testing.assert_array_equal(start, output.start_top_index.numpy())
    expected = output.end_top_index.reshape(3, 3, 4).numpy().transpose(0, 2, 1)
    np.testing.assert_array_equal(end, expected)
    parity.assert_close(
        np.exp(rows["start_score"][:, :4]), output.start_top_log_probs.detach().numpy()
    )
    expected = output.end_top_log_probs.detach().reshape(3, 3, 4).numpy().transpose(0, 2, 1)
    parity.assert_close(np.exp(rows["end_score"][:, :4, :3]), expected)
    parity.assert_close(rows["no_answer"][:, 0], output.cls_logits.detach().numpy())

    def by_probability(module, args, inputs):
        """As in the released code, where the first token is given by its probabilities.

        In training, transformers gives the classifier the labeled one.
        """
        p = torch.softmax(model.start_logits(args[0], p_mask=forbidden), dim=-1)
        states = torch.einsum("bth,bt->bh", args[0], p)
        return args, {"start_states": states, "cls_index": inputs["cls_index"]}

    model.answer_class.register_forward_pre_hook(by_probability, with_kwargs=True)
    impossible = torch.tensor(given["label"]).float()
    more = dict(cls_index=cls, p_mask=forbidden, is_impossible=impossible, **labels(given))
    output = theirs(model, given, True, **more)
    _, loss, gradients = oracle.run(given)
    assert loss == pytest.approx(output.loss.item(), rel=1e-5)
    parity.assert_gradients_close(gradients, oracle.torch_gradients(output.loss))


@pytest.mark.parametrize("name", CONFIGS)
def test_export_and_import_give_back_the_same(name, tmp_path):
    heads = ["ForQuestionAnswering"] + ["ForQuestionAnsweringSimple"] * (name == "XLNet")
    for head in heads:
        folder = tmp_path / head
        build(name, head).save_pretrained(folder)
        published = huggingface.load(folder)
        params = published.params
        huggingface.save(
            folder / "again", published.model, published.objective, params, family=published.family
        )
        again = huggingface.load(folder / "again")
        assert again.objective == published.objective
        parity.assert_same_bits(again.params, params)
        model = getattr(transformers, name + head).from_pretrained(folder / "again")
        assert type(model).__name__ == name + head


def test_a_head_that_no_layout_has_is_told(tmp_path):
    build("Bert").save_pretrained(tmp_path)
    published = huggingface.load(tmp_path)
    for change in ({"head": "electra"}, {"answerable": 1.0}):
        section = published.objective | change
        with pytest.raises(UserError, match="is beyond BERT's layout"):
            huggingface.save(tmp_path / "a", published.model, section, published.params)
