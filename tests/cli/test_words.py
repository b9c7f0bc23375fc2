#!/usr/bin/env python3
"""What users type: keys and their reference, misspelt commands and options, adapters to start from."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
QSHARD = os.environ.get("QSHARD_BIN", str(ROOT / "build/bin/qshard"))
INSPECT = os.environ.get("QSHARD_INSPECT", str(ROOT / "build/bin/qshard-inspect"))
MODEL = ROOT / "tests/golden/tiny/llama"

RUN = """\
model: {{base: {model}}}
data: {{train: train.jsonl, max_length: 32}}
train: {{max_steps: 2, micro_batch_size: 1, global_batch_size: 2, learning_rate: 1.0e-2}}
placement: {{threads: 1}}
log: {{tensorboard: false}}
output: {output}
adapter: {{{adapter}}}
"""


class Words(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="qshard-words-"))
        with open(self.folder / "train.jsonl", "w", encoding="utf-8") as file:
            for i in range(8):
                file.write(json.dumps({"input_ids": [(7 * i + 3 * k) % 131 for k in range(10)]}) + "\n")

    def tearDown(self):
        shutil.rmtree(self.folder)

    def call(self, program, *arguments, code=0):
        done = subprocess.run([program, *map(str, arguments)], cwd=self.folder, capture_output=True, text=True,
                              timeout=120, check=False)
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stdout}\n{done.stderr}")
        return done

    def run_file(self, adapter, output="out"):
        path = self.folder / f"{output}.yaml"
        path.write_text(RUN.format(model=MODEL, output=output, adapter=adapter), encoding="utf-8")
        return path

    def test_misspelt_words_get_the_nearest_one(self):
        for program, arguments, answer in (
                (QSHARD, ["trian", "run.yaml"], "unknown command trian; did you mean train?"),
                (QSHARD, ["train", "run.yaml", "--dryrun"], "unknown option --dryrun; did you mean --dry-run?"),
                (QSHARD, ["generate", "--model", "m", "--prompt", "a", "--max_new_token=4"],
                 "unknown option --max_new_token; did you mean --max-new-tokens?"),
                (QSHARD, ["generate", "--modle", "m", "--promt", "a"], "did you mean --model?"),
                (QSHARD, ["train", "run.yaml", "--lora-r", "8"], 'as a key of the run file, did you mean "adapter.r"?'),
                (QSHARD, ["eval", "run.yaml", "--learning_rate=1"], 'did you mean "train.learning_rate"?'),
                (QSHARD, ["plan", "run.yaml", "--train.seed", "3"], 'did you mean "train.seed"?'),
                (QSHARD, ["train", "run.yaml", "--set", "train.seed=3", "train.epochs=1"],
                 "train.epochs=1 stands alone; expected --set KEY=VALUE"),
                (QSHARD, ["train", "run.yaml", "--set", "train.seed", "=", "3"], "without spaces around"),
                (QSHARD, ["train", "run.yaml", "--frobnicate"], "unknown option --frobnicate. See qshard train --help"),
                (QSHARD, ["train", "run.yaml", "again.yaml"], "again.yaml is one argument too many"),
                (QSHARD, ["train"], "which run file?"),
                (QSHARD, [], "which command? One of train"),
                (INSPECT, ["tre", "out"], "unknown command tre; did you mean tree?"),
                (INSPECT, ["tree", "out", "--jsn"], "unknown option --jsn; did you mean --json?")):
            said = self.call(program, *arguments, code=64).stderr
            self.assertTrue(said.startswith(("qshard: ", "qshard-inspect: ")), said)
            self.assertIn(answer, said)

    def test_help_is_where_people_look(self):
        self.assertEqual(self.call(QSHARD, "help", "train").stdout, self.call(QSHARD, "train", "-h").stdout)

    def test_the_reference_of_keys_is_the_committed_one(self):
        text = self.call(QSHARD, "train", "--keys").stdout
        self.assertTrue(all(len(line) <= 80 for line in text.splitlines()))
        committed = (ROOT / "io/run/KEYS.md").read_text(encoding="utf-8")
        self.assertIn(text, committed, "after a change: qshard train --keys, into the block of io/run/KEYS.md")
        resolved = self.call(QSHARD, "train", self.run_file(""), "--dry-run").stdout
        self.assertIn("train:\n", resolved)
        self.assertRegex(text, r"(?m)^train\.learning_rate: 0\.0002$")
        few = self.call(QSHARD, "train", "--keys", "adapter.d").stdout
        self.assertIn("adapter.dropout", few)
        self.assertNotIn("train.seed", few)
        self.assertIn("no key", self.call(QSHARD, "train", "--keys", "qwxz", code=64).stderr)

    def test_an_adapter_to_start_from_brings_its_shape(self):
        first = self.run_file("r: 3, alpha: 5, target_modules: [q_proj, v_proj], layers: [1], rank_pattern: {v_proj: 2}")
        self.call(QSHARD, "train", first)
        for name, source in (("folder", "out"), ("peft", "out/adapter"),
                             ("checkpoint", "out/checkpoints/step-00000002.h5")):
            self.call(QSHARD, "train", self.run_file(f"init_from: {source}", name), "--set", "train.learning_rate=0")
            resolved = (self.folder / name / "run.yaml").read_text()
            for value in ("r: 3", "alpha: 5", "- q_proj", "- v_proj", "v_proj: 2"):
                self.assertIn(value, resolved, name)
            same = [re.search(r"[0-9a-f]{64}", self.call(INSPECT, path, "--json").stdout).group()
                    for path in ("out/adapter", f"{name}/adapter")]
            self.assertEqual(same[0], same[1])
            self.call(QSHARD, "train", f"{name}/run.yaml", "--set", "train.max_steps=3", "--set", "train.learning_rate=0")

    def test_a_run_file_may_follow_what_overrides_it(self):
        said = self.call(QSHARD, "train", "--set", "train.seed=9", "--set", "train.epochs=3", self.run_file(""),
                         "--dry-run").stdout
        self.assertIn("seed: 9", said)
        self.assertIn("epochs: 3", said)

    def test_a_run_file_may_name_some_of_what_chooses_the_modules(self):
        self.call(QSHARD, "train", self.run_file("r: 3, target_modules: [q_proj, v_proj], layers: [1]"))
        for name, adapter in (("layers", "layers: 1"), ("modules", "target_modules: [v_proj, q_proj]")):
            self.call(QSHARD, "train", self.run_file(f"init_from: out, {adapter}", name))
        self.call(QSHARD, "train", self.run_file("init_from: out, layers: 0", "other"), code=65)

    def test_a_shape_that_contradicts_the_adapter_is_refused_with_both_values(self):
        self.call(QSHARD, "train", self.run_file("r: 3, alpha: 5"))
        said = self.call(QSHARD, "train", self.run_file("init_from: out, r: 4, dropout: 0.1", "other"), code=64).stderr
        self.assertIn("adapter.r: 3 there, 4 here", said)
        self.assertNotIn("dropout", said)
        self.call(QSHARD, "train", self.run_file("init_from: out, dropout: 0.1", "other"))


if __name__ == "__main__":
    unittest.main()
