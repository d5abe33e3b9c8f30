"""What a choice of examples came to, in a sentence."""

from __future__ import annotations

from shared_core.values import Selection


def summary(selection: Selection, arm: str) -> str:
    """How many examples an arm is shown; if none, which bound left them out."""
    shown, considered = len(selection.for_arm(arm)), selection.considered
    text = f"{shown} examples of {considered} candidates"
    if shown or not considered or selection.candidates is None:
        return text
    similar = sum(similarity >= selection.threshold for similarity in selection.candidates.similarity)
    if not similar:
        return f"{text}: none reaches the similarity that relevance_quantile asks for, {selection.threshold:.2f}"
    return f"{text}: {similar} are similar enough, but each is rated poorly or longer than example_tokens allows"
