//! The training loop and everything it saves.

mod checkpoint;
mod config;
mod ema;
mod engine;
mod error;
mod gradients;
mod log;
mod module_state;
mod observer;
mod optimizer;
mod per_parameter;
mod plan_difference;
mod record;
mod run_info;
mod schedule;
mod step;
mod stop;
mod tensorboard;
mod work_dir;

pub use checkpoint::{BestScore, Checkpoint, CheckpointError, CheckpointInfo};
pub use config::TrainConfig;
pub use ema::EmaConfig;
pub use engine::{Outcome, Trainer, initial_detector};
pub use error::TrainError;
pub use log::JsonLines;
pub use module_state::{NamedTensors, collect, restore};
pub use observer::{Event, LogError, Observer};
pub use optimizer::{Sgd, SgdConfig};
pub use record::{EvaluationRecord, IterationRecord, Record};
pub use run_info::{Machine, RunInfo};
pub use schedule::ScheduleConfig;
pub use step::{StepError, StepReport, train_step};
pub use stop::StopRequest;
pub use tensorboard::TensorBoard;
pub use work_dir::WorkDir;
