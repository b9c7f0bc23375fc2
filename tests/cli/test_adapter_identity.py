#!/usr/bin/env python3
"""One adapter, one SHA-256, whatever holds it; what report.html and the model card say of a run.

Takes the programs from QSHARD_BIN and QSHARD_INSPECT. Standard library only.
"""
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
QSHARD = os.environ.get("QSHARD_BIN", str(ROOT / "build/bin/qshard"))
INSPECT = os.environ.get("QSHARD_INSPECT", str(ROOT / "build/bin/qshard-inspect"))
TINY = ROOT / "tests/golden/tiny"

RUN = """\
model: {{base: {base}}}
adapter: {{r: 4, alpha: 8{adapter}}}
data: {{train: train.jsonl, validation: 0.1, format: tokenized, max_length: 32}}
train: {{max_steps: 6, micro_batch_size: 2, global_batch_size: 4, learning_rate: 5.0e-3, warmup_steps: 2, seed: 7}}
placement: {{threads: 1}}
eval: {{every: 3, generate: {{max_new_tokens: 4}}}}
checkpoint: {{every: 3}}
log: {{tensorboard: false}}
output: {output}
"""


class AdapterIdentity(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="qshard-identity-"))
        rng = random.Random(3)
        with open(self.folder / "train.jsonl", "w", encoding="utf-8") as file:
            for _ in range(40):
                ids = [rng.randrange(60) for _ in range(rng.randrange(6, 16))]
                file.write(json.dumps({"input_ids": ids, "labels": [-100] * 3 + ids[3:]}) + "\n")

    def tearDown(self):
        shutil.rmtree(self.folder)

    def call(self, *command, code=0):
        done = subprocess.run(list(map(str, command)), cwd=self.folder, capture_output=True, text=True, timeout=120,
                              check=False)
        self.assertEqual(done.returncode, code, f"{command}\n{done.stdout}\n{done.stderr}")
        return done

    def train(self, base, output="out", adapter=""):
        path = self.folder / f"{output}.yaml"
        path.write_text(RUN.format(base=base, output=output, adapter=adapter), encoding="utf-8")
        done = self.call(QSHARD, "train", path)
        return re.search(r"SHA-256 of its values ([0-9a-f]{16})", done.stdout).group(1)

    def sha(self, path):
        return json.loads(self.call(INSPECT, "--json", path).stdout)["adapter_sha256"]

    def test_checkpoint_folder_export_and_screen_say_the_same(self):
        cases = {
            "llama_bias": ", use_dora: true, bias: all, modules_to_save: [lm_head, embed_tokens]",
            "gpt2": ", bias: lora_only, modules_to_save: [lm_head]",
            "qwen3_moe": ", target_parameters: [mlp.experts.gate_up_proj, mlp.experts.down_proj, mlp.gate.weight]",
            "phi3": "",
        }
        for family, adapter in cases.items():
            out = pathlib.Path(f"out-{family}")
            printed = self.train(TINY / family, out.name, adapter)
            newest = out / "checkpoints/step-00000006.h5"
            whole = self.sha(newest)
            self.assertTrue(whole.startswith(printed), family)
            self.call(QSHARD, "export", newest, "--to", "peft", f"peft-{family}")
            for path in (out, out / "adapter", out / "adapter/adapter_model.safetensors", f"peft-{family}"):
                self.assertEqual(self.sha(path), whole, path)
            manifest = json.loads((self.folder / f"{newest}.json").read_text())
            self.assertEqual(manifest["adapter_sha256"], whole)
            logged = [json.loads(line) for line in (self.folder / out / "metrics.jsonl").read_text().splitlines()]
            self.assertIn({"step": 6, "adapter_sha256": printed}, logged)
            self.assertIn(whole, (self.folder / out / "adapter/README.md").read_text())
            self.assertIn(whole, (self.folder / out / "report.html").read_text())
            self.assertNotEqual(self.sha(out / "checkpoints/step-00000003.h5"), whole)
            self.assertIn("same adapter", self.call(INSPECT, "diff", newest, out / "adapter").stdout)

    def test_report_has_data_settings_and_evaluation(self):
        self.train(TINY / "llama")
        report = self.folder / "out/report.html"
        html = report.read_text(encoding="utf-8")
        for part in ("train.jsonl", "36, ", "4 rows, held back (0.1 of train)", "4 rows a step, in micro-batches of 2",
                     "0.005, cosine, warmup 2 steps", "<td>seed</td><td>7</td>", "6 of 6", "adamw", "perplexity",
                     "exact match of the 3 rows answered below", "<td>qshard</td>", "<td>host</td>"):
            self.assertIn(part, html)
        done = self.call(QSHARD, "eval", "out/run.yaml", "--json")
        self.assertIn("report.html has these figures", done.stderr)
        self.assertIn("validation, 4 rows; adapter " + self.sha("out")[:16], report.read_text(encoding="utf-8"))
        before = hashlib.sha256(report.read_bytes()).hexdigest()
        for flags in (["--adapter", "out/checkpoints/step-00000003.h5"], ["--set", "eval.generate.max_new_tokens=2"]):
            self.assertNotIn("report.html", self.call(QSHARD, "eval", "out/run.yaml", *flags).stderr)
        self.assertEqual(hashlib.sha256(report.read_bytes()).hexdigest(), before, "not the run's own figures")

    def test_model_cards_of_a_gguf_file_and_a_weight_store(self):
        self.train(TINY / "llama")
        self.call(QSHARD, "export", "out", "--to", "merged-gguf", "--model", TINY / "llama", "base.gguf")
        self.train("base.gguf", "gguf")
        card = (self.folder / "gguf/adapter/README.md").read_text()
        self.assertIn("`train.jsonl; validation: 0.1 of it; 36 rows to train on`", card)
        self.assertNotIn("base_model", card.split("---\n")[1])
        self.assertIn(f'from_pretrained("{self.folder}", gguf_file="base.gguf")', card)
        self.assertIn(f"llama-cli -m {self.folder}/base.gguf --lora", card)
        self.call(QSHARD, "quantize", TINY / "llama", "base.qs")
        self.train("base.qs", "store")
        card = (self.folder / "store/adapter/README.md").read_text()
        self.assertIn("the weight store `base.qs`, which was made from", card)
        self.assertIn(f'from_pretrained("{TINY / "llama"}")', card)

    def test_doctor_says_what_the_machine_can_do_and_what_was_left(self):
        found = json.loads(self.call(QSHARD, "doctor", "--json").stdout)
        self.assertGreaterEqual(found["bf16_gemm_flops"], found["bf16_gemm_flops_median"])
        self.assertGreater(found["bf16_gemm_flops_median"], 0)


if __name__ == "__main__":
    unittest.main()
