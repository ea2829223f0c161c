//! The checks that types cannot make, each naming its option.

use super::{
    BadStep, DataArgs, EvalContamination, FinetuningType, GenerateArgs, IntervalStrategy, LoraArgs, LoraTarget, ModelArgs,
    OutputArgs, RunArgs, SchedulerType, Stage, TaskArgs, TrainArgs, TrainConfig,
};

/// An option whose value cannot be used.
///
/// The command line turns `key` into the place where the value was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    /// The option's name.
    pub key: &'static str,
    /// What was expected, what was found, what to do.
    pub problem: String,
}

fn refuse_if(wrong: bool, key: &'static str, problem: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if wrong { Err(ConfigError { key, problem: problem() }) } else { Ok(()) }
}

fn expect<T: std::fmt::Display>(
    ok: bool,
    key: &'static str,
    wanted: &str,
    got: T,
) -> Result<(), ConfigError> {
    refuse_if(!ok, key, || format!("expected {wanted}, got {got}"))
}

impl TrainConfig {
    /// Checks every section, then what sections demand of one another.
    ///
    /// # Errors
    /// The first option whose value is out of range or contradicts another, by name.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.model.validate()?;
        self.data.validate()?;
        self.tasks.validate()?;
        self.lora.validate()?;
        self.train.validate()?;
        self.output.validate()?;
        self.generate.validate()?;
        self.run.validate()?;
        self.validate_together()
    }

    fn validate_together(&self) -> Result<(), ConfigError> {
        let full = self.lora.finetuning_type == FinetuningType::Full;
        refuse_if(full && self.model.quantization_bit.is_some(), "quantization_bit", || {
            "4-bit weights cannot be trained; use `finetuning_type: lora` (QLoRA) or drop quantization_bit"
                .into()
        })?;
        refuse_if(full && self.model.adapter_name_or_path.is_some(), "adapter_name_or_path", || {
            "an adapter needs `finetuning_type: lora`; merge it first with `medley export` to train all weights"
                .into()
        })?;
        refuse_if(self.model.train_from_scratch && !full, "train_from_scratch", || {
            "random weights must be trained as a whole; add `finetuning_type: full`".into()
        })?;
        refuse_if(self.train.stage == Stage::Pt && self.data.task_prefix, "task_prefix", || {
            "the `pt` stage has no prompts to put a task header into; drop it or use `stage: sft`".into()
        })?;
        let drops = self.data.eval_contamination == EvalContamination::Drop;
        refuse_if(self.train.stage == Stage::Pt && drops, "eval_contamination", || {
            "blocks of the `pt` stage hold parts of several documents, which cannot be left out; use `warn`, \
             and take the documents that it names out of the files"
                .into()
        })?;
        let rolls_back =
            [self.train.nonfinite_action, self.train.loss_spike_action].contains(&BadStep::Rollback);
        let saves = self.output.save_strategy != IntervalStrategy::No && !self.output.save_only_model;
        refuse_if(rolls_back && !saves, "save_strategy", || {
            "rolling back needs checkpoints to go back to; set save_steps, and leave save_strategy and \
             save_only_model as they are"
                .into()
        })?;
        let evaluates = self.train.eval_strategy != IntervalStrategy::No || self.train.do_eval;
        let has_eval_data = !self.data.eval_dataset.is_empty()
            || !self.data.eval_data_files.is_empty()
            || self.data.val_size > 0.0;
        refuse_if(evaluates && !has_eval_data, "eval_strategy", || {
            "there is nothing to evaluate on; give val_size, eval_data_files or eval_dataset".into()
        })
    }
}

impl ModelArgs {
    /// Checks this section alone.
    ///
    /// # Errors
    /// [`ConfigError`] naming the option.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let Some(bits) = self.quantization_bit {
            expect(bits == 4, "quantization_bit", "4 (NF4), or nothing for the stored precision", bits)?;
        }
        refuse_if(
            self.train_from_scratch && self.adapter_name_or_path.is_some(),
            "train_from_scratch",
            || {
                "an adapter was trained on stored weights; drop adapter_name_or_path or train_from_scratch"
                    .into()
            },
        )
    }
}

impl DataArgs {
    /// Checks this section alone.
    ///
    /// # Errors
    /// [`ConfigError`] naming the option.
    pub fn validate(&self) -> Result<(), ConfigError> {
        expect(self.cutoff_len > 0, "cutoff_len", "at least 1 token", self.cutoff_len)?;
        expect(self.max_samples != Some(0), "max_samples", "at least 1 example", 0)?;
        let val_size = self.val_size;
        expect(
            (0.0..1.0).contains(&val_size)
                || (val_size >= 1.0 && val_size.fract() == 0.0 && val_size.is_finite()),
            "val_size",
            "a share in [0, 1) or a whole number of examples",
            val_size,
        )?;
        let has_eval_files = !self.eval_dataset.is_empty() || !self.eval_data_files.is_empty();
        refuse_if(val_size > 0.0 && has_eval_files, "val_size", || {
            "evaluation data is already given by eval_dataset or eval_data_files; drop one".into()
        })?;
        refuse_if(self.train_on_prompt && self.mask_history, "mask_history", || {
            "train_on_prompt learns every turn and mask_history only the last; drop one".into()
        })
    }
}

impl TaskArgs {
    /// Checks this section alone.
    ///
    /// # Errors
    /// [`ConfigError`] naming the option.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (task, &weight) in &self.task_weights {
            refuse_if(!weight.is_finite() || weight < 0.0, "task_weights", || {
                format!("expected a weight of at least 0 for task `{task}`, got {weight}")
            })?;
        }
        let temperature = self.sampling_temperature;
        expect(
            temperature.is_finite() && temperature > 0.0,
            "sampling_temperature",
            "a number above 0 (1 is proportional, larger is more even)",
            temperature,
        )
    }
}

impl LoraArgs {
    /// Checks this section alone.
    ///
    /// # Errors
    /// [`ConfigError`] naming the option.
    pub fn validate(&self) -> Result<(), ConfigError> {
        expect(
            (1..=65_536).contains(&self.lora_rank),
            "lora_rank",
            "a rank from 1 to 65536",
            self.lora_rank,
        )?;
        if let Some(alpha) = self.lora_alpha {
            expect(alpha.is_finite() && alpha > 0.0, "lora_alpha", "a number above 0", alpha)?;
        }
        expect(
            (0.0..1.0).contains(&self.lora_dropout),
            "lora_dropout",
            "a share in [0, 1)",
            self.lora_dropout,
        )?;
        if let LoraTarget::Modules(names) = &self.lora_target {
            refuse_if(names.is_empty() || names.iter().any(String::is_empty), "lora_target", || {
                "expected `all` or module names such as `q_proj,v_proj`".into()
            })?;
            refuse_if(names.iter().any(|name| name == "all"), "lora_target", || {
                "`all` already names every linear layer; give it alone".into()
            })?;
        }
        Ok(())
    }
}

impl TrainArgs {
    /// Checks this section alone.
    ///
    /// # Errors
    /// [`ConfigError`] naming the option.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let sizes = [
            ("per_device_train_batch_size", self.per_device_train_batch_size),
            ("per_device_eval_batch_size", self.per_device_eval_batch_size),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps),
        ];
        for (key, size) in sizes {
            expect((1..=1_000_000).contains(&size), key, "a number from 1 to 1000000", size)?;
        }
        let not_negative = [
            ("learning_rate", self.learning_rate),
            ("weight_decay", self.weight_decay),
            ("max_grad_norm", self.max_grad_norm),
            ("loss_spike_threshold", self.loss_spike_threshold),
            ("warmup_steps", self.warmup_steps),
        ];
        for (key, value) in not_negative {
            expect(value.is_finite() && value >= 0.0, key, "a number of at least 0", value)?;
        }
        refuse_if(self.nonfinite_action == BadStep::Warn, "nonfinite_action", || {
            "a step that is not a number cannot be taken; use stop, skip or rollback".into()
        })?;
        let epochs = self.num_train_epochs;
        expect(
            epochs.is_finite() && (epochs > 0.0 || self.max_steps > 0),
            "num_train_epochs",
            "a number above 0 (or a positive max_steps)",
            epochs,
        )?;
        expect(
            self.max_steps == -1 || self.max_steps > 0,
            "max_steps",
            "at least 1 step, or -1 to count by num_train_epochs",
            self.max_steps,
        )?;
        let warmup = self.warmup_ratio;
        expect((0.0..=1.0).contains(&warmup), "warmup_ratio", "a share in [0, 1]", warmup)?;
        refuse_if(self.warmup_steps >= 1.0 && self.warmup_steps.fract() != 0.0, "warmup_steps", || {
            format!("expected a whole number of steps, or a share below 1, got {}", self.warmup_steps)
        })?;
        for (key, beta) in [("adam_beta1", self.adam_beta1), ("adam_beta2", self.adam_beta2)] {
            expect((0.0..1.0).contains(&beta), key, "a number in [0, 1)", beta)?;
        }
        let epsilon = self.adam_epsilon;
        expect(epsilon.is_finite() && epsilon > 0.0, "adam_epsilon", "a number above 0", epsilon)?;
        if let Some(steps) = self.eval_steps {
            check_interval("eval_steps", steps)?;
        }
        self.validate_schedule()
    }

    fn validate_schedule(&self) -> Result<(), ConfigError> {
        let known: &[&str] = match self.lr_scheduler_type {
            SchedulerType::Cosine => &["num_cycles"],
            SchedulerType::CosineWithMinLr => &["num_cycles", "min_lr", "min_lr_rate"],
            SchedulerType::Linear | SchedulerType::Constant | SchedulerType::ConstantWithWarmup => &[],
        };
        for (key, value) in &self.lr_scheduler_kwargs {
            refuse_if(!known.contains(&key.as_str()), "lr_scheduler_kwargs", || {
                if known.is_empty() {
                    format!("`{key}` is unknown: this lr_scheduler_type takes no settings")
                } else {
                    format!("`{key}` is unknown: this lr_scheduler_type takes {}", known.join(", "))
                }
            })?;
            refuse_if(!value.is_finite() || *value < 0.0, "lr_scheduler_kwargs", || {
                format!("expected a number of at least 0 for `{key}`, got {value}")
            })?;
        }
        if self.lr_scheduler_type == SchedulerType::CosineWithMinLr {
            let given =
                ["min_lr", "min_lr_rate"].iter().filter(|key| self.lr_scheduler_kwargs.contains_key(**key));
            refuse_if(given.count() != 1, "lr_scheduler_kwargs", || {
                "cosine_with_min_lr needs one of min_lr and min_lr_rate, e.g. `{min_lr_rate: 0.1}`".into()
            })?;
        }
        Ok(())
    }
}

impl OutputArgs {
    /// Checks this section alone.
    ///
    /// # Errors
    /// [`ConfigError`] naming the option.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_interval("logging_steps", self.logging_steps)?;
        check_interval("save_steps", self.save_steps)?;
        expect(self.save_total_limit != Some(0), "save_total_limit", "at least 1 checkpoint", 0)
    }
}

impl GenerateArgs {
    /// Checks this section alone.
    ///
    /// # Errors
    /// [`ConfigError`] naming the option.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let temperature = self.temperature;
        refuse_if(!temperature.is_finite() || temperature <= 0.0, "temperature", || {
            format!(
                "expected a number above 0, got {temperature}; for greedy decoding use `do_sample: false`"
            )
        })?;
        expect(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", "a probability in (0, 1]", self.top_p)?;
        expect(self.max_new_tokens > 0, "max_new_tokens", "at least 1 token", self.max_new_tokens)?;
        let penalty = self.repetition_penalty;
        expect(penalty.is_finite() && penalty > 0.0, "repetition_penalty", "a number above 0", penalty)
    }
}

impl RunArgs {
    /// Checks this section alone.
    ///
    /// # Errors
    /// [`ConfigError`] naming the option.
    pub fn validate(&self) -> Result<(), ConfigError> {
        refuse_if(self.bf16 && self.fp16, "fp16", || "bf16 is set too; keep one of the two".into())?;
        expect(self.num_threads != Some(0), "num_threads", "at least 1 thread", 0)
    }
}

/// A number of steps (whole, ≥ 1) or a share of all steps in (0, 1), as in `transformers.TrainingArguments`.
fn check_interval(key: &'static str, steps: f64) -> Result<(), ConfigError> {
    let ok = steps > 0.0 && steps.is_finite() && (steps < 1.0 || steps.fract() == 0.0);
    expect(ok, key, "a whole number of steps, or a share of all steps in (0, 1)", steps)
}
