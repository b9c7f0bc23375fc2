#!/usr/bin/env python3
"""What a run says of its rows: `qshard data`, warnings before the first step, screens that fit narrow terminals."""
import fcntl
import json
import os
import pathlib
import pty
import re
import shutil
import struct
import subprocess
import tempfile
import termios
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
QSHARD = os.environ.get("QSHARD_BIN", str(ROOT / "build/bin/qshard"))
MODEL = ROOT / "tests/golden/tiny/llama"

RUN = """\
model: {{base: {model}}}
adapter: {{r: 2}}
data: {{train: train.jsonl, max_length: 16, shuffle: false}}
train: {{max_steps: 3, micro_batch_size: 1, global_batch_size: 2, learning_rate: 1.0e-2}}
eval: {{generate: {{max_new_tokens: 0}}}}
placement: {{threads: 1}}
log: {{tensorboard: false}}
output: out
"""


class Rows(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="qshard-data-"))
        (self.folder / "run.yaml").write_text(RUN.format(model=MODEL), encoding="utf-8")

    def tearDown(self):
        shutil.rmtree(self.folder)

    def rows(self, *rows, name="train.jsonl"):
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def ids(self, prompt, answer):
        ids = [3 + i for i in range(prompt + answer)]
        return {"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]}

    def call(self, *arguments, code=0):
        done = subprocess.run([QSHARD, *map(str, arguments)], cwd=self.folder, capture_output=True, text=True,
                              timeout=120, check=False)
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stdout}\n{done.stderr}")
        return done

    def sha(self, done):
        return re.search(r"SHA-256 of its values ([0-9a-f]{16})", done.stdout).group(1)

    def test_what_is_written_trains_the_same_adapter(self):
        self.rows(*[self.ids(2 + i % 3, 3 + i % 5) | ({"weight": 2} if i == 4 else {}) for i in range(9)],
                  self.ids(4, 30))
        done = self.call("data", "run.yaml", "--out", "again.jsonl")
        self.assertIn("again.jsonl", done.stdout)
        written = [json.loads(line) for line in (self.folder / "again.jsonl").read_text().splitlines()]
        self.assertEqual(len(written), 10)
        self.assertEqual(written[0], self.ids(2, 3))
        self.assertEqual(len(written[9]["input_ids"]), 16)
        self.assertEqual(written[4]["weight"], 2)
        first = self.call("train", "run.yaml")
        again = self.call("train", "run.yaml", "--set", "data.train=again.jsonl", "--set", "data.format=tokenized",
                          "--set", "output=out2")
        self.assertEqual(self.sha(first), self.sha(again))

    def test_files_whose_draws_cannot_be_written_are_told(self):
        for name in "abc":
            self.rows(self.ids(2, 3), self.ids(3, 2), name=f"{name}.jsonl")
        half, whole = [f"{{path: {name}.jsonl, weight: 0.5}}" for name in "ac"], "b.jsonl"
        run = RUN.format(model=MODEL)
        for files, told in (([half[0], whole, half[1]], True), ([*half, whole], False)):
            (self.folder / "run.yaml").write_text(run.replace("train.jsonl", f"[{', '.join(files)}]"), encoding="utf-8")
            self.assertEqual("stand apart" in self.call("data", "run.yaml", "--out", "o.jsonl", "--overwrite").stdout, told)

    def test_rows_go_where_they_are_pointed_at_and_replace_no_data(self):
        self.rows(self.ids(2, 3))
        done = self.call("data", "run.yaml", "--out", "-")
        self.assertEqual(json.loads(done.stdout), self.ids(2, 3))
        self.assertRegex(done.stderr, r"kept +1\n")
        before = (self.folder / "train.jsonl").read_bytes()
        self.assertIn("train.jsonl", self.call("data", "run.yaml", "--out", "train.jsonl", code=73).stderr)
        refused = self.call("data", "run.yaml", "--out", "train.jsonl", "--overwrite", code=64).stderr
        self.assertIn("train.jsonl", refused)
        self.assertEqual((self.folder / "train.jsonl").read_bytes(), before)

    def test_every_fate_is_in_the_table_with_its_lines(self):
        self.rows(self.ids(2, 3), self.ids(20, 4), self.ids(5, 0), self.ids(4, 20), self.ids(1, 2) | {"weight": 0})
        text = self.call("data", "run.yaml", "--ids").stdout
        for fate, line in (("answer beyond data.max_length", 2), ("no token carries loss", 3),
                           ("cut to data.max_length", 4), ("their weight is 0", 5)):
            self.assertRegex(text, rf"{fate} +1  .*train\.jsonl:{line}\n")
        self.assertRegex(text, r"kept +2\n")
        self.assertIn("3 4 [5 6 7]", text)
        self.assertIn("cut from 24", text)
        self.assertIn("warning: data.train: 1 of 5 rows are lost", text)

    def test_rows_that_no_run_would_take_are_explained(self):
        self.rows(self.ids(20, 4), self.ids(30, 4))
        self.assertRegex(self.call("data", "run.yaml").stdout, r"kept +0\n")
        refused = self.call("train", "run.yaml", code=65).stderr
        self.assertIn("no row is left to train on", refused)
        self.assertIn("the longest row has 34 tokens", refused)

    def test_an_evaluation_without_rows_is_refused(self):
        self.rows(*[self.ids(2, 3)] * 4)
        self.rows(self.ids(20, 4), name="v.jsonl")
        refused = self.call("train", "run.yaml", "--set", "data.validation=v.jsonl", code=65).stderr
        self.assertRegex(refused, r"v\.jsonl: no row is left of data\.validation")
        self.call("train", "run.yaml")
        refused = self.call("eval", "run.yaml", "--set", "data.test=v.jsonl", "--split", "test", code=65).stderr
        self.assertRegex(refused, r"v\.jsonl: no row is left of data\.test")
        refused = self.call("train", "run.yaml", "--set", "eval.early_stop=2", code=64).stderr
        self.assertIn("eval.early_stop", refused)

    def test_what_is_lost_is_told_before_the_first_step(self):
        self.rows(*[self.ids(2, 3)] * 9, self.ids(20, 4))
        screen = self.call("train", "run.yaml", "--dry-run").stdout
        self.assertRegex(screen, r"warning: +data\.train: 1 of 10 rows are lost .*train\.jsonl:10")
        self.rows(*[self.ids(2, 3)] * 39, self.ids(20, 4))
        self.assertNotIn("warning", self.call("train", "run.yaml", "--dry-run").stdout)

    def test_screens_fit_narrow_terminals_and_keep_the_time_left(self):
        self.rows(*[self.ids(2, 3)] * 8)
        for columns in (80, 40):
            terminal, inside = pty.openpty()
            fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
            child = subprocess.Popen([QSHARD, "train", "run.yaml", "--set", f"output=out{columns}"], cwd=self.folder,
                                     stdin=inside, stdout=inside, stderr=inside, env=dict(os.environ, TERM="xterm"))
            os.close(inside)
            screen = b""
            while True:
                try:
                    part = os.read(terminal, 65536)
                except OSError:
                    break
                if not part:
                    break
                screen += part
            os.close(terminal)
            self.assertEqual(child.wait(), 0, screen)
            text = re.sub(r"\x1b\[[0-9;]*[mK]", "", screen.decode())
            lines = [line for whole in text.replace("\r\n", "\n").split("\n") for line in whole.split("\r")]
            bars = [line for line in lines if line.startswith("training")]
            self.assertTrue(any("ETA" in line for line in bars), bars)
            self.assertTrue(all(len(line) < columns for line in bars), bars)
            for line in lines[:lines.index("memory of a rank, planned:")]:
                longest = max(map(len, line.split() or [""]))
                self.assertTrue(len(line) <= columns or longest + 12 > columns, line)


if __name__ == "__main__":
    unittest.main()
