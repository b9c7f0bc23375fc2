#!/usr/bin/env python3
"""The programs on models whose rotary positions depend on the length of a document. As test_cli.py, whose helpers it has."""
import json
import math
import pathlib
import struct
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import test_cli

TINY = test_cli.ROOT / "tests/golden/tiny"


def golden_logits(model):
    """Rows of "logits.base" of the model's golden.safetensors."""
    data = (TINY / model / "golden.safetensors").read_bytes()
    start = 8 + struct.unpack_from("<Q", data)[0]
    entry = json.loads(data[8:start])["logits.base"]
    count, width = entry["shape"]
    values = struct.unpack_from(f"<{count * width}f", data, start + entry["data_offsets"][0])
    return [values[i * width:(i + 1) * width] for i in range(count)]


class Lengths(unittest.TestCase):
    setUp, tearDown = test_cli.Programs.setUp, test_cli.Programs.tearDown
    run_file, sha = test_cli.Programs.run_file, test_cli.Programs.sha
    command, call = test_cli.Programs.command, test_cli.Programs.call

    def score(self, model, documents):
        rows = self.folder / "rows.jsonl"
        rows.write_text("".join(json.dumps({"input_ids": ids}) + "\n" for ids in documents))
        self.call("score", "--model", TINY / model, "--input", rows, "--out", "scores.jsonl", "--overwrite",
                  "--quantization", "none", "--compute-dtype", "float32")
        return [json.loads(line)["logprobs"][1:] for line in (self.folder / "scores.jsonl").read_text().splitlines()]

    def test_a_text_is_scored_as_transformers_does_alone_whatever_is_beside_it(self):
        for model in ("phi3_longrope", "llama_dynamic"):
            logits = iter(golden_logits(model))
            documents = [one["input_ids"] for one in json.loads((TINY / model / "golden.json").read_text())["documents"]]
            scores = self.score(model, documents)
            for ids, got in zip(documents, scores):
                rows = [next(logits) for _ in ids]
                for row, token, logprob in zip(rows, ids[1:], got):
                    want = row[token] - math.log(sum(math.exp(value) for value in row))
                    self.assertLess(abs(logprob - want), 1e-4, model)
            self.assertEqual(self.score(model, documents[1:2]), scores[1:2])

    def test_a_run_with_short_and_long_rows_has_one_adapter_on_any_ranks(self):
        for model in ("phi3_longrope", "llama_dynamic"):
            flags = ["--set", f"model.base={TINY / model}"]
            path = self.run_file(steps=2, output=f"one-{model}")
            want = self.sha(self.call("train", path, *flags))
            done = self.call("train", path, *flags, "--set", f"output=two-{model}", "--set", "placement.mode=gathered", ranks=2)
            self.assertEqual(self.sha(done), want)

    def test_dynamic_positions_have_no_limit_and_others_have_theirs(self):
        path = self.run_file(output="never")
        self.call("train", path, "--dry-run", "--set", f"model.base={TINY / 'llama_dynamic'}", "--set", "data.max_length=200")
        for model, limit in (("llama_longrope", 64), ("llama", 64)):
            done = self.call("train", path, "--dry-run", "--set", f"model.base={TINY / model}", "--set",
                             "data.max_length=65", code=64)
            self.assertIn(f"made for {limit} positions", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
