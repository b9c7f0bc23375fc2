#!/usr/bin/env python3
"""One output folder over several starts: early stopping, going back, who holds the folder, what is never overwritten.

Takes the program from QSHARD_BIN. Standard library only.
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
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
QSHARD = os.environ.get("QSHARD_BIN", str(ROOT / "build/bin/qshard"))
MODEL = ROOT / "tests/golden/tiny/llama"

RUN = {
    "model": {"base": str(MODEL)},
    "adapter": {"r": 4, "alpha": 8, "target_modules": ["q_proj", "k_proj"]},
    "data": {"train": "train.jsonl", "validation": "held_out.jsonl", "format": "tokenized", "max_length": 32},
    "train": {"max_steps": 12, "micro_batch_size": 1, "global_batch_size": 4, "learning_rate": 0.005,
              "lr_scheduler_type": "constant"},
    "placement": {"threads": 1, "backend": "cpu"},
    "eval": {"every": 0, "generate": {"max_new_tokens": 0}},
    "checkpoint": {"every": 2, "keep": 20},
    "log": {"tensorboard": False},
}


def rows(path, count, seed):
    rng = random.Random(seed)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(count):
            file.write(json.dumps({"input_ids": [rng.randrange(131) for _ in range(12)]}) + "\n")


class OutputFolder(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="qshard-resume-"))
        rows(self.folder / "train.jsonl", 24, 1)
        rows(self.folder / "held_out.jsonl", 6, 2)
        self.write(RUN)

    def tearDown(self):
        shutil.rmtree(self.folder)

    def write(self, run, name="run.yaml"):
        (self.folder / name).write_text(json.dumps({"output": "out"} | run), encoding="utf-8")  # JSON is YAML

    def command(self, *sets, flags=(), run="run.yaml"):
        overrides = [word for pair in sets for word in ("--set", pair)]
        return [QSHARD, "train", run, *overrides, *map(str, flags)]

    def train(self, *sets, flags=(), run="run.yaml", code=0, env=None):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")} | (env or {})
        done = subprocess.run(self.command(*sets, flags=flags, run=run), cwd=self.folder, capture_output=True, text=True,
                              timeout=60, check=False, env=environment)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def sha(self, done):
        return re.search(r"SHA-256 of its values ([0-9a-f]{16})", done.stdout).group(1)

    def status(self, output="out"):
        return json.loads((self.folder / output / "run_status.json").read_text())

    def checkpoint(self, step, output="out"):
        return self.folder / output / f"checkpoints/step-{step:08}.h5"

    def steps(self, output="out"):
        return sorted(int(p.name[5:13]) for p in (self.folder / output / "checkpoints").glob("step-*.h5"))

    def lines(self, output="out"):
        return [json.loads(line) for line in (self.folder / output / "metrics.jsonl").read_text().splitlines()]

    def contents(self, output="out"):
        return {p.relative_to(self.folder): p.stat().st_mtime_ns for p in (self.folder / output).rglob("*")}

    # Early stopping. The learning rate is so large that the evaluation soon gets worse.
    stopping = ("eval.every=1", "eval.early_stop=3", "checkpoint.every=5", "train.learning_rate=0.05", "train.max_steps=40")

    def test_early_stopping_ends_alike_however_often_it_was_interrupted(self):
        whole = self.train(*self.stopping, "output=whole")
        end = self.status("whole")["step"]
        self.assertLess(end, 40)
        losses = {line["step"]: line["eval_loss"] for line in self.lines("whole") if "eval_loss_base" not in line
                  and "eval_loss" in line}
        best = min(losses, key=losses.get)
        self.assertEqual(best, end - 3)
        self.assertIn(f"of step {best}, whose evaluation is the best; the last step is {end}", whole.stdout)
        self.assertIn(f"of step {best}, whose", (self.folder / "whole/report.html").read_text())
        self.assertIn(best, self.steps("whole"), "the best checkpoint is kept")
        for cut in range(end - 3, end):
            output = f"output=cut{cut}"
            self.train(*self.stopping, output, f"train.max_steps={cut}")
            done = self.train(*self.stopping, output)
            self.assertEqual(self.status(f"cut{cut}")["step"], end)
            self.assertEqual(self.sha(done), self.sha(whole))

    def test_a_run_that_has_ended_does_nothing_when_it_is_started_again(self):
        for name, sets in (("stopped", self.stopping), ("finished", ())):
            first = self.train(*sets, f"output={name}")
            before = self.contents(name)
            again = self.train(*sets, f"output={name}")
            self.assertIn("nothing to do", again.stdout)
            self.assertEqual(self.sha(again), self.sha(first))
            self.assertEqual(self.contents(name), before)
        shutil.rmtree(self.folder / "stopped/adapter")
        (self.folder / "finished/run_status.json").write_text("{")
        for name, sets in (("stopped", self.stopping), ("finished", ())):
            self.train(*sets, f"output={name}")
            self.assertTrue((self.folder / name / "adapter/adapter_model.safetensors").exists())
            self.assertEqual(self.status(name)["state"], "finished")
        more = self.train("train.max_steps=14", "output=finished")
        self.assertIn("train.max_steps 12 -> 14", more.stderr)
        self.assertIn("resuming from step 12 of 14", more.stderr)
        less = self.train("train.max_steps=9", "output=finished", code=64)
        self.assertIn("at step 14, beyond the 9 steps", less.stderr)

    def test_early_stopping_without_evaluations_is_refused(self):
        self.assertIn("eval.every", self.train("eval.early_stop=2", code=64).stderr)
        self.assertIn("data.validation", self.train("eval.early_stop=2", "eval.every=1", "data.validation=null", code=64).stderr)

    def test_going_back_begins_a_branch_that_the_next_start_goes_on_with(self):
        self.train()
        old = self.lines()
        slow = ("train.learning_rate=0.0001",)
        want = self.sha(self.train(*slow, "output=other", flags=["--resume", self.checkpoint(8)]))
        done = self.train(*slow, "train.max_steps=10", flags=["--resume", self.checkpoint(8)])
        self.assertIn("train.learning_rate 0.005 -> 0.0001", done.stderr)
        self.assertIn("abandoned-1", done.stderr)
        self.assertEqual(self.steps(), [2, 4, 6, 8, 10])
        aside = self.folder / "out/checkpoints/abandoned-1"
        self.assertEqual(sorted(p.name for p in aside.glob("*.h5")), ["step-00000010.h5", "step-00000012.h5"])
        self.assertEqual([json.loads(line) for line in (aside / "metrics.jsonl").read_text().splitlines()], old)
        done = self.train(*slow)
        self.assertIn("resuming from step 10 of 12", done.stderr)
        self.assertEqual(self.sha(done), want)
        steps = [line["step"] for line in self.lines() if "loss" in line]
        self.assertEqual(steps, list(range(1, 13)))
        # The same command once more, by the scheduler: the branch goes on. By a person: it begins again.
        again = ["--resume", self.checkpoint(8)]
        done = self.train(*slow, "train.max_steps=13", flags=again, env={"SLURM_RESTART_COUNT": "1"})
        self.assertIn("resuming from step 12 of 13", done.stderr)
        self.assertIn("resuming from step 8 of 12", self.train(*slow, flags=again).stderr)
        self.assertTrue((self.folder / "out/checkpoints/abandoned-2/step-00000013.h5").exists())

    def test_resume_takes_a_folder_and_says_what_is_wrong_with_one(self):
        self.train("train.max_steps=4")
        done = self.train("output=copy", flags=["--resume", "out"])
        self.assertIn("resuming from step 4 of 12 (out/checkpoints/step-00000004.h5)", done.stderr)
        self.assertIn(4, self.steps("copy"))
        self.train(flags=["--resume", "out/checkpoints"])
        self.assertFalse((self.folder / "out/checkpoints/abandoned-1").exists())
        self.assertIn("holds no checkpoints", self.train(flags=["--resume", "out/adapter"], code=64).stderr)
        self.assertIn("no such file", self.train(flags=["--resume", "gone.h5"], code=64).stderr)

    def test_what_differs_is_named_with_both_values(self):
        self.train("train.max_steps=4")
        for change, said in (("data.loss_on=completion", None), ("data.packing=false", "data.packing: true there, false here"),
                             ("data.shuffle=false", "data.shuffle: true there, false here"),
                             ("train.seed=7", "train.seed: 42 there, 7 here"),
                             ("train.optimizer=sgd", "train.optimizer: adamw there, sgd here"),
                             ("data.validation=0.5", "data.validation: held_out.jsonl there, 0.5 here"),
                             ("model.quantization=int8", "model.quantization: nf4 there, int8 here"),
                             ("adapter.target_modules=[q_proj, v_proj]", "adapter.target_modules: [q_proj, k_proj] there")):
            if said:
                self.assertIn(said, self.train(change, code=65).stderr)
            else:
                self.assertNotIn("differ", self.train(change, "train.max_steps=4").stderr)
        rows(self.folder / "train.jsonl", 25, 1)
        self.assertIn("the rows of data.train", self.train(code=65).stderr)
        rows(self.folder / "train.jsonl", 24, 1)
        done = self.train("train.max_steps=6", "train.weight_decay=0.1", "adapter.target_modules=[k_proj, q_proj]")
        for said in ("train.max_steps 4 -> 6", "train.weight_decay 0 -> 0.1"):
            self.assertIn(said, done.stderr)

    def test_a_base_whose_config_was_only_rewritten_or_moved_is_the_same(self):
        model = self.folder / "model"
        shutil.copytree(MODEL, model)
        config = json.loads((model / "config.json").read_text())
        self.train("model.base=model", "train.max_steps=4")
        more = {"transformers_version": "99.0", "_name_or_path": "elsewhere", "dtype": "bfloat16"}
        (model / "config.json").write_text(json.dumps(dict(reversed(config.items())) | more, indent=3))
        model.rename(self.folder / "moved")
        done = self.train("model.base=moved", "train.max_steps=6", "train.max_steps=4", flags=["--resume", "out"])
        self.assertNotIn("note", done.stderr)
        (self.folder / "moved/config.json").write_text(json.dumps(config | {"rope_theta": 12345.0}))
        self.assertIn("base_sha256", self.train("model.base=moved", code=65).stderr)

    def test_results_without_checkpoints_are_not_overwritten(self):
        self.train("train.max_steps=4")
        kept = self.contents()
        shutil.rmtree(self.folder / "out/checkpoints")
        for flags in ([], ["--resume", "never"]):
            done = self.train("train.seed=7", flags=flags, code=64)
            self.assertIn("adapter/", done.stderr)
            self.assertIn("adapter.init_from", done.stderr)
        for name in ("adapter", "report.html", "run_status.json"):  # each of the rest is enough
            self.assertIn("would overwrite", self.train(code=64).stderr, name)
            path = self.folder / "out" / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.assertIn("metrics.jsonl", self.train(code=64).stderr)
        self.assertTrue(set(self.contents()) < set(kept))

    def test_a_folder_with_foreign_files_is_a_fine_output(self):
        (self.folder / "out").mkdir()
        (self.folder / "out/notes.txt").write_text("mine")
        self.train("train.max_steps=2")
        self.assertEqual((self.folder / "out/notes.txt").read_text(), "mine")

    def living(self, *sets, until=lambda: True):
        """A run that goes on until it is killed, once `until` holds."""
        process = subprocess.Popen(self.command("train.max_steps=1000000", *sets), cwd=self.folder,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        deadline = time.monotonic() + 30
        while not until() and time.monotonic() < deadline:
            self.assertIsNone(process.poll())
            time.sleep(0.01)
        return process

    def has_lines(self):
        path = self.folder / "out/metrics.jsonl"
        return path.exists() and path.stat().st_size > 0

    def test_a_start_killed_before_its_first_checkpoint_is_no_result(self):
        first = self.living("checkpoint.every=1000000", "log.tensorboard=true", until=self.has_lines)
        first.kill()
        first.wait()
        self.assertEqual(self.status()["state"], "running")
        for name in (".run.yaml.tmp-1-0", ".run_status.json.tmp-77-3", "adapter/.adapter_model.safetensors.tmp-5-1"):
            (self.folder / "out" / name).parent.mkdir(exist_ok=True)
            (self.folder / "out" / name).write_text("half")
        self.train("train.max_steps=3")
        self.assertEqual([line["step"] for line in self.lines() if "loss" in line], [1, 2, 3])
        self.assertEqual([p for p in (self.folder / "out").rglob(".*")], [])

    def test_a_damaged_status_does_not_stop_a_resume(self):
        self.train("train.max_steps=4")
        for damage in ("", "{\"state\":", "\0" * 40, '{"state": 3}', "[]"):
            (self.folder / "out/run_status.json").write_text(damage)
            steps = max(self.steps()) + 2
            done = self.train(f"train.max_steps={steps}")
            self.assertIn("run_status.json is damaged", done.stderr)
            self.assertIn(f"resuming from step {steps - 2}", done.stderr)

    def test_a_second_run_on_a_living_ones_folder_is_refused_and_says_whose_it_is(self):
        job = {"SLURM_JOB_ID": "4711"}
        first = self.living(until=lambda: self.checkpoint(2).exists())
        second = self.train("train.max_steps=1000000", code=75, env=job)
        self.assertIn(f"out is in use by another run: host {os.uname().nodename}, pid {first.pid}, since", second.stderr)
        self.assertIsNone(first.poll(), "the first one lives")
        first.kill()  # a kill ends the lock, too
        first.wait()
        done = self.train("train.learning_rate=0.001", f"train.max_steps={max(self.steps()) + 1}")
        self.assertIn("resuming", done.stderr)
        self.assertFalse((self.folder / "out/run.lock").exists())

    def test_a_refused_start_leaves_nothing_behind(self):
        self.train("model.base=nowhere", "output=new", code=65)
        self.assertFalse((self.folder / "new").exists())
        self.train("checkpoint.time_limit=15", "output=new", code=64)
        self.assertFalse((self.folder / "new").exists())

    def test_a_moved_folder_goes_on_where_it_is(self):
        self.train("train.max_steps=4")
        (self.folder / "out").rename(self.folder / "elsewhere")
        done = self.train("train.max_steps=6", run="elsewhere/run.yaml")
        self.assertIn("resuming from step 4 of 6", done.stderr)
        self.assertFalse((self.folder / "out").exists())
        self.assertEqual(self.status("elsewhere")["step"], 6)

    def events(self):
        """(tag, step) of every scalar in the event files, in their order."""
        found = []
        for path in sorted((self.folder / "out/tensorboard").iterdir()):
            data = path.read_bytes()
            while data:
                (length,) = struct.unpack_from("<Q", data)
                record, data = data[12:12 + length], data[16 + length:]
                tag = re.search(rb"(train|eval)/[a-z_]+", record)
                if tag:
                    step, shift, at = 0, 0, record.index(b"\x10", 9) + 1
                    while True:
                        step |= (record[at] & 127) << shift
                        if record[at] < 128:
                            break
                        at, shift = at + 1, shift + 7
                    found.append((tag.group().decode(), step))
        return found

    def test_a_finished_run_knows_its_base_and_its_evaluation(self):
        model = self.folder / "model"
        shutil.copytree(MODEL, model)
        stops = (f"model.base={model}", "eval.every=1", "eval.early_stop=50")
        self.train(*stops)
        self.assertIn("nothing to do", self.train(*stops).stdout)
        weights = bytearray((model / "model.safetensors").read_bytes())
        weights[-2] ^= 1
        (model / "model.safetensors").write_bytes(weights)
        self.assertIn("the quantized base is not", self.train(*stops, code=65).stderr)
        shutil.rmtree(self.folder / "out")
        rows = (self.folder / "train.jsonl").read_text().splitlines(True)
        (self.folder / "v.jsonl").write_text("".join(rows[:4]))
        stops += (f"data.validation={self.folder / 'v.jsonl'}",)
        self.train(*stops)
        (self.folder / "v.jsonl").write_text("".join(rows[1:5]))
        self.assertIn("validation_sha256", self.train(*stops, code=65).stderr)

    def test_the_curve_of_tensorboard_has_every_step_once(self):
        log = ("log.tensorboard=true", "eval.every=1")
        self.train(*log, "train.max_steps=9")
        self.train(*log, flags=["--resume", self.checkpoint(4)])
        self.train(*log, "train.max_steps=13")
        losses = [step for tag, step in self.events() if tag == "train/loss"]
        self.assertEqual(losses, list(range(1, 14)))
        evaluated = [step for tag, step in self.events() if tag == "eval/loss"]
        self.assertEqual(evaluated, list(range(1, 13)), "what the end of a start left out, the next one makes up for")

    def test_the_date_that_a_template_asks_for_is_that_of_the_first_start(self):
        model = self.folder / "model"
        shutil.copytree(MODEL, model)
        letters = [chr(c) for c in range(97, 123)] + list("0123456789") + ["\u0120", "-", "</s>"]
        (model / "tokenizer.json").write_text(json.dumps({
            "model": {"type": "BPE", "vocab": {c: i for i, c in enumerate(letters)}, "merges": []},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            "decoder": {"type": "ByteLevel"}, "added_tokens": [{"id": 38, "content": "</s>", "special": True}]}), encoding="utf-8")
        template = "{{ strftime_now('%Y-%m-%d') }}{% for m in messages %}{{ ' ' + m['content'] }}{% endfor %}</s>"
        (model / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "chat_template": template}))
        (self.folder / "train.jsonl").write_text("".join(json.dumps({"messages": [
            {"role": "user", "content": "hi"}, {"role": "assistant", "content": "abc"[:i % 3 + 1]}]}) + "\n" for i in range(12)))
        chat = ("model.base=model", "data.format=messages", "data.validation=null", "data.loss_on=all")
        done = self.train(*chat, "train.max_steps=2")
        date = re.search(r"fixed at (\d{4}-\d\d-\d\d)", done.stdout).group(1)
        self.assertIn(f"template_date: {date}", (self.folder / "out/run.yaml").read_text())
        # A start on another day is one with another date in the run that it finds.
        self.train(*chat, "train.max_steps=2", "data.template_date=2024-02-29", "output=leap")
        done = self.train(*chat, "train.max_steps=4", "output=leap")
        self.assertIn("fixed at 2024-02-29", done.stdout)
        self.assertIn("resuming from step 2 of 4", done.stderr)
        refused = self.train(*chat, "data.template_date=2024-03-01", "output=leap", code=65)
        self.assertIn("data.template_date: 2024-02-29 there, 2024-03-01 here", refused.stderr)
        self.train(*chat, "data.template_date=2023-02-29", code=64)


if __name__ == "__main__":
    unittest.main(verbosity=2)
