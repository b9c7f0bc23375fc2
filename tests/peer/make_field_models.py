"""Small random models in folders that look as their families publish them: config.json with every key of the released file,
generation_config.json, tokenizer files, odd tensors, shards and files beside them.

    make_field_models.py OUT [MODEL ...] [--tokenizers FOLDER]

Numbers are those of the release but for the dimensions. Weights are random numbers that bfloat16 can hold. FOLDER holds real tokenizers
(llama3_1/, mistral/, qwen3/, each tokenizer.json and tokenizer_config.json); without it, and for the other families, small ones of
the same kind are taken from tests/golden/tokenizer. check_field_models.py takes these folders through train, eval, generate, score
and export. Needs torch, transformers, tokenizers, safetensors. Nothing it writes is to be committed.
"""

import argparse
import json
import pathlib
import shutil

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
GOLDEN = HERE.parent / "golden"
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?"
         r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
         r"\s*[\r\n]+|\s+(?!\S)|\s+")
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


# ---- tokenizers -------------------------------------------------------------------------------------------------------

def template(name):
    return (GOLDEN / "chat" / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


GRANITE = """{%- for message in messages %}
    {%- if message['role'] == 'assistant' %}
        {{- '<|start_of_role|>assistant<|end_of_role|>' + message['content'] + '<|endoftext|>\n' }}
    {%- else %}
        {{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|endoftext|>\n' }}
    {%- endif %}
    {%- if loop.last and add_generation_prompt %}
        {{- '<|start_of_role|>assistant<|end_of_role|>' }}
    {%- endif %}
{%- endfor %}"""
# The last answer lacks the line end that the others have.
OLMO = ("{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '\n' }}"
        "{% elif message['role'] == 'assistant' %}{% if not loop.last %}{{ '<|assistant|>\n' + message['content'] + eos_token + '\n' }}"
        "{% else %}{{ '<|assistant|>\n' + message['content'] + eos_token }}{% endif %}{% endif %}"
        "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}")


def specials(tokenizer, *names):
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    return tokenizer


def golden(name, *more):
    return specials(Tokenizer.from_file(str(GOLDEN / "tokenizer" / f"{name}.json")), *more)


def training_texts():
    return [path.read_text(encoding="utf-8") for path in sorted((GOLDEN / "chat" / "templates").iterdir())] + [
        "The quick brown fox jumps over the lazy dog. " * 20, "My name is Anna Keller and I live in Bonn. " * 20]


def byte_level(pattern, *names):
    tokenizer = Tokenizer(models.BPE())
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pattern)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(training_texts(), trainer)
    return specials(tokenizer, *names)


def all_merges(spec):
    """Every way to cut a token in two is a merge, as where SentencePiece's vocabulary was converted."""
    vocabulary = spec["model"]["vocab"]
    no_part = {token["content"] for token in spec["added_tokens"]} | {f"<0x{b:02X}>" for b in range(256)}
    merges = []
    for token, _ in sorted(vocabulary.items(), key=lambda item: item[1]):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in vocabulary and token[i:] in vocabulary]
        if token not in no_part:
            merges += sorted(cuts, key=lambda cut: (vocabulary[cut[0]], vocabulary[cut[1]]))
    spec["model"]["merges"] = [list(cut) for cut in merges]
    return Tokenizer.from_str(json.dumps(spec))


def gemma_tokenizer():
    """As Gemma's tokenizer.json: no pre-tokenizer of words, spaces as markers, bytes for what is unknown."""
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    names += [f"<unused{i}>" for i in range(99)] + ["<start_of_turn>", "<end_of_turn>"] + [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=names, limit_alphabet=90, show_progress=False)
    words = [word for text in training_texts() for word in text.replace(" ", " \u2581").split(" ")]
    learner = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    learner.train_from_iterator(words, trainer)
    spec = json.loads(learner.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if not token["content"].startswith("<0x")]
    spec["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    spec["pre_tokenizer"] = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    spec["decoder"] = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                                                        {"type": "ByteFallback"}, {"type": "Fuse"}]}
    tokenizer = all_merges(spec)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", pair="<bos> $A <bos> $B:1", special_tokens=[("<bos>", 2)])
    return tokenizer


def llama2_like(*more, bos=True):
    tokenizer = specials(all_merges(json.loads(golden("spm").to_str())), *more)
    start = "<s> " if bos else ""
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start}$A", pair=f"{start}$A {start}$B:1",
                                                             special_tokens=[("<s>", 1)])
    return tokenizer


def plain_config(kind, **tokens):
    return dict(tokens, clean_up_tokenization_spaces=False, model_max_length=1000000000000000019884624838656, tokenizer_class=kind)


def tokenizer_of(kind, real):
    """(Tokenizer or folder with a real one, tokenizer_config.json)."""
    folders = {"llama3": "llama3_1", "mistral": "mistral", "qwen3": "qwen3"}
    if real and kind in folders and (real / folders[kind]).is_dir():
        config = json.loads((real / folders[kind] / "tokenizer_config.json").read_text(encoding="utf-8"))
        if kind == "mistral":
            config["chat_template"] = template("inst_namespace")
        return real / folders[kind], config
    gpt = "GPT2Tokenizer"
    if kind == "llama3":
        return golden("llama3"), plain_config("PreTrainedTokenizerFast", bos_token="<|begin_of_text|>", eos_token="<|eot_id|>",
                                              chat_template=template("header_style_tools"))
    if kind == "mistral":
        return llama2_like("[INST]", "[/INST]"), plain_config(
            "LlamaTokenizer", bos_token="<s>", eos_token="</s>", unk_token="<unk>", add_bos_token=True, legacy=False, pad_token=None,
            chat_template=[{"name": "default", "template": template("inst_namespace")}, {"name": "tool_use", "template": "x"}])
    if kind == "qwen3":
        return golden("qwen"), plain_config("Qwen2Tokenizer", bos_token=None, eos_token="<|im_end|>", pad_token="<|endoftext|>",
                                            add_bos_token=False, add_prefix_space=False, errors="replace", split_special_tokens=False,
                                            chat_template=template("thinking"))
    if kind == "gemma":
        return gemma_tokenizer(), plain_config("GemmaTokenizer", bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>",
                                               add_bos_token=True, add_eos_token=False, sp_model_kwargs={},
                                               spaces_between_special_tokens=False, chat_template=template("turns_alternate"))
    if kind == "phi3":
        added = ("<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|system|>", "<|end|>", "<|user|>")
        return llama2_like(*added, bos=False), plain_config("LlamaTokenizer", bos_token="<s>", eos_token="<|endoftext|>", pad_token="<|endoftext|>",
                                                 unk_token="<unk>", add_bos_token=False, add_eos_token=False, legacy=False,
                                                 chat_template=template("tag_style_eos"))
    if kind == "tinyllama":
        text = ("{% for message in messages %}\n{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token }}\n"
                "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}")
        return llama2_like(), plain_config("LlamaTokenizer", bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>",
                                           legacy=False, sp_model_kwargs={}, chat_template=text)
    if kind == "gpt4o":
        return byte_level(GPT4O, "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"), plain_config(
            gpt, bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>", unk_token="<|endoftext|>",
            chat_template=template("tag_style_eos"))
    if kind == "cl100k":
        return byte_level(CL100K, "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"), plain_config(
            gpt, bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|pad|>", chat_template=OLMO)
    if kind == "gpt2":
        return byte_level(None, "<|endoftext|>"), {"model_max_length": 1024}
    if kind == "starcoder":
        return golden("smollm"), plain_config(gpt, bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>",
                                              add_prefix_space=False, vocab_size=49152)
    if kind == "granite":
        return golden("smollm", "<|start_of_role|>", "<|end_of_role|>"), plain_config(
            gpt, bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>", chat_template=GRANITE, errors="replace")
    raise KeyError(kind)


# ---- released configurations, with smaller dimensions -------------------------------------------------------------------

def released(kind, cls, tokenizer, config, generation=None, **options):
    config = {"architectures": [cls], "model_type": kind, **config}
    return dict(config=config, tokenizer=tokenizer, generation=generation, **options)


LONGROPE = [1.0 + 0.05 * i for i in range(16)]
LLAMA3_SCALING = {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
                  "rope_type": "llama3"}
SMALL = dict(hidden_size=256, intermediate_size=512, num_attention_heads=4, num_hidden_layers=2, num_key_value_heads=2)
COMMON = dict(attention_dropout=0.0, hidden_act="silu", initializer_range=0.02, torch_dtype="bfloat16", use_cache=True)

MODELS = {
    "llama-3.2-1b-instruct": released("llama", "LlamaForCausalLM", "llama3", COMMON | SMALL | dict(
        attention_bias=False, bos_token_id=128000, eos_token_id=[128001, 128008, 128009], head_dim=64, max_position_embeddings=131072,
        mlp_bias=False, pretraining_tp=1, rms_norm_eps=1e-5, rope_scaling=LLAMA3_SCALING, rope_theta=500000.0, tie_word_embeddings=True,
        transformers_version="4.45.0.dev0", vocab_size=128256),
        dict(bos_token_id=128000, do_sample=True, eos_token_id=[128001, 128008, 128009], temperature=0.6, top_p=0.9), beside="original"),
    "mistral-7b-instruct-v0.3": released("mistral", "MistralForCausalLM", "mistral", COMMON | SMALL | dict(
        bos_token_id=1, eos_token_id=2, max_position_embeddings=32768, rms_norm_eps=1e-5, rope_theta=1000000.0, sliding_window=None,
        tie_word_embeddings=False, transformers_version="4.42.0.dev0", vocab_size=32768),
        dict(_from_model_config=True, bos_token_id=1, eos_token_id=2), shards="1MB", beside="consolidated"),
    "mistral-7b-v0.1": released("mistral", "MistralForCausalLM", "mistral", COMMON | SMALL | dict(
        bos_token_id=1, eos_token_id=2, max_position_embeddings=32768, rms_norm_eps=1e-5, rope_theta=10000.0, sliding_window=24,
        tie_word_embeddings=False, transformers_version="4.34.0.dev0", vocab_size=32000)),
    "qwen2.5-0.5b-instruct": released("qwen2", "Qwen2ForCausalLM", "qwen3", COMMON | SMALL | dict(
        bos_token_id=151643, eos_token_id=151645, max_position_embeddings=32768, max_window_layers=21, rms_norm_eps=1e-6,
        rope_theta=1000000.0, sliding_window=32768, tie_word_embeddings=True, transformers_version="4.43.1", use_sliding_window=False,
        vocab_size=151936),
        dict(bos_token_id=151643, pad_token_id=151643, do_sample=True, eos_token_id=[151645, 151643], repetition_penalty=1.1,
             temperature=0.7, top_p=0.8, top_k=20)),
    "deepseek-r1-distill-qwen-1.5b": released("qwen2", "Qwen2ForCausalLM", "qwen3", COMMON | SMALL | dict(
        bos_token_id=151646, eos_token_id=151643, max_position_embeddings=131072, max_window_layers=21, rms_norm_eps=1e-6,
        rope_theta=10000, sliding_window=4096, tie_word_embeddings=False, transformers_version="4.44.0", use_mrope=False,
        use_sliding_window=False, vocab_size=151936)),
    "qwen3-0.6b": released("qwen3", "Qwen3ForCausalLM", "qwen3", COMMON | SMALL | dict(
        attention_bias=False, bos_token_id=151643, eos_token_id=151645, head_dim=128, max_position_embeddings=40960,
        max_window_layers=28, rms_norm_eps=1e-6, rope_scaling=None, rope_theta=1000000, sliding_window=None, tie_word_embeddings=True,
        transformers_version="4.51.0", use_sliding_window=False, vocab_size=151936),
        dict(bos_token_id=151643, do_sample=True, eos_token_id=[151645, 151643], pad_token_id=151643, temperature=0.6, top_k=20,
             top_p=0.95), head_beside=True),
    "gemma-2b-it": released("gemma", "GemmaForCausalLM", "gemma", COMMON | SMALL | dict(
        attention_bias=False, bos_token_id=2, eos_token_id=1, head_dim=64, hidden_act="gelu", hidden_activation=None,
        max_position_embeddings=8192, num_key_value_heads=1, pad_token_id=0, rms_norm_eps=1e-6, rope_scaling=None, rope_theta=10000.0,
        transformers_version="4.38.0.dev0", vocab_size=1024)),
    "gemma-2-2b-it": released("gemma2", "Gemma2ForCausalLM", "gemma", COMMON | SMALL | dict(
        attention_bias=False, attn_logit_softcapping=50.0, bos_token_id=2, cache_implementation="hybrid", eos_token_id=[1, 107],
        final_logit_softcapping=30.0, head_dim=64, hidden_act="gelu_pytorch_tanh", hidden_activation="gelu_pytorch_tanh",
        max_position_embeddings=8192, num_hidden_layers=4, pad_token_id=0, query_pre_attn_scalar=64, rms_norm_eps=1e-6,
        rope_theta=10000.0, sliding_window=24, sliding_window_size=24, transformers_version="4.42.4", vocab_size=1024),
        dict(_from_model_config=True, bos_token_id=2, cache_implementation="hybrid", eos_token_id=[1, 107], pad_token_id=0)),
    "gemma-3-1b-it": released("gemma3_text", "Gemma3ForCausalLM", "gemma", COMMON | SMALL | dict(
        attention_bias=False, attn_logit_softcapping=None, bos_token_id=2, cache_implementation="hybrid", eos_token_id=[1, 106],
        final_logit_softcapping=None, head_dim=64, hidden_act=None, hidden_activation="gelu_pytorch_tanh", max_position_embeddings=32768,
        num_hidden_layers=7, num_key_value_heads=1, pad_token_id=0, query_pre_attn_scalar=64, rms_norm_eps=1e-6,
        rope_local_base_freq=10000, rope_scaling=None, rope_theta=1000000, sliding_window=24, sliding_window_pattern=6,
        transformers_version="4.50.0.dev0", vocab_size=1024),
        dict(cache_implementation="hybrid", do_sample=True, eos_token_id=[1, 106], pad_token_id=0, top_k=64, top_p=0.95)),
    "phi-3.5-mini-instruct": released("phi3", "Phi3ForCausalLM", "phi3", COMMON | SMALL | dict(
        _name_or_path="Phi-3.5-mini-instruct", attention_bias=False,
        auto_map={"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"},
        bos_token_id=1, embd_pdrop=0.0, eos_token_id=600, hidden_size=128, max_position_embeddings=131072, num_key_value_heads=4,
        original_max_position_embeddings=4096, pad_token_id=600, resid_pdrop=0.0, rms_norm_eps=1e-5,
        rope_scaling={"long_factor": [4.0 * f for f in LONGROPE], "short_factor": LONGROPE, "type": "longrope"}, rope_theta=10000.0,
        sliding_window=262144, tie_word_embeddings=False, transformers_version="4.43.3", vocab_size=640),
        dict(_from_model_config=True, bos_token_id=1, eos_token_id=[604, 601, 600], pad_token_id=600)),
    "phi-4-mini-instruct": released("phi3", "Phi3ForCausalLM", "gpt4o", COMMON | SMALL | dict(
        attention_bias=False, auto_map={"AutoConfig": "configuration_phi3.Phi3Config", "AutoTokenizer": "Xenova/gpt-4o"},
        bos_token_id=500, embd_pdrop=0.0, eos_token_id=500, full_attn_mod=1, hidden_size=256, interpolate_factor=1, lm_head_bias=False,
        max_position_embeddings=131072, mlp_bias=False, original_max_position_embeddings=4096, pad_token_id=500,
        partial_rotary_factor=0.75, resid_pdrop=0.0, rms_norm_eps=1e-5,
        rope_scaling={"long_factor": [2.0 + 0.1 * i for i in range(24)], "short_factor": [1.0] * 24, "type": "longrope"},
        rope_theta=10000.0, sliding_window=262144, tie_word_embeddings=True, transformers_version="4.45.0", vocab_size=512),
        dict(bos_token_id=500, eos_token_id=[503, 500], pad_token_id=500)),
    "smollm3-3b": released("smollm3", "SmolLM3ForCausalLM", "llama3", COMMON | SMALL | dict(
        attention_bias=False, bos_token_id=128000, eos_token_id=128012, layer_types=["full_attention"] * 4, max_position_embeddings=65536,
        max_window_layers=28, mlp_bias=False, no_rope_layer_interval=4, no_rope_layers=[1, 1, 1, 0], num_hidden_layers=4,
        pad_token_id=128004, pretraining_tp=2, rms_norm_eps=1e-6, rope_scaling=None, rope_theta=5000000.0, sliding_window=None,
        transformers_version="4.54.0.dev0", use_cache=False, use_sliding_window=False, vocab_size=128256),
        dict(bos_token_id=128000, do_sample=True, eos_token_id=128012, pad_token_id=128004, temperature=0.6, top_p=0.95)),
    "gpt2": released("gpt2", "GPT2LMHeadModel", "gpt2", dict(
        activation_function="gelu_new", attn_pdrop=0.1, bos_token_id=500, embd_pdrop=0.1, eos_token_id=500, initializer_range=0.02,
        layer_norm_epsilon=1e-5, n_ctx=1024, n_embd=128, n_head=2, n_layer=3, n_positions=1024, n_special=0, output_past=True,
        predict_special_tokens=True, resid_pdrop=0.1, summary_activation=None, summary_first_dropout=0.1, summary_proj_to_labels=True,
        summary_type="cls_index", summary_use_proj=True,
        task_specific_params={"text-generation": {"do_sample": True, "max_length": 50}}, vocab_size=501),
        dict(bos_token_id=500, eos_token_id=500, _from_model_config=True), chat=False, dtype="float32", cut="transformer.",
        buffers="gpt2"),
    "olmo-2-1b-instruct": released("olmo2", "Olmo2ForCausalLM", "cl100k", COMMON | SMALL | dict(
        attention_bias=False, eos_token_id=500, max_position_embeddings=4096, num_key_value_heads=4, pad_token_id=503,
        rms_norm_eps=1e-6, rope_scaling=None, rope_theta=500000, tie_word_embeddings=False, torch_dtype="float32",
        transformers_version="4.49.0", use_cache=False, vocab_size=512), dtype="float32"),
    "granite-3.1-2b-instruct": released("granite", "GraniteForCausalLM", "granite", COMMON | SMALL | dict(
        attention_bias=False, attention_dropout=0.1, attention_multiplier=0.015625, bos_token_id=402, embedding_multiplier=12.0,
        eos_token_id=402, logits_scaling=8.0, max_position_embeddings=131072, mlp_bias=False, pad_token_id=402, residual_multiplier=0.22,
        rms_norm_eps=1e-5, rope_scaling=None, rope_theta=5000000.0, tie_word_embeddings=True, transformers_version="4.47.0",
        vocab_size=421), dict(_from_model_config=True, bos_token_id=402, eos_token_id=402, pad_token_id=402)),
    "starcoder2-3b": released("starcoder2", "Starcoder2ForCausalLM", "starcoder", COMMON | SMALL | dict(
        attention_dropout=0.1, residual_dropout=0.1, embedding_dropout=0.1, bos_token_id=402, eos_token_id=402,
        hidden_act="gelu_pytorch_tanh", initializer_range=0.018042, max_position_embeddings=16384, mlp_type="default",
        norm_epsilon=1e-5, norm_type="layer_norm", rope_theta=999999.4420358813, sliding_window=24, torch_dtype=None,
        transformers_version="4.37.0.dev0", use_bias=True, vocab_size=420), chat=False, dtype="float32"),
    "tinyllama-1.1b-chat": released("llama", "LlamaForCausalLM", "tinyllama", COMMON | SMALL | dict(
        attention_bias=False, bos_token_id=1, eos_token_id=2, max_position_embeddings=2048, pretraining_tp=1, rms_norm_eps=1e-5,
        rope_scaling=None, rope_theta=10000.0, tie_word_embeddings=False, transformers_version="4.35.0", vocab_size=608),
        dict(bos_token_id=1, eos_token_id=2, max_length=2048, pad_token_id=0), buffers="inv_freq"),
    "mixtral-8x7b-instruct": released("mixtral", "MixtralForCausalLM", "mistral", COMMON | SMALL | dict(
        bos_token_id=1, eos_token_id=2, intermediate_size=192, max_position_embeddings=32768, num_experts_per_tok=2,
        num_local_experts=8, output_router_logits=False, rms_norm_eps=1e-5, rope_theta=1000000.0, router_aux_loss_coef=0.02,
        sliding_window=None, tie_word_embeddings=False, transformers_version="4.36.0.dev0", vocab_size=32000),
        dict(_from_model_config=True, bos_token_id=1, eos_token_id=2), shards="4MB"),
    "qwen3-30b-a3b": released("qwen3_moe", "Qwen3MoeForCausalLM", "qwen3", COMMON | SMALL | dict(
        attention_bias=False, bos_token_id=151643, decoder_sparse_step=1, eos_token_id=151645, head_dim=128, max_position_embeddings=40960,
        max_window_layers=48, mlp_only_layers=[], moe_intermediate_size=64, norm_topk_prob=True, num_experts=16, num_experts_per_tok=4,
        output_router_logits=False, rms_norm_eps=1e-6, rope_scaling=None, rope_theta=1000000.0, router_aux_loss_coef=0.001,
        sliding_window=None, tie_word_embeddings=False, transformers_version="4.51.0", use_sliding_window=False, vocab_size=151936),
        dict(bos_token_id=151643, do_sample=True, eos_token_id=[151645, 151643], pad_token_id=151643)),
}
WRAPPED = {
    "gemma-3-4b-it": dict(
        wraps="gemma-3-1b-it", config=dict(
            architectures=["Gemma3ForConditionalGeneration"], boi_token_index=254, eoi_token_index=255, eos_token_id=[1, 106],
            image_token_index=256, initializer_range=0.02, mm_tokens_per_image=4, model_type="gemma3", torch_dtype="bfloat16",
            transformers_version="4.50.0.dev0",
            vision_config=dict(hidden_size=64, image_size=56, intermediate_size=96, model_type="siglip_vision_model",
                               num_attention_heads=2, num_hidden_layers=1, patch_size=14, vision_use_head=False)),
        text=dict(head_dim=64, hidden_size=256, intermediate_size=512, model_type="gemma3_text", num_attention_heads=4,
                  num_hidden_layers=7, num_key_value_heads=2, query_pre_attn_scalar=64,
                  rope_scaling={"factor": 8.0, "rope_type": "linear"}, sliding_window=24, vocab_size=1024)),
}


# ---- weights ------------------------------------------------------------------------------------------------------------

def set_parameters(model, seed):
    """Every parameter random and representable in bfloat16; norms near their neutral value, biases not zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("bias"):
            value = 0.1 * noise
        elif parameter.dim() == 1:
            value = parameter.data.float() + 0.1 * noise
        elif "embed" in name or "wte" in name or "wpe" in name:
            value = noise * 0.1
        else:
            value = noise / parameter.shape[-1] ** 0.5
        parameter.data = value.to(torch.bfloat16).float()


def saved_tensors(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}
    return tensors


def write_weights(model, folder, spec):
    dtype = getattr(torch, spec.get("dtype", "bfloat16"))
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.save_pretrained(folder, max_shard_size=spec.get("shards", "5GB"))
    (folder / "generation_config.json").unlink(missing_ok=True)
    single = folder / "model.safetensors"
    if not any(key in spec for key in ("cut", "head_beside", "buffers")):
        return
    tensors = saved_tensors(folder)
    if "cut" in spec:
        tensors = {name.removeprefix(spec["cut"]): value for name, value in tensors.items()}
    if spec.get("head_beside"):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    if spec.get("buffers") == "inv_freq":
        width = spec["config"]["hidden_size"] // spec["config"]["num_attention_heads"]
        for layer in range(spec["config"]["num_hidden_layers"]):
            tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = 1.0 / 10000.0 ** (torch.arange(0, width, 2) / width)
    if spec.get("buffers") == "gpt2":
        for layer in range(spec["config"]["n_layer"]):
            tensors[f"h.{layer}.attn.bias"] = torch.tril(torch.ones(32, 32)).view(1, 1, 32, 32)
    save_file(tensors, single, metadata={"format": "pt"})


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_tokenizer(folder, kind, real):
    tokenizer, config = tokenizer_of(kind, real)
    if isinstance(tokenizer, pathlib.Path):
        shutil.copy(tokenizer / "tokenizer.json", folder / "tokenizer.json")
        (folder / "tokenizer.json").chmod(0o644)
    else:
        tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", config)
    names = {key: config[key] for key in ("bos_token", "eos_token", "unk_token", "pad_token") if config.get(key)}
    write_json(folder / "special_tokens_map.json", {
        key: {"content": value, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False} if key != "pad_token" else value
        for key, value in names.items()})
    return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))


def token_count(document):
    vocabulary = document["model"]["vocab"]
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else list(range(len(vocabulary)))
    return max(ids + [token["id"] for token in document["added_tokens"]]) + 1


def vocabulary_size(config, document):
    """That of the release, but for a small tokenizer."""
    count = token_count(document)
    return count + 5 if count < 30000 <= config["vocab_size"] else config["vocab_size"]


def fitted(config, size, document):
    """Ids of the release that a small tokenizer does not have are replaced."""
    last = document["added_tokens"][-1]["id"]
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = config.get(key)
        if isinstance(value, list):
            config[key] = [one if one < size else last for one in value]
        elif value is not None and value >= size:
            config[key] = last
    return config


def make(name, out, real):
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    wrapper = WRAPPED.get(name)
    spec = MODELS[wrapper["wraps"] if wrapper else name]
    document = write_tokenizer(folder, spec["tokenizer"], real)
    if wrapper:
        config = wrapper["config"] | {"text_config": wrapper["text"]}
    else:
        size = vocabulary_size(spec["config"], document)
        config = fitted(dict(spec["config"], vocab_size=size), size, document)
    kept = {key: value for key, value in config.items() if key != "auto_map"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**kept), dtype=torch.float32)
    set_parameters(model, 7)
    write_weights(model, folder, dict(spec, config=config))
    if wrapper:  # names of the release, which transformers changed later
        old = {}
        for key, value in saved_tensors(folder).items():
            key = key.replace("model.language_model.", "language_model.model.").replace("model.vision_tower.", "vision_tower.")
            old[key.replace("model.multi_modal_projector.", "multi_modal_projector.")] = value
        save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)
    if spec["generation"]:
        write_json(folder / "generation_config.json",
                   fitted(dict(spec["generation"], transformers_version="4.45.0"),
                          config.get("vocab_size", 1024), document))
    if spec.get("beside") == "original":
        (folder / "original").mkdir()
        (folder / "original" / "consolidated.00.pth").write_bytes(b"not read")
        write_json(folder / "original" / "params.json", {"dim": 2048})
    if spec.get("beside") == "consolidated":
        save_file({"layers.0.attention.wq.weight": torch.zeros(2, 2)}, folder / "consolidated.safetensors")
        write_json(folder / "params.json", {"dim": 4096})
    return folder


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--tokenizers", type=pathlib.Path)
    arguments = parser.parse_args()
    transformers.logging.disable_progress_bar()
    for name in arguments.models or [*MODELS, *WRAPPED]:
        print(make(name, arguments.out, arguments.tokenizers), flush=True)


if __name__ == "__main__":
    main()
