"""How fast, and in how much memory, transformers + PEFT trains a model on this machine's CPU.

    python benches/peers/peft_train.py --model DIR [--mode lora_qv|lora_all|full|qlora_qv|qlora_all] ...

One process, one configuration, one JSON object on standard output. README.md beside this file says
how to get the model and which figures to compare with `medley train`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
import warnings

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument(
        "--mode", default="lora_qv", choices=["lora_qv", "lora_all", "full", "qlora_qv", "qlora_all"]
    )
    parser.add_argument("--batch", type=int, default=4, help="sequences a step")
    parser.add_argument("--length", type=int, default=512, help="tokens a sequence")
    parser.add_argument("--labelled", type=float, default=1.0, help="share of labelled tokens")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--attention", default="sdpa", choices=["sdpa", "eager"])
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=1, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, default=5, help="timed steps")
    return parser.parse_args()


def cpu_seconds() -> float:
    """CPU time of this process, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def build(args, torch):
    """The model in training mode, with the chosen parameters trainable."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = getattr(torch, args.dtype)
    options = dict(dtype=dtype, attn_implementation=args.attention)
    if args.mode.startswith("qlora"):
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        options["device_map"] = "cpu"
    model = AutoModelForCausalLM.from_pretrained(args.model, **options)
    model.config.use_cache = False
    if args.mode.startswith("qlora"):
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=args.gradient_checkpointing
        )
    elif args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    if args.mode != "full":
        targets = ALL_LINEAR if args.mode.endswith("all") else ["q_proj", "v_proj"]
        config = LoraConfig(
            r=args.rank,
            lora_alpha=2 * args.rank,
            lora_dropout=0.0,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, config)
    return model.train()


def batch(args, torch, vocab: int, generator):
    """Random ids [batch, length] and labels with the last `labelled` share of each row kept."""
    ids = torch.randint(3, vocab, (args.batch, args.length), generator=generator)
    labels = ids.clone()
    labels[:, : args.length - round(args.labelled * args.length)] = -100
    return ids, labels


def main() -> None:
    args = arguments()
    warnings.filterwarnings("ignore")
    import peft
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    imported = resident_bytes()
    model = build(args, torch)
    loaded = resident_bytes()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    seconds, cpu, losses = [], [], []
    for step in range(args.warmup + args.steps):
        ids, labels = batch(args, torch, model.config.vocab_size, generator)
        started, cpu_started = time.perf_counter(), cpu_seconds()
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step >= args.warmup:
            seconds.append(time.perf_counter() - started)
            cpu.append(cpu_seconds() - cpu_started)
        losses.append(round(loss.item(), 4))
    tokens = args.batch * args.length
    print(
        json.dumps(
            {
                "mode": args.mode,
                "batch": args.batch,
                "length": args.length,
                "labelled": args.labelled,
                "rank": None if args.mode == "full" else args.rank,
                "dtype": args.dtype,
                "attention": args.attention,
                "gradient_checkpointing": args.gradient_checkpointing,
                "threads": args.threads,
                "trainable_parameters": sum(p.numel() for p in parameters),
                "seconds_per_step": [round(s, 3) for s in seconds],
                "tokens_per_second": round(tokens / statistics.median(seconds), 1),
                "tokens_per_second_best": round(tokens / min(seconds), 1),
                # On a busy machine the share of the cores that the run got: 1.0 is all of them.
                "cores_got": round(sum(cpu) / sum(seconds) / args.threads, 3),
                "rss_imported_bytes": imported,
                "rss_loaded_bytes": loaded,
                "peak_rss_bytes": peak_bytes(),
                "losses": losses,
                "load_average": [round(x, 2) for x in os.getloadavg()],
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "peft": peft.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
