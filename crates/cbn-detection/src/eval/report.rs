use super::{IouType, Summary};

/// The twelve numbers of each summary, one line per kind of overlap.
pub fn score_table(summaries: &[Summary]) -> String {
    let Some(first) = summaries.first() else { return String::new() };
    let mut lines = vec![row("", first.named().iter().map(|(name, _)| name.clone()))];
    for summary in summaries {
        lines.push(row(summary.iou_type.name(), summary.named().iter().map(|(_, value)| number(*value))));
    }
    lines.concat()
}

/// AP of each class, one column per kind of overlap. Classes without ground truth are left out.
pub fn class_table(summaries: &[Summary]) -> String {
    let Some(first) = summaries.first() else { return String::new() };
    let width = first.per_class.iter().map(|class| class.name.chars().count()).max().unwrap_or(0).max("class".len());
    let line = |name: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("{cell:>9}")).collect();
        format!("{name:<width$}{cells}\n")
    };
    let header = |kind: IouType| format!("AP {}", kind.name());
    let mut lines = vec![line("class", summaries.iter().map(|summary| header(summary.iou_type)).collect())];
    for (at, class) in first.per_class.iter().enumerate().filter(|(_, class)| class.ap.is_some()) {
        lines.push(line(&class.name, summaries.iter().map(|summary| number(summary.per_class[at].ap)).collect()));
    }
    lines.concat()
}

fn row(name: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: String = cells.map(|cell| format!("{cell:>7}")).collect();
    format!("{name:<5}{cells}\n")
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::ClassAp;

    fn summary(iou_type: IouType) -> Summary {
        Summary {
            iou_type,
            max_detections: [1, 10, 400],
            ap: Some(0.5),
            ap50: Some(1.0),
            ap75: Some(0.25),
            ap_small: None,
            ap_medium: Some(0.5),
            ap_large: Some(0.5),
            ar: [Some(0.1), Some(0.2), Some(0.3)],
            ar_small: None,
            ar_medium: Some(0.5),
            ar_large: Some(0.5),
            per_class: vec![
                ClassAp { category_id: 1, name: "nucleus".to_owned(), ap: Some(0.5) },
                ClassAp { category_id: 2, name: "never seen".to_owned(), ap: None },
            ],
        }
    }

    #[test]
    fn the_table_names_its_limits_and_marks_what_cannot_be_measured() {
        assert_eq!(
            score_table(&[summary(IouType::Bbox), summary(IouType::Segm)]),
            "          AP   AP50   AP75    APs    APm    APl    AR1   AR10  AR400    ARs    ARm    ARl\n\
             bbox   0.500  1.000  0.250      -  0.500  0.500  0.100  0.200  0.300      -  0.500  0.500\n\
             segm   0.500  1.000  0.250      -  0.500  0.500  0.100  0.200  0.300      -  0.500  0.500\n"
        );
    }

    #[test]
    fn classes_without_ground_truth_are_left_out() {
        assert_eq!(class_table(&[summary(IouType::Bbox)]), "class       AP bbox\nnucleus       0.500\n");
    }

    #[test]
    fn json_is_flat_and_null_where_nothing_can_be_measured() {
        let json = serde_json::to_value(summary(IouType::Bbox)).unwrap();
        assert_eq!(json["AP50"], 1.0);
        assert_eq!(json["AR400"], 0.3);
        assert!(json["APs"].is_null());
        assert_eq!(json["per_class"][0]["name"], "nucleus");
    }
}
