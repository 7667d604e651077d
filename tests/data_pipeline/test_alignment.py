import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import alignment, tokenizer_training, tokenizers

TEXT = (
    "The cafe\u0301 of Beyonce\u0301 cost 1,000 in 2010, (``the'' \ufb01ne \u00bd) \u00e9t\u00e9  "
)
KINDS = {
    "wordpiece": dict(lowercase=True),
    "byte_bpe": dict(lowercase=False),
    "word_bpe": dict(lowercase=True),
    "sentencepiece": dict(lowercase=True),  # with the clean-up of ALBERT
}


def train(kind, lowercase):
    lines = [TEXT, "it was in the fine city of 2010, and cost 1,000 more"] * 20
    size = 330 if kind == "byte_bpe" else 260
    return tokenizer_training.train(kind, lines, size, lowercase)


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    return train(request.param, **KINDS[request.param])


def check(tokenizer, text):
    """Returns the texts of the pieces: those of `encode`, in order, without space around them."""
    (found,) = tokenizer.locate_batch([text])
    assert found.ids.tolist() == tokenizer.encode(text)
    starts, ends = found.spans.T
    assert (starts <= ends).all() and (ends <= len(text)).all() and (starts >= 0).all()
    assert (np.diff(starts) >= 0).all() and (np.diff(ends) >= 0).all()
    pieces = [text[start:end] for start, end in found.spans]
    assert all(piece == piece.strip() for piece in pieces)
    return pieces


def test_pieces_stand_where_they_say(tokenizer):
    check(tokenizer, TEXT)
    # All but space is in a piece; a character of several bytes may be in several of them.
    (found,) = tokenizer.locate_batch([TEXT])
    covered = np.zeros(len(TEXT), bool)
    for start, end in found.spans:
        covered[start:end] = True
    assert {char for char, inside in zip(TEXT, covered) if not inside} == {" "}


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(blacklist_categories=["Cs"], max_codepoint=0x1F700), max_size=60))
def test_any_text_keeps_its_order(tokenizer, text):
    check(tokenizer, text)


def test_pieces_of_published_vocabularies(shared):
    """Byte-level BPE has a piece for the first of two spaces, SentencePiece one before "("."""
    vocab = shared / "data" / "vocab"
    text = "In  2010, caf\u00e9s (``the'' 1,000)"
    words = "In 2010 , cafés ( ` ` the ' ' 1 , 000 )"
    for path, expected in {
        "bert-base-uncased-vocab.txt": words.split(" "),
        "gpt1": words.split(" "),
        "roberta": "In  2010 , caf és ( `` the '' 1 , 000 )".split(" "),
        "albert/spiece.model": "In 2010 , café s  ( `` the '' 1,000 )".split(" "),
    }.items():
        assert check(tokenizers.load(vocab / path), text) == expected


def test_a_piece_of_mere_space_has_no_characters():
    found = alignment.locate("a  b", [5, 6, 7], [(0, 1), (1, 3), (2, 4)])
    assert found.spans.tolist() == [[0, 1], [3, 3], [3, 4]]


def test_an_accent_belongs_to_what_is_before_it():
    found = alignment.locate("e\u0301 e", [5, 6], [(0, 1), (3, 4)])
    assert found.spans.tolist() == [[0, 2], [3, 4]]


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(
        st.sampled_from(" \t\u00a0\n`'aE\u00e9\u0301\u0130\u00bd\u01c4\ud55c\u3000x"), max_size=20
    )
)
def test_what_sentencepiece_reads_comes_from_the_text(text):
    cleaned, origins = alignment.read(text, True, False)
    assert cleaned == alignment.clean(text)
    assert len(origins) == len(cleaned) and (np.diff(origins, axis=0) >= 0).all()
    for char, (start, end) in zip(cleaned, origins):
        source = text[start:end]
        assert char in (" ", '"') or char in alignment.clean(source), (char, source)
    lower, origins = alignment.read(text, True, True)
    assert lower == cleaned.lower() and len(origins) == len(lower)


def test_few_letters_become_two_in_lower_case():
    read, origins = alignment.read("\u0130x", False, True)
    assert read == "i\u0307x" and origins.tolist() == [[0, 1], [0, 1], [1, 2]]
