"""The tasks of data_pipeline/tasks/prompts.py as tasks of lm-eval, from local files.

lm-eval draws the demonstrations, puts the prompts together and scores: accuracy by the likelihood
(acc) and by the likelihood per character (acc_norm). GPT-3's two other rules are added to it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from lm_eval.api import metrics, task

from data_pipeline.tasks import prompts, squad
from evaluation import squad as squad_scores

Count = Callable[[Sequence[str]], list[int]]
OUTPUTS = {
    "choices": "multiple_choice",
    "contexts": "multiple_choice",
    "word": "loglikelihood",
    "answer": "generate_until",
}
# Fields of a document: what is read, what is compared, and what is right or follows.
FIELDS = {
    "choices": ("query", "choices", "gold"),
    "contexts": ("gold", "choices", "target"),
    "word": ("query", None, "target"),
    "answer": ("query", None, "target"),
}


class LocalTask(task.ConfigurableTask):
    """A task from local files, which adds GPT-3's rules of comparing choices (section 2.4).

    acc_token compares log-likelihoods per token, acc_unconditional log P(choice | context) -
    log P(choice | "Answer:").
    """

    def __init__(self, name: str, documents: prompts.Documents, count_tokens: Count):
        """Makes a task.

        Args:
          name: of prompts.PROMPTS.
          documents: of the task.
          count_tokens: of a model: how many tokens texts have.
        """
        self._prompt, self._count_tokens = prompts.PROMPTS[name], count_tokens
        text, choices, target = FIELDS[self._prompt.kind]
        splits = {
            split: datasets.Dataset.from_list(rows) for split, rows in documents.splits.items()
        }
        config: dict[str, Any] = {
            "task": name,
            "custom_dataset": lambda **_: splits,
            "test_split": documents.measured,
            "fewshot_split": documents.demonstrations,
            "output_type": OUTPUTS[self._prompt.kind],
            "doc_to_text": text,
            "doc_to_choice": choices,
            "doc_to_target": target,
            "target_delimiter": self._prompt.delimiter,
        }
        if self._prompt.kind == "answer":
            most = self._prompt.most_tokens
            config["generation_kwargs"] = {"until": ["\n"], "max_gen_toks": most}
        super().__init__(config=config)
        for name in self.aggregation_names:
            self._aggregation_list[name], self._higher_is_better[name] = metrics.mean, True

    @property
    def aggregation_names(self) -> tuple[str, ...]:
        """Names of the numbers that are added to lm-eval's, all of them means."""
        added = {"choices": ("acc_token", "acc_unconditional"), "answer": ("exact", "f1")}
        return added.get(self._prompt.kind, ())

    def construct_requests(self, doc: Mapping, ctx: Any, **kwargs):
        """Returns lm-eval's requests, and for the unconditional rule those behind "Answer:"."""
        requests = super().construct_requests(doc, ctx, **kwargs)
        if self._prompt.kind != "choices" or not doc["query"]:
            return requests
        again = super().construct_requests(doc, prompts.ANSWER_CONTEXT, **kwargs)
        for request in again:
            request.idx += len(requests)
        return requests + again

    def process_results(self, doc: Mapping, results: Sequence) -> dict[str, Any]:
        """Returns lm-eval's numbers of a document, and those that are added."""
        if self._prompt.kind == "answer":
            return _compare(self.config.task, results[0], doc["answers"])
        if self._prompt.kind != "choices":
            return super().process_results(doc, results)
        choices, gold = doc["choices"], doc["gold"]
        found = super().process_results(doc, results[: len(choices)])
        log_p = np.array([score for score, _ in results])
        conditional, behind_answer = log_p[: len(choices)], log_p[len(choices) :]
        texts = [self._prompt.delimiter + choice for choice in choices]
        lengths = np.array(self._count_tokens(texts))
        found["acc_token"] = float(np.argmax(conditional / lengths) == gold)
        if len(behind_answer):
            found["acc_unconditional"] = float(np.argmax(conditional - behind_answer) == gold)
        if "term" in doc:
            found[f"acc_{doc['term']}"] = found["acc"]
        return found


def _compare(task_name: str, text: str, answers: Sequence[str]) -> dict[str, float]:
    """Returns what SQuAD's official program finds for a single question, from 0 to 1."""
    answers = tuple(squad.Answer(answer, 0) for answer in answers)
    question = squad.Question("", "", 0, answers, impossible=not answers)
    text = "" if text.strip() == prompts.NO_ANSWER else text.strip()
    scores = squad_scores.score(task_name, [question], {"": text})
    exact = scores["exact" if "exact" in scores else "exact_match"]
    return {"exact": exact / 100, "f1": scores["f1"] / 100}
