"""A warning points at the line of the user's code, however deep in ours its reason is."""

import warnings

import pytest
from langchain_core.language_models.fake_chat_models import ParrotFakeChatModel

from iccache_langchain import ICCacheChatModel
from shared_core.user_warning import warn_user


def test_frames_of_ours_are_passed_over():
    with pytest.warns(RuntimeWarning, match="careful") as caught:
        warn_user("careful", RuntimeWarning)
    assert caught[0].filename == __file__


def test_a_warning_of_a_constructor_names_the_line_that_calls_it():
    arms = {"small": ParrotFakeChatModel(), "large": ParrotFakeChatModel()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = ICCacheChatModel(
            arms=arms, reference="large", costs={"small": 0.1}, store="memory://", embedder=len, api_key="x"
        )
    model.close()
    [warning] = [each for each in caught if "each arm has its own client" in str(each.message)]
    assert warning.filename == __file__
