//! The files of an output folder that the report is made from.

use super::samples::{SAMPLE_PREDICTIONS, Sample, read};
use crate::state::{TRAINER_STATE, TrainerState};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Name of a file of predictions, the number of its lines, and the first of them.
pub type Predictions = (String, usize, Vec<Map<String, Value>>);

/// What a run left; what it did not is empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunFiles {
    /// The folder.
    pub folder: PathBuf,
    /// `trainer_state.json`, of the newest checkpoint where the run has not finished.
    pub state: TrainerState,
    /// Where the state is from, where it is from a checkpoint.
    pub checkpoint: Option<String>,
    /// `medley_config.json`.
    pub config: Map<String, Value>,
    /// `train_results.json`.
    pub train: Map<String, Value>,
    /// `eval_results.json`.
    pub eval: Map<String, Value>,
    /// `predict_results.json`.
    pub predict: Map<String, Value>,
    /// `gradient_conflicts.json`.
    pub conflicts: Option<Conflicts>,
    /// `sample_predictions.jsonl`.
    pub samples: Vec<Sample>,
    /// The first lines of `generated_predictions*.jsonl`, by file name, each with the number of its lines.
    pub predictions: Vec<Predictions>,
    /// Files that are there and cannot be used, and why.
    pub problems: Vec<String>,
}

/// The parts of `gradient_conflicts.json` that are drawn.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conflicts {
    /// The tasks, in the order of the rows.
    pub tasks: Vec<String>,
    /// Mean cosine of each pair, `None` where the two never met.
    pub cosines: Vec<Vec<Option<f64>>>,
    /// What follows, in sentences.
    pub advice: Vec<String>,
}

/// Lines of each `generated_predictions*.jsonl` that are shown.
const SHOWN_PREDICTIONS: usize = 6;

impl RunFiles {
    /// Reads what there is in `folder`. A file that cannot be used is among the problems and does not keep the
    /// others from being shown.
    ///
    /// # Errors
    /// The folder is not there, or holds no run.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut files = RunFiles { folder: folder.to_path_buf(), ..RunFiles::default() };
        let newest = crate::trainer::checkpoint::list(folder)?.pop().map(|(_, path)| path);
        let place = match (folder.join(TRAINER_STATE).is_file(), newest) {
            (true, _) => folder.to_path_buf(),
            (false, Some(checkpoint)) => {
                files.checkpoint = checkpoint.file_name().map(|name| name.to_string_lossy().into_owned());
                checkpoint
            }
            (false, None) => {
                return Err(Error::Run(format!(
                    "{} holds no run: neither {TRAINER_STATE} nor a checkpoint; give the output_dir of `medley train`",
                    folder.display()
                )));
            }
        };
        match TrainerState::read(&place) {
            Ok(state) => files.state = state,
            Err(error) => files.problems.push(error.to_string()),
        }
        files.config = files.object("medley_config.json");
        files.train = files.object("train_results.json");
        files.eval = files.object("eval_results.json");
        files.predict = files.object("predict_results.json");
        let conflicts = files.object("gradient_conflicts.json");
        files.conflicts = (!conflicts.is_empty()).then(|| Conflicts::from_json(&conflicts));
        match read(folder) {
            Ok(samples) => files.samples = samples,
            Err(error) => files.problems.push(format!("{SAMPLE_PREDICTIONS} is not shown: {error}")),
        }
        files.read_predictions();
        Ok(files)
    }

    /// A JSON object; empty where there is no such file.
    fn object(&mut self, name: &str) -> Map<String, Value> {
        let text = match std::fs::read_to_string(self.folder.join(name)) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Map::new(),
            Err(error) => {
                self.problems.push(format!("{name} cannot be read: {error}"));
                return Map::new();
            }
        };
        serde_json::from_str(&text).unwrap_or_else(|error| {
            self.problems.push(format!("{name} is not a JSON object: {error}"));
            Map::new()
        })
    }

    fn read_predictions(&mut self) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("generated_predictions") && name.ends_with(".jsonl"))
            .collect();
        names.sort();
        for name in names {
            match std::fs::read_to_string(self.folder.join(&name)) {
                Ok(text) => {
                    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
                    // Spread over the file: tasks come one after another.
                    let every = lines.len().div_ceil(SHOWN_PREDICTIONS).max(1);
                    let shown =
                        lines.iter().step_by(every).filter_map(|line| serde_json::from_str(line).ok());
                    self.predictions.push((name, lines.len(), shown.collect()));
                }
                Err(error) => self.problems.push(format!("{name} cannot be read: {error}")),
            }
        }
    }
}

impl Conflicts {
    fn from_json(json: &Map<String, Value>) -> Self {
        let texts = |key: &str| -> Vec<String> {
            let list = json.get(key).and_then(Value::as_array).into_iter().flatten();
            list.filter_map(|text| text.as_str().map(str::to_string)).collect()
        };
        let rows = json.get("cosines").and_then(Value::as_array).into_iter().flatten();
        let cells = |row: &Value| row.as_array().into_iter().flatten().map(Value::as_f64).collect();
        Self { tasks: texts("tasks"), cosines: rows.map(cells).collect(), advice: texts("advice") }
    }
}
