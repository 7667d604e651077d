"""Small files in the layout of SQuAD."""

import json

CONTEXT = "In Paris rain fell on Monday, and snow on Friday."
VERSIONS = {"squad-v1.1": "1.1", "squad-v2.0": "v2.0"}


def document(*paragraphs):
    """A file with an article of paragraphs (context, [(id, question, answer, ...)]).

    An answer is a text that the context has, or (text, answer_start); without any the question is
    impossible.
    """
    made = []
    for context, questions in paragraphs:
        qas = []
        for key, question, *answers in questions:
            pairs = [a if isinstance(a, tuple) else (a, context.index(a)) for a in answers]
            golds = [{"text": text, "answer_start": start} for text, start in pairs]
            qas.append({"id": key, "question": question, "answers": golds})
            qas[-1]["is_impossible"] = not golds
        made.append({"context": context, "qas": qas})
    return {"version": "1", "data": [{"title": "A title", "paragraphs": made}]}


def write(path, *paragraphs):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document(*paragraphs)))
    return path
