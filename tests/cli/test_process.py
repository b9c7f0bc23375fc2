#!/usr/bin/env python3
"""How the programs live with what they are started by: where results go, lost output, signals, limits, launchers.

Takes the programs from QSHARD_BIN and QSHARD_INSPECT. Standard library only.
"""
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
QSHARD = os.environ.get("QSHARD_BIN", str(ROOT / "build/bin/qshard"))
INSPECT = os.environ.get("QSHARD_INSPECT", str(ROOT / "build/bin/qshard-inspect"))
MODEL = ROOT / "tests/golden/tiny/llama"

RUN = {
    "model": {"base": str(MODEL)},
    "adapter": {"r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "data": {"train": "train.jsonl", "validation": "held_out.jsonl", "format": "tokenized", "max_length": 32},
    "train": {"max_steps": 4, "micro_batch_size": 1, "global_batch_size": 4, "learning_rate": 0.005},
    "placement": {"threads": 1, "backend": "cpu"},
    "eval": {"every": 0, "generate": {"max_new_tokens": 0}},
    "checkpoint": {"every": 100},
    "log": {"tensorboard": False},
    "output": "out",
}
ONE_RANK = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}


class Process(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.shared = pathlib.Path(tempfile.mkdtemp(prefix="qshard-process-"))
        rng = random.Random(5)
        for name, count in (("train.jsonl", 20), ("held_out.jsonl", 4), ("rows.jsonl", 2)):
            with open(cls.shared / name, "w", encoding="utf-8") as file:
                for _ in range(count):
                    file.write(json.dumps({"input_ids": [rng.randrange(131) for _ in range(12)]}) + "\n")
        (cls.shared / "run.yaml").write_text(json.dumps(RUN), encoding="utf-8")  # JSON is YAML
        subprocess.run([QSHARD, "train", "run.yaml"], cwd=cls.shared, check=True, capture_output=True, env=ONE_RANK)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.shared)

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="case-", dir=self.shared))
        for name in ("train.jsonl", "held_out.jsonl", "rows.jsonl", "run.yaml"):
            shutil.copy(self.shared / name, self.folder)

    def call(self, *arguments, code=0, env=None, program=QSHARD, **options):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        done = subprocess.run([program, *map(str, arguments)], cwd=self.folder, text=True, timeout=60, check=False,
                              env=ONE_RANK | (env or {}), **options)
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stdout}\n{done.stderr}")
        return done

    def score(self, out, *flags, **options):
        return self.call("score", "--model", MODEL, "--input", "rows.jsonl", "--out", out, *flags, **options)

    def status(self):
        return json.loads((self.folder / "out/run_status.json").read_text())

    # Where results go.

    def test_every_command_keeps_a_file_that_is_there_and_replaces_it_when_told(self):
        out = self.shared / "out"
        commands = {
            "scores.jsonl": ["score", "--model", MODEL, "--input", "rows.jsonl", "--out", "scores.jsonl"],
            "answers.jsonl": ["eval", out / "run.yaml", "--adapter", out / "adapter", "--out", "answers.jsonl"],
            "store.qs": ["quantize", MODEL, "store.qs"],
            "lora.gguf": ["export", out, "--to", "gguf", "lora.gguf"],
            "merged.gguf": ["export", out, "--to", "merged-gguf", "merged.gguf"],
        }
        for name, command in commands.items():
            (self.folder / name).write_text("mine")
            self.assertIn("--overwrite", self.call(*command, code=73).stderr, name)
            self.assertEqual((self.folder / name).read_text(), "mine")
            self.call(*command, "--overwrite")
            self.assertNotIn(b"mine", (self.folder / name).read_bytes()[:4])
        (self.folder / "taken").mkdir()
        (self.folder / "taken/notes.txt").write_text("mine")
        for kind in ("peft", "merged-hf"):
            self.assertIn("not empty", self.call("export", out, "--to", kind, "taken", code=73).stderr)
        self.call("export", out, "--to", "peft", "taken", program=INSPECT, code=73)
        self.assertEqual(os.listdir(self.folder / "taken"), ["notes.txt"])

    def test_devices_links_pipes_and_stdout_are_written_to(self):
        self.assertIn("perplexity", self.score("/dev/null").stderr)
        self.assertTrue(stat.S_ISCHR(os.stat("/dev/null").st_mode))
        self.call("export", self.shared / "out", "--to", "gguf", "/dev/null")
        self.assertTrue(stat.S_ISCHR(os.stat("/dev/null").st_mode))

        want = self.score("-").stdout
        self.assertEqual(len(want.splitlines()), 2)
        self.assertEqual(self.score("/dev/fd/1").stdout, want)
        (self.folder / "log").write_text("before\n")
        with open(self.folder / "log", "a", encoding="utf-8") as log:
            self.score("/dev/fd/1", stdout=log)
        self.assertEqual((self.folder / "log").read_text(), "before\n" + want)

        os.symlink("real.jsonl", self.folder / "latest.jsonl")
        self.score("latest.jsonl")
        self.assertTrue((self.folder / "latest.jsonl").is_symlink())
        self.assertEqual((self.folder / "real.jsonl").read_text(), want)

        os.mkfifo(self.folder / "pipe")
        got = []
        reader = threading.Thread(target=lambda: got.append((self.folder / "pipe").read_text()))
        reader.start()
        self.score("pipe")
        reader.join()
        self.assertEqual(got, [want])

    def test_what_is_in_the_way_of_a_result_is_said_before_the_work(self):
        said = self.score("new/deep/s.jsonl", code=73).stderr
        self.assertIn("there is no folder new.", said)
        self.assertIn("mkdir -p new/deep", said)
        self.assertIn("no folder", self.score("rows.jsonl/s.jsonl", code=73).stderr)
        self.assertIn("it is a folder", self.score(".", "--overwrite", code=73).stderr)
        self.assertIn("what is read", self.call("export", self.shared / "out", "--to", "merged-gguf", "--model",
                                                self.gguf(), "base.gguf", "--overwrite", code=64).stderr)

    def gguf(self):
        self.call("export", self.shared / "out", "--to", "merged-gguf", "base.gguf")
        return "base.gguf"

    # Output that nobody gets.

    def test_output_that_cannot_be_written_is_74(self):
        out = self.shared / "out"
        commands = [(QSHARD, "--version"), (QSHARD, "train", "--help"), (QSHARD, "train", "run.yaml", "--dry-run"),
                    (QSHARD, "plan", "run.yaml", "--gflops", "1"), (QSHARD, "eval", out / "run.yaml"),
                    (QSHARD, "doctor"), (QSHARD, "train", "run.yaml"), (INSPECT, out), (INSPECT, "--help")]
        commands += [(INSPECT, command, out) for command in ("tree", "tensors", "stats", "verify", "log")]
        for program, *arguments in commands:
            with open("/dev/full", "w", encoding="utf-8") as full:
                done = self.call(*arguments, program=program, code=74, stdout=full)
            self.assertIn("stdout", done.stderr, arguments)
        self.assertEqual(self.status()["state"], "finished", "the run itself is done")

    def test_closed_descriptors_get_no_file_and_lose_nothing_silently(self):
        def without(*descriptors):
            return lambda: [os.close(descriptor) for descriptor in descriptors]
        for descriptors in ((0, 2), (1, 2), (0, 1, 2), (0,)):
            shutil.rmtree(self.folder / "out", ignore_errors=True)
            lost = 1 in descriptors
            self.call("train", "run.yaml", "--set", "log.tensorboard=true", "--set", "checkpoint.every=2",
                      code=74 if lost else 0, preexec_fn=without(*descriptors),
                      stdout=None if lost else subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for line in (self.folder / "out/metrics.jsonl").read_text().splitlines():
                json.loads(line)
            self.assertEqual(self.status()["state"], "finished")
        self.assertIn("stdout", self.call("--version", code=74, preexec_fn=without(1), stdout=None).stderr)
        self.call(self.shared / "out", program=INSPECT, code=74, preexec_fn=without(1), stdout=None)
        self.score("s.jsonl", preexec_fn=without(1), stdout=None)  # has nothing to say there

    def test_a_reader_that_leaves_ends_a_listing_but_no_training(self):
        read, write = os.pipe()
        os.close(read)
        self.call(self.shared / "out", program=INSPECT, code=-signal.SIGPIPE, stdout=write, restore_signals=True)
        self.call("train", "run.yaml", stdout=write, stderr=write)
        os.close(write)
        self.assertEqual(self.status()["state"], "finished")

    def test_a_file_grown_to_its_limit_is_an_error_with_a_way_out(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
        self.assertIn("File too large", self.score("s.jsonl", code=74, preexec_fn=limit).stderr)
        self.assertFalse((self.folder / "s.jsonl").exists())

    # Signals.

    def start(self, *sets, lines=2, **options):
        arguments = [word for pair in sets for word in ("--set", pair)]
        process = subprocess.Popen([QSHARD, "train", "run.yaml", *arguments], cwd=self.folder, text=True, env=ONE_RANK,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)
        metrics, until = self.folder / "out/metrics.jsonl", time.monotonic() + 60
        while not (metrics.exists() and metrics.read_text().count("\n") > lines) and time.monotonic() < until:
            self.assertIsNone(process.poll(), "the run ended before it could be stopped")
            time.sleep(0.005)
        return process

    def test_ctrl_c_and_a_closed_terminal_save_and_the_bits_stay(self):
        steps = "train.max_steps=400"
        sha = re.compile("SHA-256 of its values ([0-9a-f]{16})")
        want = sha.search(self.call("train", "run.yaml", "--set", steps, "--set", "output=whole").stdout).group(1)
        for number, name in ((signal.SIGINT, "SIGINT"), (signal.SIGHUP, "SIGHUP")):
            shutil.rmtree(self.folder / "out", ignore_errors=True)
            process = self.start(steps)
            process.send_signal(number)
            said = process.communicate(timeout=60)[1]
            self.assertEqual(process.returncode, 85, said)
            self.assertIn("because of " + name, said)
            self.assertEqual(self.status()["state"], "preempted")
        self.assertGreater(self.status()["step"], 2)
        self.assertEqual(sha.search(self.call("train", "run.yaml", "--set", steps).stdout).group(1), want)

    def test_a_second_ctrl_c_ends_at_once(self):
        # One long step of plain loops.
        row = json.dumps({"input_ids": [7 * i % 131 for i in range(12)]}) + "\n"
        (self.folder / "train.jsonl").write_text(row * 2000)
        process = self.start("train.global_batch_size=2000", "data.packing=false", "placement.backend=reference", lines=-1)
        time.sleep(0.5)  # the output folder is ready a moment before signals are heeded
        process.send_signal(signal.SIGINT)
        for line in process.stderr:
            if "Once more ends at once" in line:
                break
        time.sleep(0.7)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, -signal.SIGINT)
        self.assertEqual(self.status()["cause"]["signal"], signal.SIGINT)

    def test_what_is_asked_to_stop_saves_before_it_evaluates_and_evaluates_later(self):
        sets = ("train.max_steps=300", "eval.every=1")
        process = self.start(*sets)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, 85, said)
        lines = [json.loads(line) for line in (self.folder / "out/metrics.jsonl").read_text().splitlines()]
        stopped = self.status()["step"]
        self.assertIn(stopped, [line["step"] for line in lines if "adapter_sha256" in line])
        self.call("train", "run.yaml", *[word for pair in sets for word in ("--set", pair)])
        lines = [json.loads(line) for line in (self.folder / "out/metrics.jsonl").read_text().splitlines()]
        evaluated = [line["step"] for line in lines if "eval_loss" in line]
        self.assertEqual(evaluated, list(range(1, 301)), "every evaluation once")

    def test_nohup_is_respected(self):
        process = self.start("train.max_steps=200", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0)

    # Limits.

    def test_the_end_of_another_job_is_no_time_limit(self):
        for end in (str(int(time.time()) - 60), "0", "", "Unknown"):
            shutil.rmtree(self.folder / "out", ignore_errors=True)
            self.assertIn("warning: SLURM_JOB_END_TIME",
                          self.call("train", "run.yaml", env={"SLURM_JOB_END_TIME": end}).stderr)
        shutil.rmtree(self.folder / "out")
        soon = {"SLURM_JOB_END_TIME": str(int(time.time()) + 15)}
        self.assertIn("SLURM_JOB_END_TIME", self.call("train", "run.yaml", code=85, env=soon).stderr)

    def test_threads_that_the_system_refuses_are_69_and_no_hang(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        said = self.call("train", "run.yaml", "--set", "placement.threads=2000", code=69, preexec_fn=limit).stderr
        self.assertIn("cannot start a thread", said)
        self.assertIn("placement.threads", said)
        self.score("s.jsonl", "--threads", 2000, code=69, preexec_fn=limit)
        self.assertIn("at most", self.call("train", "run.yaml", "--set", "placement.threads=100000", code=64).stderr)

    def test_memory_that_slurm_or_the_shell_does_not_give_is_refused_with_69(self):
        self.assertIn("the limit is", self.call("train", "run.yaml", code=69, env={"SLURM_MEM_PER_CPU": "1"}).stderr)

        def limit():
            resource.setrlimit(resource.RLIMIT_AS, (60 << 20, 60 << 20))
        done = subprocess.run([QSHARD, "train", "run.yaml"], cwd=self.folder, text=True, capture_output=True, check=False,
                              env=ONE_RANK, preexec_fn=limit, timeout=60)
        self.assertIn(done.returncode, (69, 127), done.stderr)  # 127: not even the libraries fit

    # Launchers.

    def test_processes_that_do_not_find_each_other_are_refused(self):
        for variables, launcher in (
                ({"PMI_SIZE": "4", "PMI_RANK": "0"}, "PMI"),
                ({"MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "0"}, "MVAPICH2"),
                ({"SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "0"}, "srun"),
                ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "here"}, "torchrun")):
            said = self.call("train", "run.yaml", code=64, env=variables).stderr
            self.assertIn(launcher, said)
            self.assertIn("MPI", said)
            self.score("s.jsonl", code=64, env=variables)
        self.assertFalse((self.folder / "out").exists())

    def test_what_only_looks_like_a_launcher_is_let_through(self):
        batch = {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2"}  # sbatch, salloc
        shell = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0", "SLURM_PTY_PORT": "4711"}  # srun -n 4 --pty bash
        pod = {"WORLD_SIZE": "4"}
        for i, variables in enumerate((batch, shell, pod)):
            self.score(f"s{i}.jsonl", env=variables)

    def test_threads_as_ranks_are_not_multiplied_by_a_launcher(self):
        said = self.call("train", "run.yaml", "--ranks", 2, code=64,
                         env={"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "0"}).stderr
        self.assertIn("3 processes", said)


if __name__ == "__main__":
    unittest.main()
