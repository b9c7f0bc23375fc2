#!/usr/bin/env python3
"""The programs as users run them, on a tiny model: same bits on any ranks, resumes, signals, damage, bad input.

Takes the programs from QSHARD_BIN and QSHARD_INSPECT. Standard library only.
"""
import json
import os
import pathlib
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
QSHARD = os.environ.get("QSHARD_BIN", str(ROOT / "build/bin/qshard"))
INSPECT = os.environ.get("QSHARD_INSPECT", str(ROOT / "build/bin/qshard-inspect"))
MODEL = ROOT / "tests/golden/tiny/llama"

RUN = """\
model: {{base: {model}}}
adapter: {{r: 4, alpha: 8}}
data:
  train: train.jsonl
  validation: 0.1
  format: tokenized
  max_length: 32
train:
  max_steps: {steps}
  micro_batch_size: 1
  global_batch_size: 7
  learning_rate: 5.0e-3
placement: {{mode: {mode}, threads: {threads}}}
eval: {{every: 10}}
checkpoint: {{every: {every}}}
log: {{tensorboard: false}}
output: {output}
"""


class Programs(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="qshard-cli-"))
        rng = random.Random(1)
        with open(self.folder / "train.jsonl", "w", encoding="utf-8") as file:
            for _ in range(120):
                ids = [rng.randrange(131) for _ in range(rng.randrange(4, 20))]
                labels = [-100 if i < len(ids) // 2 else t for i, t in enumerate(ids)]
                file.write(json.dumps({"input_ids": ids, "labels": labels}) + "\n")

    def tearDown(self):
        shutil.rmtree(self.folder)

    def run_file(self, name="run.yaml", steps=20, mode="auto", threads=1, every=5, output="out", extra=""):
        path = self.folder / name
        path.write_text(RUN.format(model=MODEL, steps=steps, mode=mode, threads=threads, every=every, output=output) +
                        extra, encoding="utf-8")
        return path

    def command(self, *arguments, ranks=0):
        launcher = ["mpirun", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1", "-np",
                    str(ranks)] if ranks else []
        return launcher + [QSHARD, *map(str, arguments)]

    def call(self, *arguments, ranks=0, code=0, env=None):
        done = subprocess.run(self.command(*arguments, ranks=ranks), cwd=self.folder, capture_output=True, text=True,
                              timeout=120, check=False, env=env)
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stdout}\n{done.stderr}")
        return done

    def sha(self, done):
        return re.search(r"SHA-256 of its values ([0-9a-f]{16})", done.stdout).group(1)

    def status(self, output="out"):
        return json.loads((self.folder / output / "run_status.json").read_text())

    def test_same_bits_on_any_ranks_placements_transports_and_threads(self):
        want = self.sha(self.call("train", self.run_file()))
        cases = [(ranks, 0, mode, threads) for ranks in (2, 3, 4, 6, 8) for mode, threads in
                 (("replicated", 1), ("gathered", 1))]
        cases += [(0, ranks, mode, threads) for ranks in (2, 3, 8) for mode, threads in
                  (("replicated", 2), ("gathered", 1))]
        cases += [(0, 1, "gathered", 2)]
        for mpi, thread_ranks, mode, threads in cases:
            name = f"out-{mpi}-{thread_ranks}-{mode}"
            path = self.run_file(mode=mode, threads=threads, output=name)
            flags = ["--ranks", thread_ranks] if thread_ranks else []
            got = self.sha(self.call("train", path, *flags, ranks=mpi))
            self.assertEqual(got, want, name)

    def start_and_wait_for_checkpoint(self, path, *flags, ranks=0, output="out"):
        process = subprocess.Popen(self.command("train", path, *flags, ranks=ranks), cwd=self.folder,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while not list((self.folder / output / "checkpoints").glob("*.json")) and time.monotonic() < until:
            self.assertIsNone(process.poll(), "the run ended before it could be stopped")
            time.sleep(0.01)
        return process

    def test_kill_and_resume_on_other_ranks_keeps_the_bits(self):
        want = self.sha(self.call("train", self.run_file(steps=300, every=10, output="whole")))
        path = self.run_file(steps=300, every=10)
        process = self.start_and_wait_for_checkpoint(path, "--ranks", 2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.assertLess(self.status()["step"], 300)
        done = self.call("train", path, "--set", "placement.mode=gathered", ranks=3)
        self.assertIn("resuming from step", done.stderr)
        self.assertEqual(self.sha(done), want)
        steps = [json.loads(line)["step"] for line in (self.folder / "out/metrics.jsonl").read_text().splitlines()
                 if '"loss"' in line]
        self.assertEqual(steps, list(range(1, 301)), "metrics.jsonl has every step once")

    def test_signal_saves_exits_85_and_resumes(self):
        want = self.sha(self.call("train", self.run_file(steps=300, every=100, output="whole")))
        path = self.run_file(steps=300, every=10)
        for number, ranks in ((signal.SIGUSR1, 2), (signal.SIGTERM, 0)):
            shutil.rmtree(self.folder / "out", ignore_errors=True)
            process = self.start_and_wait_for_checkpoint(path, ranks=ranks)
            process.send_signal(number)
            self.assertEqual(process.wait(timeout=60), 85)
            self.assertEqual(self.status()["state"], "preempted")
            self.assertEqual(self.status()["exit_code"], 85)
            self.assertEqual(self.sha(self.call("train", path)), want)

    def test_a_damaged_checkpoint_is_refused_and_the_one_before_used(self):
        path = self.run_file(steps=20)
        want = self.sha(self.call("train", path))
        newest = sorted((self.folder / "out/checkpoints").glob("*.h5"))[-1]
        data = bytearray(newest.read_bytes())
        data[len(data) // 2] ^= 1
        newest.write_bytes(data)
        done = self.call("train", path)
        self.assertIn(f"refused {newest}", done.stderr)
        self.assertIn("resuming from step 15", done.stderr)
        self.assertEqual(self.sha(done), want)

    def scores(self, name, *flags):
        rows = self.folder / "rows.jsonl"
        rows.write_text("".join(json.dumps({"input_ids": [(7 * i * i + j) % 131 for i in range(12)]}) + "\n"
                                for j in range(4)))
        self.call("score", *flags, "--input", rows, "--out", f"{name}.jsonl", "--overwrite", "--quantization", "none",
                  "--compute-dtype", "float32")
        lines = (self.folder / f"{name}.jsonl").read_text().splitlines()
        return [value for line in lines for value in json.loads(line)["logprobs"][1:]]

    def test_merged_exports_compute_what_the_adapter_does(self):
        self.call("train", self.run_file(extra="", steps=6), "--set", "adapter.dropout=0.1", "--set",
                  "adapter.rank_pattern={down_proj: 2}", "--set", "adapter.use_rslora=true")
        base, want = self.scores("base", "--model", MODEL), self.scores("want", "--model", MODEL, "--adapter", "out")
        self.assertGreater(max(abs(a - b) for a, b in zip(base, want)), 0.01)
        for kind, out in (("merged-hf", "merged"), ("merged-gguf", "merged.gguf")):
            self.call("export", "out", "--to", kind, "--dtype", "float32", out)
            got = self.scores(kind, "--model", out)
            self.assertLess(max(abs(a - b) for a, b in zip(got, want)), 1e-4, kind)
        name = b"general.name" + struct.pack("<IQ", 8, len(MODEL.name)) + MODEL.name.encode()
        self.assertIn(name, (self.folder / "merged.gguf").read_bytes())
        self.call("export", "out", "--to", "peft", "taken/folder")
        got = self.scores("peft", "--model", MODEL, "--adapter", "taken/folder")
        self.assertEqual(got, want)
        self.call("export", "taken/folder", "--to", "gguf", "--model", MODEL, "adapter.gguf")
        self.assertEqual((self.folder / "adapter.gguf").read_bytes()[:4], b"GGUF")
        done = self.call("export", "taken/folder", "--to", "gguf", "adapter.gguf", code=64)
        self.assertIn("give --model", done.stderr)

    def test_dora_with_dropout_trains_resumes_and_goes_home(self):
        dora = ["--set", "adapter.use_dora=true", "--set", "adapter.dropout=0.1"]
        want = self.sha(self.call("train", self.run_file(steps=300, every=10, output="whole"), *dora))
        path = self.run_file(steps=300, every=10)
        path.write_text(path.read_text().replace("alpha: 8", "alpha: 8, use_dora: true, dropout: 0.1"))
        process = self.start_and_wait_for_checkpoint(path, "--ranks", 2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = self.call("train", path, "--set", "placement.mode=gathered", ranks=3)
        self.assertIn("resuming from step", done.stderr)
        self.assertEqual(self.sha(done), want)
        self.assertNotEqual(self.sha(self.call("train", self.run_file("lora.yaml", steps=300, every=100, output="lora"))), want)
        before = json.loads((self.folder / "out/metrics.jsonl").read_text().splitlines()[-1])["eval_loss_base"]
        lora = json.loads((self.folder / "lora/metrics.jsonl").read_text().splitlines()[-1])["eval_loss_base"]
        self.assertAlmostEqual(before, lora, delta=1e-5 * lora)  # the model without an adapter, of both
        refused = self.call("train", path, "--set", "adapter.use_dora=false", code=65)
        self.assertIn("dora r=4", refused.stderr)
        flags = ["--model", MODEL, "--adapter"]
        base, want = self.scores("base", "--model", MODEL), self.scores("want", *flags, "out")
        self.assertGreater(max(abs(a - b) for a, b in zip(base, want)), 0.01)
        self.assertEqual(self.scores("folder", *flags, "out/adapter"), want)
        for kind, out in (("merged-hf", "merged"), ("merged-gguf", "merged.gguf")):
            self.call("export", "out", "--to", kind, "--dtype", "float32", out)
            got = self.scores(kind, "--model", out)
            self.assertLess(max(abs(a - b) for a, b in zip(got, want)), 1e-4, kind)
        refused = self.call("export", "out", "--to", "gguf", "adapter.gguf", code=64)
        self.assertIn("no place for DoRA's magnitudes", refused.stderr)
        self.assertFalse((self.folder / "adapter.gguf").exists())
        self.assertTrue(json.loads((self.folder / "out/adapter/adapter_config.json").read_text())["use_dora"])
        for arguments, said in ((["out"], "DoRA"), (["tree", "out"], "magnitude ["), (["stats", "out"], "q_proj"),
                                (["tensors", "out/adapter"], "q_proj.lora_magnitude_vector"), (["verify", "out"], "ok")):
            done = subprocess.run([INSPECT, *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, f"{arguments}: {done.stdout}{done.stderr}")
            self.assertIn(said, done.stdout)
        self.call("train", self.run_file(steps=2, output="on"), *dora, "--set", "adapter.init_from=out/adapter")
        done = self.call("train", self.run_file(steps=2, output="no"), "--set", "adapter.init_from=out/adapter",
                         "--set", "adapter.use_dora=false", code=64)
        self.assertIn("adapter.use_dora: true there, false here", done.stderr)

    def test_weights_of_the_base_train_resume_and_go_home(self):
        tiny = ROOT / "tests/golden/tiny"
        for model, what, tensor in (("llama", "modules_to_save: [embed_tokens, lm_head]", "lm_head.weight"),
                                    ("llama_tied", "modules_to_save: [lm_head]", "lm_head.weight"),
                                    ("gpt2", "bias: all, modules_to_save: [wte]", "attn.c_attn.base_layer.bias")):
            out, model = f"out-{model}", str(tiny / model)
            base = ["--set", f"model.base={model}"]
            path = self.run_file(steps=200, every=10, output=out)
            path.write_text(path.read_text().replace("alpha: 8", f"alpha: 8, {what}").replace(str(MODEL), model))
            want = self.sha(self.call("train", path, "--set", f"output=whole-{out}"))
            process = self.start_and_wait_for_checkpoint(path, "--ranks", 2, output=out)
            process.send_signal(signal.SIGKILL)
            process.wait()
            done = self.call("train", path, "--set", "placement.mode=gathered", ranks=3)
            self.assertIn("resuming from step", done.stderr)
            self.assertEqual(self.sha(done), want)
            refused = self.call("train", path, "--set", "adapter.modules_to_save=null", code=65)
            self.assertIn("saved=", refused.stderr)
            flags = ["--model", model, "--adapter"]
            base_scores, want = self.scores("base", "--model", model), self.scores("want", *flags, out)
            self.assertGreater(max(abs(a - b) for a, b in zip(base_scores, want)), 0.01)
            self.assertEqual(self.scores("folder", *flags, f"{out}/adapter"), want)
            for kind, merged in (("merged-hf", f"{out}-folder"), ("merged-gguf", f"{out}.gguf")):
                self.call("export", out, "--to", kind, "--dtype", "float32", merged)
                got = self.scores("got", "--model", merged)
                self.assertLess(max(abs(a - b) for a, b in zip(got, want)), 1e-4, kind)
            refused = self.call("export", out, "--to", "gguf", "adapter.gguf", code=64)
            self.assertIn("no place for base_model.model", refused.stderr)
            config = (self.folder / out / "adapter/adapter_config.json").read_text()
            self.assertEqual(json.loads(config)["bias"], "all" if "bias" in what else "none")
            for arguments, said in (([out], "trained whole"), (["tree", out], "weight [131, 48]"), (["stats", out], "q_proj" if
                                    "llama" in out else "c_attn"), (["tensors", f"{out}/adapter"], tensor), (["verify", out], "ok")):
                done = subprocess.run([INSPECT, *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
                self.assertEqual(done.returncode, 0, f"{arguments}: {done.stdout}{done.stderr}")
                self.assertIn(said, done.stdout)
            go_on = path.read_text().replace("max_steps: 200", "max_steps: 2")
            path.write_text(go_on.replace(f"output: {out}", f"output: on-{out}"))
            self.call("train", path, "--set", f"adapter.init_from={out}/adapter")
            key = "bias" if "bias" in what else "modules_to_save"
            done = self.call("train", self.run_file(steps=2, output="no"), *base, "--set", f"adapter.init_from={out}/adapter",
                             "--set", f"adapter.{key}={'none' if key == 'bias' else 'null'}", code=64)
            self.assertIn(f"adapter.{key}: ", done.stderr)

    def test_results_of_another_run_are_never_overwritten(self):
        self.call("train", self.run_file())
        before = sorted(p.name for p in (self.folder / "out/checkpoints").iterdir())
        done = self.call("train", self.run_file(extra=""), "--set", "adapter.r=8", code=65)
        self.assertIn("another run", done.stderr)
        self.assertIn("r=4", done.stderr)
        self.call("train", self.run_file(), "--resume", "never", code=64)
        self.assertEqual(before, sorted(p.name for p in (self.folder / "out/checkpoints").iterdir()))

    def test_bad_input_gives_the_documented_code_and_one_message(self):
        cases = [
            (["--set", "adapter.lora_alpha=3"], 64, 'unknown key "adapter.lora_alpha"; did you mean "adapter.alpha"?'),
            (["--set", "adapter.modules_to_save=[norm]"], 64, "can save lm_head and model.embed_tokens"),
            (["--set", "adapter.bias=lora"], 64, "lora_only"),
            (["--set", "adapter.target_modules=.*[q_proj"], 64, "no regular expression"),
            (["--set", "placement.mode=pipeline"], 64, "not supported yet"),
            (["--set", "objective.type=dpo"], 64, "not supported yet"),
            (["--set", "train.learning_rate=fast"], 64, "expected a number"),
            (["--set", "train.global_batch_size=9", "--set", "train.micro_batch_size=2"], 64, "multiple of"),
            (["--set", "adapter.target_modules=[q_porj]"], 64, "q_porj"),
            (["--set", "model.base=nowhere.gguf"], 65, "nowhere.gguf"),
            (["--set", "data.train=nothing.jsonl"], 65, "nothing.jsonl"),
            (["--set", "data.format=messages"], 65, "train.jsonl:1"),
            (["--set", "placement.memory_limit=100KiB"], 69, "the limit is 100.0 KiB"),
            (["--set", "placement.transport=mpi"], 64, "mpirun"),
        ]
        if not os.path.exists("/dev/nvidia0"):
            cases.append((["--set", "placement.backend=cuda"], 69, "no GPU to compute with"))
            cases.append((["--set", "placement.mode=host_streamed"], 69, "Try placement.mode auto"))
        for flags, code, message in cases:
            for ranks in (0, 3) if "placement.transport=mpi" not in flags else (0,):
                done = self.call("train", self.run_file(), *flags, ranks=ranks, code=code)
                said = [line for line in done.stderr.splitlines() if line.startswith("qshard: ")]
                self.assertEqual(len(said), 1, done.stderr)
                self.assertIn(message, done.stderr, flags)
                self.assertFalse((self.folder / "out/checkpoints").exists())
        (self.folder / "bad.yaml").write_text("model: {base: x}\ntrian: {}\n")
        self.assertIn('bad.yaml:2: unknown key "trian"', self.call("train", "bad.yaml", code=64).stderr)
        (self.folder / "train.jsonl").write_text('{"input_ids": [1, 2, 3]}\n{"input_ids": [1, 2\n')
        self.assertIn("train.jsonl:2", self.call("train", self.run_file(), code=65).stderr)
        (self.folder / "train.jsonl").write_text('{"input_ids": [1, 999]}\n')
        self.call("train", self.run_file(), code=65)
        self.call("train", code=64)

    def test_the_resolved_run_file_runs_again_and_dry_run_writes_nothing(self):
        self.call("train", self.run_file(), "--dry-run")
        self.assertFalse((self.folder / "out").exists())
        want = self.sha(self.call("train", self.run_file()))
        done = self.call("train", self.folder / "out/run.yaml", "--set", f"output={self.folder}/again")
        self.assertEqual(self.sha(done), want)
        self.assertEqual(self.status()["state"], "finished")

    def test_plan_is_that_of_the_ranks_to_come(self):
        path = self.run_file()
        even = ["--set", "train.global_batch_size=8"]  # one rank needs and receives as much as another
        flags = [*even, "--nodes", 2, "--ranks-per-node", 2, "--memory", "1GiB"]
        done = self.call("plan", path, *flags)
        self.assertIn("sbatch --nodes=2 --ntasks-per-node=2", done.stdout)
        self.assertFalse((self.folder / "out").exists())
        plan = json.loads(self.call("plan", path, *flags, "--json").stdout)
        self.assertEqual((plan["ranks"], plan["memory_limit"], plan["chosen"]), (4, 1 << 29, "replicated"))
        for placement in plan["placements"]:
            path = self.run_file(steps=2, mode=placement["mode"], output=placement["mode"])
            here = self.call("train", path, *even, ranks=4)
            total = float(re.search(r"  total +([0-9.]+) MiB", here.stdout).group(1))
            # Printed is rank 0's, planned that of the rank that holds one more root of a subtree.
            self.assertAlmostEqual(placement["planned_bytes"] / 2**20, total, delta=0.05 + 22 / 1024)
            lines = (self.folder / placement["mode"] / "metrics.jsonl").read_text().splitlines()
            measured = json.loads(lines[0])["bytes"]
            self.assertEqual((placement["gather_bytes"], placement["reduce_bytes"]), (measured["gather"], measured["reduce"]))
        self.assertIn("Try", self.call("plan", path, "--memory", "2MiB", code=69).stderr)
        self.call("plan", path, "--bandwidth", "10", code=64)

    def test_plan_for_gpus_needs_none(self):
        gpu = [self.run_file(), "--set", "placement.backend=cuda", "--nodes", 2, "--ranks-per-node", 4]
        hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        self.assertIn("--memory", self.call("plan", *gpu, code=64, env=hidden).stderr)
        done = self.call("plan", *gpu, "--memory", "2GiB", env=hidden)
        self.assertIn("jobs/train-gpu.sbatch", done.stdout)
        self.assertNotIn("--time", done.stdout)
        plan = json.loads(self.call("plan", *gpu, "--memory", "2GiB", "--json", env=hidden).stdout)
        self.assertEqual((plan["ranks"], plan["memory_limit"], plan["chosen"]), (8, 1 << 31, "replicated"))
        self.assertEqual([p["mode"] for p in plan["placements"]], ["replicated", "gathered", "host_streamed"])
        self.assertTrue(all(p["fits"] and p["run_seconds"] is None for p in plan["placements"]))
        flags = ["--memory", "2GiB", "--gflops", 1000, "--set", "placement.ranks_per_gpu=2"]
        timed = json.loads(self.call("plan", *gpu, *flags, "--json", env=hidden).stdout)
        self.assertEqual(timed["memory_limit"], 1 << 30)
        self.assertTrue(all(p["run_seconds"] > 0 for p in timed["placements"]))
        self.assertIn("--time", self.call("plan", *gpu, *flags, env=hidden).stdout)
        self.call("plan", *gpu, "--memory", "100MiB", code=69, env=hidden)

    def test_the_adapter_serves_score_and_inspect(self):
        self.call("train", self.run_file())
        (self.folder / "in.jsonl").write_text('{"input_ids": [5, 9, 100, 7, 3]}\n{"input_ids": [1, 2]}\n')
        common = ["--model", MODEL, "--input", "in.jsonl", "--compute-dtype", "float32"]
        self.call("score", *common, "--adapter", "out/adapter", "--out", "a.jsonl", "--top", 2)
        self.call("score", *common, "--adapter", "out", "--out", "b.jsonl", "--top", 2, ranks=2)
        self.call("score", *common, "--quantization", "nf4", "--out", "base.jsonl")
        tuned = (self.folder / "a.jsonl").read_text()
        self.assertEqual(tuned, (self.folder / "b.jsonl").read_text())
        row, base = json.loads(tuned.splitlines()[0]), json.loads((self.folder / "base.jsonl").read_text().splitlines()[0])
        self.assertIsNone(row["logprobs"][0])
        self.assertEqual(len(row["logprobs"]), 5)
        self.assertEqual(len(row["top"][1]), 2)
        self.assertNotEqual(row["logprobs"], base["logprobs"])
        self.assertTrue(all(value < 0 for value in row["logprobs"][1:]))
        for arguments in (["out"], ["tensors", "out"], ["stats", "out"], ["verify", "out"], ["log", "out"],
                          ["export", "out", "--to", "peft", "exported"]):
            done = subprocess.run([INSPECT, *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, f"{arguments}: {done.stdout}{done.stderr}")
        self.assertEqual((self.folder / "exported/adapter_model.safetensors").read_bytes(),
                         (self.folder / "out/adapter/adapter_model.safetensors").read_bytes())

    def test_the_end_of_training_shows_what_the_adapter_answers(self):
        screens = [self.call("train", self.run_file(output=f"out{ranks}", mode=mode, threads=1), ranks=ranks).stdout
                   for ranks, mode in ((0, "auto"), (3, "gathered"))]
        parts = [re.findall(r"  (prompt|expected|before|after) +([0-9 ]+)\n", screen) for screen in screens]
        self.assertEqual([name for name, _ in parts[0]], ["prompt", "expected", "before", "after"] * 3)
        self.assertEqual(parts[0], parts[1])
        self.call("eval", "out0/run.yaml", "--out", "answers.jsonl")
        rows = [json.loads(line) for line in (self.folder / "answers.jsonl").read_text().splitlines()]
        answers = {(row["prompt"], row["expected"], row["base"], row["tuned"]) for row in rows}
        texts = [text.strip() for _, text in parts[0]]
        for i in range(0, 12, 4):
            self.assertIn(tuple(texts[i:i + 4]), answers)

    def test_experts_of_a_mixture_are_trained_resumed_and_taken_home(self):
        mixture = ["--set", f"model.base={MODEL.parent / 'mixtral'}", "--set", "train.lr_scheduler_type=constant"]
        want = self.sha(self.call("train", self.run_file(output="whole"), *mixture))
        self.call("train", self.run_file(steps=10), *mixture, ranks=2)
        (self.folder / "out/adapter/adapter_config.json").unlink()  # of the shorter run
        done = self.call("train", self.run_file(), *mixture, "--set", "placement.mode=gathered", ranks=3)
        self.assertIn("resuming from step 10", done.stderr)
        self.assertEqual(self.sha(done), want)
        config = json.loads((self.folder / "out/adapter/adapter_config.json").read_text())
        self.assertEqual(config["target_modules"], ["q_proj", "k_proj", "v_proj", "o_proj"])
        self.assertEqual(sorted(config["target_parameters"]), ["down_proj", "gate.weight", "gate_up_proj"])
        self.assertEqual(config["rank_pattern"], {".*\\.gate_up_proj": 8})
        flags = ["--model", str(MODEL.parent / "mixtral")]
        base, want = self.scores("base", *flags), self.scores("want", *flags, "--adapter", "out")
        self.assertGreater(max(abs(a - b) for a, b in zip(base, want)), 0.01)
        self.assertEqual(self.scores("folder", *flags, "--adapter", "out/adapter"), want)
        self.call("export", "out", "--to", "merged-hf", "--dtype", "float32", "merged")
        got = self.scores("merged", "--model", "merged")
        self.assertLess(max(abs(a - b) for a, b in zip(got, want)), 1e-4)
        self.call("export", "out", "--to", "gguf", "adapter.gguf")
        self.assertIn(b"blk.1.ffn_up_exps.weight.lora_b", (self.folder / "adapter.gguf").read_bytes())
        done = subprocess.run([INSPECT, "tree", "out"], cwd=self.folder, capture_output=True, text=True, check=False)
        self.assertIn("mlp.experts.gate_up_proj A [4, 8, 48]  B [4, 72, 8]", done.stdout)
        some = ["--set", "adapter.target_modules=[]", "--set", "adapter.target_parameters=[experts.down_proj]"]
        self.call("train", self.run_file(output="some", steps=2), *mixture, *some, "--set", "adapter.layers=[1]")
        config = json.loads((self.folder / "some/adapter/adapter_config.json").read_text())
        self.assertEqual(config["target_parameters"], ["model.layers.1.mlp.experts.down_proj"])
        self.assertEqual(config["target_modules"], [])
        self.scores("some", *flags, "--adapter", "some/adapter")
        some = ["--set", "adapter.target_modules=.*0.self_attn.(q|v)_proj", "--set", "adapter.target_parameters=gate.weight"]
        self.call("train", self.run_file(output="regex", steps=2), *mixture, *some)
        config = json.loads((self.folder / "regex/adapter/adapter_config.json").read_text())
        self.assertEqual(config["target_modules"], [f"model.layers.0.self_attn.{name}_proj" for name in "qv"])
        self.assertEqual(config["target_parameters"], ["gate.weight"])
        for extra, said in ((["--set", "adapter.dropout=0.1"], "adapter.dropout does not go with LoRA on experts"),
                            (["--set", "adapter.target_modules=w1"], "names w1 without w3"),
                            (["--set", "adapter.target_parameters=q_proj.weight"], "no parameter of experts")):
            self.assertIn(said, self.call("train", self.run_file(output="no"), *mixture, *extra, code=64).stderr)

    def test_preference_pairs_are_measured_and_not_trained(self):
        model = self.folder / "model"
        shutil.copytree(MODEL, model)
        letters = [chr(c) for c in range(97, 123)] + ["\u0120", "</s>"]
        (model / "tokenizer.json").write_text(json.dumps({
            "model": {"type": "BPE", "vocab": {c: i for i, c in enumerate(letters)}, "merges": []},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            "decoder": {"type": "ByteLevel"},
            "added_tokens": [{"id": 27, "content": "</s>", "special": True}]}), encoding="utf-8")
        (model / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}), encoding="utf-8")
        pairs = [{"prompt": "the sky is", "chosen": " blue", "rejected": " seven"},
                 {"chosen": "grass is green", "rejected": "grass is loud"}, {"prompt": "a", "chosen": "b", "rejected": "c"}]
        for name, rows in (("pairs", pairs), ("sft", [{"prompt": p["prompt"], "completion": p["chosen"]} for p in pairs[::2]] * 9)):
            (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        run = self.run_file()
        text = pathlib.Path(run).read_text(encoding="utf-8").replace(str(MODEL), "model").replace("tokenized", "auto")
        text = text.replace("validation: 0.1", "test: pairs.jsonl").replace("train: train.jsonl", "train: sft.jsonl")
        pathlib.Path(run).write_text(text, encoding="utf-8")
        refused = self.call("train", run, "--set", "data.train=pairs.jsonl", "--dry-run", code=65)
        self.assertIn("pairs.jsonl:1: the row is a preference pair", refused.stderr)
        self.call("train", run)
        tables = [self.call("eval", run, "--split", "test", "--out", "answers.jsonl", "--overwrite", ranks=ranks).stdout
                  for ranks in (0, 2)]
        self.assertEqual(*tables)
        self.assertIn("test, 3 pairs", tables[0])
        lines = [json.loads(line) for line in (self.folder / "answers.jsonl").read_text().splitlines()]
        self.assertEqual([line["prompt"] for line in lines], ["the sky is", "grass is", "a"])
        found = json.loads(self.call("eval", run, "--split", "test", "--json").stdout)["subjects"][1]
        self.assertAlmostEqual(found["chosen_logp"], sum(line["tuned"]["chosen_logp"] for line in lines) / 3, 6)
        self.assertGreater(found["reward_margin"], 0)
        # The same tokens by the program that scores texts.
        ids = [letters.index(c) for c in "the\u0120sky\u0120is\u0120blue"] + [27]
        (self.folder / "ids.jsonl").write_text(json.dumps({"input_ids": ids}) + "\n", encoding="utf-8")
        self.call("score", "--model", "model", "--adapter", "out/adapter", "--quantization", "nf4",
                  "--input", "ids.jsonl", "--out", "scores.jsonl")
        scores = json.loads((self.folder / "scores.jsonl").read_text())["logprobs"]
        self.assertAlmostEqual(lines[0]["tuned"]["chosen_logp"], sum(scores[-6:]), 4)

    def test_a_run_from_a_weight_store_has_the_same_bits(self):
        want = self.sha(self.call("train", self.run_file()))
        made = self.call("quantize", MODEL, "model.qs").stdout
        self.assertIn("model.qs: nf4", made)
        from_store = ["--set", f"model.base={self.folder}/model.qs"]
        done = self.call("train", self.run_file(output="stored"), *from_store, ranks=2)
        self.assertEqual(self.sha(done), want)
        self.call("train", self.run_file(), *from_store)  # the finished run of the model itself: the same run
        refused = self.call("train", self.run_file(output="other"), *from_store, "--set", "model.quantization=int8", code=65)
        self.assertIn("the weight store holds nf4", refused.stderr)
        for arguments, code, text in ((["model.qs"], 0, "nf4 + double quantization"), (["verify", "model.qs"], 0, "ok")):
            done = subprocess.run([INSPECT, *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, code, done.stdout + done.stderr)
            self.assertIn(text, done.stdout)
        store = bytearray((self.folder / "model.qs").read_bytes())
        store[5000] ^= 1
        (self.folder / "model.qs").write_bytes(store)
        done = subprocess.run([INSPECT, "verify", "model.qs"], cwd=self.folder, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 65, done.stdout)
        self.assertIn("unit embed", self.call("train", self.run_file(output="damaged"), *from_store, ranks=2, code=65).stderr)

    def test_threads_are_those_of_the_cores_that_the_launcher_gave(self):
        everything = len(os.sched_getaffinity(0))
        one = str(min(os.sched_getaffinity(0)))
        count = [sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"]
        doctor = [QSHARD, "doctor", "--json"]

        def run(*command):
            return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=120,
                                  check=True).stdout

        def cores(*launcher, environment=()):
            return json.loads(run("env", *environment, *launcher, *doctor))["cores"]

        self.assertEqual(cores(), everything)
        self.assertEqual(cores("taskset", "-c", one), 1)
        self.assertEqual(cores(environment=["SLURM_CPUS_PER_TASK=1"]), 1)
        # Unless it is told otherwise, mpirun binds one or two ranks to a core each, whatever threads they start.
        self.assertEqual(cores("mpirun", "-np", "1"), everything)
        bound = ["mpirun", "-np", "1", "--bind-to", "core"]
        self.assertEqual(cores(*bound), int(run(*bound, *count)))

    def test_help_and_version_everywhere(self):
        self.assertIn("without CUDA", self.call("--version").stdout)
        for command in ("train", "eval", "generate", "score", "quantize", "export", "bench", "doctor"):
            self.assertIn("Usage", self.call(command, "--help").stdout)
        self.call("doctor")
        self.call("no-such-command", code=64)


if __name__ == "__main__":
    unittest.main(verbosity=2)
