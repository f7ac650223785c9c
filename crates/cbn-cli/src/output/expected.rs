//! Measured numbers beside the recipe's.

use cbn_detection::recipe::Expected;

use super::scores::Metrics;

/// What came of the expected numbers.
pub struct Comparison {
    /// One line per number: what it should be, what it is, whether that is near enough.
    pub text: String,
    /// Those that are not near enough, by how much: "bbox AP by 0.5 points".
    pub missed: Vec<String>,
}

/// Measured numbers beside the recipe's.
pub fn compare(expected: &Expected, metrics: &Metrics) -> Comparison {
    let rows = [
        ("bbox", "AP", Some(expected.bbox_ap)),
        ("bbox", "AP50", expected.bbox_ap50),
        ("bbox", "AP75", expected.bbox_ap75),
        ("segm", "AP", expected.segm_ap),
        ("segm", "AP50", expected.segm_ap50),
        ("segm", "AP75", expected.segm_ap75),
    ];
    let mut text = format!("expected ({}), within {} points:\n", expected.source, expected.tolerance);
    let mut missed = Vec::new();
    for (kind, name, expected_points) in rows {
        let Some(expected_points) = expected_points else { continue };
        let Some(measured) = metrics.get(kind).and_then(|values| values.get(name)).copied().flatten() else { continue };
        let measured_points = measured * 100.0;
        let is_reached = measured_points >= expected_points - expected.tolerance;
        let verdict = if is_reached { "reached" } else { "MISSED" };
        if !is_reached {
            missed.push(format!("{kind} {name} by {:.1} points", expected_points - measured_points));
        }
        text += &format!("  {kind} {name:<5}{expected_points:6.1}  measured {measured_points:6.1}  {verdict}\n");
    }
    Comparison { text, missed }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_number_below_the_tolerance_is_missed() {
        let expected = Expected {
            source: "paper".into(),
            tolerance: 0.2,
            bbox_ap: 37.6,
            bbox_ap50: Some(58.5),
            bbox_ap75: None,
            segm_ap: Some(34.7),
            segm_ap50: None,
            segm_ap75: None,
        };
        let bbox = BTreeMap::from([("AP".to_owned(), Some(0.375)), ("AP50".to_owned(), Some(0.58))]);
        let Comparison { text, missed } = compare(&expected, &BTreeMap::from([("bbox".to_owned(), bbox)]));
        assert_eq!(missed, ["bbox AP50 by 0.5 points"]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].ends_with("reached") && lines[2].ends_with("MISSED"), "{text}");
    }
}
