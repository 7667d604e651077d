"""The same engine answers with an encoder-decoder: without a cache, alone, and `transformers`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from errors import UserError
from evaluation import decoding
from model import batch as batch_lib
from model import objectives

PROMPTS = [[5, 9, 2, 7, 7], [3], [8, 1, 30, 12, 4, 4, 31, 22, 9, 10, 11, 2, 6], [39, 38]]
EOS = 1


@pytest.fixture(scope="module")
def t5():
    """(objective, params) with a vocabulary of 40 and large weights, so that each token matters."""
    sizes = dict(width=16, heads=2, head_size=8, vocab_size=40, relative_buckets=8)
    sizes |= dict(relative_distance=16, tied=False)  # tied, it says one token again and again
    config = tiny.config("t5", **{f"model.{name}": value for name, value in sizes.items()})
    leaves, tree = jax.tree.flatten(tiny.params(config))
    keys = jax.random.split(jax.random.key(3), len(leaves))
    params = [0.5 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return tiny.objective(config), tree.unflatten(params)


def slow_answer(model, prompt, max_tokens):
    """The likeliest tokens, everything recomputed for each."""
    objective, params = model
    room = 16

    @jax.jit
    def predict(tokens, count):
        said = jnp.arange(room)[None] < count
        batch = {
            "tokens": jnp.asarray([prompt], jnp.int32),
            "segment_ids": jnp.ones((1, len(prompt)), jnp.int32),
            "decoder_tokens": tokens,
            "decoder_segment_ids": said.astype(jnp.int32),
        }
        logits = objective.apply({"params": params}, batch, method="predict")["logits"]
        return logits[0, count - 1]

    tokens = [batch_lib.START]
    while len(tokens) <= max_tokens:
        padded = np.zeros((1, room), np.int32)
        padded[0, : len(tokens)] = tokens
        token = int(predict(padded, len(tokens)).argmax())
        if token == EOS:
            break
        tokens.append(token)
    return tokens[1:]


def greedy(model, prompts, **options):
    options = dict(max_tokens=12, eot_id=EOS, temperature=0.0) | options
    return decoding.sample(*model, prompts, **options)


def test_answers_inside_of_a_step_are_the_same(t5):
    """Of inputs padded on the right, as in training, with a row of padding."""
    objective, params = t5
    tokens = np.zeros((5, 16), np.int32)
    for row, prompt in zip(tokens, PROMPTS):
        row[: len(prompt)] = prompt
    batch = {"tokens": tokens, "segment_ids": (tokens > 0).astype(np.int32)}
    limits = decoding.Limits(jnp.int32(12), jnp.int32(EOS), jnp.int32(40))
    real = jnp.arange(5) < 4
    run = jax.jit(lambda p, b: decoding.answer(objective, p, b, real, limits, 12))
    found = np.asarray(run(params, batch))
    assert found.shape == (5, 12) and (found[4] == -1).all()
    said = [[t for t in row if t >= 0] for row in found[:4].tolist()]
    assert said == [answers[0] for answers in greedy(t5, PROMPTS)]
    assert len({tuple(answer) for answer in said}) > 1


def test_greedy_equals_recomputing_every_token_without_a_cache(t5):
    found = greedy(t5, PROMPTS)
    assert [texts[0] for texts in found] == [slow_answer(t5, prompt, 12) for prompt in PROMPTS]
    assert len({tuple(texts[0]) for texts in found}) == len(PROMPTS)


def test_a_batch_of_unequal_prompts_equals_each_alone(t5):
    def beams(prompts):
        return decoding.beam_search(*t5, prompts, max_tokens=12, eot_id=EOS, beams=3, samples=3)

    def draws(prompts):
        return greedy(t5, prompts, temperature=1.0, samples=2)

    for run in (lambda prompts: greedy(t5, prompts), beams):
        assert run(PROMPTS) == [run([prompt])[0] for prompt in PROMPTS]
    assert draws(PROMPTS)[:1] == draws(PROMPTS[:1])
    assert draws(PROMPTS)[0][0] != draws(PROMPTS)[0][1]


def test_an_answer_has_room_of_its_own(t5):
    prompt = [2, 3, 4, 5] * 16
    assert len(greedy(t5, [prompt], eot_id=None, max_tokens=64)[0][0]) == 64  # of 64
    with pytest.raises(UserError, match="65 tokens, but the model has 64 positions"):
        greedy(t5, [[2] * 65])
    with pytest.raises(UserError, match="room for 64 new ones"):
        greedy(t5, [prompt], max_tokens=65)


@pytest.fixture(scope="module", params=["1.0", "1.1"])
def published(request, tmp_path_factory):
    """A T5 of `transformers` with large random weights, and the same one of ours."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from training import huggingface

    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(1)
    sizes = dict(vocab_size=19, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
    version = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    config = transformers.T5Config(
        **sizes, **(version if request.param == "1.1" else {}), decoder_start_token_id=0
    )
    theirs = transformers.T5ForConditionalGeneration(config).eval()
    if request.param == "1.1":
        theirs.lm_head.weight = torch.nn.Parameter(theirs.lm_head.weight.detach().clone())
    for p in theirs.parameters():
        p.data += (0.4 if p.ndim > 1 else 0.1) * torch.randn_like(p)
    if request.param == "1.1":
        theirs.lm_head.weight.data[EOS] *= 2  # so that some texts end
    theirs.save_pretrained(folder)
    loaded = huggingface.load(folder)
    sections = _Sections(loaded.model | {"dtype": "float32", "remat": "none"}, loaded.objective)
    return theirs, (objectives.build(sections, "cpu"), jax.tree.map(jnp.asarray, loaded.params))


class _Sections:
    def __init__(self, model, objective):
        self.model, self.objective = model, objective


def _generate(theirs, prompt, **options):
    import torch

    found = theirs.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=16,
        do_sample=False,
        **options,
    )
    return [[t for t in row if t not in (0, EOS)] for row in found[:, 1:].tolist()]


@pytest.mark.parametrize("beams", [1, 4])
def test_equals_transformers(published, beams):
    theirs, ours = published
    rng = np.random.default_rng(beams)
    prompts = [rng.integers(2, 19, n).tolist() for n in (1, 3, 9, 17, 4)]
    if beams == 1:
        found = greedy(ours, prompts, max_tokens=16)
        options = {}
    else:
        found = decoding.beam_search(
            *ours, prompts, max_tokens=16, eot_id=EOS, beams=4, samples=2, length_penalty=0.6
        )
        options = dict(num_beams=4, num_return_sequences=2, length_penalty=0.6)
    # The padding token is no text: `transformers` fills short rows up with it.
    found = [[[t for t in text if t] for text in texts] for texts in found]
    assert found == [_generate(theirs, prompt, **options) for prompt in prompts]
    assert len({len(text) for texts in found for text in texts}) > 1
