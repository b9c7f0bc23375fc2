"""The peer: one LoRA training step of PyTorch + PEFT + bitsandbytes on the CPU, timed. Prints one JSON object.

    peer.py MODEL.gguf [--compute bf16|fp32] [--max-length 512] [--micro-batch-size 2] [--r 16] [--threads 2]
            [--steps 5] [--checkpointing]

The recipe of a PEFT user: base loaded in the compute dtype, NF4 + double quantization in every linear of the layers,
LoRA on all of them in fp32, torch AdamW, transformers' own loss. Weights come from the GGUF file or a Hugging Face folder.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time

START = time.time()

import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig


def hugging_face_folder(path, dtype, scratch):
    """transformers cannot quantize while it reads a GGUF file, so such a model is first written as a folder."""
    if os.path.isdir(path):
        return path
    folder, file = os.path.split(os.path.abspath(path))
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=dtype)
    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(scratch)
    return scratch


def resident_bytes():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--compute", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--micro-batch-size", type=int, default=2)
    parser.add_argument("--r", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5, help="timed steps, after one that is not")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--convert", metavar="FOLDER", help="only write the model as a Hugging Face folder and exit")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    dtype = torch.bfloat16 if arguments.compute == "bf16" else torch.float32
    if arguments.convert:
        hugging_face_folder(arguments.model, torch.bfloat16, arguments.convert)
        return

    imported = time.time()
    with tempfile.TemporaryDirectory() as scratch:
        folder = hugging_face_folder(arguments.model, dtype, scratch)
        converted = time.time()
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                    bnb_4bit_compute_dtype=dtype)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, quantization_config=config, device_map="cpu")
    model = get_peft_model(model, LoraConfig(r=arguments.r, lora_alpha=2 * arguments.r, lora_dropout=0.0,
                                             target_modules="all-linear", task_type="CAUSAL_LM"))
    if arguments.checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-4)
    shape = (arguments.micro_batch_size, arguments.max_length)
    ids = torch.randint(0, model.config.vocab_size, shape, generator=torch.Generator().manual_seed(1))

    seconds, losses, first = [], [], None
    for step in range(arguments.steps + 1):
        begin = time.time()
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step == 0:
            first = time.time()
        else:
            seconds.append(time.time() - begin)
    tokens = shape[0] * shape[1]
    json.dump({
        "compute": arguments.compute, "threads": arguments.threads, "shape": shape, "r": arguments.r,
        "checkpointing": arguments.checkpointing,
        "tokens_per_second": tokens / statistics.median(seconds),
        "tokens_per_second_of_steps": [round(tokens / s, 1) for s in seconds],
        "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "resident_bytes": resident_bytes(),
        "seconds_to_first_step": first - START - (converted - imported),
        "seconds_of_conversion_from_gguf": converted - imported,
        "losses": losses, "torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability(),
        "load": os.getloadavg()[0],
    }, sys.stdout)
    print()


if __name__ == "__main__":
    main()
