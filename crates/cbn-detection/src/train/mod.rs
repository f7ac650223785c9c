//! The training loop and everything it saves.

mod checkpoint;
mod config;
mod engine;
mod error;
mod gradients;
mod log;
mod module_state;
mod optimizer;
mod run_info;
mod schedule;
mod step;
mod work_dir;

pub use checkpoint::{Checkpoint, CheckpointError, CheckpointInfo};
pub use config::TrainConfig;
pub use engine::{Event, Trainer, initial_detector};
pub use error::TrainError;
pub use log::{EvaluationRecord, IterationRecord, Log, LogError, Record};
pub use module_state::{NamedTensors, collect, restore};
pub use optimizer::{Sgd, SgdConfig};
pub use run_info::{Machine, RunInfo};
pub use schedule::ScheduleConfig;
pub use step::{StepReport, train_step};
pub use work_dir::WorkDir;
