//! The command line of `bench-peers`.

use std::path::PathBuf;

use crate::process::workspace_root;

pub const USAGE: &str = "usage: cargo xtask bench-peers [TABLE ...] [OPTIONS]

tables (all if none is named):
  conv     convolutions of a detector, forward and backward, against PyTorch
  layer    a training step of convolution and norm, CBN among them, against PyTorch
  detect   Mask R-CNN R-50-FPN on single images, against torchvision and ONNX Runtime
  train    its training step on two images, time and peak memory, against torchvision
  eval     COCO evaluation, against pycocotools
  data     reading, resizing and batching images, against torchvision
  start    process start to first detection, and peak memory, against torchvision

options:
  --check-ratio R   exit with 1 if a total peer/ours is below R
  --data DIR        COCO-format folder for all but conv and layer [default: ../shared/data/coco_mini]
  --venv DIR        Python environment, made if absent [default: $CBN_BENCH_VENV, or cbn/bench-venv in the cache folder]
  --threads N       threads of either side [default: 2]
  --repetitions N   timed repetitions; the median counts [default: 7]
  --quick           of the peers only channels-last with a tuned allocator: often the fastest, not always
  --images N        images to detect objects in, up to 8 [default: 8]

exit codes: 0 done, 1 slower than --check-ratio, 2 nothing could be measured";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    Conv,
    Layer,
    Detect,
    Train,
    Eval,
    Data,
    Start,
}

impl TableKind {
    const ALL: [(&'static str, Self); 7] = [
        ("conv", Self::Conv),
        ("layer", Self::Layer),
        ("detect", Self::Detect),
        ("train", Self::Train),
        ("eval", Self::Eval),
        ("data", Self::Data),
        ("start", Self::Start),
    ];

    /// Whether images and annotations are needed.
    pub fn needs_data(self) -> bool {
        !matches!(self, Self::Conv | Self::Layer)
    }
}

#[derive(Debug, PartialEq)]
pub struct Options {
    pub tables: Vec<TableKind>,
    /// 0 checks nothing.
    pub check_ratio: f64,
    pub data: PathBuf,
    pub venv: Option<PathBuf>,
    pub threads: usize,
    pub repetitions: usize,
    pub images: usize,
    pub is_quick: bool,
}

impl Options {
    pub fn parse(arguments: Vec<String>) -> Result<Self, String> {
        let mut options = Self {
            tables: Vec::new(),
            check_ratio: 0.0,
            data: workspace_root().join("../shared/data/coco_mini"),
            venv: None,
            threads: 2,
            repetitions: 7,
            images: 8,
            is_quick: false,
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            if let Some((_, table)) = TableKind::ALL.iter().find(|(name, _)| *name == argument) {
                options.tables.push(*table);
                continue;
            }
            if argument == "--quick" {
                options.is_quick = true;
                continue;
            }
            let value = arguments.next().ok_or_else(|| format!("{argument}: no such table or option\n{USAGE}"))?;
            match argument.as_str() {
                "--check-ratio" => options.check_ratio = number(&argument, &value)?,
                "--data" => options.data = value.into(),
                "--venv" => options.venv = Some(value.into()),
                "--threads" => options.threads = number(&argument, &value)?,
                "--repetitions" => options.repetitions = number(&argument, &value)?,
                "--images" => options.images = number(&argument, &value)?,
                _ => return Err(format!("{argument}: no such table or option\n{USAGE}")),
            }
        }
        if [options.threads, options.repetitions, options.images].contains(&0) {
            return Err("--threads, --repetitions and --images are at least 1".to_owned());
        }
        if options.tables.is_empty() {
            options.tables = TableKind::ALL.map(|(_, table)| table).to_vec();
        }
        Ok(options)
    }
}

fn number<T: std::str::FromStr>(option: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{option} needs a number, not {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn no_table_means_all_tables() {
        assert_eq!(parse("--threads 4").unwrap().tables.len(), TableKind::ALL.len());
    }

    #[test]
    fn tables_and_options_mix() {
        let options = parse("conv --check-ratio 2.3 --quick train --data d").unwrap();
        assert_eq!(options.tables, [TableKind::Conv, TableKind::Train]);
        assert_eq!((options.check_ratio, options.data, options.is_quick), (2.3, PathBuf::from("d"), true));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert!(parse("convs").unwrap_err().starts_with("convs"));
        assert!(parse("--threads two").unwrap_err().contains("two"));
        assert!(parse("--threads 0").is_err());
    }
}
