"""Our backend of lm-eval beside lm-eval's own, which runs the same weights in PyTorch."""

import json

import jax
import numpy as np
import pytest
import tiny

from errors import UserError
from training import huggingface

pytest.importorskip("lm_eval")

from lm_eval.api import instance  # noqa: E402

from data_pipeline.tasks import prompts  # noqa: E402
from evaluation import fewshot, harness, harness_tasks, load  # noqa: E402

SIZES = {"model.width": 16, "model.heads": 2, "model.vocab_size": 290}
WORDS = "the quick brown fox jumps over lazy dog a cat sat on mat and it slept".split()
PAIRS = [
    ("the quick brown", " fox jumps over"),
    ("the quick brown", " cat"),
    ("the quick brown", " dog"),
    ("the quick brown ", "fox"),  # the space belongs to what follows
    ("", "a cat sat"),
    ("a cat\n\nQuestion: the dog?\nAnswer:", " yes"),
    ("a cat", "s and dogs"),
    (" ".join(WORDS * 9), " a cat sat"),  # too long
]


@pytest.fixture(scope="module")
def model(open_model, byte_bpe):
    return open_model(tiny.config("gpt2", **SIZES), byte_bpe)


@pytest.fixture(scope="module")
def ours(model):
    return harness.wrap(model)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """The model as `transformers` loads it, with its vocabulary."""
    path = tmp_path_factory.mktemp("published")
    config, params = model.config, jax.device_get(model.params)
    huggingface.save(path, config.model, config.objective, params, model.tokenizer)
    return path


@pytest.fixture(scope="module")
def peer(folder):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from lm_eval.models import huggingface as lm_eval_huggingface

    return lm_eval_huggingface.HFLM(
        pretrained=str(folder), device="cpu", dtype="float32", batch_size=4
    )


def requests(kind, arguments):
    return [instance.Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


def test_log_likelihoods_equal_those_of_lm_evals_backend(ours, peer):
    asked = requests("loglikelihood", PAIRS)
    found, expected = ours.loglikelihood(asked), peer.loglikelihood(asked, disable_tqdm=True)
    np.testing.assert_allclose([a for a, _ in found], [a for a, _ in expected], atol=1e-3)
    assert [b for _, b in found] == [b for _, b in expected]
    assert ours.cut >= 1


def test_rolling_log_likelihoods_equal_those_of_lm_evals_backend(ours, peer):
    texts = [("a cat sat on the mat",), (" ".join(WORDS * 12),), ("dog",)]
    asked = requests("loglikelihood_rolling", texts)
    found = ours.loglikelihood_rolling(asked)
    np.testing.assert_allclose(found, peer.loglikelihood_rolling(asked), atol=1e-3)


def test_generated_texts_equal_those_of_lm_evals_backend(ours, peer):
    whole = ours.generate_until(
        requests("generate_until", [(p, {"until": [], "max_gen_toks": 40}) for p in WORDS[:4]])
    )
    stops = [text[len(text) // 2 :][:3] for text in whole]  # some come late, some at once
    asked = [(p, {"until": stops[i:], "max_gen_toks": 24}) for i, p in enumerate(WORDS[:4])]
    asked += [(" ".join(WORDS * 9), {"until": ["\n"], "max_gen_toks": 24})]
    asked = requests("generate_until", asked)
    found = ours.generate_until(asked)
    assert found == peer.generate_until(asked, disable_tqdm=True)
    assert all(stop not in text for text, stop in zip(found, stops))


def test_generation_stops_soon_after_the_end(ours, monkeypatch):
    """Few tokens at a time, and no prompt whose end has come goes on."""
    calls, sample = [], harness.decoding.sample

    def counted(objective, params, prompts, *, max_tokens, **kwargs):
        calls.append((len(prompts), max_tokens))
        return sample(objective, params, prompts, max_tokens=max_tokens, **kwargs)

    stop = ours.generate_until(requests("generate_until", [("the", {"max_gen_toks": 2})]))[0][:1]
    whole = ours.generate_until(requests("generate_until", [("a cat", {"max_gen_toks": 32})]))[0]
    monkeypatch.setattr(harness.decoding, "sample", counted)
    asked = [(prompt, {"until": [stop], "max_gen_toks": 32}) for prompt in ("the", "a cat", "the")]
    found = ours.generate_until(requests("generate_until", asked))
    assert found == ["", whole.split(stop)[0], ""]
    assert calls[0] == (3, 16) and calls[1:] in ([], [(1, 16)])


def test_unknown_options_of_generation(ours):
    asked = requests("generate_until", [("the", {"until": ["."], "num_beams": 4})])
    with pytest.raises(UserError, match="num_beams"):
        ours.generate_until(asked)


# Tasks


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Small files of every kind of task, in the official layouts."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)

    def text(size):
        return " ".join(rng.choice(WORDS, size))

    for split, count in (("train", 12), ("valid", 10)):
        goals = [
            {"goal": text(3), "sol1": text(2), "sol2": text(4), "label": i % 2}
            for i in range(count)
        ]
        write_lines(root / f"piqa/{split}.jsonl", goals)
        blanks = [
            {
                "qID": f"{split}{i}",
                "sentence": f"{text(3)} _ {text(2)}",
                "option1": text(1),
                "option2": text(1),
                "answer": str(1 + i % 2),
            }
            for i in range(count)
        ]
        name = {"train": "train_xl", "valid": "dev"}[split]
        write_lines(root / f"winogrande/{name}.jsonl", blanks)
    write_lines(root / "lambada/lambada_test.jsonl", [{"text": text(9)} for _ in range(8)])
    pairs = {"sentence_good": "a cat sat", "sentence_bad": "a cat it", "linguistics_term": "order"}
    for name in ("one", "two"):
        write_lines(root / f"blimp/{name}.jsonl", [{"UID": name} | pairs] * 3)
    return root


@pytest.mark.parametrize(
    "name, shots", [("piqa", 0), ("piqa", 2), ("winogrande", 1), ("lambada", 2)]
)
def test_tasks_score_the_same_with_either_backend(ours, peer, data, name, shots):
    import lm_eval
    from lm_eval import tasks

    manager, samples = tasks.TaskManager(include_defaults=False), []
    for backend in (ours, peer):
        documents = prompts.read(name, [data], shots)
        task = harness_tasks.LocalTask(name, documents, ours.count_tokens)
        results = lm_eval.simple_evaluate(
            model=backend,
            tasks=[task],
            task_manager=manager,
            num_fewshot=shots,
            bootstrap_iters=0,
            fewshot_random_seed=5,
        )
        samples.append((results["results"][name], results["samples"][name]))
    (values, one), (others, other) = samples
    assert [sample["arguments"] for sample in one] == [sample["arguments"] for sample in other]
    for a, b in zip(one, other, strict=True):
        log_p = [[resp[0][0] for resp in sample["resps"]] for sample in (a, b)]
        np.testing.assert_allclose(*log_p, atol=1e-3)
    assert {k: v for k, v in values.items() if k.startswith("acc")} == {
        k: v for k, v in others.items() if k.startswith("acc")
    }


class Counter(harness.model.LM):
    """Finds a text the likelier the fewer characters it has, after "Answer:" by half of that."""

    def count_tokens(self, texts):
        return [len(text.split()) for text in texts]

    def loglikelihood(self, requests, disable_tqdm=False):
        self.seen = [request.args for request in requests]
        return [
            (-len(more) * (0.5 if context == "Answer:" else 1.0), False)
            for context, more in self.seen
        ]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError

    generate_until = loglikelihood_rolling


def test_the_three_rules_of_gpt_3(tmp_path):
    """ " aaaa bb" has 8 characters and 2 tokens, " cccccc" 7 and 1."""
    import lm_eval
    from lm_eval import tasks

    rows = [{"goal": "q", "sol1": "aaaa bb", "sol2": "cccccc", "label": 0}]
    write_lines(tmp_path / "piqa/valid.jsonl", rows * 2)
    backend = Counter()
    task = harness_tasks.LocalTask(
        "piqa", prompts.read("piqa", [tmp_path], 0), backend.count_tokens
    )
    manager = tasks.TaskManager(include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=backend, tasks=[task], task_manager=manager, num_fewshot=0, bootstrap_iters=0
    )["results"]["piqa"]
    # -8 < -7; -8 / 2 > -7 / 1; -8 + 4 < -7 + 3.5
    assert found["acc,none"] == 0 and found["acc_token,none"] == 1
    assert found["acc_unconditional,none"] == 0
    assert set(backend.seen) == {
        ("q", " aaaa bb"), ("q", " cccccc"), ("Answer:", " aaaa bb"), ("Answer:", " cccccc")
    }  # fmt: skip


def test_demonstrations_are_drawn_by_the_seed_and_never_the_document(data):
    import lm_eval
    from lm_eval import tasks

    manager, contexts = tasks.TaskManager(include_defaults=False), []
    for seed in (1, 1, 2):
        backend = Counter()
        documents = prompts.read("lambada", [data], 3)
        task = harness_tasks.LocalTask("lambada", documents, backend.count_tokens)
        lm_eval.simple_evaluate(
            model=backend,
            tasks=[task],
            task_manager=manager,
            num_fewshot=3,
            bootstrap_iters=0,
            fewshot_random_seed=seed,
        )
        contexts.append(backend.seen)
    assert contexts[0] == contexts[1] != contexts[2]
    for context, word in contexts[0]:
        *before, own = context.split("\n\n")
        assert len(before) == 3 and own.endswith(" ____. ->")
        assert all(" ____. -> " in text for text in before)
        assert f"{own}{word}" not in before


def test_few_shots_on_a_page(model, data, tmp_path):
    smaller = model._replace(params=jax.tree.map(lambda x: 0 * x, model.params))
    results = []
    for name, each in (("zero", smaller), ("random", model)):
        for shots in (0, 1):
            results += fewshot.measure(name, each, "piqa", shots, folders=[str(data)], limit=4)
    assert [r.documents for r in results] == [4] * 4
    assert results[0].split == "valid" and results[1].demonstrations == "train"
    assert results[0].values["acc_token"] == 0.5  # a tie is the first choice: gold is 0, 1, 0, 1
    fewshot.write(tmp_path / "page", results, "python scripts/fewshot.py", 0)
    page = (tmp_path / "page/fewshot.md").read_text()
    assert "| checkpoint | parameters | K = 0 | K = 1 |" in page and "per token" in page
    parameters = sum(x.size for x in jax.tree.leaves(model.params))
    assert f"| zero | {parameters:,} | 50.0 ± 28.9 | 50.0 ± 28.9 |" in page
    content = json.loads((tmp_path / "page/fewshot.json").read_text())
    assert content["results"][3]["shots"] == 1
    assert (tmp_path / "page/fewshot.png").read_bytes().startswith(b"\x89PNG")


def test_squad_is_written_and_scored_by_the_official_rules(model, tmp_path, monkeypatch):
    golds = ["brown fox"], ["the dog"], []
    asked = [
        {
            "id": str(i),
            "question": f"{WORDS[i]}?",
            "answers": [{"text": text, "answer_start": 0} for text in answers],
            "is_impossible": not answers,
        }
        for i, answers in enumerate(golds)
    ]
    paragraphs = [{"context": "the dog sat", "qas": asked}]
    content = {"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}
    write_lines(tmp_path / "squad/dev-v2.0.json", [content])

    def measure():
        return fewshot.measure("gpt", model, "squad-v2.0", 0, folders=[str(tmp_path)])[0]

    result = measure()  # really written
    assert result.documents == 3 and result.split == "valid"
    assert set(result.values) == {"exact", "f1"} and result.measure == "f1"
    seen = []

    def generate_until(self, requests, disable_tqdm=False):
        seen.extend(request.args for request in requests)
        return [" Brown fox, a cat", " Dog.", " N/A"]

    monkeypatch.setattr(harness.LanguageModel, "generate_until", generate_until)
    result = measure()
    assert seen[0][0] == "the dog sat\n\nQ: the?\n\nA:"
    assert seen[0][1] == {"until": ["\n"], "max_gen_toks": 32}
    assert result.values["exact"] == pytest.approx(2 / 3)
    assert result.values["f1"] == pytest.approx((0.8 + 1 + 1) / 3)


def test_an_encoder_scores_blimp_and_nothing_else(open_model, bert_config, wordpiece, data):
    bert = open_model(bert_config, wordpiece)
    (result,) = fewshot.measure("bert", bert, "blimp", 0, folders=[str(data)])
    assert result.documents == 6 and result.values["acc"] in (0.0, 1.0)
    assert result.values["acc_order"] == result.values["acc"]
    with pytest.raises(UserError, match="scores whole sentences only"):
        fewshot.measure("bert", bert, "piqa", 0, folders=[str(data)])


def test_bad_input(model, data, monkeypatch):
    def measure(task, shots, folder=data):
        return fewshot.measure("gpt", model, task, shots, folders=[str(folder)])

    with pytest.raises(UserError, match="has 12 documents to draw 13 demonstrations from"):
        measure("piqa", 13)
    with pytest.raises(UserError, match="has 7 documents to draw 8"):  # none is its own
        measure("lambada", 8)
    with pytest.raises(UserError, match="do not fit into the model's 64 positions.*lower --shots"):
        measure("piqa", 12)
    with pytest.raises(UserError, match="There is no folder"):
        measure("piqa", 0, data / "nowhere")
    with pytest.raises(UserError, match="There is no train_xl.jsonl|There is no dev.jsonl"):
        measure("winogrande", 0, data / "piqa")
    with pytest.raises(UserError, match="set --shots=0"):
        measure("blimp", 1)
    with pytest.raises(UserError, match="Unknown task 'piqq'.* Did you mean piqa"):
        fewshot.check_task("piqq")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr("lm_eval.api.task.datasets.load_dataset", unreachable)
    with pytest.raises(UserError, match="cannot be fetched .*--data=FOLDER"):
        fewshot.measure("gpt", model, "piqa", 0)


def test_a_published_folder_scores_as_the_workdir_does(folder, ours):
    again = harness.wrap(load.load(folder))
    asked = requests("loglikelihood", PAIRS[:3])
    np.testing.assert_allclose(again.loglikelihood(asked), ours.loglikelihood(asked), atol=1e-4)
