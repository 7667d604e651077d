import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errors import UserError
from evaluation import decoding, token_choice
from model import objectives

PROMPTS = [[5, 9, 2, 7, 7], [3], [8, 1, 30, 12, 4, 4, 31, 22, 9, 10, 11, 2, 6], [39, 38]]
EOT = 0
choose = jax.jit(token_choice.choose)


def slow_scores(model, length=64):
    """Returns a function from tokens to the scores of the next one, computed without a cache."""
    objective, params = model

    @jax.jit
    def predict(tokens):
        batch = {
            "tokens": tokens,
            "segment_ids": jnp.ones_like(tokens),
            "positions": jnp.arange(length)[None],
        }
        return objective.apply({"params": params}, batch, method="predict")["logits"][0]

    def scores(tokens):
        # What stands behind the last token is not seen: one length, one compilation.
        padded = np.zeros((1, length), np.int32)
        padded[0, : len(tokens)] = tokens
        return np.asarray(predict(padded))[len(tokens) - 1]

    return scores


def slow_sample(scores, prompt, row, sample, *, max_tokens, seed, eot_id, choice):
    tokens = list(prompt)
    key = jax.random.key(seed, impl="threefry2x32")
    key = jax.random.fold_in(jax.random.fold_in(key, row), sample)
    for step in range(max_tokens):
        logits, keys = scores(tokens)[None], jax.random.fold_in(key, step)[None]
        token = int(choose(logits, keys, choice)[0])
        if token == eot_id:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


@pytest.fixture(params=["gpt", "banded", "xlnet"])
def decoder(request):
    """(objective, params) of every kind of model that goes on with its prompt."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("temperature, top_k, top_p", [(0.0, 0, 1.0), (0.8, 0, 1.0), (1.5, 9, 0.9)])
def test_equals_recomputing_every_token_without_a_cache(decoder, temperature, top_k, top_p):
    options = dict(temperature=temperature, top_k=top_k, top_p=top_p)
    found = decoding.sample(
        *decoder, PROMPTS, max_tokens=12, eot_id=EOT, samples=2, seed=4, **options
    )
    scores = slow_scores(decoder)
    choice = token_choice.Choice(**{name: jnp.asarray(value) for name, value in options.items()})
    for row, prompt in enumerate(PROMPTS):
        for sample in range(2):
            assert found[row][sample] == slow_sample(
                scores, prompt, row, sample, max_tokens=12, seed=4, eot_id=EOT, choice=choice
            )
    assert (found[0][0] == found[0][1]) == (temperature == 0)


def test_the_last_position_is_used_and_no_more(gpt):
    prompt = list(np.arange(60) % 39 + 1)  # of 64
    found = decoding.sample(*gpt, [prompt], max_tokens=5, eot_id=None, temperature=0.0)[0][0]
    scores = slow_scores(gpt)
    for i in range(5):
        assert found[i] == scores(prompt + found[:i]).argmax()
    with pytest.raises(UserError, match="room for 5 new ones in the model's 64 positions"):
        decoding.sample(*gpt, [prompt], max_tokens=6, eot_id=None)


def test_a_batch_of_unequal_prompts_equals_each_alone(decoder):
    def greedy(prompts):
        return decoding.sample(*decoder, prompts, max_tokens=12, eot_id=EOT, temperature=0.0)

    def beams(prompts):
        return decoding.beam_search(
            *decoder, prompts, max_tokens=12, eot_id=EOT, beams=3, samples=3
        )

    for run in (greedy, beams):
        together = run(PROMPTS)
        assert together == [run([prompt])[0] for prompt in PROMPTS]
        assert len({tuple(texts[0]) for texts in together}) == len(PROMPTS)


def test_draws_depend_on_seed_row_sample_and_token_only(gpt):
    def run(prompts=PROMPTS, **options):
        options = dict(seed=1, samples=2, batch_size=8, max_tokens=12) | options
        return decoding.sample(*gpt, prompts, eot_id=None, **options)

    found = run()
    assert run(batch_size=1) == found
    assert run(PROMPTS[:3]) == found[:3]
    assert [texts[:1] for texts in found] == run(samples=1)
    assert [[text[:7] for text in texts] for texts in found] == run(max_tokens=7)
    assert run(seed=2) != found
    again = run([PROMPTS[0]] * 3)
    assert again[0] == found[0] and again[1] != again[0] and again[2] != again[0]


def draws(logits, count, **options):
    options = dict(temperature=1.0, top_k=0, top_p=1.0) | options
    choice = token_choice.Choice(**{name: jnp.asarray(value) for name, value in options.items()})
    keys = jax.random.split(jax.random.key(0), count)
    tokens = choose(jnp.tile(logits, (count, 1)), keys, choice)
    return np.bincount(np.asarray(tokens), minlength=len(logits))


def chi_squared(counts, p):
    expected = counts.sum() * p
    return float(((counts - expected) ** 2 / expected).sum())


def test_frequencies_are_the_softmax_at_that_temperature():
    logits = np.float32([0.5, -1.0, 2.0, 0.0, 1.2, -0.3, 0.9, -2.0])

    def softmax(temperature):
        p = np.exp(logits / temperature)
        return p / p.sum()

    for temperature in (1.0, 0.7, 2.0):
        counts = draws(logits, 20000, temperature=temperature)
        # 7 degrees of freedom: above 32 once in 25,000 times if the draws are right.
        assert chi_squared(counts, softmax(temperature)) < 32
        assert chi_squared(counts, softmax(temperature * 1.1)) > 32


def test_top_k_and_top_p_restrict_the_draws():
    p = np.float32([0.05, 0.4, 0.1, 0.25, 0.2])
    logits = np.log(p) + 3

    def kept(**options):
        counts = draws(logits, 4000, **options)
        support = set(np.flatnonzero(counts).tolist())
        left = np.where([i in support for i in range(5)], p, 0)
        if len(support) > 1:
            used = sorted(support)
            assert chi_squared(counts[used], (left / left.sum())[used]) < 30
        return support

    assert kept() == {0, 1, 2, 3, 4}
    assert kept(top_k=1) == {1}
    assert kept(top_k=3) == {1, 3, 4}
    assert kept(top_k=5) == kept(top_k=99) == {0, 1, 2, 3, 4}
    assert kept(top_p=0.3) == {1}
    assert kept(top_p=0.5) == {1, 3}
    assert kept(top_p=0.9) == {1, 3, 4, 2}
    # Of the three likeliest the first has 0.4 / 0.85 = 0.47 and the first two 0.76.
    assert kept(top_k=3, top_p=0.7) == {1, 3}
    # Temperature comes first: at 0.5 the likeliest has 0.4^2 / 0.275 = 0.58.
    assert kept(temperature=0.5, top_p=0.55) == {1}


def test_the_end_token_ends_and_is_left_out(gpt):
    options = dict(max_tokens=12, temperature=0.0)
    free = decoding.sample(*gpt, PROMPTS, eot_id=None, **options)
    assert all(len(texts[0]) == 12 for texts in free)
    eot = free[0][0][4]
    ended = decoding.sample(*gpt, PROMPTS, eot_id=eot, **options)
    for (text,), (whole,) in zip(ended, free):
        assert text == (whole[: whole.index(eot)] if eot in whole else whole)
    assert len(ended[0][0]) <= 4


def test_ids_behind_the_vocabulary_are_never_produced(gpt):
    options = dict(max_tokens=30, eot_id=None)
    assert max(decoding.sample(*gpt, [[1]], **options)[0][0]) >= 20
    for run in (decoding.sample, decoding.beam_search):
        assert max(run(*gpt, [[1]], vocab_size=20, **options)[0][0]) < 20


def test_options_and_nearby_lengths_share_a_compilation(gpt):
    sampled, searched = decoding._sample, decoding._beam_search
    sampled.clear_cache()
    searched.clear_cache()

    def run(prompts, **options):
        decoding.sample(*gpt, prompts, **options)

    run(PROMPTS, max_tokens=16, eot_id=None)
    run(PROMPTS[:3], max_tokens=3, eot_id=5, temperature=0.0, seed=9)
    run([[1] * 17] * 4, max_tokens=1, eot_id=0, top_k=3, top_p=0.2, vocab_size=7)
    assert sampled._cache_size() == 1
    run([[1] * 18] * 4, max_tokens=1, eot_id=None)
    assert sampled._cache_size() == 2
    for penalty in (0.0, 1.0):
        for prompts in (PROMPTS, PROMPTS[:3]):
            options = dict(max_tokens=9, eot_id=3, length_penalty=penalty)
            decoding.beam_search(*gpt, prompts, beams=2, **options)
    assert searched._cache_size() == 1


@pytest.mark.parametrize(
    "prompts, options, message",
    [
        ([[1], []], {}, "Prompt 2 is empty"),
        ([[1] * 65], {"max_tokens": 1}, "65 tokens, but the model has 64 positions"),
        ([[1]], {"max_tokens": 0}, "max_tokens=0 must be at least 1"),
        ([[1]], {"temperature": -1.0}, "temperature=-1.0"),
        ([[1]], {"top_k": -1}, "top_k=-1"),
        ([[1]], {"top_p": 0.0}, "top_p=0.0"),
        ([[1]], {"top_p": 1.1}, "top_p=1.1"),
        ([[1]], {"samples": 0}, "samples=0"),
    ],
)
def test_bad_input_is_told_in_a_sentence(gpt, prompts, options, message):
    with pytest.raises(UserError, match=message):
        decoding.sample(*gpt, prompts, **({"max_tokens": 4, "eot_id": None} | options))


def test_bad_beams_are_told_in_a_sentence(gpt):
    for options, message in (({"beams": 0}, "beams=0"), ({"beams": 2, "samples": 3}, "samples=3")):
        with pytest.raises(UserError, match=message):
            decoding.beam_search(*gpt, [[1]], max_tokens=4, eot_id=None, **options)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A GPT-2 of `transformers` with large random weights, and the same one of ours."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from training import huggingface

    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    sizes = dict(vocab_size=19, n_positions=48, n_embd=16, n_layer=2, n_head=2)
    config = transformers.GPT2Config(**sizes, bos_token_id=EOT, eos_token_id=EOT, pad_token_id=EOT)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    for p in theirs.parameters():
        p.data += (0.4 if p.ndim > 1 else 0.1) * torch.randn_like(p)
    ln_f, wte = theirs.transformer.ln_f, theirs.transformer.wte
    ln_f.bias.data += 0.3 * wte.weight.data[EOT]  # so that some texts end
    theirs.save_pretrained(folder)
    loaded = huggingface.load(folder)
    model = loaded.model | {"dtype": "float32", "remat": "none"}
    ours = objectives.build(_Sections(model, loaded.objective), "cpu")
    return theirs, (ours, jax.tree.map(jnp.asarray, loaded.params))


class _Sections:
    def __init__(self, model, objective):
        self.model, self.objective = model, objective


def _generate(theirs, prompt, **options):
    torch = pytest.importorskip("torch")
    found = theirs.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=20,
        do_sample=False,
        **options,
    )
    return [[t for t in row if t != EOT] for row in found[:, len(prompt) :].tolist()]


def test_greedy_equals_transformers(published):
    theirs, ours = published
    prompts = [[t % 18 + 1 for t in prompt] for prompt in PROMPTS]
    found = decoding.sample(*ours, prompts, max_tokens=20, eot_id=EOT, temperature=0.0)
    assert found == [_generate(theirs, prompt) for prompt in prompts]


@pytest.mark.parametrize("beams", [2, 4])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -1.0])
def test_beam_search_equals_transformers(published, beams, length_penalty):
    theirs, ours = published
    options = dict(length_penalty=length_penalty)
    rng = np.random.default_rng(beams)
    prompts = [rng.integers(1, 19, n).tolist() for n in (1, 3, 9, 17, 4)]
    found = decoding.beam_search(
        *ours, prompts, max_tokens=20, eot_id=EOT, beams=beams, samples=beams, **options
    )
    options |= dict(num_beams=beams, num_return_sequences=beams)
    assert found == [_generate(theirs, prompt, **options) for prompt in prompts]
    lengths = {len(text) for texts in found for text in texts}
    assert min(lengths) < 20 and len(lengths) > 2  # some ended by themselves
