"""Compares token ids and loss masks of conversations with transformers 5 and TRL, through many chat templates.

  python compare_chats.py --cli BUILD/bin/encode_cli [--count 500] [--seed 1] [TEMPLATE.jinja...]

Without templates: those of tests/golden/chat and all that TRL brings (trl/chat_templates). Rows of every shape of
tests/golden/chat/chat_rows.py, and the same through an Arrow table, are encoded by both sides. Exit status 1 if ids or masks
differ anywhere. Rows that one side alone refuses are counted: qshard takes rows that a template fails at in transformers
(arguments that it wants as text, null contents that it asks for), and refuses those of which a template without generation
blocks does not show where turns begin (Mistral's moves the system's text and tools to the last turn).
"""
import argparse
import collections
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

os.environ["TOKENIZERS_PARALLELISM"] = "false"
ROOT = pathlib.Path(__file__).resolve().parent.parent / "golden"
sys.path.insert(0, str(ROOT / "chat"))

import chat_rows  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402


def make_tokenizer(folder, template):
    """A small byte-level tokenizer with the template's own marks as special tokens."""
    import tokenizers

    base = tokenizers.Tokenizer.from_file(str(ROOT / "tokenizer" / "qwen.json"))
    marks = sorted(set(re.findall(r"<[|｜/]?[A-Za-z_▁｜|]+[|｜]?>|\[/?[A-Z_]+\]", template)))
    base.add_special_tokens(["<s>", "</s>", *marks])
    path = folder / "tokenizer.json"
    base.save(str(path))
    return path, PreTrainedTokenizerFast(tokenizer_file=str(path), bos_token="<s>", eos_token="</s>", chat_template=template)


def ours(cli, tokenizer_file, tokenizer, template, rows, folder):
    settings = {"templates": {"default": template}, "variables": {"bos_token": "<s>", "eos_token": "</s>"},
                "eos_id": tokenizer.eos_token_id}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = subprocess.run([cli, tokenizer_file, folder / "settings.json", folder / "rows.jsonl"], stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in out.stdout.decode().split("\n")[:-1]]


def difference(got, want):
    """"" if equal, else what differs."""
    if isinstance(want, Exception):
        return "" if "error" in got else "only the other side refuses"
    if "error" in got:
        return "only we refuse"
    ids, mask = want
    if got["ids"] != ids:
        return "ids"
    if mask is not None and [int(label != -100) for label in got["labels"]] != mask:
        return "mask"
    return ""


def compare(options, name, template):
    counts, shown = collections.Counter(), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        tokenizer_file, tokenizer = make_tokenizer(folder, template)
        for shape in (*chat_rows.SHAPES, "arrow openai", "arrow trl"):
            made = chat_rows.rows(shape.split()[-1], options.count, options.seed)
            if shape.startswith("arrow"):
                made = chat_rows.arrow(made)
            for row, got in zip(made, ours(options.cli, tokenizer_file, tokenizer, template, made, folder), strict=True):
                try:
                    want = chat_rows.oracle(tokenizer, row)
                except Exception as error:  # noqa: BLE001 - templates raise what they like
                    want = error
                what = difference(got, want)
                counts["refused by both" if isinstance(want, Exception) and not what else what or "equal"] += 1
                if what:
                    shown.setdefault((shape, what), (row, got, want))
    print(f"{name}: " + ", ".join(f"{what} {count}" for what, count in sorted(counts.items())))
    for (shape, what), (row, got, want) in shown.items() if options.show else ():
        print(f"  {shape}: {what}: {json.dumps(row, ensure_ascii=False)[:600]}")
        print(f"    other: {str(want)[:300] if isinstance(want, Exception) else tokenizer.decode(want[0])!r}")
        print(f"    ours:  {got.get('error') or tokenizer.decode(got['ids'])!r}")
        if what == "mask":
            for side, mask in (("other", want[1]), ("ours ", [int(label != -100) for label in got["labels"]])):
                print(f"    trained, {side}: {tokenizer.decode([i for i, one in zip(want[0], mask) if one])!r}")
    return counts["ids"] + counts["mask"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cli", required=True)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="an example of every difference")
    parser.add_argument("templates", nargs="*")
    options = parser.parse_args()
    files = [pathlib.Path(file) for file in options.templates]
    if not files:
        import trl
        files = sorted((ROOT / "chat" / "templates").glob("*.jinja"))
        files += sorted((pathlib.Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
    different = sum(compare(options, file.stem, file.read_text(encoding="utf-8")) for file in files)
    print(f"{different} differences")
    return different > 0


if __name__ == "__main__":
    sys.exit(main())
