"""What TRL, verl, transformers and vLLM call our keys, for the hint at a key that is not known here.

A name stands here only if our key means the same: a wrong hint is worse than none. What has no counterpart
(`num_iterations`, `optim`, `logging_steps`) is answered with the list of keys.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from polythink.errors import did_you_mean, known_names

# name -> our keys: the first that the place has is meant, or all of those that an "and" joins
TRAINING: Mapping[str, tuple[str, ...]] = {  # where there is a learning rate
    "learning_rate": ("lr",),
    "lr_scheduler_type": ("schedule",),
    "warmup_steps": ("warmup",),
    "warmup_ratio": ("warmup",),
    "lr_warmup_steps": ("warmup",),
    "lr_warmup_steps_ratio": ("warmup",),
    "adam_beta1": ("betas",),
    "adam_beta2": ("betas",),
    "grad_clip": ("max_grad_norm",),
    "clip_grad": ("max_grad_norm",),
    "bf16": ("autocast",),
    "max_steps": ("steps",),
    "total_training_steps": ("steps",),
    "num_train_epochs": ("epochs",),
    "total_epochs": ("epochs",),
    "train_batch_size": ("prompts_per_step", "batch"),
    "per_device_train_batch_size": ("micro_batch",),
    "micro_batch_size_per_gpu": ("micro_batch",),
    "ppo_micro_batch_size_per_gpu": ("micro_batch",),
    "gradient_accumulation_steps": ("accumulate", "batch and micro_batch"),  # text; sft, where it is their quotient
    "max_length": ("max_tokens",),
    "max_seq_length": ("max_tokens",),
    "packing": ("pack",),
    "attn_implementation": ("attention",),
    "torch_compile": ("compile",),
    "save_steps": ("checkpoint_every",),
    "save_freq": ("checkpoint_every",),
    "eval_steps": ("validate_every",),
    "label_smoothing_factor": ("label_smoothing",),
    "use_peft": ("lora",),
    "peft_config": ("lora",),
    "lora_r": ("lora.r",),
    "lora_rank": ("lora.r",),
    "lora_alpha": ("lora.lora_alpha",),
    "lora_dropout": ("lora.lora_dropout",),
    "lora_target_modules": ("lora.target_modules",),
    "target_modules": ("lora.target_modules",),
    "num_generations": ("group_size",),
    "n": ("group_size",),
    "reward_funcs": ("reward",),
    "beta": ("kl_coef",),
    "kl_loss_coef": ("kl_coef",),
    "entropy_coeff": ("entropy_coef",),
    "epsilon": ("clip_low and clip_high",),
    "epsilon_high": ("clip_high",),
    "clip_ratio": ("clip_low and clip_high",),
    "clip_ratio_low": ("clip_low",),
    "clip_ratio_high": ("clip_high",),
    "clip_ratio_c": ("dual_clip",),
    "loss_agg_mode": ("loss_type",),
    "norm_adv_by_std_in_grpo": ("scale_rewards",),
    "vllm_importance_sampling_mode": ("importance_sampling_mode",),
    "vllm_importance_sampling_cap": ("importance_sampling_clip_max",),
    # no key of ours, but near one that is something else
    "num_iterations": (),
    "steps_per_generation": (),
    "logging_steps": (),
}
OTHERWISE: Mapping[str, tuple[str, ...]] = {  # drawing, evaluation, the model
    "max_tokens": ("max_trace_tokens", "max_output_tokens"),  # vLLM; OpenAI, where /v1/responses has another
    "max_new_tokens": ("max_trace_tokens", "max_output_tokens"),
    "max_completion_tokens": ("max_trace_tokens", "max_output_tokens"),
    "max_completion_length": ("max_trace_tokens",),
    "max_response_length": ("max_trace_tokens",),
    "response_length": ("max_trace_tokens",),
    "n": ("samples",),
    "num_generations": ("samples",),
    "num_return_sequences": ("samples",),
    "num_beams": ("beams",),
    "model_name_or_path": ("path",),
    "pretrained_model_name_or_path": ("path",),
    "torch_dtype": ("dtype",),
    "enable_gradient_checkpointing": ("gradient_checkpointing",),
    "lora_r": ("r",),
    "lora_rank": ("r",),
}


def key_hint(
    name: str, keys: Collection[str], sections: Mapping[str, Collection[str]] | None = None, above: str = "the recipe's"
) -> str:
    """What to say of an unknown key: our name for what others call `name`, the nearest key, or the list of `keys`.

    `sections` are the keys of mappings that are checked elsewhere: a `name` of theirs, ours or another's, has only been
    given in the wrong place. One that is no key here is `above`, and says so.
    """
    own = TRAINING if "lr" in keys else OTHERWISE
    for ours in own.get(name, ()):
        each = ours.split(" and ")
        if all(key.partition(".")[0] in keys for key in each):
            return f"; did you mean {' and '.join(map(repr, each))}?"
    for section, inner in (sections or {}).items():
        for ours in (name, *OTHERWISE.get(name, ())):
            if ours in inner:
                place = "" if section in keys else f"{above} "
                return f"; did you mean {place}{f'{section}.{ours}'!r}?"
    if name in TRAINING or name in OTHERWISE:  # what is merely spelt alike is something else
        return known_names(keys)
    return did_you_mean(name, keys)
