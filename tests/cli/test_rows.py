#!/usr/bin/env python3
"""Rows of conversations through the programs: what reaches the chat template, and what is said of the rest.

Takes the program from QSHARD_BIN. Standard library only.
"""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
QSHARD = os.environ.get("QSHARD_BIN", str(ROOT / "build/bin/qshard"))
CHATML = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
TOOLS = [{"type": "function", "function": {"name": "weather"}}]
RUN = """\
model: {{base: model, quantization: none}}
adapter: {{r: 4}}
data: {{train: {data}, max_length: 256}}
train: {{max_steps: 1, micro_batch_size: 1, global_batch_size: 1}}
placement: {{threads: 1}}
log: {{tensorboard: false}}
output: out
"""


def widened(model):
    """The tiny model with an embedding of 405 rows, so that the tokenizer of the golden files fits."""
    import struct

    raw = (ROOT / "tests/golden/tiny/llama/model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header, data = json.loads(raw[8:8 + size]), raw[8 + size:]
    made, out = {}, b""
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        part, shape = data[begin:end], entry["shape"]
        if shape[0] == 131:
            row = len(part) // 131
            part, shape = (part * 4)[:405 * row], [405, *shape[1:]]
        made[name] = {"dtype": entry["dtype"], "shape": shape, "data_offsets": [len(out), len(out) + len(part)]}
        out += part
    text = json.dumps(made).encode()
    model.write_bytes(struct.pack("<Q", len(text)) + text + out)


class Rows(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="qshard-rows-"))
        model = self.folder / "model"
        (model / "additional_chat_templates").mkdir(parents=True)
        config = json.loads((ROOT / "tests/golden/tiny/llama/config.json").read_text(encoding="utf-8"))
        config |= {"vocab_size": 405, "eos_token_id": 404, "bos_token_id": None, "pad_token_id": None, "max_position_embeddings": 1024}
        (model / "config.json").write_text(json.dumps(config))
        widened(model / "model.safetensors")
        shutil.copyfile(ROOT / "tests/golden/tokenizer/qwen.json", model / "tokenizer.json")
        (model / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
        (model / "chat_template.jinja").write_text(CHATML)
        (model / "additional_chat_templates/tool_use.jinja").write_text("{{ tools | tojson }}" + CHATML)

    def tearDown(self):
        shutil.rmtree(self.folder)

    def rows(self, *rows):
        (self.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def qshard(self, *arguments, code=0):
        done = subprocess.run([QSHARD, *arguments], cwd=self.folder, capture_output=True, text=True, check=False, timeout=60)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stdout + done.stderr

    def train(self, code=0):
        (self.folder / "run.yaml").write_text(RUN.format(data="rows.jsonl"))
        return self.qshard("train", "run.yaml", code=code)

    def score(self, row, model="model"):
        """The number of tokens of a row."""
        self.rows(row)
        self.qshard("score", "--model", model, "--input", "rows.jsonl", "--out", "scores.jsonl", "--overwrite",
                    "--quantization", "none", "--threads", "1")
        return len(json.loads((self.folder / "scores.jsonl").read_text())["input_ids"])

    def test_unread_keys_are_named_once_and_others_refused(self):
        self.rows({"messages": TALK, "id": 1, "source": "web"}, {"messages": TALK, "id": 2})
        said = self.train()
        self.assertIn("columns that nothing reads: id (2 rows)", said)
        self.assertIn("columns that nothing reads: source (1 row)", said)
        self.rows({"messages": TALK}, {"messages": TALK, "images": ["a.png"]})
        said = self.train(code=65)
        self.assertIn('rows.jsonl:2: column "images": models are trained on text alone', said)

    def test_template_for_tools_is_taken_and_kept(self):
        plain, tools = {"messages": TALK}, {"messages": TALK, "tools": json.dumps(TOOLS)}
        bare, with_tools = self.score(plain), self.score(tools)
        self.assertGreater(with_tools, bare)
        self.qshard("quantize", "model", "store.qs", "--quantization", "none")
        self.assertEqual(self.score(tools, "store.qs"), with_tools)
        self.rows(plain)
        self.train()
        self.qshard("export", "out", "--to", "merged-hf", "--model", "model", "merged")
        self.assertEqual(self.score(tools, "merged"), with_tools)
        self.assertEqual((self.folder / "merged/additional_chat_templates/tool_use.jinja").read_text(),
                         (self.folder / "model/additional_chat_templates/tool_use.jinja").read_text())
        self.qshard("export", "out", "--to", "merged-gguf", "--model", "model", "merged.gguf")
        self.assertEqual(self.score(tools, "merged.gguf"), with_tools)
        self.assertEqual(self.score(plain, "merged.gguf"), bare)

    def test_generate_prepares_conversations_as_training_does(self):
        (self.folder / "model/additional_chat_templates/tool_use.jinja").write_text("{{ raise_exception('tools are here') }}")
        generate = ("generate", "--model", "model", "--input", "rows.jsonl", "--max-new-tokens", "1", "--threads", "1",
                    "--quantization", "none")
        self.rows({"messages": TALK[:1], "tools": TOOLS})
        self.assertIn("rows.jsonl:1: chat template of model (tool_use), line 1: it refuses this conversation: tools are here",
                      self.qshard(*generate, code=65))
        self.rows({"messages": TALK}, {"conversations": [{"from": "human", "value": "a"}]})
        said = self.qshard(*generate)
        self.assertIn("note: 1 of 2 rows end with the assistant's turn, which is left out", said)


if __name__ == "__main__":
    unittest.main()
