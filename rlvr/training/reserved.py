"""Settings of TRL's that are not the recipe's: each with what says it instead.

Every field of ``GRPOConfig`` and ``SFTConfig`` was decided once: what would contradict the run
directory, the launch file or a contract stands here, and the rest is handed to TRL.
"""

_EVAL = "the eval section"
_HUB = "nothing: a run writes its own folder; upload it with `hf upload`"
_LAUNCH = "the launch file (accelerate launch --config_file)"
_COMPILED = "nothing: a compiled policy renames the parameters that masks and checkpoints name"
_RESUME = "nothing: --resume needs whole checkpoints, and goes on as if never stopped"

RESERVED = {
    "output_dir": "run.dir",
    "resume_from_checkpoint": "the --resume flag",
    "model_init_kwargs": "the model section",
    "trust_remote_code": "nothing: policies are of classes that transformers has",
    "full_determinism": "run.deterministic",
    "use_cpu": "nothing: a GPU is used where there is one",
    "disable_tqdm": "nothing: the run shows one progress bar",
    "logging_nan_inf_filter": "nothing: a loss that is NaN or infinite stops the run",
    "do_train": "the verb train",
    "logging_strategy": "logging_steps: every metric of a run is counted in steps",
    "label_names": "nothing: the run knows its labels",
    "label_smoothing_factor": "nothing: the loss is of the tokens themselves",
    "auto_find_batch_size": "a smaller per_device_train_batch_size",
    **dict.fromkeys(
        (
            "do_eval",
            "do_predict",
            "eval_strategy",
            "eval_steps",
            "eval_delay",
            "eval_on_start",
            "eval_do_concat_batches",
            "eval_use_gather_object",
            "eval_accumulation_steps",
            "per_device_eval_batch_size",
            "prediction_loss_only",
            "include_for_metrics",
            "batch_eval_metrics",
            "bf16_full_eval",
            "fp16_full_eval",
            "load_best_model_at_end",
            "metric_for_best_model",
            "greater_is_better",
        ),
        _EVAL,
    ),
    **dict.fromkeys(
        (
            "push_to_hub",
            "hub_token",
            "hub_private_repo",
            "hub_model_id",
            "hub_strategy",
            "hub_always_push",
            "hub_revision",
        ),
        _HUB,
    ),
    **dict.fromkeys(
        ("fsdp", "fsdp_config", "deepspeed", "accelerator_config", "parallelism_config")
        + ("local_rank", "ddp_backend"),
        _LAUNCH,
    ),
    **dict.fromkeys(("torch_compile", "torch_compile_backend", "torch_compile_mode"), _COMPILED),
    **dict.fromkeys(
        ("save_only_model", "ignore_data_skip", "restore_callback_states_from_checkpoint"),
        _RESUME,
    ),
    "enable_jit_checkpoint": "nothing: SIGTERM saves a checkpoint",
    "save_on_each_node": "nothing: every machine must see the run directory",
}
GRPO_RESERVED = RESERVED | {
    "remove_unused_columns": "nothing: rewards need the columns",
    "reward_weights": "the weight of each entry of rewards",
    **dict.fromkeys(
        ("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"),
        "nothing: the reference is the base policy",
    ),
    "num_generations_eval": _EVAL,
    "train_sampling_strategy": "trainer.shuffle_dataset",
    "neftune_noise_alpha": "nothing: noise on the embeddings would train another policy than the "
    "one that samples",
    "cast_lm_head_to_fp32": "model.dtype: one precision for the whole policy",
    "max_tool_calling_iterations": "nothing: a completion calls no tools",
    "log_completions_hub_repo": _HUB,
    "use_transformers_paged": "use_transformers_continuous_batching",
    "vllm_importance_sampling_cap": "vllm_importance_sampling_clip_max",
}
# The run renders, tokenises and joins the rows, so that prompts are those of RLVR.
_WHOLE = "nothing: each row is trained on whole, by itself"
_RENDERED = "the data section: prompts are rendered as under RLVR"
SFT_RESERVED = RESERVED | {
    "remove_unused_columns": "nothing: the rows hold nothing but token ids",
    "completion_only_loss": "nothing: the loss is on the completion",
    "assistant_only_loss": "nothing: the loss is on the completion",
    **dict.fromkeys(("packing", "packing_strategy", "eval_packing", "padding_free"), _WHOLE),
    "truncation_mode": "nothing: a row longer than max_length is dropped",
    "shuffle_dataset": "data.shuffle",
    **dict.fromkeys(
        ("chat_template_path", "dataset_text_field", "dataset_kwargs", "dataset_num_proc"),
        _RENDERED,
    ),
    "eos_token": "nothing: a completion ends in the tokenizer's end token",
    "pad_token": "nothing: it is the tokenizer's",
}
