//! What a command is given.

use std::path::PathBuf;

use medley_train::config::{ConfigError, TrainConfig};
use serde::{Deserialize, Serialize};

/// Everything the arguments said, with defaults filled in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// Options shared with training.
    pub config: TrainConfig,
    /// Options of the small commands.
    pub command: CommandArgs,
}

impl Settings {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// The first option out of range, by name.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.config.validate()?;
        self.command.validate()
    }
}

/// Options that belong to one or two small commands only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CommandArgs {
    /// `generate`: what the user says.
    pub prompt: Option<String>,
    /// `generate`, `chat`: the task whose header goes in front of the prompt, under `task_prefix`;
    /// `data show`: the task to show.
    pub task_name: Option<String>,
    /// `convert`: the file or folder to read.
    pub input: Option<PathBuf>,
    /// `convert`, `logits`, `data stats`: the folder or file to write.
    pub output: Option<PathBuf>,
    /// `logits`: the tokens of one sequence.
    pub input_ids: Vec<u32>,
    /// `export`: the folder to write.
    pub export_dir: Option<PathBuf>,
    /// `export`: largest size of one weight file, in GB.
    pub export_size: f64,
    /// `compare`: the seeds that each train every run once.
    pub seeds: Vec<u64>,
    /// `compare`: evaluation examples of each task that are answered; 0: all.
    pub compare_samples: usize,
    /// `compare`: requests of each task in the measurement of memory and latency.
    pub compare_requests: usize,
    /// `data show`: how many examples to render.
    pub num_examples: usize,
    /// `data check`: how many rows of each kind of problem to name.
    pub max_problems: usize,
}

impl Default for CommandArgs {
    fn default() -> Self {
        Self {
            prompt: None,
            task_name: None,
            input: None,
            output: None,
            input_ids: Vec::new(),
            export_dir: None,
            export_size: 5.0,
            seeds: vec![42],
            compare_samples: 0,
            compare_requests: 4,
            num_examples: 3,
            max_problems: 20,
        }
    }
}

impl CommandArgs {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.export_size <= 0.0 {
            let problem = format!("expected a size above 0 GB, got {}", self.export_size);
            return Err(ConfigError { key: "export_size", problem });
        }
        if self.seeds.is_empty() {
            let problem = "expected at least one seed, such as 1,2,3".to_string();
            return Err(ConfigError { key: "seeds", problem });
        }
        if self.compare_requests == 0 {
            let problem = "expected at least one request of each task".to_string();
            return Err(ConfigError { key: "compare_requests", problem });
        }
        Ok(())
    }
}
