"""Flags of ms-swift 3.3 that have no meaning of their own here: accepted with a warning, or refused with a reason.

Flags that are honored are fields of the argument classes. docs/paper.md lists all of them, and a test holds that table
against the parser.
"""

from __future__ import annotations

from swift.utils.flags import ForeignFlag

# Reasons with the flags that they hold for. A launch line with these flags trains, and one warning says what they mean.
WARNED = (
    (
        "no vLLM: completions come from the model that trains",
        "use_vllm vllm_device vllm_gpu_memory_utilization vllm_max_model_len vllm_max_num_seqs vllm_enforce_eager "
        "vllm_limit_mm_per_prompt vllm_enable_prefix_caching num_infer_workers tensor_parallel_size vllm_mode "
        "vllm_server_host vllm_server_port vllm_server_timeout vllm_tensor_parallel_size",
    ),
    (
        "no LMDeploy: completions come from the model that trains",
        "use_lmdeploy lmdeploy_device lmdeploy_session_len lmdeploy_cache_max_entry_count",
    ),
    (
        "no second engine that would have to make room",
        "sleep_level move_model_batches offload_optimizer offload_model gc_collect_after_offload",
    ),
    ("completions are always sampled from the current policy", "async_generate"),
    ("every question is answered in one turn", "multi_turn_func tools_prompt add_system_and_tools"),
    ("how ZeRO-3 gathers weights is chosen here", "ds3_gather_for_generation"),
    ("write it into the file that --deepspeed names", "zero_hpz_partition_size"),
    ("read from the checkpoint", "model_type template template_backend ref_model_type reward_model_type num_labels"),
    (
        "checkpoints and data are files on disk, and nothing is fetched",
        "use_hf model_revision ref_model_revision reward_model_revision check_model local_repo_path "
        "download_mode push_to_hub_model_id push_to_hub_organization push_to_hub_token",
    ),
    ("every process has one device, and the model is whole on it", "device_map max_memory"),
    ("no configuration is read from a checkpoint", "load_args load_data_args load_dataset_config"),
    ("unknown flags are always refused", "ignore_args_error"),
    ("models and data sets are not registered; --external_plugins registers rewards", "custom_register_path"),
    ("data sets are files, not registered names", "custom_dataset_info model_name model_author"),
    (
        "prompts are encoded when they are used, and files are read whole",
        "lazy_tokenize dataset_num_proc enable_cache streaming shuffle_buffer_size stopping_strategy",
    ),
    ("rows are padded, not packed; see --questions_per_row of swift.cli.sft", "packing"),
    ("prompts are padded on the left", "padding_side"),
    ("boxes are not read", "norm_bbox"),
    ("output_dir is used as given", "add_version create_checkpoint_symlink logging_dir"),
    ("completions.jsonl always has log-probabilities and all prompts",
     "logprobs top_logprobs wandb_log_unique_prompts log_each_step"),
    ("the length of completions is --max_completion_length", "max_new_tokens"),
    ("completions are not streamed", "stream"),
    ("weights are always safetensors", "save_safetensors"),
    ("what trains is kept in float32", "lora_dtype"),
    ("adapters are PEFT's", "tuner_backend use_swift_lora"),
    ("validation gives rewards (GRPO) or the loss (SFT)", "metric metric_warmup_step acc_strategy"),
    ("evaluate.py evaluates checkpoints", "eval_datasets eval_limit eval_datasets_args eval_generation_config"),
    ("set the tracker's own environment variables",
     "swanlab_token swanlab_project swanlab_workspace swanlab_exp_name swanlab_mode"),
    (
        "a setting of another algorithm than GRPO",
        "label_smoothing rpo_alpha cpo_alpha simpo_gamma desirable_weight undesirable_weight num_ppo_epochs "
        "whiten_rewards kl_coef cliprange vf_coef cliprange_value gamma lam num_mini_batches "
        "local_rollout_forward_batch_size num_sample_generations response_length missing_eos_penalty problem_type",
    ),
    (
        "a setting of another tuner than LoRA",
        "lora_ga_batch_size lora_ga_iters lora_ga_max_length lora_ga_direction lora_ga_scale lora_ga_stable_gamma "
        "fourier_n_frequency fourier_scaling boft_block_size boft_block_num boft_n_butterfly_factor boft_dropout "
        "vera_rank vera_projection_prng_key vera_dropout vera_d_initial adapter_act adapter_length "
        "adalora_target_r adalora_init_r adalora_tinit adalora_tfinal adalora_deltaT adalora_beta1 adalora_beta2 "
        "adalora_orth_reg_weight llamapro_num_new_blocks llamapro_num_groups lisa_step_interval "
        "reft_layer_key reft_layers reft_rank reft_intervention_type reft_args",
    ),
    (
        "a setting of GaLore, which is not offered",
        "galore_target_modules galore_rank galore_update_proj_gap galore_scale galore_proj_type "
        "galore_optim_per_parameter galore_with_embedding galore_quantization galore_proj_quant galore_proj_bits "
        "galore_proj_group_size galore_cos_threshold galore_gamma_proj galore_queue_size galore_config",
    ),
    (
        "a setting of quantized weights, which are not offered",
        "hqq_axis bnb_4bit_compute_dtype bnb_4bit_quant_type bnb_4bit_use_double_quant bnb_4bit_quant_storage",
    ),
    ("a setting of another machine than CPU and CUDA",
     "use_mps_device tpu_num_cores tpu_metrics_debug fsdp_num acc_steps mp_parameters jit_mode_eval use_ipex"),
    ("a setting of transformers that newer versions have dropped",
     "fp16_opt_level half_precision_backend fp16_backend past_index fsdp_min_num_params "
     "fsdp_transformer_layer_cls_to_wrap use_legacy_prediction_loop include_inputs_for_metrics "
     "include_tokens_per_second torchdynamo ray_scope group_by_length sortish_sampler predict_with_generate "
     "generation_max_length generation_num_beams generation_config"),
)  # fmt: skip
# Reasons with the flags that are refused, since the run would not be the one asked for.
REFUSED = (
    ("no reward model is loaded; write a reward in a plugin (docs/rewards.md)", "reward_model reward_adapters"),
    ("weights are not quantized here; leave it out", "quant_method quant_bits"),
    ("only plain LoRA is trained; leave it out", "use_dora use_rslora lora_bias init_weights lorap_lr_ratio"),
    ("GaLore and LISA are not offered; leave it out", "use_galore lisa_activated_layers"),
    (
        "choose parameters with --trainable REGEX",
        "freeze_parameters freeze_parameters_ratio trainable_parameters modules_to_save",
    ),
    ("pass --adapters FOLDER, or --resume_from_checkpoint FOLDER", "ckpt_dir lora_modules"),
    ("completions are samples; leave it out", "num_beams"),
    ("choose the optimizer with --optim", "optimizer adafactor"),
    ("every token of a solution or completion counts alike; leave it out", "loss_scale"),
    ("files are read one after the other; mix them into one file", "interleave_prob"),
    ("the policy is a language model that answers; leave it out", "task_type"),
    ("the model's own rotary embedding is used; leave it out", "rope_scaling"),
    ("sequences are not split over devices; leave it out", "sequence_parallel_size tp_size"),
    ("the chat template is always used; leave it out", "use_chat_template"),
    ("pass --use_cpu true", "no_cuda"),
    ("pass --per_device_train_batch_size or --per_device_eval_batch_size",
     "per_gpu_train_batch_size per_gpu_eval_batch_size"),
    ("run evaluate.py on the checkpoint", "eval_use_evalscope"),
)  # fmt: skip
# Values that ask for what happens here anyway. They pass without a word.
HARMLESS = {
    "use_vllm": "false", "use_lmdeploy": "false", "sleep_level": "0", "offload_optimizer": "false",
    "offload_model": "false", "gc_collect_after_offload": "false", "async_generate": "false", "num_infer_workers": "1",
    "tensor_parallel_size": "1", "streaming": "false", "packing": "false", "stream": "false", "add_version": "false",
    "create_checkpoint_symlink": "false", "save_safetensors": "true", "lora_dtype": "float32", "tuner_backend": "peft",
    "use_swift_lora": "false", "padding_side": "left", "load_args": "false",
    "load_data_args": "false", "ignore_args_error": "false", "device_map": "null none", "use_dora": "false",
    "use_rslora": "false", "lora_bias": "none", "init_weights": "true", "use_galore": "false",
    "lisa_activated_layers": "0", "freeze_parameters_ratio": "0 0.0", "num_beams": "1", "adafactor": "false",
    "loss_scale": "default last_round", "task_type": "causal_lm", "sequence_parallel_size": "1", "tp_size": "0 1",
    "use_chat_template": "true", "no_cuda": "false", "eval_use_evalscope": "false", "group_by_length": "false",
    "predict_with_generate": "false", "quant_method": "none", "quant_bits": "none 0",
}  # fmt: skip


def _flags() -> dict[str, ForeignFlag]:
    return {
        name: ForeignFlag(reason, frozenset(HARMLESS.get(name, "").split()), refused)
        for groups, refused in ((WARNED, False), (REFUSED, True))
        for reason, names in groups
        for name in names.split()
    }


FOREIGN_FLAGS = _flags()
