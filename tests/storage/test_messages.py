"""Conversations in the shapes that files have them in."""

from __future__ import annotations

import json

import pytest

from winnow.storage.messages import TurnError, conversation, for_server, spoken

USER = {"role": "user", "content": "Warm?"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"city": "X"}}}


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (USER, USER),
        ({"from": "human", "value": "u"}, {"role": "user", "content": "u"}),
        ({"from": "gpt", "value": "a"}, {"role": "assistant", "content": "a"}),
        ({"from": "system", "value": "s"}, {"role": "system", "content": "s"}),
        ({"from": "tool", "value": "t"}, {"role": "tool", "content": "t"}),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b", "x": None}]},
            {"role": "user", "content": "a\nb"},
        ),
        ({"role": "user", "content": []}, {"role": "user", "content": ""}),
        (
            {"role": "tool", "content": "12 C", "name": "f", "tool_call_id": "1", "weight": 0},
            {"role": "tool", "content": "12 C", "name": "f", "tool_call_id": "1", "weight": 0},
        ),
        ({**USER, "name": None, "tool_calls": None}, USER),
        ({**USER, "tool_calls": []}, USER),
        ({"role": "model", "content": ""}, {"role": "model", "content": ""}),
    ],
)
def test_a_message_of_one_shape(turn, message) -> None:
    (made,) = conversation([turn])
    assert made == message
    assert conversation([made]) == (made,)


@pytest.mark.parametrize("said", [{}, {"content": None}, {"content": ""}])
@pytest.mark.parametrize("how", [lambda calls: calls, json.dumps])
def test_a_call_needs_no_content_and_its_arguments_are_an_object(said, how) -> None:
    written = json.loads(json.dumps(CALL))
    written["function"]["arguments"] = json.dumps(CALL["function"]["arguments"])
    for call in (CALL, written):
        (made,) = conversation([{"role": "assistant", **said, "tool_calls": how([call])}])
        assert made == {"role": "assistant", "content": "", "tool_calls": [CALL]}
        assert conversation([made]) == (made,)


def test_arguments_that_are_no_json_stay_as_they_are() -> None:
    call = {"function": {"name": "f", "arguments": "{city: X"}}
    (made,) = conversation([{"role": "assistant", "tool_calls": [call]}])
    assert made["tool_calls"] == [call]
    assert for_server([made]) == [made]


def test_nulls_of_other_rows_are_left_out_where_rows_are_padded() -> None:
    call = {"function": {"name": "f", "arguments": {"city": "X", "day": None}}}
    turn = {"role": "assistant", "tool_calls": [call]}
    assert conversation([turn])[0]["tool_calls"] == [call]
    left = {"function": {"name": "f", "arguments": {"city": "X"}}}
    assert conversation([turn], padded=True)[0]["tool_calls"] == [left]


def test_conversations_that_differ_in_a_call_alone_differ() -> None:
    one, other = (
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": name}}]}
        for name in "fg"
    )
    assert spoken(one) != spoken(other)
    assert spoken(USER) == "Warm?"


@pytest.mark.parametrize(
    ("turn", "says"),
    [
        ("Hello", "has a turn 2 that is 'Hello', not an object with the keys 'role' and 'content'"),
        ({"content": "x"}, "has a turn 2 without the key 'role'"),
        ({"role": "", "content": "x"}, "has a turn 2 whose key 'role' is '', not a text"),
        ({"role": 5, "content": "x"}, "has a turn 2 whose key 'role' is 5, not a text"),
        ({"from": "narrator", "value": "x"}, "has a turn 2 whose key 'from' is 'narrator'"),
        ({"role": "user", "from": "human", "value": "x"}, "with both keys 'role' and 'from'"),
        ({"from": "human", "content": "x", "value": "y"}, "with both keys 'content' and 'value'"),
        ({"role": "user"}, "has a turn 2 without the key 'content'"),
        ({"role": "user", "content": None}, "whose key 'content' is null"),
        ({"from": "gpt", "value": None}, "has a turn 2 whose key 'value' is null"),
        ({"role": "user", "content": 5}, "has a turn 2 whose key 'content' is 5, not a text"),
        ({"role": "user", "content": {"a": 1}}, "whose key 'content' is {'a': 1}, not a text"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},
            "has a turn 2 whose key 'content' has a part of type 'image_url'",
        ),
        ({"role": "user", "content": [{"type": "text"}]}, "has a part {'type': 'text'}, which is"),
        ({"role": "user", "content": ["a"]}, "whose key 'content' has a part 'a', which is no"),
        (
            {"role": "user", "content": [{"text": "a", "cache": 1}]},
            "whose key 'content' has a part with the key 'cache'",
        ),
        ({"role": "assistant", "tool_calls": "f(x)"}, "whose key 'tool_calls' is 'f(x)', not a li"),
        ({"role": "assistant", "tool_calls": [5]}, "whose key 'tool_calls' is [5], not a list of"),
    ],
)
def test_what_is_no_message_is_said_by_turn_and_key(turn, says) -> None:
    with pytest.raises(TurnError) as caught:
        conversation([USER, turn])
    assert says in caught.value.problem
    assert "turn 2" in caught.value.problem
    assert "\n" not in f"{caught.value.problem}{caught.value.remedy}"
