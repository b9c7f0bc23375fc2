"""Writes templates.json and snippets.json: what jinja2 prints, with the environment that transformers gives chat templates.

    python make.py                    writes the committed files beside this script
    python make.py --local OUT.json T...   the same conversations through other templates (tokenizer_config.json,
                                           .jinja or .gguf files that are not ours to commit)

Versions used: jinja2 3.1.6, Python 3.11.
"""
import datetime
import functools
import json
import os
import sys
from contextlib import contextmanager

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


class AssistantTracker(jinja2.ext.Extension):
    """As in transformers.utils.chat_template_utils: records the character range of each generation block."""

    tags = {"generation"}

    def __init__(self, environment):
        super().__init__(environment)
        self.blocks = None
        self.spans = None
        environment.extend(tracker=self)

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_support"), [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _support(self, context, caller):
        text = caller()
        start = len("".join(self.blocks))
        self.spans.append((start, start + len(text)))
        return text

    @contextmanager
    def active(self, blocks, spans):
        self.blocks, self.spans = blocks, spans
        try:
            yield
        finally:
            self.blocks = self.spans = None


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)




def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[AssistantTracker, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return env


@functools.lru_cache
def compiled(source):
    return environment().from_string(source)


def render(source, messages, add_generation_prompt, variables):
    """{"text", "spans" (UTF-8 byte ranges)} or {"error": the exception's text}."""
    try:
        template = compiled(source)
        env = template.environment
        blocks, spans = [], []
        with env.tracker.active(blocks, spans):
            for block in template.generate(messages=messages, add_generation_prompt=add_generation_prompt, **variables):
                blocks.append(block)
        text = "".join(blocks)
        return {"text": text, "spans": [[len(text[:a].encode()), len(text[:b].encode())] for a, b in spans]}
    except Exception as error:  # noqa: BLE001 - the golden records that it fails, whatever the class
        return {"error": f"{type(error).__name__}: {error}"}


TOOL = {"type": "function", "function": {"name": "weather", "description": "Says the weather <today> & \"tomorrow\"",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Größe ≥ 1 ☂"},
                       "days": {"type": ["integer", "null"], "default": 3, "maximum": 1.5e20}}, "required": ["city"]}}}

CONVERSATIONS = {
    "one": [{"role": "user", "content": "Hi"}],
    "two": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}],
    "four": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"},
             {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}],
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
               {"role": "assistant", "content": "Hello!"}],
    "spaces": [{"role": "user", "content": "  \n Hi \u00a0there\t\n"}, {"role": "assistant", "content": "\n\nHello!\n  "},
               {"role": "user", "content": ""}],
    "unicode": [{"role": "system", "content": "Antworte auf Deutsch – 'kurz'."},
                {"role": "user", "content": "Grüße, 世界 👩‍👩‍👧 <b>&amp;</b> \"q\" 'q'"},
                {"role": "assistant", "content": "Straße ☕️"}, {"role": "user", "content": "ok"}],
    "think": [{"role": "user", "content": "Q1"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nA1"},
              {"role": "user", "content": "Q2"}, {"role": "assistant", "content": "<think>\nwell\n</think>\n\nA2"}],
    "reasoning": [{"role": "user", "content": "Q1"}, {"role": "assistant", "content": "A1", "reasoning_content": "so"}],
    "tool": [{"role": "user", "content": "Rain?"},
             {"role": "assistant", "content": "", "tool_calls": [
                 {"id": "call12345", "type": "function", "function": {"name": "weather", "arguments": {"city": "Köln", "days": 2, "x": [1, 2.0, None, True]}}}]},
             {"role": "tool", "name": "weather", "tool_call_id": "call12345", "content": "{\"rain\": true}"},
             {"role": "tool", "name": "weather", "tool_call_id": "call12345", "content": "again"},
             {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Thanks"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "Look "}, {"type": "image", "url": "x"}, {"type": "text", "text": " here"}]},
              {"role": "assistant", "content": [{"type": "text", "text": "I see"}]}],
    "wrong_order": [{"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Hi"}],
    "null_content": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}],
    "no_content": [{"role": "user"}],
    "empty": [],
}

VARIABLES = {
    "plain": {"bos_token": "<s>", "eos_token": "</s>"},
    "tools": {"bos_token": "<s>", "eos_token": "</s>", "tools": [TOOL, TOOL], "date_string": "26 Jul 2024", "enable_thinking": False},
}


def template_golden(templates):
    out = []
    for name, source in templates.items():
        cases = []
        for conversation, messages in CONVERSATIONS.items():
            for variables in VARIABLES:
                for generate in (False, True):
                    result = render(source, messages, generate, VARIABLES[variables])
                    cases.append({"conversation": conversation, "variables": variables, "generate": generate, **result})
        out.append({"name": name, "source": source, "cases": cases})
    return out


def read_template(path):
    if path.endswith(".gguf"):
        import gguf
        return gguf.GGUFReader(path).fields["tokenizer.chat_template"].contents()
    text = open(path, encoding="utf-8").read()
    return json.loads(text)["chat_template"] if path.endswith(".json") else text


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    common = {"jinja2": jinja2.__version__, "conversations": CONVERSATIONS, "variables": VARIABLES}
    if len(sys.argv) > 1 and sys.argv[1] == "--local":
        golden = {**common, "templates": template_golden({path: read_template(path) for path in sys.argv[3:]})}
        json.dump(golden, open(sys.argv[2], "w", encoding="utf-8"), ensure_ascii=False)
        return
    templates = {}
    for file in sorted(os.listdir(os.path.join(here, "templates"))):
        templates[file] = open(os.path.join(here, "templates", file), encoding="utf-8", newline="").read()
    with open(os.path.join(here, "templates.json"), "w", encoding="utf-8") as out:
        json.dump({**common, "templates": template_golden(templates)}, out, ensure_ascii=False, separators=(",", ":"))
    from snippets import SNIPPETS, SNIPPET_VARIABLES
    cases = [{"source": source, **render(source, CONVERSATIONS["four"], False, SNIPPET_VARIABLES)} for source in SNIPPETS]
    with open(os.path.join(here, "snippets.json"), "w", encoding="utf-8") as out:
        json.dump({"jinja2": jinja2.__version__, "variables": SNIPPET_VARIABLES, "messages": CONVERSATIONS["four"], "cases": cases},
                  out, ensure_ascii=False, indent=0)


if __name__ == "__main__":
    main()
