//! The checks that types cannot make, each naming its option.

use super::output::OTHER_TRACKERS;
use super::{
    BadStep, DataArgs, EvalArgs, EvalContamination, FinetuningType, GenerateArgs, IntervalStrategy, LoraArgs,
    LoraTarget, MixStrategy, ModelArgs, OutputArgs, RunArgs, SamplingStrategy, SchedulerType, Shares, Stage,
    TaskArgs, TaskChoice, TaskWeighting, TrainArgs, TrainConfig,
};
use crate::metrics::Extraction;
use crate::trainer::Objective;

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
        self.evaluation.validate()?;
        self.output.validate()?;
        self.generate.validate()?;
        self.run.validate()?;
        self.validate_together()
    }

    fn validate_together(&self) -> Result<(), ConfigError> {
        let full = self.lora.finetuning_type == FinetuningType::Full;
        let base_is_trained = self.lora.finetuning_type != FinetuningType::Lora;
        refuse_if(base_is_trained && self.model.quantization_bit.is_some(), "quantization_bit", || {
            "4-bit weights cannot be trained; use `finetuning_type: lora` (QLoRA) or drop quantization_bit"
                .into()
        })?;
        refuse_if(
            base_is_trained && self.model.adapter_name_or_path.is_some(),
            "adapter_name_or_path",
            || {
                "an adapter needs `finetuning_type: lora`; merge it first with `medley export` to train all weights"
                .into()
            },
        )?;
        refuse_if(self.model.train_from_scratch && !full, "train_from_scratch", || {
            "random weights must be trained as a whole; add `finetuning_type: full`".into()
        })?;
        let adapter_only = [
            ("loraplus_lr_ratio", self.lora.loraplus_lr_ratio.is_some()),
            ("additional_target", !self.lora.additional_target.is_empty()),
        ];
        for (key, given) in adapter_only {
            refuse_if(given && base_is_trained, key, || {
                "it belongs to adapters; use `finetuning_type: lora`, or drop it".into()
            })?;
        }
        let given = !self.lora.additional_target.is_empty() && self.model.adapter_name_or_path.is_some();
        refuse_if(given, "additional_target", || {
            "the adapter of adapter_name_or_path says itself which modules it holds; drop one of the two"
                .into()
        })?;
        let rate = self.train.learning_rate;
        refuse_if(self.lora.loraplus_lr_ratio.is_some() && rate == 0.0, "learning_rate", || {
            "loraplus_lr_ratio multiplies it, and it is 0".into()
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
        })?;
        self.validate_best()
    }

    /// What goes by evaluations needs some.
    fn validate_best(&self) -> Result<(), ConfigError> {
        let args = &self.evaluation;
        let never = self.train.eval_strategy == IntervalStrategy::No;
        let needs = |wanted: bool, key| {
            refuse_if(never && wanted, key, || {
                "it goes by evaluations during training; set `eval_strategy: steps` and eval_steps, or drop it".into()
            })
        };
        needs(args.early_stopping_steps.is_some(), "early_stopping_steps")?;
        needs(args.load_best_model_at_end, "load_best_model_at_end")?;
        let generates = self.train.stage == Stage::Sft;
        refuse_if(args.predict_with_generate && !generates, "predict_with_generate", || {
            "the `pt` stage has no prompts to answer; drop it or use `stage: sft`".into()
        })
    }
}

impl EvalArgs {
    /// Checks this section alone.
    ///
    /// # Errors
    /// [`ConfigError`] naming the option.
    pub fn validate(&self) -> Result<(), ConfigError> {
        expect(
            self.eval_generate_samples > 0,
            "eval_generate_samples",
            "at least 1 example of each task",
            0,
        )?;
        expect(self.eval_max_new_tokens != Some(0), "eval_max_new_tokens", "at least 1 token", 0)?;
        expect(self.early_stopping_steps != Some(0), "early_stopping_steps", "at least 1 evaluation", 0)?;
        let threshold = self.early_stopping_threshold;
        expect(
            threshold.is_finite() && threshold >= 0.0,
            "early_stopping_threshold",
            "a number of at least 0",
            threshold,
        )?;
        refuse_if(
            self.early_stopping_steps.is_none() && self.early_stopping_tasks != TaskChoice::None,
            "early_stopping_tasks",
            || "say how many evaluations without improvement are enough: `early_stopping_steps: 3`".into(),
        )?;
        let invalid = |key| move |problem: String| ConfigError { key, problem };
        Extraction::new(self.answer_regex.as_ref(), self.answer_regex_on_label)
            .map_err(|error| invalid("answer_regex")(error.to_string()))?;
        refuse_if(
            self.answer_regex_on_label && self.answer_regex.is_none(),
            "answer_regex_on_label",
            || "there is no pattern to apply; give answer_regex".into(),
        )?;
        let objective = |key, text: &str| Objective::parse(text).map(drop).map_err(invalid(key));
        if let Some(metric) = &self.metric_for_best_model {
            objective("metric_for_best_model", metric)?;
        }
        if let TaskChoice::Named(tasks) = &self.early_stopping_tasks {
            tasks.iter().try_for_each(|task| objective("early_stopping_tasks", task))?;
        }
        Ok(())
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
        self.validate_weighting()?;
        let temperature = self.sampling_temperature;
        expect(
            temperature.is_finite() && temperature > 0.0,
            "sampling_temperature",
            "a number above 0 (1 is proportional, larger is more even)",
            temperature,
        )?;
        self.validate_sampling()
    }

    fn validate_sampling(&self) -> Result<(), ConfigError> {
        let uses = |strategy| {
            self.sampling_strategy == strategy
                || self.sampling_schedule.iter().any(|point| point.strategy == Some(strategy))
        };
        expect(self.sampling_cap != Some(0), "sampling_cap", "at least 1", 0)?;
        let capped = uses(SamplingStrategy::Capped);
        refuse_if(capped && self.sampling_cap.is_none(), "sampling_cap", || {
            "`capped` sampling needs one, e.g. `sampling_cap: 3000`: the most that a task counts".into()
        })?;
        refuse_if(!capped && self.sampling_cap.is_some(), "sampling_cap", || {
            "only `sampling_strategy: capped` reads it; set that or drop it".into()
        })?;
        let interleaved = self.mix_strategy != MixStrategy::Concat || self.interleave_probs.is_some();
        refuse_if(
            interleaved && self.sampling_strategy != SamplingStrategy::Proportional,
            "sampling_strategy",
            || "mix_strategy and interleave_probs set the shares already; drop one of them".into(),
        )?;
        let scheduled = !self.sampling_schedule.is_empty();
        refuse_if(
            scheduled && (interleaved || self.sampling_strategy != SamplingStrategy::Proportional),
            "sampling_schedule",
            || "sampling_strategy, mix_strategy or interleave_probs set the shares too; drop them".into(),
        )?;
        check_shares("interleave_probs", self.interleave_probs.as_ref())?;
        let mut before = -1.0;
        for point in &self.sampling_schedule {
            let ascending = (0.0..=1.0).contains(&point.at) && point.at > before;
            expect(ascending, "sampling_schedule", "`at` from 0 to 1, ascending", point.at)?;
            before = point.at;
            refuse_if(point.shares.is_some() == point.strategy.is_some(), "sampling_schedule", || {
                format!("the point at {} needs either `shares` or `strategy`", point.at)
            })?;
            check_shares("sampling_schedule", point.shares.as_ref())?;
        }
        Ok(())
    }
}

impl TaskArgs {
    /// Settings of methods: in range, and read by the method that was chosen.
    fn validate_weighting(&self) -> Result<(), ConfigError> {
        use TaskWeighting::{Coba, Dwa, Dynamic, Famo, LossRate, Uncertainty};
        let (temperature, lr) = (self.task_weighting_temperature, self.task_weighting_lr);
        if let Some(temperature) = temperature {
            let key = "task_weighting_temperature";
            expect(temperature.is_finite() && temperature > 0.0, key, "a number above 0", temperature)?;
        }
        if let Some(lr) = lr {
            expect(lr.is_finite() && lr > 0.0, "task_weighting_lr", "a number above 0", lr)?;
        }
        let method = self.task_weighting;
        let least = if matches!(method, Coba | Dynamic) { 2 } else { 1 };
        if let Some(window) = self.task_weighting_window {
            let expected = if least == 2 { "at least 2 measurements" } else { "at least 1 step" };
            expect(window >= least, "task_weighting_window", expected, window)?;
        }
        expect(self.task_weighting_steps > 0, "task_weighting_steps", "at least 1 step", 0)?;
        // A setting that nothing reads would look as if it did something.
        let windowed: &[TaskWeighting] = &[Dwa, LossRate, Coba, Dynamic];
        let given: [(_, _, &[TaskWeighting], _); 6] = [
            ("task_weighting_temperature", temperature.is_some(), windowed, "dwa, loss_rate, coba"),
            ("task_weighting_lr", lr.is_some(), &[Uncertainty, Famo, Dynamic], "uncertainty, famo"),
            ("task_weighting_window", self.task_weighting_window.is_some(), windowed, "dwa, loss_rate, coba"),
            (
                "task_weighting_warmup",
                self.task_weighting_warmup.is_some(),
                &[Uncertainty, Dwa, Famo, Coba, LossRate, Dynamic],
                "uncertainty, dwa, famo, coba, loss_rate",
            ),
            ("task_weighting_steps", self.task_weighting_steps != 1, &[Coba, Dynamic], "coba"),
            ("task_weighting_reevaluate", self.task_weighting_reevaluate, &[Famo, Dynamic], "famo"),
        ];
        for (key, given, readers, names) in given {
            refuse_if(given && !readers.contains(&method), key, || {
                format!(
                    "it is read by task_weighting {names} (and dynamic) alone; set one of them or drop it"
                )
            })?;
        }
        Ok(())
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
        expect(
            self.pissa_iter >= -1,
            "pissa_iter",
            "a number of iterations, or -1 for an exact one",
            self.pissa_iter,
        )?;
        let full = self.finetuning_type != FinetuningType::Lora;
        for (on, key) in [(self.use_dora, "use_dora"), (self.pissa_init, "pissa_init")] {
            refuse_if(on && full, key, || {
                "it is a kind of adapter; add `finetuning_type: lora` or drop it".into()
            })?;
        }
        if let Some(ratio) = self.loraplus_lr_ratio {
            expect(
                ratio.is_finite() && ratio > 0.0,
                "loraplus_lr_ratio",
                "a number above 0, such as 16",
                ratio,
            )?;
        }
        let named = [
            ("additional_target", &self.additional_target, "embed_tokens,lm_head"),
            ("freeze_trainable_modules", &self.freeze_trainable_modules, "all, or mlp,self_attn"),
            ("freeze_extra_modules", &self.freeze_extra_modules, "embed_tokens,norm"),
        ];
        for (key, names, such) in named {
            refuse_if(names.iter().any(String::is_empty), key, || format!("expected names such as {such}"))?;
        }
        let no_blocks = self.freeze_trainable_layers == 0 && self.freeze_extra_modules.is_empty();
        refuse_if(
            self.finetuning_type == FinetuningType::Freeze && no_blocks,
            "freeze_trainable_layers",
            || {
                "with 0 blocks and no freeze_extra_modules nothing would be trained; give 2 for the last two"
                    .into()
            },
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
        if let Some(alpha) = self.neftune_noise_alpha {
            expect(
                alpha.is_finite() && alpha >= 0.0,
                "neftune_noise_alpha",
                "a number of at least 0 (the paper's are 5 to 15)",
                alpha,
            )?;
        }
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
        expect(self.save_total_limit != Some(0), "save_total_limit", "at least 1 checkpoint", 0)?;
        expect(
            self.report_samples <= 100,
            "report_samples",
            "at most 100 examples a task",
            self.report_samples,
        )?;
        for name in &self.report_to {
            let known = ["tensorboard", "all", "none"].contains(&name.as_str());
            refuse_if(!known && !OTHER_TRACKERS.contains(&name.as_str()), "report_to", || {
                format!("expected tensorboard, all or none, got `{name}`")
            })?;
        }
        Ok(())
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

fn check_shares(key: &'static str, shares: Option<&Shares>) -> Result<(), ConfigError> {
    let values: Vec<f64> = match shares {
        None => return Ok(()),
        Some(Shares::InOrder(values)) => values.clone(),
        Some(Shares::ByTask(by_task)) => by_task.values().copied().collect(),
    };
    let good = values.iter().all(|v| v.is_finite() && *v >= 0.0) && values.iter().sum::<f64>() > 0.0;
    expect(good, key, "shares of at least 0, one of them above 0", format!("{values:?}"))
}

/// A number of steps (whole, ≥ 1) or a share of all steps in (0, 1), as in `transformers.TrainingArguments`.
fn check_interval(key: &'static str, steps: f64) -> Result<(), ConfigError> {
    let ok = steps > 0.0 && steps.is_finite() && (steps < 1.0 || steps.fract() == 0.0);
    expect(ok, key, "a whole number of steps, or a share of all steps in (0, 1)", steps)
}
