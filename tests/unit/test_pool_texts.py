"""The cache of texts."""

from shared_core.pool.texts import TextCache
from shared_core.records import Texts


def test_the_least_recently_read_leave_first():
    cache = TextCache(limit=30)
    _, mark = cache.get("s", [])
    for name in "abc":
        cache.keep("s", {name: Texts("q" * 5, "a" * 5)}, mark)
    cache.get("s", ["a"])
    cache.keep("s", {"d": Texts("q" * 5, "a" * 5)}, mark)
    assert set(cache.get("s", "abcd")[0]) == {"a", "c", "d"}


def test_scopes_do_not_share_texts():
    cache = TextCache()
    cache.keep("s", {"a": Texts("q", "a")}, cache.get("s", [])[1])
    assert cache.get("other", ["a"])[0] == {}


def test_texts_that_were_forgotten_while_they_were_read_are_not_kept():
    cache = TextCache()
    _, mark = cache.get("s", ["a"])
    cache.forget("s", ["a"])
    cache.keep("s", {"a": Texts("q", "stale")}, mark)
    assert cache.get("s", ["a"])[0] == {}


def test_a_text_larger_than_the_cache_is_not_kept():
    cache = TextCache(limit=10)
    cache.keep("s", {"a": Texts("q" * 50, "")}, cache.get("s", [])[1])
    cache.keep("s", {"b": Texts("q", "a")}, cache.get("s", [])[1])
    assert set(cache.get("s", "ab")[0]) == {"b"}
