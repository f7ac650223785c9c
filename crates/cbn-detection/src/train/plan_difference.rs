//! Whether a run may go on under another plan.

use std::collections::BTreeSet;

use serde_json::Value;

/// Entries of a plan that change no weight of the run.
const CHANGES_NOTHING: [&str; 11] = [
    "description",
    "expected",
    "max_detections",
    "test_flip",
    "test_loader",
    "train.checkpoint_every",
    "train.evaluate_every",
    "train.evaluate_images",
    "train.keep_checkpoints",
    "train_loader.num_workers",
    "train_loader.queue_batches",
];

/// The first entry in which two plans differ: its path, and both values.
pub(super) fn first_difference(found: &Value, expected: &Value, path: &str) -> Option<(String, String, String)> {
    match (found, expected) {
        _ if CHANGES_NOTHING.contains(&path) => None,
        (Value::Object(found), Value::Object(expected)) => {
            let keys: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
            keys.into_iter().find_map(|key| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let null = &Value::Null;
                first_difference(found.get(key).unwrap_or(null), expected.get(key).unwrap_or(null), &path)
            })
        }
        (found, expected) if found == expected => None,
        (found, expected) => Some((path.to_owned(), found.to_string(), expected.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_difference_of_two_plans_has_its_path() {
        let first = json!({ "a": 1, "train": { "seed": 0, "lr": 0.1 } });
        assert_eq!(first_difference(&first, &first, ""), None);
        let second = json!({ "a": 1, "train": { "seed": 0, "lr": 0.2, "new": true } });
        let difference = first_difference(&first, &second, "").unwrap();
        assert_eq!(difference, ("train.lr".to_owned(), "0.1".to_owned(), "0.2".to_owned()));
    }

    #[test]
    fn what_changes_no_weight_is_no_difference() {
        let plan = |workers: u32, momentum: f64| json!({ "train_loader": { "num_workers": workers }, "train": { "optimizer": { "momentum": momentum } } });
        assert_eq!(first_difference(&plan(0, 0.9), &plan(4, 0.9), ""), None);
        assert_eq!(first_difference(&plan(0, 0.9), &plan(4, 0.5), "").unwrap().0, "train.optimizer.momentum");
    }
}
