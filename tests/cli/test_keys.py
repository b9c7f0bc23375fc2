#!/usr/bin/env python3
"""Every key of the run file does something: another value changes the run, or is refused."""
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
QSHARD = os.environ.get("QSHARD_BIN", str(ROOT / "build/bin/qshard"))
MODEL = ROOT / "tests/golden/tiny/llama_bias"

RUN = """\
model: {base: model}
data: {train: train.jsonl, validation: 0.25, test: test.jsonl, max_length: 32}
train: {max_steps: 4, micro_batch_size: 1, global_batch_size: 2, learning_rate: 1.0e-2, warmup_ratio: 0.0}
placement: {threads: 1, backend: cpu}
eval: {generate: {max_new_tokens: 4}}
"""


class Outcome:
    """What a run left: exit code, screens, the adapter's SHA-256, its folder."""

    def __init__(self, folder, name, settings):
        self.out = folder / name
        arguments = [f"--set={key}={value}" for key, value in {"output": name, **settings}.items()]
        done = subprocess.run([QSHARD, "train", "run.yaml", *arguments], cwd=folder, capture_output=True, text=True,
                              timeout=120, check=False)
        self.code, self.errors = done.returncode, done.stderr
        self.start, _, self.end = done.stdout.partition("finished:")
        self.end = re.sub(r" in \S+ s|\S*tmp\S*|SHA-256 of its values \S+", "", self.end)
        sha = re.search(r"SHA-256 of its values ([0-9a-f]{16})", done.stdout)
        self.sha = sha and sha.group(1)

    def metrics(self, word):
        return sum(word in line for line in (self.out / "metrics.jsonl").read_text().splitlines())

    def checkpoints(self):
        return len(list((self.out / "checkpoints").glob("*.h5")))


def bits(run, base):
    return run.code == 0 and run.sha and run.sha != base.sha


def start(run, base):
    return run.code == 0 and run.start != base.start


def end(run, base):
    return run.code == 0 and run.end != base.end


def refused(run, _):
    return run.code in (64, 65, 69)


# Key: another value (and what it needs beside it), and where that shows.
KEYS = {
    "model.base": ("nowhere", refused),
    "model.quantization": ("none", bits),
    "model.double_quant": ("false", bits),
    "model.compute_dtype": ("float32", bits),
    "model.tokenizer": ("nowhere", refused),
    "adapter.type": ("full", refused),
    "adapter.r": (4, bits),
    "adapter.alpha": (8, bits),
    "adapter.dropout": (0.2, bits),
    "adapter.target_modules": ("[q_proj]", bits),
    "adapter.exclude_modules": ("[q_proj]", bits),
    "adapter.target_parameters": ("[experts.none]", refused),
    "adapter.layers": (1, bits),
    "adapter.use_rslora": ("true", bits),
    "adapter.use_dora": ("true", bits),
    "adapter.rank_pattern": ("{q_proj: 2}", bits),
    "adapter.alpha_pattern": ("{q_proj: 2}", bits),
    "adapter.init_lora_weights": ("gaussian", bits),
    "adapter.bias": ("all", bits),
    "adapter.modules_to_save": ("[lm_head]", bits),
    "adapter.init_from": ("nowhere", refused),
    "data.train": ("test.jsonl", bits),
    "data.validation": ("null", bits),
    "data.test": ("nowhere.jsonl", refused),
    "data.format": ("text", refused),
    "data.template": ('"{prompt} so"', bits),
    "data.completion_column": ("none", {"data.template": '"{prompt}"'}, refused),
    "data.loss_on": ("all", bits),
    "data.max_length": (16, start),
    "data.packing": ("false", bits),
    "data.overlong": ("error", {"data.max_length": 4}, refused),
    "data.add_bos": ("true", lambda run, base: refused(run, base) or bits(run, base)),
    "data.append_eos": ("false", bits),
    "data.shuffle": ("false", bits),
    "data.template_date": ("someday", refused),
    "train.seed": (7, bits),
    "train.epochs": (3, {"train.max_steps": "null"}, bits),
    "train.max_steps": (3, bits),
    "train.micro_batch_size": (2, start),
    "train.global_batch_size": (4, bits),
    "train.learning_rate": (1e-3, bits),
    "train.lr_scheduler_type": ("linear", bits),
    "train.warmup_ratio": (0.5, bits),
    "train.warmup_steps": (3, bits),
    "train.optimizer": ("sgd", bits),
    "train.weight_decay": (0.5, bits),
    "train.betas": ("[0.5, 0.6]", bits),
    "train.max_grad_norm": (1e-7, bits),
    "train.recompute": ("always", start),
    "objective.type": ("dpo", refused),
    "placement.mode": ("gathered", start),
    "placement.backend": ("reference", start),
    "placement.ranks_per_gpu": (2, refused),
    "placement.transport": ("nccl", refused),
    "placement.threads": (2, start),
    "placement.memory_limit": ("1MiB", refused),
    "placement.cpu_isa": ("sse", start),
    "eval.every": (1, lambda run, base: run.metrics("eval_loss") > base.metrics("eval_loss")),
    "eval.max_rows": (1, start),
    "eval.generate.split": ("test", end),
    "eval.generate.max_new_tokens": (1, end),
    "eval.generate.metrics": ("bleu", refused),
    "eval.early_stop": (1, {"eval.every": 1, "train.learning_rate": 0},
                        lambda run, base: "stopping early" in run.errors),
    "checkpoint.every": (1, lambda run, base: run.checkpoints() == 3 and base.checkpoints() == 1),
    "checkpoint.keep": (4, {"checkpoint.every": 1}, lambda run, base: run.checkpoints() == 4),
    "checkpoint.on_signal": None,
    "checkpoint.time_limit": (1, refused),  # shorter than a save takes
    "log.every": (2, lambda run, base: run.metrics('"loss"') < base.metrics('"loss"')),
    "log.tensorboard": ("false", lambda run, base: not (run.out / "tensorboard").exists() and
                        (base.out / "tensorboard").exists()),
    "log.color": None,  # these two have tests of their own
    "output": ("elsewhere", lambda run, base: (run.out.parent / "elsewhere/run.yaml").exists()),
}


class Keys(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="qshard-keys-"))
        shutil.copytree(MODEL, self.folder / "model")
        letters = [chr(c) for c in range(97, 123)] + ["\u0120", "</s>"]
        (self.folder / "model/tokenizer.json").write_text(json.dumps({
            "model": {"type": "BPE", "vocab": {c: i for i, c in enumerate(letters)}, "merges": []},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            "decoder": {"type": "ByteLevel"},
            "added_tokens": [{"id": 27, "content": "</s>", "special": True}]}), encoding="utf-8")
        (self.folder / "model/tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}), encoding="utf-8")
        for name, words in (("train", "sun moon star cloud rain snow wind leaf tree root seed bark"),
                            ("test", "salt pepper sugar honey")):
            rows = [{"prompt": f"say {word} ", "completion": word[::-1]} for word in words.split()]
            (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (self.folder / "run.yaml").write_text(RUN, encoding="utf-8")

    def tearDown(self):
        shutil.rmtree(self.folder)

    def test_each_key_changes_the_run_or_is_refused(self):
        listed = subprocess.run([QSHARD, "train", "--keys"], capture_output=True, text=True, check=True).stdout
        self.assertEqual(re.findall(r"(?m)^([a-z_.]+)(?=: | \(required\))", listed), list(KEYS))
        base = Outcome(self.folder, "base", {})
        self.assertEqual(base.code, 0, base.errors)

        def tried(key):
            value, *beside, shows = KEYS[key]
            run = Outcome(self.folder, key, {key: value, **(beside[0] if beside else {})})
            return shows(run, base), run
        tested = [key for key, other in KEYS.items() if other]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for key, (shown, run) in zip(tested, pool.map(tried, tested)):
                with self.subTest(key):
                    self.assertTrue(shown, f"{KEYS[key][0]} shows nowhere: {run.code}\n{run.start}{run.end}{run.errors}")

    def test_color_may_be_asked_for_where_there_is_no_terminal(self):
        for wanted, colored in (("auto", False), ("always", True), ("never", False)):
            done = subprocess.run([QSHARD, "data", "run.yaml", f"--set=log.color={wanted}", "--set=output=x"], cwd=self.folder,
                                  capture_output=True, text=True, timeout=60, check=True)
            self.assertEqual("\x1b[" in done.stdout, colored)

    def test_without_on_signal_a_signal_ends_the_run(self):
        for wanted, code in (("true", 85), ("false", -signal.SIGTERM)):
            out = self.folder / wanted
            with subprocess.Popen([QSHARD, "train", "run.yaml", f"--set=checkpoint.on_signal={wanted}",
                                   "--set=train.max_steps=1000000", "--set=checkpoint.every=1", f"--set=output={wanted}"],
                                  cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
                until = time.monotonic() + 60
                while not list((out / "checkpoints").glob("*.json")) and time.monotonic() < until:
                    time.sleep(0.01)
                run.send_signal(signal.SIGTERM)
                self.assertEqual(run.wait(timeout=60), code)


if __name__ == "__main__":
    unittest.main()
