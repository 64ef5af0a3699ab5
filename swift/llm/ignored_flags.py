"""Flags of ms-swift that are accepted and change nothing here, each with the reason."""

WITHOUT_EFFECT = {
    "model_type": "read from the checkpoint",
    "template": "read from the checkpoint",
    "use_hf": "checkpoints are folders on disk",
    "check_model": "checkpoints are folders on disk",
    "strict": "every record is checked",
    "lazy_tokenize": "prompts are always encoded when used",
    "dataset_num_proc": "checking uses threads",
    "add_version": "output_dir is used as given",
    "logging_dir": "logs go to output_dir",
    "freeze_vit": "see train_type and trainable",
    "freeze_aligner": "see train_type and trainable",
    "freeze_llm": "see train_type and trainable",
    "vllm_device": "no vLLM",
    "vllm_gpu_memory_utilization": "no vLLM",
    "vllm_max_model_len": "no vLLM",
    "num_infer_workers": "no vLLM",
    "sleep_level": "no vLLM",
}
