"""Which answers may become examples, and how one is made (DESIGN.md §4.2, §4.4)."""

from __future__ import annotations

from shared_core.values import Entry, Example, Outcome, Request, Source, Texts, Vector, digest, fold


def refusal(
    request: Request, outcome: Outcome, arm: str, reference: str, score: float | None, trust: float
) -> str | None:
    """Why this answer may not become an example, in one word for a counter, or None if it may.

    Args:
        request: What was asked.
        outcome: What was answered.
        arm: The arm that answered.
        reference: The arm whose answers are trusted without feedback. Whoever has settled the trust of a writer
            otherwise (imports, corrections, replays) passes the same name for both.
        score: Explicit reward of the answer in [0, 1]; None if nobody gave one.
        trust: Score from which another arm's answer is trusted, else the small model would learn its mistakes.

    Returns:
        ``"untrusted"`` only if nothing else stands against it, so that good feedback may still admit the answer.
    """
    reasons = {
        "no_store": not request.store,
        "unfinished": not outcome.finished,
        "tool_calls": outcome.tool_calls,
        "empty_query": not request.query.strip(),
        "empty_answer": not outcome.answer.strip(),
        "not_text": _shows_more_than_text(request),
        "not_unicode": not (_is_encodable(request.query) and _is_encodable(outcome.answer)),
        "history": request.has_history and not request.condensed,
        "untrusted": arm != reference and (score is None or score < trust),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def example_id(scope: str, task: str, query: str) -> str:
    """The same for the same query (white space aside) of one scope and task: 32 hex digits."""
    return digest([scope, task, fold(query)])[:32]


def example_of(
    texts: Texts,
    vector: Vector,
    *,
    scope: str,
    task: str,
    source: Source,
    writer: str,
    now: float,
    exact_key: str = "",
) -> Example:
    """The example that these texts make.

    Args:
        texts: Query and answer, redacted.
        vector: Unit embedding of the query, of shape (dimension,).
        scope: Whose example it is.
        task: What it may be shown for.
        source: Where it comes from.
        writer: The model that wrote the answer.
        now: Seconds since the epoch.
        exact_key: Key of the exact answer that was stored with it, if any; the two are removed together.
    """
    entry = Entry(
        id=example_id(scope, task, texts.query),
        scope=scope,
        task=task,
        source=source,
        writer=writer,
        created_at=now,
        size=texts.size,
        exact_key=exact_key,
    )
    return Example(entry, texts, vector)


def _shows_more_than_text(request: Request) -> bool:
    """True if a user turn holds an image or the like: the query alone does not say what was asked."""
    return any(m.role == "user" and not m.is_text for m in request.messages) and not request.condensed


def _is_encodable(text: str) -> bool:
    """False for half a surrogate pair, which streams cut by characters leave behind and no store takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
