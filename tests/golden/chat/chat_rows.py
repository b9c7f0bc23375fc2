"""Rows of conversations in the shapes that people bring, and what transformers and TRL make of them.

rows(shape, count, seed) makes them: openai, sharegpt, alpaca, trl, pairs (prompt and completion); arrow(rows) sends rows
through an Arrow table, which pads them with nulls. oracle(tokenizer, row) are token ids and loss mask by transformers'
apply_chat_template and TRL's rules; it first writes the row as TRL wants it.
"""
import json
import random

WORDS = ("weather in Köln tomorrow, please?|2 + 2 = 4|a <b> & \"c\" 'd'|line\nbreak|  spaces  |世界 ok|sure!|I do not know|"
         "{\"json\": [1, 2.5]}|tabs\tand more|Straße ☕|x|the answer is 42|def f(x):\n    return x").split("|")
ROLES = {"human": "user", "gpt": "assistant", "observation": "tool"}


def tool(rng, number):
    properties = {"city": {"type": "string", "description": rng.choice(WORDS)}}
    if number % 2:
        properties["days"] = {"type": "integer", "enum": [1, 2, 3]}
    return {"type": "function", "function": {"name": f"tool_{number}", "description": rng.choice(WORDS),
                                             "parameters": {"type": "object", "properties": properties, "required": ["city"]}}}


def arguments(rng):
    made = {"city": rng.choice(WORDS)}
    if rng.random() < 0.5:
        made |= {"days": rng.randrange(5)}
    if rng.random() < 0.3:
        made |= {"x": [1.5, 2.0], "deep": {"a": None, "b": rng.random() < 0.5}}
    return made


def turns(rng, calls, reasoning=False):
    """Messages in Hugging Face's convention."""
    made = [{"role": "system", "content": rng.choice(WORDS)}] if rng.random() < 0.4 else []
    for _ in range(rng.randrange(1, 4)):
        made.append({"role": "user", "content": rng.choice(WORDS)})
        if calls and rng.random() < 0.6:
            call = {"type": "function", "function": {"name": "tool_0", "arguments": arguments(rng)}}
            made.append({"role": "assistant", "content": None, "tool_calls": [call]})
            made.append({"role": "tool", "name": "tool_0", "tool_call_id": "call00001", "content": rng.choice(WORDS)})
        answer = {"role": "assistant", "content": rng.choice(WORDS)}
        if reasoning and rng.random() < 0.4:
            answer[rng.choice(["reasoning_content", "reasoning", "thinking"])] = rng.choice(WORDS)
        made.append(answer)
    return made


def openai(rng):
    calls = rng.random() < 0.5
    messages = turns(rng, calls)
    for message in messages:
        if message["role"] == "assistant":
            message |= {"refusal": None, "function_call": None}
            if rng.random() < 0.2:
                message["weight"] = rng.choice([0, 1])
        for number, call in enumerate(message.get("tool_calls", [])):
            call["id"] = f"call{number:05}"
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], separators=rng.choice([None, (",", ":")]))
        if message["role"] != "tool" and rng.random() < 0.3:
            message["name"] = None
    row = {"messages": messages}
    if calls:
        row |= {"tools": [tool(rng, 0), tool(rng, 1)], "parallel_tool_calls": False}
    return row


def sharegpt(rng):
    made = []
    calls = rng.random() < 0.4
    for message in turns(rng, calls):
        names = {value: key for key, value in ROLES.items()}
        if message.get("tool_calls"):
            call = message["tool_calls"][0]["function"]
            made.append({"from": "function_call", "value": json.dumps(call)})
        else:
            made.append({"from": names.get(message["role"], "system"), "value": message["content"]})
    row = {"conversations": made, "tools": json.dumps([tool(rng, 0)]) if calls else ""}
    if made[0]["from"] != "system":
        row["system"] = rng.choice(["", rng.choice(WORDS)])
    return row


def alpaca(rng):
    history = [[rng.choice(WORDS), rng.choice(WORDS)] for _ in range(rng.randrange(3))]
    return {"instruction": rng.choice(WORDS), "input": rng.choice(["", rng.choice(WORDS)]), "output": rng.choice(WORDS),
            "system": rng.choice(["", None, rng.choice(WORDS)]), "history": rng.choice([history, None])}


def trl(rng):
    calls = rng.random() < 0.6
    row = {"messages": turns(rng, calls, reasoning=True)}
    if calls:
        tools = [tool(rng, number) for number in range(rng.randrange(1, 3))]
        row["tools"] = rng.choice([tools, json.dumps(tools)])
    if rng.random() < 0.3:
        row["chat_template_kwargs"] = {"enable_thinking": rng.choice([True, False])}
    return row


def pairs(rng):
    messages = turns(rng, False, reasoning=True)
    return {"prompt": messages[:-1], "completion": messages[-1:]}


SHAPES = {"openai": openai, "sharegpt": sharegpt, "alpaca": alpaca, "trl": trl, "pairs": pairs}


def rows(shape, count, seed):
    rng = random.Random(f"{shape} {seed}")
    return [SHAPES[shape](rng) for _ in range(count)]


def arrow(made):
    """The rows as they come out of an Arrow table: every row has every column, every struct every member."""
    import pyarrow

    for row in made:  # one type a column
        if isinstance(row.get("tools"), str):
            row["tools"] = json.loads(row["tools"]) or None
    return pyarrow.Table.from_pylist(made).to_pylist()


def as_messages(row):
    """The row as TRL's user would write it: messages or prompt and completion, arguments as objects, tools as a list."""
    row = dict(row)
    if "conversations" in row:
        messages = [] if not row.get("system") else [{"role": "system", "content": row["system"]}]
        for turn in row["conversations"]:
            if turn["from"] == "function_call":
                call = json.loads(turn["value"])
                messages.append({"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": call}]})
            else:
                messages.append({"role": ROLES.get(turn["from"], turn["from"]), "content": turn["value"]})
        row = {"messages": messages, "tools": row.get("tools")}
    elif "instruction" in row:
        messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
        for question, answer in row.get("history") or []:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        task = row["instruction"] + ("\n" + row["input"] if row.get("input") else "")
        row = {"messages": messages + [{"role": "user", "content": task}, {"role": "assistant", "content": row["output"]}]}
    for message in row.get("messages") or []:
        for call in message.get("tool_calls") or []:
            if isinstance(call["function"]["arguments"], str):
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    if isinstance(row.get("tools"), str):
        row["tools"] = json.loads(row["tools"]) if row["tools"] else None
    return row


def weightless(messages, spans):
    """Spans of the assistant's turns but those of weight 0; None where the template has several blocks a turn."""
    assistants = [message for message in messages if message["role"] == "assistant"]
    if len(spans) != len(assistants):
        return None
    return [span for span, message in zip(spans, assistants) if message.get("weight") != 0]


def oracle(tokenizer, row):
    """(ids, mask) of a row; the mask is None where neither library defines one: messages through a template without
    generation blocks. Raises what the libraries raise."""
    from transformers.utils.chat_template_utils import _normalize_chat_messages, render_jinja_template
    from trl.chat_template_utils import has_generation_markers
    from trl.data_utils import _tokenize, common_prefix_length

    row = as_messages(json.loads(json.dumps(row)))
    settings = {"tools": row.get("tools"), **(row.get("chat_template_kwargs") or {})}
    if "prompt" in row:
        prompt = _tokenize(tokenizer, row["prompt"], add_generation_prompt=True, **settings)["input_ids"]
        ids = _tokenize(tokenizer, row["prompt"] + row["completion"], **settings)["input_ids"]
        begin = common_prefix_length(prompt, ids)
        text = tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False, **settings)
        if not text.startswith(tokenizer.apply_chat_template(row["prompt"], tokenize=False, **settings).removesuffix(tokenizer.eos_token)):
            return ids, None  # TRL warns, and trains a piece of the prompt
        return ids, [int(i >= begin) for i in range(len(ids))]
    template = tokenizer.get_chat_template(tools=row.get("tools"))
    ids = _tokenize(tokenizer, row["messages"], **settings)["input_ids"]
    if not has_generation_markers(template):
        return ids, None
    given = _tokenize(tokenizer, row["messages"], return_assistant_tokens_mask=True, **settings)
    if all(message.get("weight") != 0 for message in row["messages"]):
        return ids, given["assistant_masks"]
    texts, spans = render_jinja_template(
        conversations=[_normalize_chat_messages(row["messages"])], chat_template=template, return_assistant_tokens_mask=True,
        **settings, **tokenizer.special_tokens_map)
    spans = weightless(row["messages"], spans[0])
    if spans is None:
        return ids, None
    offsets = tokenizer(texts[0], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return ids, [int(any(end > a and begin < b for a, b in spans)) for begin, end in offsets]
