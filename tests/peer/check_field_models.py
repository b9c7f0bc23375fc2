"""Takes the folders of make_field_models.py through a user's whole journey with the built programs and prints a table.

    check_field_models.py FOLDER [MODEL ...] --qshard build/bin/qshard --work SCRATCH [--llama-cpp]

For each model: train --dry-run; four steps on conversations (or prompts and completions) on one rank and on two with a gathered base,
whose adapters must have the same bits; eval; generate; score; inspect; export to PEFT, a merged folder, a merged GGUF file and a GGUF
adapter; a weight store; the model as a bnb-4bit folder saved by transformers; the model as GGUF files written by the gguf package with
llama.cpp's names, one of them cut into several. What comes out is loaded in transformers and PEFT: log-probabilities in fp32 must agree
within 1e-4 (1e-3 over NF4, where bitsandbytes' mean of the absmax values may differ in its last bit), greedy continuations exactly.
--llama-cpp compares continuations of the GGUF files, and of the GGUF adapter on its base, in llama.cpp (package llama-cpp-python). Beside
f16 weights llama.cpp rounds activations to f16: logits of these models change by 0.003, and by much more where that changes an expert;
beside fp32 weights all of 20 prompts continue as here. A cell is "ok", "refused" (exit code 64 or 65 with a message, which is printed) or
"FAILED". Exit status 0 if nothing failed.
Run by hand where torch, transformers, peft, bitsandbytes and gguf are installed.
"""

import argparse
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import warnings

import torch
import transformers
from bitsandbytes.functional import dequantize_4bit
from gguf import GGUFReader
from peft import PeftModel
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path += [HERE, os.path.join(HERE, "..", "golden")]
from check_peft_export import check_loaded
from common import use_exact_bitsandbytes
from field_gguf import write_gguf

TEXTS = ["My name is Anna Keller and I live in Bonn. The quick brown fox jumps over the lazy dog, twice; then it rests.",
         "def f(a):\n    return a + 1234567  # caf\u00e9", "Hi"]
CHAT = "Mask this: Anna Keller lives in Bonn."
STEPS = ("open", "train", "ranks", "eval", "generate", "score", "inspect", "peft", "merged-hf", "merged-gguf", "gguf-adapter", "store",
         "bnb", "gguf-f16", "gguf-split", "gguf-q8", "gguf-kquants")
GGUF_TYPES = {"gguf-f16": "F16", "gguf-q8": "Q8_0", "gguf-kquants": "K"}


class Refused(Exception):
    pass


class Journey:
    def __init__(self, folder, work, qshard, llama_cpp):
        self.folder, self.qshard, self.llama_cpp = folder, qshard, llama_cpp
        self.work = work / folder.name
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self.data = self.work / "train.jsonl"
        self.has_chat = "chat_template" in (folder / "tokenizer_config.json").read_text(encoding="utf-8")
        self.two_turns = True
        self.write_data()

    def write_data(self):
        names, places = ["Anna Keller", "Tom Reed", "Maria Lopez", "Peter Smith"], ["Bonn", "Leeds", "Lyon"]
        with open(self.data, "w", encoding="utf-8") as out:
            for i in range(24):
                ask = f"Mask this: {names[i % 4]} lives in {places[i % 3]}, house {i}."
                answer = f"[NAME] lives in [PLACE], house {i}."
                row = {"prompt": ask + "\n", "completion": answer}
                if self.has_chat:
                    row = {"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]}
                    if i % 6 == 5 and self.two_turns:
                        row["messages"] *= 2
                out.write(json.dumps(row) + "\n")

    def run(self, *command):
        environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                           OMPI_MCA_btl_vader_single_copy_mechanism="none")
        result = subprocess.run([str(word) for word in command], capture_output=True, env=environment, check=False)
        message = result.stderr.decode(errors="replace").strip()[-600:]
        if result.returncode in (64, 65):
            raise Refused(message)
        if result.returncode != 0:
            raise RuntimeError(f"exit code {result.returncode}: {message}")
        return result.stdout.decode()  # not text=True, which makes "\n" of the "\r\n" of an answer

    def run_file(self, base, output, **more):
        model = {"base": str(base)} | more.pop("model", {})
        run = {"model": model, "adapter": {"r": 4, "alpha": 8}, "data": {"train": str(self.data), "validation": 4 / 24, "max_length": 128},
               "train": {"max_steps": 4, "micro_batch_size": 2, "global_batch_size": 4, "learning_rate": 2e-2},
               "eval": {"every": 4, "generate": {"max_new_tokens": 8}}, "placement": {"threads": 1}, "output": str(output)} | more
        path = self.work / f"{output.name}.yaml"
        path.write_text(json.dumps(run), encoding="utf-8")  # JSON is YAML
        return path

    def adapter_sha(self, output):
        return hashlib.sha256((output / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()

    def score(self, model, *flags, compute="float32"):
        questions, answers = self.work / "texts.jsonl", self.work / "scores.jsonl"
        questions.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
        self.run(self.qshard, "score", "--model", model, "--input", questions, "--out", answers, "--compute-dtype", compute,
                 "--threads", "2", *flags)
        return [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]

    @staticmethod
    def expect_close(model, rows, tolerance=1e-4):
        worst = 0.0
        for row in rows:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([row["input_ids"]]), use_cache=False).logits[0].double().log_softmax(-1)
            for i, ours in enumerate(row["logprobs"]):
                if ours is not None:
                    worst = max(worst, abs(ours - logits[i - 1, row["input_ids"][i]].item()))
        if not worst <= tolerance:
            raise RuntimeError(f"log-probabilities differ by {worst:.3g}")

    def load(self, folder=None):
        return AutoModelForCausalLM.from_pretrained(folder or self.folder, dtype=torch.float32, attn_implementation="eager").eval()

    # ---- the steps ----

    def step_open(self):
        self.run(self.qshard, "train", self.run_file(self.folder, self.work / "one"), "--dry-run")

    def step_train(self):
        self.run(self.qshard, "train", self.run_file(self.folder, self.work / "one"))
        losses = [json.loads(line).get("loss") for line in (self.work / "one" / "metrics.jsonl").read_text().splitlines()]
        losses = [loss for loss in losses if loss is not None]
        if not losses[-1] < losses[0]:
            raise RuntimeError(f"the loss did not fall: {losses}")

    def step_ranks(self):
        path = self.run_file(self.folder, self.work / "two", placement={"threads": 1, "mode": "gathered"})
        self.run("mpirun", "-np", "2", "--oversubscribe", self.qshard, "train", path)
        if self.adapter_sha(self.work / "one") != self.adapter_sha(self.work / "two"):
            raise RuntimeError("one rank and two give other adapters")

    def step_eval(self):
        self.run(self.qshard, "eval", self.work / "one" / "run.yaml")

    def step_generate(self):
        prompt = CHAT
        question = ["--prompt", CHAT]
        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        if self.has_chat:
            question = ["--chat", CHAT]
            prompt = AutoTokenizer.from_pretrained(self.folder).apply_chat_template(
                [{"role": "user", "content": CHAT}], tokenize=False, add_generation_prompt=True)
        ours = self.run(self.qshard, "generate", "--model", self.folder, *question, "--max-new-tokens", "12", "--compute-dtype", "float32",
                        "--quantization", "none", "--threads", "2")
        ids = tokenizer.encode(prompt, add_special_tokens=not self.has_chat).ids
        model = self.load()
        answer = model.generate(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False,
                                max_new_tokens=12, repetition_penalty=1.0)
        theirs = tokenizer.decode(answer[0, len(ids):].tolist(), skip_special_tokens=True)
        if ours != theirs + "\n":
            raise RuntimeError(f"qshard says {ours!r}, transformers {theirs!r}")

    def step_score(self):
        rows = self.score(self.folder, "--quantization", "none")
        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        for text, row in zip(TEXTS, rows):
            if row["input_ids"] != tokenizer.encode(text).ids:
                raise RuntimeError(f"token ids {row['input_ids'][:8]}, tokenizers says {tokenizer.encode(text).ids[:8]}")
        self.expect_close(self.load(), rows)

    def step_inspect(self):
        inspect = pathlib.Path(self.qshard).with_name("qshard-inspect")
        self.run(inspect, self.work / "one")
        self.run(inspect, "verify", self.work / "one")

    def adapted(self):
        return self.score(self.folder, "--quantization", "none", "--adapter", self.work / "one")

    def step_peft(self):
        self.run(self.qshard, "export", self.work / "one", "--to", "peft", self.work / "peft")
        base = self.load()
        plain = self.score(self.folder, "--quantization", "none")
        rows = self.adapted()
        if plain == rows:
            raise RuntimeError("the adapter changes nothing")
        model = PeftModel.from_pretrained(base, self.work / "peft")
        check_loaded(model, self.work / "peft")
        self.expect_close(model.eval(), rows)

    def step_merged_hf(self):
        out = self.work / "merged-hf"
        self.run(self.qshard, "export", self.work / "one", "--to", "merged-hf", "--dtype", "float32", out)
        self.expect_close(self.load(out), self.adapted(), 2e-4)
        AutoTokenizer.from_pretrained(out)

    def step_merged_gguf(self):
        out = self.work / "merged.gguf"
        self.run(self.qshard, "export", self.work / "one", "--to", "merged-gguf", "--dtype", "float32", out)
        GGUFReader(out)
        rows, again = self.adapted(), self.score(out)
        for one, other in zip(rows, again):
            if one["input_ids"] != other["input_ids"]:
                raise RuntimeError(f"token ids {other['input_ids'][:12]}, from the folder {one['input_ids'][:12]}")
            worst = max((abs(a - b) for a, b in zip(one["logprobs"], other["logprobs"]) if a is not None), default=0)
            if worst > 2e-4:
                raise RuntimeError(f"log-probabilities differ by {worst:.3g}")
        self.compare_llama_cpp(out)

    def step_gguf_adapter(self):
        out = self.work / "adapter.gguf"
        self.run(self.qshard, "export", self.work / "one", "--to", "gguf", out)
        names = {tensor.name for tensor in GGUFReader(out).tensors}
        if not names or len(names) % 2:
            raise RuntimeError(f"{len(names)} tensors")
        if self.llama_cpp:
            base = self.work / "base.gguf"
            write_gguf(self.folder, base, "F32")
            self.compare_llama_cpp(base, out)

    def step_store(self):
        out = self.work / "store.qs"
        self.run(self.qshard, "quantize", self.folder, out)
        if self.score(out, compute="bfloat16") != self.score(self.folder, "--quantization", "nf4", compute="bfloat16"):
            raise RuntimeError("scores of the store are others")
        path = self.run_file(out, self.work / "from-store")
        self.run(self.qshard, "train", path)
        if self.adapter_sha(self.work / "one") != self.adapter_sha(self.work / "from-store"):
            raise RuntimeError("training from the store gives another adapter")

    def step_bnb(self):
        out = self.work / "bnb"
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                          bnb_4bit_compute_dtype=torch.float32)
        model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.bfloat16, quantization_config=quantization, device_map="cpu")
        model.save_pretrained(out)
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
            if (self.folder / name).exists():
                shutil.copy(self.folder / name, out / name)
        # bitsandbytes multiplies in bfloat16 on CPUs where the model was quantized from that: its values are put in place.
        quantized = dict(AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, device_map="cpu").named_modules())
        exact = self.load()
        for name, module in exact.named_modules():
            state = getattr(getattr(quantized[name], "weight", None), "quant_state", None)
            if state is not None:
                state.dtype = torch.float32
                values = dequantize_4bit(quantized[name].weight.data, state).float()
                module.weight.data = values.T.contiguous() if type(module).__name__ == "Conv1D" else values
        self.expect_close(exact, self.score(out), 1e-3)
        self.run(self.qshard, "train", self.run_file(out, self.work / "from-bnb"))
        model = PeftModel.from_pretrained(exact, self.work / "from-bnb" / "adapter").eval()
        self.expect_close(model, self.score(out, "--adapter", self.work / "from-bnb"), 1e-3)

    def gguf_in(self, types):
        out = self.work / f"in-{types}.gguf"
        model = self.load()
        values = write_gguf(self.folder, out, types)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "vision" not in name and "multi_modal" not in name:
                    parameter.copy_(values[name])
        if model.config.model_type in ("mistral", "starcoder2"):
            model.config.sliding_window = None  # llama.cpp's converter drops these windows
        rows = self.score(out, "--quantization", "none")
        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        for text, row in zip(TEXTS, rows):
            if row["input_ids"] != tokenizer.encode(text).ids:
                raise RuntimeError(f"token ids {row['input_ids'][:12]}, tokenizers says {tokenizer.encode(text).ids[:12]}")
        self.expect_close(model, rows)
        if types != "F16":
            return
        self.compare_llama_cpp(out)
        self.run(self.qshard, "train", self.run_file(out, self.work / "from-gguf"))
        folder = self.work / "gguf-merged-hf"
        self.run(self.qshard, "export", self.work / "from-gguf", "--to", "merged-hf", "--dtype", "float32", folder)
        self.expect_close(self.load(folder), self.score(out, "--quantization", "none", "--adapter", self.work / "from-gguf"), 2e-4)
        merged = self.work / "gguf-merged.gguf"
        self.run(self.qshard, "export", self.work / "from-gguf", "--to", "merged-gguf", "--dtype", "float32", merged)
        self.score(merged)

    def step_gguf_split(self):
        whole = self.work / "whole.gguf"
        write_gguf(self.folder, whole, "F16")
        write_gguf(self.folder, self.work / "cut.gguf", "F16", tensors_per_file=7)
        files = sorted(self.work.glob("cut-*.gguf"))
        if len(files) < 2:
            raise RuntimeError(f"{len(files)} files")
        first, store, merged = files[0], self.work / "cut.qs", self.work / "cut-merged.gguf"
        if self.score(first, "--quantization", "none") != self.score(whole, "--quantization", "none"):
            raise RuntimeError("scores of the cut model are others")
        self.compare_llama_cpp(first)
        self.run(self.qshard, "quantize", first, store)
        shas = []
        for base in (whole, first, store):
            self.run(self.qshard, "train", self.run_file(base, self.work / f"from-{base.stem}"))
            shas.append(self.adapter_sha(self.work / f"from-{base.stem}"))
        if len(set(shas)) != 1:
            raise RuntimeError("the cut model or its store gives another adapter")
        self.run(self.qshard, "export", self.work / f"from-{first.stem}", "--to", "merged-gguf", merged)
        self.score(merged)

    def compare_llama_cpp(self, file, adapter=None):
        if not self.llama_cpp or self.folder.name.startswith(("starcoder2", "mistral-7b-v0.1")):  # whose windows it does not know
            return
        from check_llama_cpp import LlamaCpp, common_bytes
        ours = self.run(self.qshard, "generate", "--model", file, "--prompt", TEXTS[0], "--max-new-tokens", "12", "--compute-dtype", "float32",
                        "--quantization", "none", "--threads", "2", *(("--adapter", self.work / "one") if adapter else ()))[:-1]
        server = LlamaCpp(file, adapter)
        theirs, steps = server.continuation(TEXTS[0], 12)
        # llama.cpp prints nothing for tokens without a text and bytes that are none, and the space that a piece begins with
        text, ours = theirs.lstrip(" "), re.sub(r"\[PAD\d+\]|\ufffd", "", ours).lstrip(" ")
        gaps = [gap for begin, gap in steps if begin <= len(theirs) - len(text) + common_bytes(text, ours)]
        # `tokenizers` gives up on a whole run of byte tokens that are no text, llama.cpp on the bad bytes of it
        decoded = Tokenizer.from_file(str(self.folder / "tokenizer.json")).decode(server.ids(TEXTS[0], 12))
        same = decoded.replace("\ufffd", "").lstrip(" ") == ours
        if text != ours and not same and gaps and gaps[-1] > 0.05:
            raise RuntimeError(f"llama.cpp says {text!r}, qshard {ours!r} (gap {gaps[-1]:.3f})")

    def go(self, steps):
        cells, notes = {}, []
        for step in steps:
            action = (lambda kind=GGUF_TYPES[step]: self.gguf_in(kind)) if step in GGUF_TYPES else getattr(
                self, "step_" + step.replace("-", "_"))
            try:
                action()
                cells[step] = "ok"
            except Refused as refusal:
                cells[step] = "refused"
                notes.append(f"{self.folder.name} {step}: refused: {refusal}")
            except (Exception, SystemExit) as error:  # a table of everything is wanted
                cells[step] = "FAILED"
                notes.append(f"{self.folder.name} {step}: {type(error).__name__}: {str(error)[:1200]}")
        return cells, notes


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--qshard", required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--llama-cpp", action="store_true")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    use_exact_bitsandbytes()
    bad = False
    for folder in sorted(arguments.folder.absolute().iterdir()):
        if not (folder / "config.json").exists() or (arguments.models and folder.name not in arguments.models):
            continue
        cells, notes = Journey(folder, arguments.work.absolute(), arguments.qshard, arguments.llama_cpp).go(arguments.steps)
        print(f"{folder.name:30}", *(f"{step}:{cell}" for step, cell in cells.items()), flush=True)
        for note in notes:
            print("    " + note.replace("\n", "\n    "), flush=True)
        bad |= "FAILED" in cells.values()
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
