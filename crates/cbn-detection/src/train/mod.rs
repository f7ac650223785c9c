//! The training loop and everything it saves.

mod checkpoint;
mod config;
mod gradients;
mod log;
mod module_state;
mod optimizer;
mod schedule;

pub use checkpoint::{Checkpoint, CheckpointError, CheckpointInfo};
pub use config::TrainConfig;
pub use log::{EvaluationRecord, IterationRecord, Log, LogError, Record};
pub use module_state::{NamedTensors, StateMismatch, collect, restore};
pub use optimizer::{Sgd, SgdConfig};
pub use schedule::ScheduleConfig;
