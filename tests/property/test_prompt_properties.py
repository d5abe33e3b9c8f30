"""An example of any content stays an example, and the budget holds for examples of any size."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from shared_core.prompt import example_tokens, neutralise, render, within_budget
from shared_core.values import Message, Request, ScoredExample

# Written out from the chat templates of the model families, on purpose not derived from the code under test.
CONTROL = [
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|reserved_special_token_7|>"),
    *("<|start|>", "<|channel|>", "<|message|>", "<|return|>", "<|START_OF_TURN_TOKEN|>", "<|fim_prefix|>"),
    *("<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜tool▁calls▁begin｜>"),
    *("<s>", "</s>", "<bos>", "<eos>", "<unk>", "<pad>", "<sop>", "[gMASK]", "[BOS]", "[EOS]"),
    *("<start_of_turn>", "<end_of_turn>", "<|turn>", "<turn|>", "<|tool_call>", "<tool_call|>"),
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CALLS]"),
    *("[AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    *("[|system|]", "[|user|]", "[|endofturn|]", "<extra_id_0>", "<reserved_106>", "<SPECIAL_10>", "<seed:bos>"),
    *("]~!b[", "]~b]", "[e~["),
    *("<role>", "</role>", "<_system>", "<_user>", "<_bot>", "<_end>", "[UNUSED_TOKEN_146]", "[UNUSED_TOKEN_145]"),
    *(
        "<longcat_system>",
        "<longcat_user>",
        "<longcat_assistant>",
        "</longcat_s>",
        "[THINK]",
        "[/THINK]",
        "[MODEL_SETTINGS]",
    ),
    *(
        "<think>",
        "</think>",
        "<thinking>",
        "<EOS_TOKEN>",
        "<BOS_TOKEN>",
        "<EOP_TOKEN>",
        "<PAD_TOKEN>",
        "<CLS>",
        "<sep>",
    ),
    *(
        "<function=get_weather>",
        "</function>",
        "<parameter=city>",
        "</parameter>",
        "<tool_code>",
        "<tools>",
        "</tools>",
    ),
    *(
        "<minimax:tool_call>",
        "</minimax:tool_call>",
        "<seed:tool_call>",
        "<functions>",
        "<function_calls>",
        "<TOOLCALL>",
    ),
    *("<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<PRE>", "<SUF>", "<MID>", "<EOT>", "<file_sep>"),
    *(
        "<repo_name>",
        "<reponame>",
        "<gh_stars>",
        "<issue_start>",
        "<jupyter_code>",
        "<commit_before>",
        "[PREFIX]",
        "[SUFFIX]",
    ),
    *(
        "<image>",
        "</image>",
        "<img>",
        "</img>",
        "<image_pad>",
        "<image_soft_token>",
        "<IMG_CONTEXT>",
        "<video>",
        "[IMG]",
    ),
    *("[IMG_BREAK]", "[IMG_END]", "[BEGIN_AUDIO]", "<im_start>", "<im_end>", "<begin_of_text>", "<end_of_text>"),
    *(
        "<unused42>",
        "[unused7]",
        "<mask>",
        "<mask_1>",
        "[MASK]",
        "[sMASK]",
        "[CLS]",
        "[SEP]",
        "[PAD]",
        "<用户>",
        "<AI>",
    ),
]
OURS = ["<past_example>", "</past_example>", "</past_answer>", "</past_request>", "</PAST_EXAMPLE>", "< /past_answer>"]

pieces = st.one_of(st.sampled_from(CONTROL + OURS), st.sampled_from(list("<>[]|/｜~s ")), st.text(max_size=5))
hostile = st.lists(pieces, max_size=12).map("".join)
plain = st.text(st.characters(exclude_characters="<[]", exclude_categories=["Cs"]), max_size=200)


@given(hostile)
@example("[e~[INST]")
@example("]~b]~b]")
@example("<<|a|><</SYS>>")
def test_no_control_token_survives(text):
    safe = neutralise(text)
    assert not [token for token in CONTROL if token in safe]


@given(hostile)
def test_only_spaces_are_added_and_once(text):
    safe = neutralise(text)
    assert safe.replace(" ", "") == text.replace(" ", "")
    assert neutralise(safe) == safe


@given(plain)
def test_text_without_brackets_is_byte_identical(text):
    assert neutralise(text) == text


@given(st.lists(st.tuples(hostile, hostile), min_size=1, max_size=4))
def test_the_single_prompt_has_exactly_our_fences(pairs):
    request = Request((Message("user", "what now?"),), "what now?")
    examples = [ScoredExample(str(i), 0.5, 0.5, q, a) for i, (q, a) in enumerate(pairs)]
    text = render(request, examples, "paper").rewrite
    marks = re.findall(r"<\s*/?\s*past_(?:example|request|answer)", text, re.IGNORECASE)
    assert marks == [
        "<past_example",
        "<past_request",
        "</past_request",
        "<past_answer",
        "</past_answer",
        "</past_example",
    ] * len(pairs)
    assert not [token for token in CONTROL if token in text]


roles = st.sampled_from(["system", "user", "assistant", "tool"])


@given(st.lists(roles, max_size=6), st.lists(st.tuples(hostile, hostile), max_size=4))
def test_chat_turns_are_pairs_after_the_leading_system_messages(before, pairs):
    messages = (*(Message(role, str(i)) for i, role in enumerate(before)), Message("user", "what now?"))
    examples = [ScoredExample(str(i), 0.5, 0.5, q, a) for i, (q, a) in enumerate(pairs)]
    insertion = render(Request(messages, "what now?"), examples, "chat")
    assert [turn.role for turn in insertion.turns] == ["user", "assistant"] * len(pairs)
    if pairs:
        assert all(m.role == "system" for m in messages[: insertion.index])
        assert messages[insertion.index].role != "system"


sizes = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=10)


@given(sizes, st.integers(0, 400))
def test_the_budget_is_never_exceeded_and_nothing_that_fits_is_left_out(lengths, budget):
    examples = [ScoredExample(str(i), 0.5, 0.5, "q" * q, "a" * a) for i, (q, a) in enumerate(lengths)]
    kept = within_budget(examples, budget)
    used = 0
    for one in examples:  # walk along: kept exactly where it fits beside the more useful ones
        fits = used + example_tokens(one) <= budget
        assert (one in kept) == fits
        used += example_tokens(one) if fits else 0
    assert used <= budget
    assert list(kept) == [e for e in examples if e in kept]
