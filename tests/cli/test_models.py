#!/usr/bin/env python3
"""Model folders, tokenizers and adapters that contradict themselves: used as transformers and PEFT use them, or refused by name.

Takes the program from QSHARD_BIN. Standard library only.
"""
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
QSHARD = os.environ.get("QSHARD_BIN", str(ROOT / "build/bin/qshard"))
WIDTH, HEAD, INNER = 16, 8, 24
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIALS = ["<s>", "</s>"]
ROWS = len(LETTERS) + len(SPECIALS)  # of the embedding
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef\nsize 4096\n"


def tensor(shape, seed):
    """fp32 values of a tensor; equal seeds give equal values."""
    rng = random.Random(seed)
    count = 1
    for extent in shape:
        count *= extent
    return list(shape), struct.pack(f"<{count}f", *(rng.gauss(0, 0.3) for _ in range(count)))


def write_safetensors(path, tensors):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, data in tensors.values()))


def read_safetensors(path):
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + length])
    return {name: (entry["shape"], raw[8 + length + entry["data_offsets"][0]:8 + length + entry["data_offsets"][1]])
            for name, entry in header.items() if name != "__metadata__"}


class Models(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="qshard-models-"))
        self.write("ids.jsonl", [{"input_ids": [3, 1, 4, 1, 5]}])

    def tearDown(self):
        shutil.rmtree(self.folder)

    def write(self, name, rows):
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def model(self, name, head="own", tied=False, config=(), tokens=(), tokenizer_config=(), rows=ROWS):
        """head: own values, the embedding's ("same"), or none ("absent"). tied: None leaves the key out."""
        folder = self.folder / name
        folder.mkdir()
        weights = {EMBEDDING: tensor((rows, WIDTH), 1), "model.norm.weight": tensor((WIDTH,), 2)}
        layer = "model.layers.0."
        for part, shape in (("input_layernorm", (WIDTH,)), ("post_attention_layernorm", (WIDTH,)),
                            ("self_attn.q_proj", (WIDTH, WIDTH)), ("self_attn.k_proj", (HEAD, WIDTH)),
                            ("self_attn.v_proj", (HEAD, WIDTH)), ("self_attn.o_proj", (WIDTH, WIDTH)),
                            ("mlp.gate_proj", (INNER, WIDTH)), ("mlp.up_proj", (INNER, WIDTH)),
                            ("mlp.down_proj", (WIDTH, INNER))):
            weights[layer + part + ".weight"] = tensor(shape, part)
        if head != "absent":
            weights[OUTPUT] = tensor((rows, WIDTH), 3 if head == "own" else 1)
        write_safetensors(folder / "model.safetensors", weights)
        settings = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": rows, "hidden_size": WIDTH,
                    "intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": 2,
                    "num_key_value_heads": 1, "max_position_embeddings": 64, "tie_word_embeddings": tied,
                    "rms_norm_eps": 1e-5, "eos_token_id": ROWS - 1, "torch_dtype": "float32", **dict(config)}
        settings = {key: value for key, value in settings.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(settings))
        self.tokenizer(folder, tokens, tokenizer_config)
        return folder

    def tokenizer(self, folder, tokens=(), config=()):
        """One token a letter; <s>, </s> and `tokens` follow as special ones."""
        added = [{"id": len(LETTERS) + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                  "normalized": False, "special": True} for i, text in enumerate([*SPECIALS, *tokens])]
        (folder / "tokenizer.json").write_text(json.dumps({
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": None, "post_processor": None, "decoder": None,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "vocab": {letter: i for i, letter in enumerate(LETTERS)}, "merges": []}}))
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", **dict(config)}))

    def adapter(self, name, config=(), rename=lambda key: key, more=()):
        folder = self.folder / name
        folder.mkdir()
        weights = dict(more)
        for module, out in (("q_proj", WIDTH), ("v_proj", HEAD)):
            for part, shape in (("lora_A", (2, WIDTH)), ("lora_B", (out, 2))):
                key = rename(f"base_model.model.model.layers.0.self_attn.{module}.{part}.weight")
                if key:
                    weights[key] = tensor(shape, module + part)
        write_safetensors(folder / "adapter_model.safetensors", weights)
        settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], **dict(config)}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        return folder

    def call(self, *arguments, code=0):
        done = subprocess.run([QSHARD, *map(str, arguments)], cwd=self.folder, capture_output=True, text=True,
                              timeout=60, check=False)
        self.assertEqual(done.returncode, code, f"{arguments}\n{done.stdout}\n{done.stderr}")
        return done

    def score(self, model, *flags, rows="ids.jsonl", code=0):
        return self.call("score", "--model", model, "--input", rows, "--out", "scores.jsonl", "--overwrite",
                         "--threads", 1, "--compute-dtype", "float32", "--quantization", "none", *flags, code=code)

    def logprobs(self, model, *flags):
        self.score(model, *flags)
        return json.loads((self.folder / "scores.jsonl").read_text())["logprobs"][1:]

    def run_file(self, model, train, **data):
        text = {"model": {"base": str(model), "quantization": "none", "compute_dtype": "float32"},
                "adapter": {"r": 2, "target_modules": ["q_proj"]}, "data": {"train": train, "max_length": 32, **data},
                "train": {"max_steps": 1, "micro_batch_size": 1, "global_batch_size": 1}, "output": "out",
                "eval": {"every": 0, "generate": {"max_new_tokens": 0}}, "placement": {"threads": 1}}
        (self.folder / "run.yaml").write_text(json.dumps(text))
        return "run.yaml"

    def tokens_of(self, model, train, **data):
        """Tokens and supervised tokens of the one row, as training counts them, and what was said."""
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        done = self.call("train", self.run_file(model, train, **data))
        line = json.loads((self.folder / "out/metrics.jsonl").read_text().splitlines()[0])
        return (line["tokens"], line["supervised_tokens"]), done.stdout + done.stderr

    def assert_close(self, got, want, tolerance=2e-4):
        self.assertEqual(len(got), len(want))
        for one, other in zip(got, want):
            self.assertAlmostEqual(one, other, delta=tolerance)

    # Heads.

    def test_a_head_of_its_own_counts_in_every_format_though_the_config_ties_it(self):
        want = self.logprobs(self.model("untied"))
        mixed = self.model("mixed", tied=True)
        self.assertEqual(self.logprobs(mixed), want)
        self.assertIn("note: ", self.score(mixed).stderr)
        self.assertIn(OUTPUT, self.score(mixed).stderr)
        self.assertIn(OUTPUT, self.call("quantize", mixed, "mixed.qs", "--quantization", "none", "--compute-dtype",
                                        "float32", "--threads", 1).stderr)
        self.assertEqual(self.logprobs("mixed.qs"), want)
        self.assertIn(OUTPUT, self.score("mixed.qs").stderr)
        # What is merged into it stays untied, and says so.
        zero = {f"base_model.model.model.layers.0.self_attn.q_proj.lora_{part}.weight": (shape, bytes(4 * 2 * WIDTH))
                for part, shape in (("A", [2, WIDTH]), ("B", [WIDTH, 2]))}
        nothing = self.adapter("nothing", {"target_modules": ["q_proj"]}, lambda key: None, zero)
        (mixed / "tokenizer.json").unlink()  # its letters have no form in GGUF
        for form, out in (("merged-hf", "merged"), ("merged-gguf", "merged.gguf")):
            self.call("export", nothing, "--to", form, "--model", mixed, "--dtype", "float32", "--threads", 1, out)
            self.assert_close(self.logprobs(out), want)
        self.assertIs(json.loads((self.folder / "merged/config.json").read_text())["tie_word_embeddings"], False)
        self.assertNotIn("note: ", self.score("merged").stderr)

    def test_equal_heads_are_one_and_missing_ones_are_refused_unless_tied(self):
        want = self.logprobs(self.model("tied", "absent", tied=True))
        same = self.model("same", "same", tied=True)
        self.assertEqual(self.logprobs(same), want)
        self.assertNotIn("note: ", self.score(same).stderr)
        for name, tied in (("headless", False), ("silent", None)):
            said = self.score(self.model(name, "absent", tied=tied), code=65).stderr
            self.assertIn(OUTPUT, said)
            self.assertIn("tie_word_embeddings", said)

    # Token ids.

    def test_tokens_without_a_row_of_the_embedding_are_refused_where_they_occur(self):
        model = self.model("model", tokens=["<mine>", "<pad>"], tokenizer_config={"pad_token": "<pad>"})
        self.write("rows.jsonl", [{"prompt": "ab", "completion": "cd"}, {"prompt": "ab<mine>", "completion": "c"}])
        for flags in ((), ("--dry-run",)):
            said = self.call("train", self.run_file(model, "rows.jsonl"), *flags, code=65).stderr
            for part in ("rows.jsonl:2", '"<mine>"', str(ROWS), f"{ROWS} rows", "resize_token_embeddings"):
                self.assertIn(part, said)
        self.write("texts.jsonl", [{"text": "ab"}, {"text": "<mine>"}])
        said = self.score(model, rows="texts.jsonl", code=65).stderr
        self.assertIn("texts.jsonl:2", said)
        self.assertIn("<mine>", said)
        self.write("prompts.jsonl", [{"prompt": "a<mine>"}])
        for what in (("--prompt", "a<mine>"), ("--input", "prompts.jsonl")):
            said = self.call("generate", "--model", model, *what, "--max-new-tokens", 1, "--threads", 1, code=65).stderr
            self.assertIn("<mine>", said)
        # Where none occurs there is a note only.
        self.write("rows.jsonl", [{"prompt": "ab", "completion": "cd"}])
        counts, said = self.tokens_of(model, "rows.jsonl")
        self.assertEqual(counts, (5, 3))
        self.assertIn("note:", said)
        self.assertIn('"<mine>"', said)

    def test_special_tokens_beyond_the_embedding_are_refused_at_opening(self):
        end = self.model("end", tokens=["<mine>"], tokenizer_config={"eos_token": "<mine>"})
        self.assertIn("eos_token", self.score(end, code=65).stderr)
        beyond = self.model("beyond", config={"eos_token_id": ROWS})
        self.assertIn(f"{ROWS} rows", self.score(beyond, code=65).stderr)
        listed = self.model("listed")
        (listed / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, ROWS + 5]}))
        said = self.score(listed, code=65).stderr
        self.assertIn("generation_config.json", said)
        self.assertIn(str(ROWS + 5), said)

    # Ends.

    def test_an_end_is_found_where_some_file_names_it_else_its_absence_is_said(self):
        self.write("rows.jsonl", [{"prompt": "ab", "completion": "cd"}])
        for name, settings in (("empty", {"eos_token": ""}), ("null", {"eos_token": None}), ("text", {"eos_token": "[END]"})):
            counts, said = self.tokens_of(self.model(name, tokenizer_config=settings), "rows.jsonl")
            self.assertEqual(counts, (5, 3), name)
            self.assertEqual("[END]" in said, name == "text")
        mapped = self.model("mapped", config={"eos_token_id": None}, tokenizer_config={"eos_token": None})
        (mapped / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
        self.assertEqual(self.tokens_of(mapped, "rows.jsonl")[0], (5, 3))
        unknown = self.model("unknown", config={"eos_token_id": None}, tokenizer_config={"eos_token": None})
        counts, said = self.tokens_of(unknown, "rows.jsonl")
        self.assertEqual(counts, (4, 2))
        self.assertIn("warning:", said)
        self.assertIn("without an end", said)
        self.assertNotIn("warning:", self.tokens_of(unknown, "rows.jsonl", append_eos=False)[1])

    # Adapters.

    def test_adapters_that_peft_would_load_are_loaded(self):
        model = self.model("model")
        want = self.logprobs(model, "--adapter", self.adapter("plain"))
        base = read_safetensors(model / "model.safetensors")
        copies = {"base_model.model.model.embed_tokens.weight": base[EMBEDDING],
                  "base_model.model.lm_head.weight": base[OUTPUT]}
        for name, how in (
                ("named", {"rename": lambda key: key.replace(".weight", ".second.weight")}),
                ("bare", {"rename": lambda key: key.removeprefix("base_model.model.")}),
                ("compiled", {"rename": lambda key: key.replace("layers.0.", "layers.0._orig_mod.")}),
                ("eva", {"config": {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}}}),
                ("copies", {"more": copies})):
            self.assertEqual(self.logprobs(model, "--adapter", self.adapter(name, **how)), want, name)

    def test_adapters_that_do_not_fit_are_refused_by_what_does_not(self):
        model = self.model("model")
        embedding = "base_model.model.model.embed_tokens.weight"
        for name, parts, how in (
                ("half", ["v_proj", "lora_B"], {"rename": lambda key: None if "v_proj.lora_B" in key else key}),
                ("part", ["v_proj", "target_modules"], {"rename": lambda key: None if "v_proj" in key else key}),
                ("resized", [f"resize_token_embeddings({ROWS + 3})"], {"more": {embedding: tensor((ROWS + 3, WIDTH), 1)}}),
                ("trained", ["modules_to_save"], {"more": {embedding: tensor((ROWS, WIDTH), 9)}}),
                ("changed", ["pissa"], {"config": {"init_lora_weights": "pissa"}})):
            said = self.score(model, "--adapter", self.adapter(name, **how), code=65).stderr
            for part in parts:
                self.assertIn(part, said, name)
        # Dropping copies needs the base to compare them with.
        self.assertIn("--model", self.call("export", "trained", "--to", "peft", "out", code=64).stderr)
        self.call("export", "trained", "--to", "peft", "--model", model, "out", code=65)

    # Folders.

    def test_pointers_links_and_hub_ids_are_told(self):
        model = self.model("model")
        adapter = self.adapter("adapter")
        self.write("rows.jsonl", [{"prompt": "ab", "completion": "cd"}])
        for file, call in ((model / "model.safetensors", lambda: self.score(model, code=65)),
                           (model / "tokenizer.json", lambda: self.score(model, code=65)),
                           (adapter / "adapter_model.safetensors", lambda: self.score(model, "--adapter", adapter, code=65)),
                           (self.folder / "rows.jsonl", lambda: self.call("train", self.run_file(model, "rows.jsonl"), code=65))):
            whole = file.read_bytes()
            file.write_text(POINTER)
            self.assertIn("git lfs pull", call().stderr, file.name)
            file.write_bytes(whole)
        secret = self.folder / "secret.txt"
        secret.write_text("{{ 'private' }}")
        (model / "chat_template.jinja").symlink_to(secret)
        for call in (("quantize", model, "model.qs", "--threads", 1),
                     ("export", adapter, "--to", "merged-hf", "--model", model, "merged")):
            self.assertIn("leads out of its folder", self.call(*call, code=65).stderr)
        self.assertFalse((self.folder / "model.qs").exists())
        self.assertFalse((self.folder / "merged").exists())
        self.assertIn("hf download owner/name", self.score("owner/name", code=65).stderr)
        (model / "chat_template.jinja").unlink()
        self.assertIn("hf download owner/adapter", self.score(model, "--adapter", "owner/adapter", code=65).stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
