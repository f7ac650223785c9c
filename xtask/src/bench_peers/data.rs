//! What surrounds the network: evaluation and reading images.

use super::Report;
use super::server::{Program, alternate};
use super::setup::Setup;
use super::table::{Row, Table};

/// Annotations and results read, matched, summed up.
pub fn measure_eval(setup: &Setup, report: &mut Report) -> Result<(), String> {
    let prepared = setup.prepared()?;
    let with_files = |program: Program| {
        let results = ["bbox", "segm"].map(|kind| prepared.join(format!("detections_{kind}.json")));
        program.arg(setup.data.join("val.json")).arg(&results[0]).arg(&results[1])
    };
    let mut servers = [
        with_files(setup.example("bench_eval")).serve()?,
        with_files(setup.script("pycocotools", "evaluate.py")).serve()?,
    ];
    let requests = ["bbox", "segm"].map(str::to_owned);
    let answers = alternate(&mut servers, &requests, setup.repetitions)?;
    let rows = requests.iter().zip(&answers).map(|(request, answers)| Row::of_best(request, &servers, answers));
    report.add(&Table::new("COCO evaluation; AP", "ms", rows.collect()).with_sum());
    Ok(())
}

/// From files to normalised, padded batches of two.
pub fn measure_data(setup: &Setup, report: &mut Report) -> Result<(), String> {
    let prepared = setup.prepared()?;
    let with_files = |program: Program| program.arg(prepared.join("load.json")).arg(setup.data.join("images"));
    let mut servers = [
        with_files(setup.example("bench_data")).serve()?,
        with_files(setup.script("Pillow", "load.py")).arg("pillow").serve()?,
        with_files(setup.script("torchvision.io", "load.py")).arg("torchvision").serve()?,
    ];
    let answers = alternate(&mut servers, &["epoch".to_owned()], setup.repetitions)?;
    let ours = &answers[0][0];
    let rows = servers.iter().zip(&answers[0]).skip(1).map(|(server, peer)| Row {
        what: server.label.clone(),
        ours: ours.milliseconds,
        peer: peer.milliseconds,
        remark: format!("{} and {} images", ours.note, peer.note),
    });
    let mut table = Table::new("Decode, resize, normalise, batch", "ms", rows.collect());
    let best = table.rows.iter().min_by(|a, b| a.peer.total_cmp(&b.peer)).expect("there is a peer");
    table.totals.push(Row { what: "best peer".into(), remark: best.what.clone(), ..best.clone() });
    report.add(&table);
    Ok(())
}
