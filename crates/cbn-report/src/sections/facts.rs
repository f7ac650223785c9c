//! Times, machine, recipe.

use serde_json::Value;

use super::curves::over_iterations;
use crate::Run;
use crate::log::Iteration;
use crate::page::{Block, Cell, Section, Table};

/// Where a run's time went.
#[derive(Debug, Clone, Default)]
pub(super) struct Timing {
    pub(super) total_s: f64,
    pub(super) evaluation_s: f64,
    checkpoint_s: f64,
    pub(super) images_per_s: Option<f64>,
    /// Name, sum, median of an iteration; those that the log tells.
    parts: Vec<(&'static str, f64, f64)>,
}

impl Timing {
    pub(super) fn of(run: &Run) -> Self {
        let iterations = &run.log.iterations;
        let evaluation_s = run.log.evaluations.iter().filter_map(|evaluation| evaluation.elapsed_s).sum();
        let checkpoint_s = run.log.checkpoints.iter().filter_map(|checkpoint| checkpoint.elapsed_s).sum();
        let log_s: f64 = iterations.iter().filter_map(|record| record.log_s).sum();
        let elapsed: Vec<f64> = iterations.iter().filter_map(|record| record.elapsed_s).collect();
        let measured: Vec<f64> = iterations.iter().filter_map(|record| record.images_per_s).collect();
        let batch_size = run.plan()["train_loader"]["batch_size"].as_f64();
        let computed = || Some(batch_size? / median(&elapsed)?);
        Self {
            total_s: elapsed.iter().sum::<f64>() + evaluation_s + checkpoint_s + log_s,
            evaluation_s,
            checkpoint_s,
            images_per_s: median(&measured).or_else(computed),
            parts: PARTS
                .iter()
                .filter_map(|(name, value)| {
                    let values: Vec<f64> = iterations.iter().filter_map(value).collect();
                    Some((*name, values.iter().sum(), median(&values)?))
                })
                .collect(),
        }
    }
}

type Part = (&'static str, fn(&Iteration) -> Option<f64>);

const PARTS: [Part; 6] = [
    ("waiting for data", |record| record.data_s),
    ("forward", |record| record.forward_s),
    ("backward", |record| record.backward_s),
    ("optimizer", |record| record.optimizer_s),
    ("whole iteration", |record| record.elapsed_s),
    ("log, curves, progress", |record| record.log_s),
];

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        len if len % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// "1 h 05 min", "17 min", "3 min 20 s", "12 s".
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes @ ..10, seconds) => format!("{minutes} min {seconds:02} s"),
        (0, minutes, _) => format!("{minutes} min"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

pub(super) fn timing(runs: &[Run]) -> Section {
    let mut rows = Vec::new();
    for run in runs {
        let timing = Timing::of(run);
        let mut row = |name: String, sum: f64, middle: Option<f64>| {
            let share = (timing.total_s > 0.0).then(|| 100.0 * sum / timing.total_s);
            let mut cells =
                vec![Cell::text(name), Cell::text(duration(sum)), Cell::number(share, 1), Cell::number(middle, 3)];
            if runs.len() > 1 {
                cells.insert(0, Cell::text(&run.name));
            }
            rows.push(cells);
        };
        for (name, sum, middle) in &timing.parts {
            row((*name).to_owned(), *sum, Some(*middle));
        }
        for (name, sum) in [("checkpoints", timing.checkpoint_s), ("evaluations", timing.evaluation_s)] {
            if sum > 0.0 {
                row(name.to_owned(), sum, None);
            }
        }
    }
    let mut columns = ["", "sum", "% of all", "median of an iteration, s"].map(str::to_owned).to_vec();
    if runs.len() > 1 {
        columns.insert(0, "run".to_owned());
    }
    let mut blocks = Vec::new();
    if !rows.is_empty() {
        blocks.push(Block::Table(Table {
            caption: "Where the time went".to_owned(),
            columns,
            rows,
            ..Table::default()
        }));
    }
    let figure = over_iterations(runs, "Time of an iteration", "seconds", &|record| record.elapsed_s, "");
    blocks.extend(figure.map(|figure| Block::Figures(vec![figure])));
    Section { id: "time", title: "Time", intro: String::new(), blocks }
}

pub(super) fn machine(run: &Run) -> Option<Section> {
    let info = run.info.as_ref()?;
    let machine = &info.machine;
    let unknown = || "unknown".to_owned();
    let evaluated = match run.plan()["train"]["evaluate_images"].as_u64() {
        Some(_) => format!("{}, the first of the annotations (train.evaluate_images)", info.num_val_images),
        None => info.num_val_images.to_string(),
    };
    let facts = [
        ("processor", machine.cpu.clone().unwrap_or_else(unknown)),
        ("cores, threads of the kernels", format!("{}, {}", machine.num_cores, machine.num_threads)),
        ("memory", machine.memory_mib.map_or_else(unknown, |mib| format!("{:.1} GiB", mib as f64 / 1024.0))),
        ("system", format!("{}, {}", machine.os, machine.architecture)),
        ("device", device(&machine.device).to_owned()),
        ("cbn", info.version.clone()),
        ("images to learn from", info.num_train_images.to_string()),
        ("images to evaluate on", evaluated),
        ("classes", info.categories.len().to_string()),
    ];
    let rows = facts.into_iter().map(|(name, value)| vec![Cell::text(name), Cell::text(value)]).collect();
    let table = Table { caption: "Where it ran".to_owned(), columns: vec![String::new(); 2], rows, ..Table::default() };
    Some(Section { id: "machine", title: "Machine and data", intro: String::new(), blocks: vec![Block::Table(table)] })
}

/// `Flex(Cpu)` of `Device<Flex(Cpu)>`, as Burn prints it.
fn device(printed: &str) -> &str {
    printed.strip_prefix("Device<").and_then(|rest| rest.strip_suffix('>')).unwrap_or(printed)
}

pub(super) fn recipe(run: &Run) -> Option<Section> {
    let mut values = Vec::new();
    flatten(run.plan(), "", &mut values);
    if values.len() < 2 {
        return None;
    }
    let rows = values.into_iter().map(|(key, value)| vec![Cell::text(key), Cell::text(value)]).collect();
    let table = Table {
        caption: "Every resolved value".to_owned(),
        columns: ["key", "value"].map(str::to_owned).to_vec(),
        rows,
        is_sortable: false,
        is_folded: true,
    };
    Some(Section {
        id: "recipe",
        title: "Recipe",
        intro: run.description().to_owned(),
        blocks: vec![Block::Table(table)],
    })
}

/// The entries of a plan by their paths.
pub(super) fn flatten(value: &Value, path: &str, into: &mut Vec<(String, String)>) {
    match value {
        Value::Object(entries) if !entries.is_empty() => {
            for (key, value) in entries {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(value, &path, into);
            }
        }
        Value::String(text) => into.push((path.to_owned(), text.clone())),
        other => into.push((path.to_owned(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_aloud() {
        assert_eq!([12.4, 200.0, 1046.0, 3900.0].map(duration), ["12 s", "3 min 20 s", "17 min", "1 h 05 min"]);
        assert_eq!((median(&[]), median(&[3.0, 1.0]), median(&[9.0, 1.0, 2.0])), (None, Some(2.0), Some(2.0)));
    }

    #[test]
    fn devices_lose_their_wrapping() {
        assert_eq!(["Device<Flex(Cpu)>", "Cuda"].map(device), ["Flex(Cpu)", "Cuda"]);
    }

    #[test]
    fn plans_are_flat_lists_of_paths() {
        let mut found = Vec::new();
        flatten(&serde_json::json!({ "a": { "b": 1, "c": [1, 2] }, "d": "x", "e": {} }), "", &mut found);
        let found: Vec<(&str, &str)> = found.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(found, [("a.b", "1"), ("a.c", "[1,2]"), ("d", "x"), ("e", "{}")]);
    }
}
