"""How likely a masked language model finds a sentence (Salazar et al., 2020, section 2).

The pseudo-log-likelihood adds, over all tokens of a sentence, the log-probability of the token
where it alone is masked.
"""

from collections.abc import Sequence

from errors import UserError
from evaluation import likelihood, load, packed

SCORED = ("masked_lm", "electra", "distill")  # objectives; ELECTRA by its generator


def score(
    model: load.Model,
    sentences: Sequence[str],
    *,
    batch_tokens: int = 0,
    report: packed.Report | None = None,
) -> list[likelihood.Score]:
    """Scores sentences, each read as [CLS] sentence [SEP], in their order.

    Args:
      model: a masked LM.
      sentences: at most as long as the model has positions.
      batch_tokens: see packed.look_up.
      report: likewise.

    Returns:
      Pseudo-log-likelihoods in nats, and whether every token is the likeliest where it is masked.

    Raises:
      UserError: for a model of another kind, or a sentence that is empty or too long.
    """
    tokenizer, most = model.tokenizer, model.objective.network.config.max_positions
    if model.config.objective.name not in SCORED:
        raise UserError(
            f"This model was trained for {model.config.objective.name}, which fills no masks: give "
            "a masked language model."
        )
    pieces = []
    for number, ids in enumerate(tokenizer.encode_batch(sentences)):
        tokens = [tokenizer.cls_id, *ids, tokenizer.sep_id]
        if not ids or len(tokens) > most:
            raise UserError(
                f"{sentences[number][:40]!r} has {len(tokens)} tokens, but there must be between 3 "
                f"and the model's {most} positions: take it out."
            )
        for place, token in enumerate(ids, 1):
            masked = tokens.copy()
            masked[place] = tokenizer.mask_id
            piece = packed.Piece(masked, [place], [0], [token], [number], range(len(tokens)))
            pieces.append(piece)
    found = packed.look_up(model, pieces, len(sentences), batch_tokens=batch_tokens, report=report)
    return [likelihood.Score(float(total), bool(best)) for total, best in zip(*found, strict=True)]
