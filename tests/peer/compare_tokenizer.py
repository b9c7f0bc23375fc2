"""Compares our tokenizer with Hugging Face `tokenizers` on many strings, and their speed on one text.

  python compare_tokenizer.py --cli BUILD/bin/tokenizer_cli [--count 10000] [--seed 1] TOKENIZER_JSON|MODEL.gguf...
  python compare_tokenizer.py --cli BUILD/bin/tokenizer_cli --bench TEXT_FILE TOKENIZER_JSON...

Ids with and without specials, decoded texts, and offsets (the reference rounds them to characters, so ours are too, and only
where a token is not an added one: those may take spaces in). A GGUF model's ids are compared with llama.cpp's (llama-cpp-python), but
for strings with plain tokens of the file that llama.cpp takes for an end of generation by their name ("</s>" of Qwen2.5).
Exit status 1 if anything differs.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "golden" / "tokenizer"))

import texts  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402


def run_cli(cli, tokenizer, lines, *options):
    data = "\n".join(json.dumps(line) for line in lines) + "\n"
    return subprocess.run([cli, tokenizer, *options], input=data.encode(), stdout=subprocess.PIPE, check=True).stdout.decode().split("\n")[:-1]


def char_offsets(text, spans):
    """Byte spans rounded out to characters, as character indices."""
    starts = []
    for index, char in enumerate(text):
        starts += [index] * len(char.encode())
    starts.append(len(text))
    return [(starts[b], starts[e - 1] + 1 if e > b else starts[b]) for _, b, e in spans]


def compare(cli, path, cases):
    reference = Tokenizer.from_file(path)
    reference.no_truncation()
    reference.no_padding()
    different = {"ids": 0, "special_ids": 0, "text": 0, "plain_text": 0, "offsets": 0}
    for case, line in zip(cases, run_cli(cli, path, cases), strict=True):
        ours = json.loads(line)
        plain = reference.encode(case, add_special_tokens=False)
        theirs = {"ids": plain.ids, "special_ids": reference.encode(case).ids, "text": reference.decode(plain.ids, skip_special_tokens=False),
                  "plain_text": reference.decode(plain.ids, skip_special_tokens=True), "offsets": plain.offsets}
        assert [o[0] for o in ours["offsets"]] == ours["ids"], case
        ours["offsets"] = char_offsets(case, ours["offsets"])
        for key in different:
            if ours[key] != theirs[key]:
                different[key] += 1
                if different[key] <= 5:
                    print(f"  {key} of {case!r}\n    ours   {ours[key]}\n    theirs {theirs[key]}")
    print(f"{path}: {len(cases)} strings, different: {different}")
    return sum(n for key, n in different.items() if key != "offsets")


def compare_gguf(cli, path, cases):
    import gguf
    import llama_cpp

    reference = llama_cpp.Llama(path, vocab_only=True, verbose=False)
    vocabulary = llama_cpp.llama_model_get_vocab(reference.model)
    fields = gguf.GGUFReader(path).fields
    types = fields["tokenizer.ggml.token_type"].contents()
    promoted = [token for id, (token, kind) in enumerate(zip(fields["tokenizer.ggml.tokens"].contents(), types))
                if kind == gguf.TokenType.NORMAL and llama_cpp.llama_vocab_is_control(vocabulary, id)]
    cases = [case for case in cases if not any(token in case for token in promoted)]
    different = {"ids": 0, "special_ids": 0}
    for case, line in zip(cases, run_cli(cli, path, cases), strict=True):
        ours = json.loads(line)
        for key, bos in (("ids", False), ("special_ids", True)):
            theirs = reference.tokenize(case.encode(), add_bos=bos, special=True)
            if ours[key] != theirs:
                different[key] += 1
                if different[key] <= 5:
                    print(f"  {key} of {case!r}\n    ours      {ours[key]}\n    llama.cpp {theirs}")
    print(f"{path}: {len(cases)} strings without {promoted}, different from llama.cpp: {different}")
    return sum(different.values())


def bench(cli, path, text):
    lines = [text[i:i + 2000] for i in range(0, len(text), 2000)]
    size = sum(len(line.encode()) for line in lines) / 1e6
    reference = Tokenizer.from_file(path)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        tokens = sum(len(reference.encode(line, add_special_tokens=False).ids) for line in lines)
        seconds.append(time.process_time() - start)
    ours, our_tokens = run_cli(cli, path, lines, "--bench", "5")[0].split()
    assert int(our_tokens) == tokens
    print(f"{path}: {size:.1f} MB, {tokens} tokens; ours {float(ours):.1f}, tokenizers {size / min(seconds):.1f} MB a CPU second, one thread each")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cli", required=True)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bench")
    parser.add_argument("tokenizers", nargs="+")
    arguments = parser.parse_args()
    if arguments.bench:
        text = pathlib.Path(arguments.bench).read_text(encoding="utf-8")
        for path in arguments.tokenizers:
            bench(arguments.cli, path, text)
        return 0
    cases = texts.FIXED + texts.random_texts(arguments.count, arguments.seed)
    return 1 if sum((compare_gguf if path.endswith(".gguf") else compare)(arguments.cli, path, cases) for path in arguments.tokenizers) else 0


if __name__ == "__main__":
    sys.exit(main())
