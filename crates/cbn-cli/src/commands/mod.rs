//! One file per command.

pub mod convert;
pub mod data;
pub mod demo;
pub mod detect;
pub mod eval;
pub mod export;
pub mod recipe;
pub mod report;
pub mod test;
pub mod train;
