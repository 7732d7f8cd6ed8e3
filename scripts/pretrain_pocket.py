"""Pretrain the pocket policy: a Qwen3 model of a million parameters on fallible arithmetic.

    python scripts/pretrain_pocket.py --out recipes/pocket/policy

Everything is drawn from the train split, so the held-out problems are new to pretraining and to
RLVR alike. The saved weights are bf16, like those of the checkpoints that the pocket policy stands
in for. A model card with the measured figures is written beside them.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from rlvr.data.pocket import demonstrate, draw_problem, split_of

SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|unknown|>"]
WORDS = ["<think>", "</think>", "\\boxed{", "}", "\n", *"0123456789+-*()="]
# One user turn, then the assistant's; the generation prompt is a single token.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content }}"
    "{% if message.role == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
PAD_ID, END_ID, USER_ID, ASSISTANT_ID = range(4)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character; the tags of a solution are single tokens too."""
    vocabulary = {token: index for index, token in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"<think>|</think>|\\boxed\{|[\s\S]"), behavior="isolated"
    )
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        unk_token="<|unknown|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_model(vocab_size: int) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        pad_token_id=PAD_ID,
        eos_token_id=END_ID,
        bos_token_id=None,
        # The dtype of the checkpoint; pretraining itself runs in fp32.
        dtype="float32",
    )
    return Qwen3ForCausalLM(config)


def draw_batch(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, args: argparse.Namespace
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw ``(input_ids, labels)``; only the solution is a label."""
    rows, starts = [], []
    while len(rows) < args.batch_size:
        problem = draw_problem(rng)
        if split_of(problem) != "train":
            continue
        solution = demonstrate(
            problem, rng, slip=args.slip, miscount=args.miscount, direct=args.direct
        )
        prompt = f"<|user|>{problem}<|assistant|>"
        rows.append(tokenizer(f"{prompt}{solution}<|end|>")["input_ids"])
        starts.append(len(problem) + 2)
    width = max(map(len, rows))
    ids = torch.full((args.batch_size, width), PAD_ID)
    labels = torch.full((args.batch_size, width), -100)
    for row, (tokens, start) in enumerate(zip(rows, starts, strict=True)):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, start : len(tokens)] = ids[row, start : len(tokens)]
    return ids, labels


def pretrain(model: Qwen3ForCausalLM, tokenizer, args: argparse.Namespace) -> None:
    rng = random.Random(args.seed)
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=args.learning_rate,
        betas=(0.9, 0.98),
    )
    warmup = 100
    start = time.time()
    for step in range(args.steps):
        cosine = 0.5 * (1 + math.cos(math.pi * step / args.steps))
        factor = min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * cosine)
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * factor
        ids, labels = draw_batch(tokenizer, rng, args)
        loss = model(input_ids=ids, attention_mask=(ids != PAD_ID).long(), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == args.steps - 1:
            print(
                f"step {step:5d}  loss {loss.item():.4f}  {time.time() - start:6.0f} s", flush=True
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--slip", type=float, default=0.5)
    parser.add_argument("--miscount", type=float, default=0.13)
    parser.add_argument("--direct", type=float, default=0.15)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer))
    pretrain(model, tokenizer, args)
    model.bfloat16().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    (args.out / "pretraining.json").write_text(json.dumps(settings, indent=2) + "\n")


if __name__ == "__main__":
    main()
