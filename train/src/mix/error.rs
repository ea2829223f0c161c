//! Why there can be no order of examples.

/// Errors of [`super::Sampler`] and of reading its options against the data.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum MixError {
    /// There is nothing to draw from.
    #[error("there are no examples to train on")]
    NoExamples,
    /// Steps of no examples.
    #[error("per_device_train_batch_size × gradient_accumulation_steps is 0; each must be at least 1")]
    EmptyStep,
    /// A temperature that is not a positive number.
    #[error("sampling_temperature: expected a number above 0, got {0}")]
    Temperature(f64),
    /// A cap of nothing.
    #[error("sampling_cap: expected at least 1, got 0")]
    Cap,
    /// Shares that cannot be shares.
    #[error("{key}: expected numbers of at least 0, one of them above 0, got {got}")]
    Shares {
        /// The option.
        key: &'static str,
        /// The shares as given.
        got: String,
    },
    /// As many shares as neither datasets nor tasks.
    #[error(
        "{key}: {given} shares for {files} dataset files and {tasks} tasks ({names}); give one for each, or a \
         mapping such as `{{{example}: 0.5, …}}`"
    )]
    ShareCount {
        /// The option.
        key: &'static str,
        /// How many were given.
        given: usize,
        /// Files of the training data.
        files: usize,
        /// Tasks of the training data.
        tasks: usize,
        /// Their names.
        names: String,
        /// One of them.
        example: String,
    },
    /// A share of a task that is not there.
    #[error("{key}: there is no task `{task}` in the data; its tasks are {names}")]
    UnknownTask {
        /// The option.
        key: &'static str,
        /// The task as given.
        task: String,
        /// The names there are.
        names: String,
    },
    /// A task without a share.
    #[error("{key}: no share for task `{task}`; give one, or 0 to leave the task out")]
    MissingTask {
        /// The option.
        key: &'static str,
        /// The task.
        task: String,
    },
    /// Shares by file and shares by task in one schedule.
    #[error("sampling_schedule: some points list shares by file and others by task; use one of the two")]
    MixedSources,
    /// Labelled tokens are to be shared and a task has none.
    #[error(
        "sampling_unit: `{0}` has no labelled token, so no number of its examples gives it a share of them; \
         use `sampling_unit: examples`"
    )]
    NoLabels(String),
}
