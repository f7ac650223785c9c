//! `cbn report`: the page as a strict parser reads it, without a browser; `tools/report/check_page.py` opens it in one.

#![allow(clippy::unwrap_used, reason = "a test that unwraps None fails, as it should")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use roxmltree::{Document, Node, ParsingOptions};

use common::{SHAPES, TINY, fails, recipe, shapes, succeeds, text};

/// Checks what holds for every report; the ids of its sections in their order.
///
/// The page is XML as well as HTML, so that a parser which forgives nothing can read it.
#[track_caller]
fn check_page(page: &str) -> Vec<String> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let document =
        Document::parse_with_options(page, options).unwrap_or_else(|error| panic!("not well-formed: {error}"));
    let all: Vec<Node> = document.root().descendants().filter(Node::is_element).collect();
    check_references(&all);
    all.iter().filter(|node| node.has_tag_name("figure")).for_each(check_figure);
    all.iter().filter(|node| node.has_tag_name("table")).for_each(check_table);
    let sections: Vec<String> = all
        .iter()
        .filter(|node| node.has_tag_name("section"))
        .map(|section| {
            let heading = section.children().find(|node| node.has_tag_name("h2")).unwrap();
            assert!(!heading.text().unwrap().is_empty());
            let has_content = |name| section.descendants().any(|node| node.has_tag_name(name));
            // That two recipes are the same is a sentence.
            let is_said = section.attribute("id") == Some("recipe") && has_content("p");
            assert!(has_content("figure") || has_content("table") || is_said, "section {heading:?} shows nothing");
            section.attribute("id").unwrap().to_owned()
        })
        .collect();
    let linked: Vec<&str> =
        all.iter().filter(|node| node.has_tag_name("a")).filter_map(|a| a.attribute("href")).collect();
    assert_eq!(linked, sections.iter().map(|id| format!("#{id}")).collect::<Vec<_>>(), "the contents' links");
    sections
}

/// Nothing is asked of the network: by no attribute, no style, no script.
#[track_caller]
fn check_references(all: &[Node]) {
    for node in all {
        for attribute in node.attributes().filter(|attribute| {
            ["src", "href", "srcset", "action", "poster", "data", "background"].contains(&attribute.name())
        }) {
            let target = attribute.value();
            assert!(target.starts_with('#') || target.starts_with("data:"), "asks for {target}");
        }
        let code: String = node.children().filter_map(|child| child.text()).collect();
        let forbidden: &[&str] = match node.tag_name().name() {
            "style" => &["url(", "@import", "http"],
            "script" => &["fetch(", "XMLHttpRequest", "import", "http", "WebSocket", "sendBeacon"],
            _ => &[],
        };
        forbidden.iter().for_each(|word| assert!(!code.contains(word), "{word} in {:?}", node.tag_name()));
    }
    let ids: Vec<&str> = all.iter().filter_map(|node| node.attribute("id")).collect();
    assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len(), "ids are unique");
}

/// A chart draws something within its view box; pictures are JPEG files of one size, both panes.
#[track_caller]
fn check_figure(figure: &Node) {
    let title = figure.children().find(|node| node.has_tag_name("h3")).unwrap().text().unwrap();
    let named = |name: &'static str| figure.descendants().filter(move |node| node.has_tag_name(name));
    if figure.attribute("class") != Some("chart") {
        let sizes = named("img").map(|image| {
            assert!(!image.attribute("alt").unwrap().is_empty());
            let bytes = STANDARD.decode(image.attribute("src").unwrap().split_once("base64,").unwrap().1).unwrap();
            image::load_from_memory(&bytes).unwrap().to_rgb8().dimensions()
        });
        let sizes: Vec<(u32, u32)> = sizes.collect();
        assert!(sizes.len() == 2 && sizes[0] == sizes[1] && sizes[0].0 > 100, "{title}: {sizes:?}");
        return;
    }
    let svg = named("svg").next().unwrap();
    let number = |text: &str| text.parse::<f64>().unwrap_or_else(|_| panic!("{title}: {text} is no number"));
    let view: Vec<f64> = svg.attribute("viewBox").unwrap().split(' ').map(number).collect();
    assert!(!svg.attribute("aria-label").unwrap().is_empty());
    let mut num_drawn = 0;
    for line in named("polyline").chain(named("polygon")) {
        for point in line.attribute("points").unwrap().split(' ') {
            let (x, y) = point.split_once(',').unwrap();
            let is_inside = (0.0..=view[2]).contains(&number(x)) && (0.0..=view[3]).contains(&number(y));
            assert!(is_inside, "{title}: {point} is outside of {view:?}");
            num_drawn += 1;
        }
    }
    for bar in named("rect").filter(|rect| rect.attribute("class").is_some_and(|class| class.starts_with('f'))) {
        assert!(number(bar.attribute("width").unwrap()) > 0.0, "{title}");
        num_drawn += 1;
    }
    assert!(num_drawn > 0, "{title} is empty");
    let texts: Vec<&str> = named("text").filter_map(|text| text.text()).collect();
    assert!(!texts.is_empty() && texts.iter().all(|text| !text.contains("NaN")), "{title}: {texts:?}");
}

/// Rows are as long as their head; what sorts by number has a number to sort by, or nothing where nothing was measured.
#[track_caller]
fn check_table(table: &Node) {
    let named = |within: &Node, name: &'static str| -> Vec<String> {
        within
            .descendants()
            .filter(|node| node.has_tag_name(name))
            .map(|node| node.text().unwrap_or("").to_owned())
            .collect()
    };
    let caption = &named(table, "caption")[0];
    let heads = table.descendants().filter(|node| node.has_tag_name("th")).collect::<Vec<_>>();
    let body = table.children().find(|node| node.has_tag_name("tbody")).unwrap();
    let rows: Vec<Node> = body.children().filter(|node| node.has_tag_name("tr")).collect();
    assert!(!caption.is_empty() && !rows.is_empty(), "table {caption} is empty");
    let is_sortable = table.attribute("class") == Some("sortable");
    assert!(!is_sortable || !heads.is_empty(), "{caption}: nothing to click on");
    let mut lengths = BTreeMap::new();
    for row in rows {
        let cells: Vec<Node> = row.children().filter(|node| node.has_tag_name("td")).collect();
        *lengths.entry(cells.len()).or_insert(0) += 1;
        for (head, cell) in heads.iter().zip(&cells).filter(|_| is_sortable) {
            let is_number = |node: &Node| node.attribute("class") == Some("number");
            assert_eq!(is_number(head), is_number(cell), "{caption}: a column is of one kind");
            let key = cell.attribute("data-key").unwrap();
            assert!(
                !is_number(cell) || key.is_empty() || key.parse::<f64>().is_ok_and(f64::is_finite),
                "{caption}: {key}"
            );
        }
    }
    assert_eq!(lengths.len(), 1, "{caption}: rows of different lengths");
    assert!(heads.is_empty() || lengths.contains_key(&heads.len()), "{caption}: head and rows differ");
}

#[test]
fn a_run_is_reported_alone_and_beside_another() {
    let dir = tempfile::tempdir().unwrap();
    let data = shapes(dir.path());
    let run = text(&dir.path().join("run"));
    succeeds(&[&["train", &recipe(SHAPES), "--data", &data, "--work-dir", &run][..], &TINY].concat());
    let path = dir.path().join("run/report.html");
    assert_eq!(succeeds(&["report", &run, "--bootstrap", "20", "--pictures", "1"]).trim(), text(&path));
    let page = std::fs::read_to_string(&path).unwrap();
    let sections = check_page(&page);
    let expected =
        ["training", "scores", "precision", "errors", "calibration", "pictures", "time", "machine", "recipe"];
    assert_eq!(sections, expected);
    assert_eq!(page.matches("src=\"data:image/jpeg").count(), 4, "one worst and one best image, twice each");
    // A class's AP is the evaluator's, to the last digit.
    let (val, found) = (text(&Path::new(&data).join("val.json")), text(&dir.path().join("run/detections.json")));
    let scores: serde_json::Value =
        serde_json::from_str(&succeeds(&["eval", &val, &found, "--eval", "bbox", "segm", "--json"])).unwrap();
    for kind in ["bbox", "segm"] {
        let classes = scores[kind]["per_class"].as_array().unwrap();
        assert_eq!(classes.len(), 3);
        for ap in classes.iter().filter_map(|class| class["ap"].as_f64()) {
            assert!(page.contains(&format!("data-key=\"{ap}\"")), "{kind} {ap}");
        }
    }

    // Beside itself: the paired intervals are empty.
    let both = text(&dir.path().join("both.html"));
    succeeds(&["report", &run, &run, "--output", &both, "--bootstrap", "20"]);
    let page = std::fs::read_to_string(&both).unwrap();
    assert_eq!(check_page(&page), ["scores", "training", "classes", "recipe", "time"]);
    assert!(page.contains("+0.000 to +0.000") && page.contains("The recipes are the same."));
    // Data that has moved.
    std::fs::rename(&data, dir.path().join("moved")).unwrap();
    let message = fails(&["report", &run]);
    assert!(message.contains("say where with --val-annotations and --val-images"), "{message}");
    let moved = |name: &str| text(&dir.path().join("moved").join(name));
    succeeds(&[
        "report",
        &run,
        "--val-annotations",
        &moved("val.json"),
        "--val-images",
        &moved("images"),
        "--bootstrap",
        "2",
    ]);
    // What is not there is not shown.
    std::fs::remove_file(dir.path().join("run/run.json")).unwrap();
    succeeds(&["report", &run]);
    let page = std::fs::read_to_string(&path).unwrap();
    assert_eq!(check_page(&page), ["training", "time"]);
    assert!(fails(&["report", &text(dir.path())]).contains("is its directory the work directory of a training?"));
}
