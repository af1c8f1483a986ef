"""Settings as other trainers call them, and what there is of each here.

Names of TRL (`GRPOConfig`, `DPOConfig` and the `TrainingArguments` they extend), verl (dotted),
OpenRLHF (flags of `train_ppo_ray`), prime-rl and Unsloth, each as its own code has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Foreign:
    """A setting of another trainer.

    Attributes:
        keys: The settings here that stand for it; none where there is no counterpart.
        value: What the first of them says, where a cell of an algorithm stands for it.
        note: Where its meaning differs, or what there is instead.
    """

    keys: tuple[str, ...] = ()
    value: str = ""
    note: str = ""

    @property
    def hint(self) -> str:
        """A remedy: `here it is optimizer.lr`."""
        value = f" = '{self.value}'" if self.value else ""
        here = f"here it is {' and '.join(self.keys)}{value}" if self.keys else "there is none here"
        return "; ".join(filter(None, (here, self.note)))


def hint(path: Sequence[str]) -> str:
    """The remedy for a setting of another trainer, given in parts; empty for any other.

    Its last part is looked up too: `training.learning_rate` is a `learning_rate`; and `lora.r` as
    `lora_r`.
    """
    names = (".".join(path), "_".join(path), path[-1]) if path else ()
    found = (FOREIGN.get(name.strip("-").replace("-", "_")) for name in names)
    return next((each.hint for each in found if each is not None), "")


def _same(here: str, names: str, value: str = "", note: str = "") -> dict[str, Foreign]:
    return {name: Foreign(tuple(here.split()), value, note) for name in names.split()}


def _none(names: str, note: str) -> dict[str, Foreign]:
    return {name: Foreign(note=note) for name in names.split()}


_PROMPTS = "it counts prompts, not samples"
_STEPS = "a step samples anew, and may have several updates"
_SPLIT = "it counts tokens, not samples, and does not change a gradient"

FOREIGN: Mapping[str, Foreign] = {
    # the model
    **_same(
        "model",
        "model_name_or_path pretrain model_name actor_rollout_ref.model.path",
    ),
    **_same("dtype", "bf16 torch_dtype actor_rollout_ref.rollout.dtype", "bfloat16"),
    **_none("fp16", "use dtype = 'bfloat16' or 'float32'"),
    **_none("load_in_4bit load_in_8bit", "weights are dtype = 'float32' or 'bfloat16'"),
    **_same("reference", "ref_model actor_rollout_ref.ref.model.path"),
    **_same("lora.rank", "lora_r lora_rank actor_rollout_ref.model.lora_rank"),
    **_same("lora.alpha", "lora_alpha actor_rollout_ref.model.lora_alpha"),
    **_same(
        "lora.targets",
        "target_modules lora_target_modules actor_rollout_ref.model.target_modules",
    ),
    **_none("lora_dropout", "adapters are trained without dropout"),
    # the optimizer
    **_same(
        "optimizer.lr",
        "learning_rate actor_learning_rate actor_rollout_ref.actor.optim.lr trainer.optim.lr",
    ),
    **_same("critic.lr", "critic_learning_rate critic.optim.lr"),
    **_same("critic.warmup", "freezing_actor_steps trainer.critic_warmup"),
    **_same(
        "optimizer.warmup",
        "warmup_steps actor_rollout_ref.actor.optim.lr_warmup_steps",
        note="in updates",
    ),
    **_same(
        "optimizer.warmup",
        "warmup_ratio lr_warmup_ratio actor_rollout_ref.actor.optim.lr_warmup_steps_ratio",
        note="it counts updates, not a share of them",
    ),
    **_same(
        "optimizer.schedule",
        "lr_scheduler_type lr_scheduler actor_rollout_ref.actor.optim.warmup_style",
    ),
    **_same("optimizer.weight_decay", "l2 weight_decay actor_rollout_ref.actor.optim.weight_decay"),
    **_same("optimizer.betas", "adam_betas adam_beta1 adam_beta2", note="both in one list"),
    **_same("optimizer.eps", "adam_epsilon"),
    **_same("optimizer.max_grad_norm", "max_grad_norm max_norm actor_rollout_ref.actor.grad_clip"),
    **_none("optim", "the optimizer is AdamW, with the settings of [optimizer]"),
    # sizes of steps and batches
    **_same(
        "samples_per_prompt",
        "num_generations n_samples_per_prompt actor_rollout_ref.rollout.n "
        "group_size orchestrator.group_size rollouts_per_example rollout_n",
    ),
    **_same("eval.samples", "num_generations_eval eval_n_samples_per_prompt"),
    **_same("eval.samples", "actor_rollout_ref.rollout.val_kwargs.n"),
    **_same("prompts_per_step", "data.train_batch_size rollout_batch_size", note="in prompts"),
    **_same("prompts_per_step", "generation_batch_size orchestrator.batch_size", note=_PROMPTS),
    **_same("minibatch_prompts", "actor_rollout_ref.actor.ppo_mini_batch_size", note="in prompts"),
    **_same("minibatch_prompts", "per_device_train_batch_size train_batch_size", note=_PROMPTS),
    **_same(
        "microbatch_tokens",
        "micro_train_batch_size actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu "
        "actor_rollout_ref.actor.ppo_micro_batch_size",
        note=_SPLIT,
    ),
    **_same(
        "microbatch_tokens",
        "train_max_tokens_per_gpu actor_rollout_ref.actor.ppo_max_token_len_per_gpu",
    ),
    **_none(
        "gradient_accumulation_steps",
        "minibatch_prompts is the whole update, and microbatch_tokens cuts it to fit memory",
    ),
    **_same("steps", "max_steps trainer.total_training_steps", note=_STEPS),
    **_none(
        "num_train_epochs num_episodes trainer.total_epochs",
        "steps is how long a run is, and each samples prompts_per_step prompts",
    ),
    **_same(
        "algorithm.epochs",
        "num_iterations max_epochs num_ppo_epochs actor_rollout_ref.actor.ppo_epochs",
    ),
    **_none(
        "steps_per_generation",
        "a step has prompts_per_step / minibatch_prompts updates, times algorithm.epochs",
    ),
    # sampling
    **_same(
        "sampling.max_tokens",
        "max_completion_length generate_max_len max_new_tokens response_length "
        "data.max_response_length actor_rollout_ref.rollout.response_length "
        "orchestrator.train.sampling.max_completion_tokens",
    ),
    **_none(
        "max_prompt_length prompt_max_len data.max_prompt_length max_length max_len max_seq_length "
        "seq_len",
        "a prompt is never cut, and sampling.max_tokens bounds the completion",
    ),
    **_same("sampling.temperature", "actor_rollout_ref.rollout.temperature"),
    **_same("sampling.top_p", "top_p actor_rollout_ref.rollout.top_p"),
    **_same("sampling.top_k", "top_k actor_rollout_ref.rollout.top_k", note="0 keeps all"),
    **_same(
        "eval.temperature",
        "eval_temperature actor_rollout_ref.rollout.val_kwargs.temperature",
    ),
    **_same(
        "engine.sampler",
        "use_vllm vllm_mode fast_inference actor_rollout_ref.rollout.name",
        "vllm",
        "see docs/vllm.md",
    ),
    **_same(
        "engine.urls",
        "vllm_server_base_url vllm_server_host",
        note="a list, for engine.sampler = 'vllm'",
    ),
    **_same("engine.servers", "vllm_num_engines"),
    **_same(
        "engine.vllm_memory",
        "vllm_gpu_memory_utilization gpu_memory_utilization "
        "actor_rollout_ref.rollout.gpu_memory_utilization",
        note="a share of the GPU; of the local sampler it is sampling.cache_gib",
    ),
    **_same(
        "engine.vllm_args",
        "vllm_tensor_parallel_size actor_rollout_ref.rollout.tensor_model_parallel_size",
        note="vLLM's own options, such as ['--tensor-parallel-size', '2']",
    ),
    # the algorithm
    **_same(
        "algorithm.name",
        "algorithm.adv_estimator advantage_estimator",
        note="a row of `winnow algorithms`; algorithm.advantage alone is one of its cells",
    ),
    **_same(
        "algorithm.loss",
        "loss_type policy_loss_type actor_rollout_ref.actor.policy_loss.loss_mode",
        note="how it is averaged is algorithm.denominator",
    ),
    **_same("algorithm.denominator", "actor_rollout_ref.actor.loss_agg_mode"),
    **_same(
        "algorithm.kl",
        "beta",
        "in-loss(0.04)",
        "for DPO, algorithm.loss = 'dpo(0.1)'",
    ),
    **_same(
        "algorithm.kl",
        "kl_loss_coef use_kl_loss actor_rollout_ref.actor.kl_loss_coef "
        "actor_rollout_ref.actor.use_kl_loss",
        "in-loss(0.04)",
    ),
    **_same(
        "algorithm.kl",
        "kl_coef init_kl_coef algorithm.kl_ctrl.kl_coef algorithm.use_kl_in_reward",
        "in-reward(0.05)",
    ),
    **_same(
        "algorithm.kl",
        "kl_target algorithm.kl_ctrl.target_kl kl_horizon algorithm.kl_ctrl.horizon "
        "algorithm.kl_ctrl.type",
        "in-reward(0.05, target=6, horizon=10000)",
    ),
    **_same(
        "algorithm.kl",
        "kl_estimator algorithm.kl_penalty actor_rollout_ref.actor.kl_loss_type",
        "in-loss(0.04, estimator=k3)",
    ),
    **_same(
        "algorithm.loss",
        "epsilon epsilon_high eps_clip eps_clip_low_high cliprange "
        "actor_rollout_ref.actor.clip_ratio actor_rollout_ref.actor.clip_ratio_low "
        "actor_rollout_ref.actor.clip_ratio_high",
        "clipped(low=0.2, high=0.28)",
    ),
    **_same(
        "algorithm.loss",
        "importance_sampling_level",
        "sequence-clipped(low=0.0003, high=0.0004)",
        "for 'sequence'",
    ),
    **_same(
        "algorithm.advantage",
        "gamma lam lambd algorithm.gamma algorithm.lam",
        "gae(gamma=1, lam=0.95)",
        "only an advantage by token discounts",
    ),
    **_same(
        "algorithm.advantage",
        "scale_rewards no_advantage_std_norm algorithm.norm_adv_by_std_in_grpo",
        "centred",
        "without scaling; 'standardised' scales by the group's standard deviation",
    ),
    **_same(
        "algorithm.entropy",
        "entropy_coeff entropy_loss_coef actor_rollout_ref.actor.entropy_coeff",
    ),
    **_same(
        "algorithm.critic",
        "vf_coef cliprange_value value_clip critic.cliprange_value",
        "value(clip=0.2, coefficient=0.5)",
    ),
    **_same(
        "algorithm.select algorithm.refill",
        "dynamic_filtering algorithm.filter_groups.enable",
        note="dapo has both: the rule 'mixed', and times to sample more prompts",
    ),
    **_same("anchor.coefficient", "ptx_coef", note="of the examples in anchor.source"),
    **_none(
        "mask_truncated_completions",
        "algorithm.select = ['finished'] trains on no completion that was cut off",
    ),
    **_none("sync_ref_model ref_model_mixup_alpha", "reference = 'ema(0.99)' follows the policy"),
    # prompts and rewards
    **_same("prompts.source", "dataset_name prompt_data data.train_files"),
    **_same("prompts.source", "rows dataset train_dataset", note="in Python, prompts=[...]"),
    **_same("eval.source", "eval_dataset data.val_files"),
    **_same("prompts.split", "dataset_train_split prompt_split"),
    **_same("prompts.prompt_column", "input_key data.prompt_key"),
    **_same("prompts.answer_column", "label_key"),
    **_same("prompts.template", "input_template"),
    **_same("prompts.chat", "apply_chat_template"),
    **_same(
        "prompts.chat_template_options", "chat_template_kwargs data.apply_chat_template_kwargs"
    ),
    **_same("prompts.limit", "max_samples"),
    **_same("reward.parts", "reward_weights", note="each [[reward]] has its weight"),
    **_same(
        "reward.name",
        "reward_funcs reward_fn custom_reward_function.path custom_reward_function.name "
        "remote_rm_url",
        note="'module:function'",
    ),
    **_same(
        "reward.name",
        "reward_pretrain reward_model.path reward_model.model.path",
        "model:FOLDER",
    ),
    # the run
    **_same(
        "checkpoint.every",
        "save_steps trainer.save_freq",
        note=_STEPS,
    ),
    **_same("checkpoint.keep", "save_total_limit max_ckpt_num trainer.max_actor_ckpt_to_keep"),
    **_same("eval.every", "eval_steps trainer.test_freq", note=_STEPS),
    **_none(
        "output_dir save_path ckpt_path trainer.default_local_dir",
        "the run folder is --out, or out= in Python",
    ),
    **_none(
        "resume_from_checkpoint load_checkpoint trainer.resume_mode trainer.resume_from_path",
        "resume with winnow train --resume FOLDER",
    ),
    **_same(
        "trackers",
        "report_to run_name use_wandb wandb_project wandb.project use_tensorboard trainer.logger "
        "trainer.project_name trainer.experiment_name",
        note="a list, such as ['wandb']; metrics.jsonl is written in any case",
    ),
    **_none("logging_steps", "every step is logged"),
    **_same(
        "engine.learner",
        "deepspeed fsdp zero_stage actor_num_gpus_per_node trainer.n_gpus_per_node trainer.nnodes",
        "fsdp",
        "in processes of torchrun or of --ray, see docs/fsdp.md",
    ),
    **_same(
        "engine.activation_checkpointing",
        "gradient_checkpointing actor_rollout_ref.model.enable_gradient_checkpointing",
    ),
}
"""Every name that is known, in the words of its own trainer."""
