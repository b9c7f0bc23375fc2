"""Writes rows.json: token ids and loss masks of rows in the shapes that people bring, by transformers and TRL.

    python make_rows.py       transformers 5.24, trl 1.16, pyarrow; tests/peer/compare_chats.py has many more rows and templates

The tokenizer is tests/golden/tokenizer/qwen.json, the templates are those beside this script. "trained" are the tokens with
loss as [begin, end) runs, null where neither library defines them (messages through a template without generation blocks).
"""
import json
import os
import pathlib

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import chat_rows  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
TEMPLATES = ("chatml_training", "thinking", "header_style_tools", "tag_style_eos")


def runs(mask):
    made = []
    for position, one in enumerate(mask):
        if one and made and made[-1][1] == position:
            made[-1][1] += 1
        elif one:
            made.append([position, position + 1])
    return made


def main():
    cases = []
    for name in TEMPLATES:
        source = (HERE / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(HERE.parent / "tokenizer" / "qwen.json"), eos_token="<|im_end|>", chat_template=source)
        for shape in (*chat_rows.SHAPES, "arrow openai", "arrow trl"):
            made = chat_rows.rows(shape.split()[-1], 3, name)
            for row in chat_rows.arrow(made) if shape.startswith("arrow") else made:
                case = {"template": name, "shape": shape, "row": row}
                try:
                    ids, mask = chat_rows.oracle(tokenizer, row)
                    case |= {"ids": ids, "trained": None if mask is None else runs(mask)}
                except Exception as error:  # noqa: BLE001 - templates raise what they like
                    case["error"] = str(error)
                cases.append(case)
    golden = {"transformers": transformers.__version__, "trl": trl.__version__, "cases": cases}
    (HERE / "rows.json").write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
