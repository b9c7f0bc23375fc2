"""Makes the tokenizer goldens with Hugging Face `tokenizers`, the reference: small tokenizers, the ids and texts they give.

  python make.py                      the tokenizers of this folder and their goldens
  python make.py --smollm2 FILE.gguf [--json OUT]
                                      smollm2.golden.json from the metadata of a SmolLM2 GGUF (nothing else of it is kept)

Made with tokenizers 0.23.3, gguf 0.19.0. Retraining with another version may give other small tokenizers; goldens and
tokenizers are written together, so they always agree.
"""
import argparse
import json
import pathlib
import random

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers)

import texts

HERE = pathlib.Path(__file__).resolve().parent
CASES = texts.FIXED + texts.random_texts(60, seed=7)
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
          r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

# The splits of DeepSeek-LLM's and V2's tokenizer.json.
DEEPSEEK = ["[\r\n]",
            r"\s?["
            "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽ"
            "Ა-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-"
            "ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆ"
            "ﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
            "]+",
            "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", r"\s+$", "[一-龥ࠀ-一가-\ud7ff]+"]


def dump(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def golden(tokenizer, seed):
    """Ids of every case, what they decode to (null: the case itself), ids of random token runs and their texts."""
    result = {"ids": [], "special_ids": [], "texts": [], "plain_texts": []}
    for case in CASES:
        ids = tokenizer.encode(case, add_special_tokens=False).ids
        result["ids"].append(ids)
        for key, skip in (("texts", False), ("plain_texts", True)):
            text = tokenizer.decode(ids, skip_special_tokens=skip)
            result[key].append(None if text == case else text)
    result["special_ids"] = [tokenizer.encode(case, add_special_tokens=True).ids for case in CASES[20:30]]
    rng = random.Random(seed)
    runs = [[rng.randrange(tokenizer.get_vocab_size()) for _ in range(rng.randrange(1, 12))] for _ in range(30)]
    result["runs"] = [{"ids": run, "text": tokenizer.decode(run, skip_special_tokens=False)} for run in runs]
    return result


def byte_level(name, pattern, size=400, normalizer=None, ignore_merges=False, digits=False, specials=()):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    first = pre_tokenizers.Digits(individual_digits=True) if digits else pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, last])
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts.TRAINING, trainer)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    tokenizer.add_special_tokens([AddedToken(s, normalized=False) for s in specials])
    return tokenizer


def unreachable_tokens(tokenizer):
    """Adds vocabulary that no merge builds, which only ignore_merges reaches."""
    spec = json.loads(tokenizer.to_str())
    added = {t["content"] for t in spec["added_tokens"]}
    vocabulary = {t: i for t, i in spec["model"]["vocab"].items() if t not in added}
    for token in ("Ġquick", "Hello", "Ġ日", "1234"):
        vocabulary.setdefault(token, len(vocabulary))
    spec["model"]["vocab"] = vocabulary
    for i, token in enumerate(spec["added_tokens"]):
        token["id"] = len(vocabulary) + i
    return Tokenizer.from_str(json.dumps(spec))


def llama3():
    specials = ["<|begin_of_text|>", "<|eot_id|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = unreachable_tokens(byte_level("llama3", LLAMA3, ignore_merges=True, specials=specials))
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|> $B", special_tokens=[("<|begin_of_text|>", bos)])])
    return tokenizer


def qwen():
    return byte_level("qwen", QWEN, normalizer=normalizers.NFC(), specials=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])


def smollm():
    return byte_level("smollm", None, digits=True, specials=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])


def deepseek():
    """Trained on whole lines, so that ids show where each of the patterns cuts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(vocab_size=560, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    lines = [t[:120] for t in texts.TRAINING] + ["a1b22c333d4444 x\u00b2 foo(bar)[baz] a_b  the the", "  the  \r\n\n  (a) ,.;", "日本語、中文。 ！？a日b本",
                                                "ԱԲաբ ႠႡაბ Ąą ǅʰªº ΑαЯя ⰀⰁ", "1984 12 ½ ٣٤ ⅠⅡ"] * 4
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(p), "isolated") for p in DEEPSEEK] +
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.normalizer = normalizers.Sequence([])  # as in the model's file
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(s, normalized=True) for s in ("<|begin_of_text|>", "<|endoftext|>")])
    return tokenizer


def tekken():
    """A pattern that no hand-written matcher knows, and added tokens with every flag."""
    tokenizer = byte_level("tekken", TEKKEN, size=360, normalizer=normalizers.NFC())
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True, single_word=True, normalized=False), AddedToken("<|endoftext|>", rstrip=True)])
    tokenizer.add_tokens([AddedToken("[SEP]", lstrip=True, rstrip=True), AddedToken("WORD", single_word=True), AddedToken("caf\u00e9 token", normalized=True)])
    return tokenizer


def sentence_piece(metaspace):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=specials, limit_alphabet=90, show_progress=False)
    # Trained word by word: real SentencePiece vocabularies have no token that goes on past a space.
    words = [w for line in texts.TRAINING for w in ("\u2581" + line.replace(" ", " \u2581")).split(" ")]
    learner = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    learner.train_from_iterator(words, trainer)
    spec = json.loads(tokenizer.to_str())
    spec["model"] = json.loads(learner.to_str())["model"]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.add_special_tokens([AddedToken(s, normalized=False) for s in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return tokenizer


def unigram(byte_fallback):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace()
    specials = ["<unk>", "<s>", "</s>"] + ([f"<0x{b:02X}>" for b in range(256)] if byte_fallback else [])
    trainer = trainers.UnigramTrainer(vocab_size=320 + len(specials), special_tokens=specials, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(texts.TRAINING, trainer)
    if byte_fallback:
        spec = json.loads(tokenizer.to_str())
        spec["model"]["byte_fallback"] = True
        spec["added_tokens"] = spec["added_tokens"][:3]
        tokenizer = Tokenizer.from_str(json.dumps(spec))
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return tokenizer


def parts():
    """One BPE model whose tokens span words, so that ids show where each component cut; and many components."""
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.train_from_iterator([t[:120] for t in texts.TRAINING] + ["a1b22c333d4444 x² foo(bar)[baz] a_b the the"] * 3,
                                trainers.BpeTrainer(vocab_size=560, special_tokens=["<unk>"], limit_alphabet=120, show_progress=False))
    P, N, D = pre_tokenizers, normalizers, decoders
    configs = []

    def add(pre=None, normalizer=None, decoder=None):
        t = Tokenizer(models.BPE())
        if pre: t.pre_tokenizer = pre
        if normalizer: t.normalizer = normalizer
        if decoder: t.decoder = decoder
        spec = json.loads(t.to_str())
        configs.append({k: spec[k] for k in ("normalizer", "pre_tokenizer", "decoder")})

    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        for invert in (False, True):
            add(P.Split(Regex(r"\s"), behavior, invert))
            add(P.Split("a", behavior, invert))
            add(P.Split(Regex(r"\w+|[^\w\s]+"), behavior, invert))
        add(P.Punctuation(behavior))
    for pattern in (r"\p{N}{1,3}", r"[a-z]*", r"\bthe\b", r"(?m).+?b", r"[^\S\n]+", r"\h+", r"(?<=a)b", r"^.|.$", r"[\d\-x]{,2}z", r"(?i:THE|ß)", r"\p{Han}++|\p{^L}", r"\A\s*|[[:punct:]]"):
        add(P.Split(Regex(pattern), "isolated"))
    for individual in (False, True):
        add(P.Digits(individual))
    add(P.Whitespace())
    add(P.WhitespaceSplit())
    for scheme in ("always", "first", "never"):
        for split in (False, True):
            add(P.Metaspace(prepend_scheme=scheme, split=split), decoder=D.Metaspace(prepend_scheme=scheme))
    add(P.Metaspace(replacement="_"), decoder=D.Metaspace(replacement="_"))
    add(P.Sequence([P.Punctuation("contiguous"), P.ByteLevel(add_prefix_space=False), P.Digits(False), P.Split(Regex("[0-9][0-9][0-9]"), "isolated")]), decoder=D.ByteLevel())
    add(P.ByteLevel(add_prefix_space=True), decoder=D.ByteLevel())
    add(P.Sequence([P.WhitespaceSplit(), P.ByteLevel(add_prefix_space=True, use_regex=False)]), decoder=D.ByteLevel())
    add(P.Sequence([P.WhitespaceSplit(), P.Metaspace(prepend_scheme="first")]))
    for normalizer in (N.NFC(), N.NFD(), N.NFKC(), N.NFKD(), N.Lowercase(), N.Strip(), N.Strip(True, False), N.Strip(False, True), N.StripAccents(),
                       N.Sequence([N.NFD(), N.StripAccents(), N.Lowercase()]), N.Replace("a", "bb"), N.Replace(Regex(r"\s+"), " "), N.Replace(Regex("x*"), "-"), N.Prepend("the "),
                       N.Sequence([N.Strip(), N.Prepend("x")])):
        add(normalizer=normalizer)
    add(N and P.Metaspace(prepend_scheme="first"), normalizer=N.Strip())
    for decoder in (D.Fuse(), D.BPEDecoder("e"), D.Replace("e", "--"), D.Replace(Regex("[aeiou]+"), "*"), D.Strip("t", 1, 0), D.Strip("e", 0, 1), D.Sequence([D.Fuse(), D.Strip(" ", 2, 0)]), D.Sequence([D.Fuse(), D.Strip(" ", 0, 1)])):
        add(decoder=decoder)
    model = json.loads(learner.to_str())["model"]
    out = {"model": model, "cases": texts.FIXED[1::2], "configs": configs, "results": []}
    for config in configs:
        t = Tokenizer.from_str(json.dumps({"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "post_processor": None, "model": model, **config}))
        ids = [t.encode(case).ids for case in out["cases"]]
        decoded = [t.decode(i) for i in ids[:40]] if config["decoder"] else []
        out["results"].append({"ids": ids, "texts": decoded})
    return out


def smollm2(path):
    import gguf
    reader = gguf.GGUFReader(path)
    field = lambda key: reader.fields["tokenizer.ggml." + key].contents()
    assert field("model") == "gpt2" and field("pre") == "smollm"
    tokens, types = field("tokens"), field("token_type")
    model = {t: i for i, t in enumerate(tokens) if types[i] not in (2, 3)}
    # BPE() wants ids without gaps only when it saves; loading a spec takes them as they are.
    spec = json.loads(Tokenizer(models.BPE()).to_str())
    spec["model"]["vocab"] = {t: i for i, t in enumerate(tokens)}
    spec["model"]["merges"] = [m.split(" ") for m in field("merges")]
    spec["added_tokens"] = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": types[i] != 4}
                            for i, t in enumerate(tokens) if types[i] in (2, 3, 4)]
    assert len(model) + sum(t in (2, 3) for t in types) == len(tokens)
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--smollm2", help="a SmolLM2 GGUF file")
    parser.add_argument("--json", help="where to write the tokenizer.json made from it")
    arguments = parser.parse_args()
    if arguments.smollm2:
        tokenizer = smollm2(arguments.smollm2)
        if arguments.json:
            tokenizer.save(arguments.json)
        dump(HERE / "smollm2.golden.json", golden(tokenizer, seed=0))
        return
    dump(HERE / "cases.json", CASES)
    makers = {"llama3": llama3, "qwen": qwen, "smollm": smollm, "tekken": tekken, "spm": lambda: sentence_piece(False),
              "metaspace": lambda: sentence_piece(True), "unigram": lambda: unigram(False), "unigram_bytes": lambda: unigram(True),
              "deepseek": deepseek}
    for seed, (name, make) in enumerate(makers.items()):
        tokenizer = make()
        tokenizer = Tokenizer.from_str(tokenizer.to_str())
        dump(HERE / f"{name}.json", json.loads(tokenizer.to_str()))
        dump(HERE / f"{name}.golden.json", golden(tokenizer, seed))
    dump(HERE / "parts.golden.json", parts())


if __name__ == "__main__":
    main()
