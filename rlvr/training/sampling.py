"""Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): no group without variance in the loss.

If all completions of a group have the same total reward, their advantages are 0: no gradient.
Such groups are replaced between TRL's generation and its loss: groups of further prompts are
generated, about as many as the share of useful groups so far suggests, until the batch is full of
useful groups or ``max_rounds`` generations are done. Then TRL goes on as ever with what was kept.

1. A group is useful if its total rewards differ. Wrong completions of different lengths are
   therefore useful under a reward of lengths; the paper looks only at right and wrong.
2. Every step takes the next prompts of one stream, and its further rounds those after them, so that
   a pass over the data is not an epoch of the trainer. No prompt comes twice in a batch.
3. Useful groups beyond the batch are dropped, as in the published runs: kept for the next step,
   they would come from an older policy, and TRL takes their ratio to be 1.
4. A batch that stays short of useful groups is cut to them. Every process and every optimizer step
   must take equally many completions, so other groups fill up the parts. They are masked, and the
   loss is the mean over the useful groups only.
5. Where no group is useful there is no forward, no backward and no update; ``MAX_EMPTY`` such
   generations in a row end the run.
6. TRL's metrics of rewards and completions are over all that was generated; ``reward_kept`` is
   over the groups in the loss. The KL to the base is measured on the first round, which nothing
   has selected. ``rollouts.jsonl`` shows what was kept, or where nothing was, what was not.

Groups are told by the rewards of all processes, so that all generate equally often, and a group may
lie on two of them.
"""

import json
import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import nanstd, pad

from rlvr import runtime
from rlvr.algorithms import AlgorithmSection
from rlvr.schema import RunError
from rlvr.training.batches import Batch, Rollout, Selected, select, smallest_part
from rlvr.training.empty_steps import EmptySteps
from rlvr.training.prompts import PromptStream
from rlvr.training.rollouts import SAMPLED
from rlvr.training.rounds import (
    groups_to_try,
    join_lengths,
    join_pending,
    total_rewards,
    useful_groups,
)

# Generations in a row without a useful group after which a run ends.
MAX_EMPTY = 10
STATE = "sampling.json"


class DynamicSampling(EmptySteps):
    """GRPOTrainer that, where its recipe says so, fills each batch with useful groups."""

    num_generations: int
    train_dataset: Any
    vllm_generation: Any
    _tokenizer: Any
    max_rounds = 0  # no dynamic sampling
    _selected: Selected | None = None
    _first: list[Rollout] | None = None

    def set_sampling(self, algorithm: AlgorithmSection | None) -> None:
        """Sample as ``algorithm`` says; called once, before the training."""
        if algorithm is None or not algorithm.dynamic_sampling:
            return
        self.max_rounds = algorithm.max_rounds
        self.stream = PromptStream(
            len(self.train_dataset), seed=self.args.seed, shuffle=bool(self.shuffle_dataset)
        )
        self.num_empty, self._empty_in_a_row = 0, 0

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.max_rounds or not self.model.training:
            return super()._generate_and_score_completions(inputs)
        with self.vllm_generation.rounds() if self.use_vllm else nullcontext():
            batch = self._sample()
        self._count_empty(batch)
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        selected = self._selected = select(batch, self._smallest_batch(), rank, world)
        self._first = batch.first
        # TRL's logs are deques of one full batch: a smaller one would leave older rows in them.
        for name in ("prompt", "completion", "advantages"):
            self._logs[name].clear()
        rows = [self.train_dataset[rollout.row] for rollout in selected.rollouts]
        # While `_selected` is set, the two methods below hand TRL what was generated and judged.
        output = super()._generate_and_score_completions(rows)
        self._selected = None
        self._mask(output, selected)
        self._report(batch, selected, output)
        return output

    def _generate(self, prompts: list[Any]) -> Any:
        if self._selected is None:
            return super()._generate(prompts)
        kept = self._selected.rollouts
        prompt_ids, completion_ids = zip(
            *((one.prompt_ids, one.completion_ids) for one in kept), strict=True
        )
        logprobs = None if kept[0].logprobs is None else [one.logprobs for one in kept]
        texts = [one.completion for one in kept]
        # The tuple of TRL 1.16: no tool mask (third), and no extra fields or images (last three).
        return list(prompt_ids), list(completion_ids), None, texts, logprobs, {}, None, []

    def _calculate_rewards(self, *args: Any) -> Tensor:
        if self._selected is None:
            return super()._calculate_rewards(*args)
        # Not judged, for TRL: the advantage is 0 and no mean contains it.
        rewards = self._selected.rewards.clone()
        rewards[self._selected.kept :] = float("nan")
        return rewards

    def _smallest_batch(self) -> int:
        """Return the fewest groups that all processes and steps of a generation share equally."""
        parts = self.accelerator.num_processes * self.args.steps_per_generation
        return smallest_part(parts, self.num_generations)

    def _sample(self) -> Batch:
        """Generate in rounds until the batch is full of useful groups, or no round is left."""
        batch = Batch(self.args.generation_batch_size // self.num_generations)
        unit = smallest_part(self.accelerator.num_processes, self.num_generations)
        taken: set[int] = set()
        wanted, start = batch.needed, time.perf_counter()
        for _ in range(self.max_rounds):
            # Whole units, so that all processes get equally many completions; at most a batch, for
            # memory.
            number = min(math.ceil(wanted / unit) * unit, batch.needed)
            rows = self.stream.take(number, taken)
            # The data may end inside a unit: the stream gives fewer rows once every prompt was
            # taken.
            rows = rows[: len(rows) // unit * unit]
            if not rows:
                break
            self._generate_round(rows, batch)
            if len(batch.rewards) == 1:
                start = time.perf_counter()
            missing = batch.needed - len(batch.kept)
            if not missing:
                break
            wanted = groups_to_try(missing, batch.useful, batch.generated)
        batch.seconds = time.perf_counter() - start
        completions = [len(rewards) for rewards in batch.rewards]
        join_lengths(self._metrics["train"], completions)
        join_pending(self._pending_metrics, completions)
        return batch

    def _generate_round(self, rows: list[int], batch: Batch) -> None:
        """Generate and judge one group for each of these rows of the data; all processes call."""
        size = self.num_generations
        # Completion i belongs to group i // size; a process takes `share` of them from `start` on.
        share = len(rows) * size // self.accelerator.num_processes
        start = self.accelerator.process_index * share
        mine = [rows[place // size] for place in range(start, start + share)]
        inputs = [self.train_dataset[row] for row in mine]
        prompts = [item["prompt"] for item in inputs]
        prompt_ids, completion_ids, _, completions, logprobs, *_ = self._generate(prompts)
        rewards = self._calculate_rewards(inputs, prompts, completions, completion_ids)
        columns = (mine, prompt_ids, completion_ids, completions, logprobs or [None] * share)
        local = [Rollout(*values) for values in zip(*columns, strict=True)]
        useful = useful_groups(total_rewards(rewards, self.reward_weights), size).tolist()
        batch.add(local, start, rewards, useful, spare=self._smallest_batch())

    def _mask(self, output: dict[str, Any], selected: Selected) -> None:
        """Take what only fills up out of the loss: its tokens, and its part in the divisors."""
        mask = output["completion_mask"]
        # `kept` counts over all processes, and rows are in the order of the processes.
        before = self.accelerator.process_index * len(selected.rollouts)
        mask[max(0, selected.kept - before) :] = 0
        # TRL counted the tokens of the filling rows too, as the divisor of its token-level losses.
        output["num_items_in_batch"] = self.accelerator.gather(mask.sum()).sum()
        share = selected.kept / len(selected.rewards)
        output["kept_share"] = torch.tensor(share, device=mask.device)

    def _count_empty(self, batch: Batch) -> None:
        """Count a generation without a useful group.

        Raises:
            RunError: it is the last of ``MAX_EMPTY`` in a row.
        """
        self._empty_in_a_row = 0 if batch.kept else self._empty_in_a_row + 1
        self.num_empty += not batch.kept
        if self._empty_in_a_row == MAX_EMPTY:
            raise RunError(
                f"dynamic sampling: in {MAX_EMPTY} generations in a row, the last of "
                f"{len(batch.rewards)} rounds and {batch.generated} groups, no group had "
                "completions with different rewards, so there is nothing to learn from; use "
                "easier or harder problems, see rollouts.jsonl for what the rewards judge, or "
                "raise trainer.num_generations or algorithm.max_rounds"
            )

    def _report(self, batch: Batch, selected: Selected, output: dict[str, Any]) -> None:
        """Log what the sampling did, and TRL's metrics as those of all that was generated."""
        size, metrics = self.num_generations, self._metrics["train"]
        rewards = torch.cat(batch.rewards)
        for index, name in enumerate(self.reward_func_names):
            # [-1]: TRL has just appended the metric of the kept rows; it is overwritten.
            metrics[f"rewards/{name}/mean"][-1] = rewards[:, index].nanmean().item()
            metrics[f"rewards/{name}/std"][-1] = nanstd(rewards[:, index]).item()
            logged = self._logs["rewards"][name]
            logged.clear()
            logged.extend(selected.rewards[:, index].tolist())
        totals = total_rewards(rewards, self.reward_weights)
        metrics["reward"][-1] = totals.nanmean().item()
        metrics["reward_std"][-1] = nanstd(totals).item()
        metrics["frac_reward_zero_std"][-1] = 1 - batch.useful / batch.generated
        totals = total_rewards(selected.rewards, self.reward_weights)
        # Measured on the tensors of the loss, not on our lists, so that a fault of ours would show.
        in_loss: Any = self.accelerator.gather(output["completion_mask"].any(dim=1))
        in_loss = in_loss.view(-1, size).any(dim=1)
        useless = (in_loss & ~useful_groups(totals, size)).sum().item()
        values = {
            "reward_kept": totals[: selected.kept].mean().item(),
            "sampling/rounds": len(batch.rewards),
            "sampling/generated_groups": batch.generated,
            "sampling/useful_share": batch.useful / batch.generated,
            "sampling/kept_groups": len(batch.kept),
            "sampling/zero_variance_in_loss": useless / max(1, int(in_loss.sum())),
            "sampling/seconds": batch.seconds,
            "sampling/empty_steps": self.num_empty,
        }
        for name, value in values.items():
            metrics[name].append(float(value))

    def _first_drawn(self, output: dict[str, Any]) -> dict[str, Any]:
        """Return prompts and completions that no reward has selected, in the form of ``output``."""
        if self._first is None:
            return output
        drawn = {}
        # As TRL pads: prompts left, so that all completions start at one column.
        for name, side in (("prompt", "left"), ("completion", "right")):
            ids = [torch.tensor(getattr(rollout, f"{name}_ids")) for rollout in self._first]
            ones = [torch.ones_like(row) for row in ids]
            for key, rows, value in (("ids", ids, self._tokenizer.pad_token_id), ("mask", ones, 0)):
                padded = pad(rows, padding_value=value, padding_side=side)
                drawn[f"{name}_{key}"] = padded.to(self.accelerator.device)
        if self._first[0].logprobs is not None:
            logps = [torch.tensor(rollout.logprobs) for rollout in self._first]
            padded = pad(logps, padding_value=0, padding_side="right")
            drawn[SAMPLED] = padded.to(self.accelerator.device)
        return drawn

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.max_rounds and runtime.is_main():
            counts = [self.stream.place, self.num_empty, self._empty_in_a_row]
            Path(output_dir, STATE).write_text(json.dumps(counts), encoding="utf-8")

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if self.max_rounds and checkpoint is not None:
            counts = json.loads(Path(checkpoint, STATE).read_text(encoding="utf-8"))
            self.stream.place, self.num_empty, self._empty_in_a_row = counts
