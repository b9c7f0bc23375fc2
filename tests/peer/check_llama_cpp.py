"""Runs what qshard exported in llama.cpp and compares greedy continuations with qshard's own.

    check_llama_cpp.py --qshard build/bin/qshard --run OUTPUT_FOLDER --base MODEL.gguf [--tokens 24] [--scratch FOLDER]

OUTPUT_FOLDER is a finished run on MODEL.gguf with a learning rate that makes the adapter matter. Three things are checked on
20 prompts, each at fp32 in qshard: the GGUF adapter on the base, the adapter merged into the base, and the adapter merged into
the base as it was quantized in training. Bases and merged models are written in float32, because llama.cpp rounds activations
to the type of the weights (8 bits beside Q4_1). A continuation may leave ours only where the two best tokens are closer than
--tie in log-probability. The plain base's continuations are printed too: they must be others.
Exit status 0 when all hold. Run by hand where llama-cpp-python, gguf and numpy are installed.
"""

import argparse
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import llama_cpp
import numpy

PROMPTS = [
    "Replace personal data by a mask: My name is Anna Keller and I live in Bonn.",
    "Replace personal data by a mask: Call me at 030 1234567 tomorrow.",
    "Please write to peter.smith@example.org before Friday.",
    "The invoice was sent to Maria Lopez, 12 Hill Street, Leeds.",
    "Her passport number is X1234567 and she was born on 3 May 1984.",
    "Once upon a time there was a small dragon who",
    "The capital of France is",
    "def fibonacci(n):",
    "Water boils at a temperature of",
    "Dear Mr. Johnson, thank you for your letter of",
    "The account DE89 3704 0044 0532 0130 00 belongs to",
    "In 1969 the first human being on the Moon",
    "To bake bread you need flour, water, salt and",
    "The doctor, Sarah Miller, called the patient, Tom Reed, at home.",
    "A list of fruits: apple, banana,",
    "If it rains tomorrow, we will",
    "SELECT name, email FROM users WHERE",
    "My credit card number is 4111 1111 1111 1111 and it expires in 09/27.",
    "The square root of 144 is",
    "Yesterday John met Paul in London and they",
]


def float_base(source, target):
    """The GGUF model with every tensor as float32, its values rounded to bfloat16 as qshard reads them."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.get_field("general.architecture").contents())
    for name, field in reader.fields.items():
        if not name.startswith(("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")):
            kind = field.types[0]
            writer.add_key_value(name, field.contents(), kind, field.types[-1] if len(field.types) > 1 else None)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        if len(tensor.shape) > 1:
            values = gguf.quants.dequantize(gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16),
                                            gguf.GGMLQuantizationType.BF16)
        writer.add_tensor(tensor.name, values.reshape(tensor.shape[::-1]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    """A model, perhaps with a GGUF adapter, in llama.cpp: fp32 keys and values, one thread (more spin where cores are shared)."""

    def __init__(self, model, adapter=None):
        cache = llama_cpp.GGML_TYPE_F32
        self.model = llama_cpp.Llama(str(model), n_ctx=512, n_threads=1, n_threads_batch=1, type_k=cache, type_v=cache,
                                     lora_path=str(adapter) if adapter else None, logits_all=True, verbose=False)

    def continuation(self, prompt, tokens):
        """Text, and for every token (bytes of the text before it, log-probability gap of the two best)."""
        choice = self.model.create_completion(prompt, max_tokens=tokens, temperature=0, logprobs=2)["choices"][0]
        steps, before = [], 0
        for token, top in zip(choice["logprobs"]["tokens"], choice["logprobs"]["top_logprobs"]):
            best = sorted(top.values(), reverse=True)
            # by text: two tokens that print the same are one entry
            steps.append((before, best[0] - best[1] if len(best) > 1 else float("inf")))
            before += len(token.encode())
        return choice["text"], steps

    def ids(self, prompt, tokens):
        """The token ids of the same."""
        self.model.reset()
        return list(itertools.islice(self.model.generate(self.model.tokenize(prompt.encode()), temp=0), tokens))


def qshard_continuations(qshard, scratch, tokens, *flags):
    questions, answers = scratch / "prompts.jsonl", scratch / "answers.jsonl"
    questions.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS), encoding="utf-8")
    subprocess.run([qshard, "generate", *flags, "--input", questions, "--out", answers, "--max-new-tokens", str(tokens),
                    "--compute-dtype", "float32"], check=True, stderr=subprocess.DEVNULL)
    return [json.loads(line)["completion"] for line in answers.read_text(encoding="utf-8").splitlines()]


def common_bytes(a, b):
    a, b = a.encode(), b.encode()
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def compare(name, ours, server, tokens, tie):
    equal, ties, bad = 0, 0, []
    for prompt, text in zip(PROMPTS, ours):
        theirs, steps = server.continuation(prompt, tokens)
        if theirs == text:
            equal += 1
            continue
        at = common_bytes(theirs, text)
        gap = [gap for begin, gap in steps if begin <= at][-1]
        if gap <= tie:
            ties += 1
        else:
            bad.append((prompt, text, theirs, gap))
    print(f"{name}: {equal} of {len(PROMPTS)} continuations equal, {ties} leave at a tie, {len(bad)} differ", flush=True)
    for prompt, text, theirs, gap in bad:
        print(f"  {prompt!r} (gap {gap:.4f})\n    qshard    {text!r}\n    llama.cpp {theirs!r}")
    return not bad


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--qshard", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--tie", type=float, default=0.02)
    arguments = parser.parse_args()
    qshard, run, base, tokens = arguments.qshard, arguments.run, arguments.base, arguments.tokens
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)

        def export(name, *flags):
            subprocess.run([qshard, "export", run, *flags, scratch / name], check=True, stderr=subprocess.DEVNULL)
            return scratch / name

        plain = qshard_continuations(qshard, scratch, tokens, "--model", base, "--quantization", "none")
        ours = qshard_continuations(qshard, scratch, tokens, "--model", base, "--adapter", run, "--quantization", "none")
        trained = qshard_continuations(qshard, scratch, tokens, "--model", base, "--adapter", run, "--quantization", "nf4")
        changed = sum(a != b for a, b in zip(plain, ours))
        print(f"the adapter changes {changed} of {len(PROMPTS)} continuations; so does quantizing its base "
              f"{sum(a != b for a, b in zip(ours, trained))}")

        merged = LlamaCpp(export("merged.gguf", "--to", "merged-gguf", "--dtype", "float32"))
        good = compare("merged into the source", ours, merged, tokens, arguments.tie)
        quantized = export("quantized.gguf", "--to", "merged-gguf", "--dtype", "float32", "--base", "quantized")
        good &= compare("merged into the quantized base", trained, LlamaCpp(quantized), tokens, arguments.tie)
        adapter = export("adapter.gguf", "--to", "gguf")
        exact = scratch / "base.gguf"
        float_base(base, exact)
        good &= compare("adapter on the base", ours, LlamaCpp(exact, adapter), tokens, arguments.tie)
        compare(f"adapter on {pathlib.Path(base).name} itself (8-bit activations; for information)", ours,
                LlamaCpp(base, adapter), tokens, arguments.tie)
    sys.exit(0 if good and changed >= len(PROMPTS) // 2 else 1)


if __name__ == "__main__":
    main()
