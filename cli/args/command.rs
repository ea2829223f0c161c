//! The commands: what each is for, what it needs, and examples of it.

/// A command of the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cmd {
    /// `medley quickstart`
    Quickstart,
    /// `medley train`
    Train,
    /// `medley compare`
    Compare,
    /// `medley eval`
    Eval,
    /// `medley predict`
    Predict,
    /// `medley generate`
    Generate,
    /// `medley chat`
    Chat,
    /// `medley export`
    Export,
    /// `medley convert`
    Convert,
    /// `medley logits`
    Logits,
    /// `medley report`
    Report,
    /// `medley data check`
    DataCheck,
    /// `medley data show`
    DataShow,
    /// `medley data stats`
    DataStats,
}

/// What `--help` and the parser know of a command.
#[derive(Debug, Clone, Copy)]
pub struct CommandSpec {
    /// As typed after `medley`; one or two words.
    pub name: &'static str,
    /// One line.
    pub about: &'static str,
    /// Options of which at least one of each group must be given.
    pub required: &'static [&'static [&'static str]],
    /// Whether a YAML file may be named.
    pub takes_config: bool,
    /// Pairs of a comment and a command line.
    pub examples: &'static [(&'static str, &'static str)],
}

const DATA: &[&str] = &["data_files", "dataset"];
const EVAL_DATA: &[&str] = &["eval_data_files", "eval_dataset", "data_files", "dataset"];
const MODEL: &[&str] = &["model_name_or_path"];

impl Cmd {
    /// What is known of the command.
    pub const fn spec(self) -> CommandSpec {
        match self {
            Self::Quickstart => CommandSpec {
                name: "quickstart",
                about: "Fine-tune the small model that comes with Medley on three tasks, and show the gain",
                required: &[],
                takes_config: false,
                examples: &[("Under three minutes on two cores", "medley quickstart")],
            },
            Self::Train => CommandSpec {
                name: "train",
                about: "Fine-tune one model on several tasks",
                required: &[MODEL, &["output_dir"], DATA],
                takes_config: true,
                examples: &[
                    (
                        "From a LLaMA-Factory YAML file; options win over it",
                        "medley train lora_sft.yaml --learning_rate 2e-4 --output_dir out/second",
                    ),
                    (
                        "Three tasks, the first counting most in the loss, every step holding equal shares of each",
                        "medley train --model_name_or_path ./llama --data_files qa.jsonl,summarization.jsonl,classification.jsonl \\\n      --template alpaca --lora_rank 16 --task_weights qa=1.0,summarization=0.8,classification=0.6 \\\n      --sampling_strategy balanced --output_dir out/multitask --plot_loss",
                    ),
                    (
                        "4-bit base (QLoRA), a tenth held out and scored every 100 steps",
                        "medley train lora_sft.yaml --quantization_bit 4 --val_size 0.1 --eval_strategy steps --eval_steps 100",
                    ),
                    (
                        "Go on after an interruption",
                        "medley train lora_sft.yaml --resume_from_checkpoint true",
                    ),
                ],
            },
            Self::Compare => CommandSpec {
                name: "compare",
                about: "Train one model on all tasks and one on each, under one budget, and compare them",
                required: &[MODEL, &["output_dir"], DATA],
                takes_config: true,
                examples: &[
                    (
                        "Three seeds; finished runs in output_dir/seed-N/{joint,<task>} are taken, so it can be stopped and started again",
                        "medley compare examples/three_tasks.yaml --seeds 1,2,3 --output_dir out/comparison",
                    ),
                    (
                        "Score 100 evaluation examples of each task",
                        "medley compare examples/three_tasks.yaml --compare_samples 100 --max_new_tokens 48 --output_dir out/comparison",
                    ),
                ],
            },
            Self::Eval => CommandSpec {
                name: "eval",
                about: "Loss and perplexity of each task on held-out examples",
                required: &[MODEL, EVAL_DATA],
                takes_config: true,
                examples: &[(
                    "The adapter of a run, with the run's own YAML",
                    "medley eval lora_sft.yaml --adapter_name_or_path out/multitask --eval_data_files dev.jsonl",
                )],
            },
            Self::Predict => CommandSpec {
                name: "predict",
                about: "Write a completion for every example and score each task (exact match, F1, ROUGE-L)",
                required: &[MODEL, &["output_dir"], EVAL_DATA],
                takes_config: true,
                examples: &[(
                    "Base model and adapter, greedy",
                    "medley predict --model_name_or_path ./llama --adapter_name_or_path out/multitask --template alpaca \\\n      --eval_data_files dev.jsonl --do_sample false --max_new_tokens 64 --output_dir out/predictions",
                )],
            },
            Self::Generate => CommandSpec {
                name: "generate",
                about: "Print one completion on stdout",
                required: &[MODEL, &["prompt"]],
                takes_config: true,
                examples: &[
                    (
                        "The likeliest answer, through the model's own chat template",
                        "medley generate --model_name_or_path ./smollm2 --prompt 'What is the capital of France?' --do_sample false",
                    ),
                    (
                        "A fine-tuned adapter, with the template it was trained on",
                        "medley generate --model_name_or_path ./llama --adapter_name_or_path out/multitask --template alpaca \\\n      --prompt 'Summarise: …' --max_new_tokens 128",
                    ),
                ],
            },
            Self::Chat => CommandSpec {
                name: "chat",
                about: "Talk to a model in the terminal",
                required: &[MODEL],
                takes_config: true,
                examples: &[(
                    "With an adapter and a system message",
                    "medley chat --model_name_or_path ./llama --adapter_name_or_path out/multitask --default_system 'Be brief.'",
                )],
            },
            Self::Export => CommandSpec {
                name: "export",
                about: "Merge an adapter into its base and write a Hugging Face folder",
                required: &[MODEL, &["export_dir"]],
                takes_config: true,
                examples: &[(
                    "Merge for any program that reads Hugging Face folders",
                    "medley export --model_name_or_path ./llama --adapter_name_or_path out/multitask --export_dir ./llama-multitask",
                )],
            },
            Self::Convert => CommandSpec {
                name: "convert",
                about: "Turn a GGUF file into a Hugging Face folder",
                required: &[&["input"], &["output"]],
                takes_config: false,
                examples: &[(
                    "Weights, config, tokenizer and chat template",
                    "medley convert --input SmolLM2-135M-Instruct.Q4_1.gguf --output ./smollm2",
                )],
            },
            Self::Logits => CommandSpec {
                name: "logits",
                about: "Write the logits of a sequence of tokens, to compare with another program's",
                required: &[MODEL, &["input_ids"], &["output"]],
                takes_config: false,
                examples: &[(
                    "Tensor `logits` [T, vocab] in f32",
                    "medley logits --model_name_or_path ./llama --input_ids 1,2,3 --output logits.safetensors",
                )],
            },
            Self::Report => CommandSpec {
                name: "report",
                about: "Write report.html and the plot of a run anew, from the files in its folder",
                required: &[&["output_dir"]],
                takes_config: false,
                examples: &[(
                    "A run that is over, or that is still going",
                    "medley report --output_dir out/multitask",
                )],
            },
            Self::DataCheck => CommandSpec {
                name: "data check",
                about: "Read every row and name those that cannot be used, repeat others or are in the evaluation data",
                required: &[DATA],
                takes_config: true,
                examples: &[
                    ("Before a long run", "medley data check lora_sft.yaml"),
                    (
                        "Rows alone, and what training and evaluation data share",
                        "medley data check --data_files qa.jsonl --eval_data_files qa.dev.jsonl --max_problems 100",
                    ),
                ],
            },
            Self::DataShow => CommandSpec {
                name: "data show",
                about: "Print examples as the model sees them, with what is learned set apart",
                required: &[MODEL, DATA],
                takes_config: true,
                examples: &[(
                    "One of each, through the template",
                    "medley data show --model_name_or_path ./llama --data_files qa.jsonl --template alpaca --num_examples 1",
                )],
            },
            Self::DataStats => CommandSpec {
                name: "data stats",
                about: "Rows, tokens, lengths, labels, repeats of each task",
                required: &[DATA],
                takes_config: true,
                examples: &[(
                    "How long, how many, how many cut",
                    "medley data stats --model_name_or_path ./llama --data_files qa.jsonl,summarization.jsonl --cutoff_len 512",
                )],
            },
        }
    }
}
