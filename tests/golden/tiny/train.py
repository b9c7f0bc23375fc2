"""Twenty AdamW steps of some tiny models over NF4, by transformers + PEFT + bitsandbytes: train.json. Run after make.py.

Start: the model and the adapter that make.py wrote. A step: the mean loss over the targets of the three documents, which is
recorded; then one update, learning rate 5e-3, no decay, no clipping.
"""

import json
import os

import torch
import transformers
from make import FAMILIES, HERE, attach_lora, load, run  # makes common importable
from common import use_exact_bitsandbytes, versions, write_json

STEPS, LEARNING_RATE = 20, 5e-3


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    use_exact_bitsandbytes()
    losses = {}
    for name in ("llama", "starcoder2", "phi3", "olmo2", "gpt2", "mixtral", "qwen3_moe"):
        folder = os.path.join(HERE, name)
        with open(os.path.join(folder, "golden.json"), encoding="utf-8") as file:
            docs = json.load(file)["documents"]
        model = attach_lora(load(folder, quantized=True), 100 + list(FAMILIES).index(name))
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
        losses[name] = []
        for _ in range(STEPS):
            losses[name].append(run(model, docs)[1])
            optimizer.step()
        print(name, losses[name][0], losses[name][-1])
    write_json(os.path.join(HERE, "train.json"),
               {"about": "tests/golden/tiny/train.py", "learning_rate": LEARNING_RATE, "losses": losses,
                "versions": versions("torch", "transformers", "peft", "bitsandbytes")})


if __name__ == "__main__":
    main()
