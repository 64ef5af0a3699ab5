"""Launch lines of GRPO as users of ms-swift 3.3 write them, one for each kind of run. Only paths are this project's."""

from __future__ import annotations

COMMON = (
    "--rlhf_type grpo --model checkpoints/policy --torch_dtype bfloat16 --num_train_epochs 1 --save_total_limit 2 "
    "--output_dir output/run --warmup_ratio 0.05 --dataloader_num_workers 4 --dataset_num_proc 4 "
    "--log_completions true "
)
LORA = "--train_type lora --lora_rank 8 --lora_alpha 32 --target_modules all-linear --learning_rate 1e-5 "
FULL = "--train_type full --learning_rate 1e-6 "
REWARDS = "--reward_funcs accuracy format "
DATA = "--dataset data/train.json#1000 --max_length 2048 --eval_steps 100 --save_steps 100 "
SYSTEM = "--system data/prompt.txt "
VLLM = "--use_vllm true --vllm_gpu_memory_utilization 0.5 --vllm_max_model_len 2048 "
OFFLOAD = "--sleep_level 1 --offload_model true --offload_optimizer true --gc_collect_after_offload true "

LAUNCH_LINES = {
    "lora, completions from the trained model": COMMON + LORA + REWARDS + DATA + SYSTEM
    + "--per_device_train_batch_size 4 --per_device_eval_batch_size 4 --gradient_accumulation_steps 1 "
    "--num_generations 4 --temperature 0.9 --max_completion_length 1024",
    "lora with vLLM on a device of its own": COMMON + LORA + REWARDS + DATA + SYSTEM + VLLM
    + "--vllm_device auto --num_infer_workers 1 --per_device_train_batch_size 8 --num_generations 8 --temperature 0.9",
    "full, zero2": COMMON + FULL + REWARDS + DATA + SYSTEM
    + "--per_device_train_batch_size 2 --gradient_accumulation_steps 8 --num_generations 8 --deepspeed zero2",
    "full, zero3, a group over seven devices": COMMON + FULL + REWARDS + DATA + SYSTEM + VLLM
    + "--per_device_train_batch_size 1 --gradient_accumulation_steps 2 --num_generations 7 --temperature 0.7 "
    "--deepspeed zero3",
    "full, LMDeploy, asynchronous, two uses of a rollout": COMMON + FULL + REWARDS + DATA + SYSTEM
    + "--use_lmdeploy true --per_device_train_batch_size 10 --num_generations 60 --temperature 1.0 --top_p 0.9 "
    "--top_k 50 --async_generate true --deepspeed zero3 --num_iterations 2 --num_infer_workers 2",
    "72B, lora, everything moved to the host": COMMON + LORA + REWARDS + DATA + SYSTEM + VLLM + OFFLOAD
    + "--per_device_train_batch_size 1 --gradient_accumulation_steps 1 --num_generations 4 --deepspeed zero3_offload "
    "--temperature 1.0 --top_p 1.0 --top_k 80 --tensor_parallel_size 4 --async_generate false --move_model_batches 16",
    "colocated engine": COMMON + LORA + REWARDS + DATA + SYSTEM + VLLM
    + "--num_infer_workers 8 --sleep_level 1 --tensor_parallel_size 4 --per_device_train_batch_size 4 "
    "--num_generations 48 --temperature 1.0 --top_p 0.85 --deepspeed zero3_offload",
    "several nodes": COMMON + FULL + REWARDS + DATA + SYSTEM + VLLM
    + "--per_device_train_batch_size 1 --gradient_accumulation_steps 2 --num_generations 30 --deepspeed zero2 "
    "--add_version false --ddp_timeout 18000",
    "a plugin's rewards": COMMON + LORA + DATA + SYSTEM
    + "--external_plugins plugin.py --reward_funcs external_math_acc external_math_format "
    "--per_device_train_batch_size 4 --num_generations 4 --temperature 0.9",
    "a plugin's rewards for images": COMMON + LORA + DATA + SYSTEM
    + "--external_plugins plugin.py --reward_funcs external_r1v_acc format --reward_weights 1 0.1 "
    "--per_device_train_batch_size 2 --per_device_eval_batch_size 2 --gradient_accumulation_steps 1 "
    "--num_generations 8 --temperature 1. --top_p 0.99 --top_k 50 --deepspeed zero2",
    "a vision model with frozen tower": COMMON + FULL + DATA + SYSTEM + VLLM
    + "--external_plugins plugin.py --reward_funcs external_r1v_acc format --freeze_vit true --max_pixels 602112 "
    "--vllm_limit_mm_per_prompt '{\"image\": 2}' --per_device_train_batch_size 8 --num_generations 8 "
    "--repetition_penalty 1.1 --temperature 1.0 --top_p 0.9 --top_k 50 --attn_impl flash_attn --deepspeed zero3",
    "a vision model of 72B": COMMON + LORA + DATA + SYSTEM + VLLM + OFFLOAD
    + "--external_plugins plugin.py --reward_funcs external_r1v_acc format --reward_weights 1 0.1 "
    "--attn_impl flash_attn --per_device_train_batch_size 1 --per_device_eval_batch_size 1 --num_generations 8 "
    "--deepspeed zero3 --temperature 1.1 --top_p 1.0 --top_k 80 --move_model_batches 40 --report_to wandb",
    "clip higher, soft overlong punishment, dynamic sampling": COMMON + FULL + DATA
    + "--reward_funcs accuracy soft_overlong --epsilon 0.2 --epsilon_high 0.28 --dynamic_sample true "
    "--max_resample_times 3 --overlong_filter true --soft_max_length 2048 --soft_cache_length 410 --beta 0 "
    "--max_completion_length 2048 --per_device_train_batch_size 4 --gradient_accumulation_steps 4 --num_generations 8",
    "advantages without division": COMMON + FULL + REWARDS + DATA
    + "--scale_rewards false --beta 0.0 --per_device_train_batch_size 8 --num_generations 8 --temperature 1.0",
    "cosine and repetition": COMMON + LORA + DATA + SYSTEM
    + "--reward_funcs accuracy format cosine repetition --cosine_max_len 1024 --cosine_min_len_value_wrong -0.5 "
    "--cosine_max_len_value_wrong 0.0 --cosine_min_len_value_correct 1.0 --cosine_max_len_value_correct 0.5 "
    "--repetition_n_grams 3 --repetition_max_penalty -1.0 --per_device_train_batch_size 8 --num_generations 8",
    "mini-batches": COMMON + LORA + REWARDS + DATA
    + "--per_device_train_batch_size 16 --mini_batch_size 4 --num_generations 16 --num_iterations 2",
    "several turns": COMMON + FULL + REWARDS + DATA + VLLM
    + "--multi_turn_func math_tip_trick --per_device_train_batch_size 8 --num_generations 8 --stop_words '</answer>'",
    "tools": COMMON + FULL + DATA
    + "--reward_funcs toolbench react_format --per_device_train_batch_size 7 --per_device_eval_batch_size 7 "
    "--num_generations 49 --use_lmdeploy true --tools_prompt react_grpo --temperature 1.0 --top_p 0.85 --top_k 50 "
    "--deepspeed zero3 --report_to wandb",
    "two trackers": COMMON + FULL + REWARDS + DATA + SYSTEM
    + "--per_device_train_batch_size 8 --num_generations 8 --report_to tensorboard swanlab "
    "--swanlab_project grpo --swanlab_mode local",
    "an adapter that trains further": COMMON + LORA + REWARDS + DATA
    + "--adapters checkpoints/adapter --ref_model checkpoints/policy --per_device_train_batch_size 8 "
    "--num_generations 8 --gradient_checkpointing true",
    "validation": COMMON + LORA + REWARDS
    + "--dataset data/train.json --val_dataset data/valid.json --eval_strategy steps --eval_steps 50 --save_steps 50 "
    "--load_best_model_at_end true --metric_for_best_model reward --per_device_train_batch_size 8 --num_generations 8",
    "validation without data for it": COMMON + LORA + REWARDS + DATA
    + "--eval_strategy steps --per_device_train_batch_size 8 --num_generations 8 --strict false",
    "long prompts": COMMON + LORA + REWARDS + DATA
    + "--truncation_strategy left --dataset_shuffle false --train_dataloader_shuffle false --data_seed 42 --seed 42 "
    "--per_device_train_batch_size 8 --num_generations 8 --lora_dropout 0.05 --max_grad_norm 0.5",
    "weights of another run": COMMON + FULL + REWARDS + DATA
    + "--resume_only_model true --per_device_train_batch_size 8 --num_generations 8 --use_hf true "
    "--gradient_checkpointing_kwargs '{\"use_reentrant\": false}' --ddp_find_unused_parameters false "
    "--save_only_model true --lazy_tokenize true --vllm_enforce_eager true --vllm_enable_prefix_caching true",
}  # fmt: skip
