//! Mask R-CNN R-50-FPN: detection, training, start.

use std::fs;
use std::path::Path;

use super::Report;
use super::server::{Program, alternate};
use super::setup::Setup;
use super::table::{Row, Table, median};

/// One row per image.
pub fn measure_detect(setup: &Setup, report: &mut Report) -> Result<(), String> {
    let prepared = setup.prepared()?;
    let mut images = images(&prepared)?;
    images.truncate(setup.num_images);
    let mut servers = Vec::new();
    for mut program in detectors(setup, &prepared) {
        servers.push(program.serve()?);
    }
    let answers = alternate(&mut servers, &images, setup.repetitions)?;
    let rows = images.iter().zip(&answers).map(|(image, answers)| Row::of_best(file_name(image), &servers, answers));
    let mut table = Table::new("Mask R-CNN R-50-FPN, one image at a time; detections", "ms", rows.collect()).with_sum();
    for (i, server) in servers.iter().enumerate() {
        let sum: f64 = answers.iter().map(|answers| answers[i].milliseconds).sum();
        table.notes.push(format!("{}: {sum:.0} ms, peak {:.0} MiB", server.label, server.peak_mib()?));
    }
    report.add(&table);
    Ok(())
}

/// Each variant of the peer by itself: five trainings at once would not fit into memory.
pub fn measure_train(setup: &Setup, report: &mut Report) -> Result<(), String> {
    let prepared = setup.prepared()?;
    let with_files = |program: Program| {
        program.arg(prepared.join("weights.pth")).arg(prepared.join("train.json")).arg(setup.data.join("images"))
    };
    let (mut times, mut memory) = (Vec::new(), Vec::new());
    for variant in setup.variants("train.py") {
        let mut servers = [with_files(setup.example("bench_train")).serve()?, with_files(variant).serve()?];
        let answers = alternate(&mut servers, &["step".to_owned()], setup.repetitions)?;
        let [ours, peer] = [&servers[0], &servers[1]];
        let remark = format!("loss {} and {}", answers[0][0].note, answers[0][1].note);
        times.push(Row {
            what: peer.label.clone(),
            ours: answers[0][0].milliseconds,
            peer: answers[0][1].milliseconds,
            remark,
        });
        memory.push(Row {
            what: peer.label.clone(),
            ours: ours.peak_mib()?,
            peer: peer.peak_mib()?,
            remark: String::new(),
        });
    }
    let mut table = Table::new("Training step of Mask R-CNN R-50-FPN, two images", "ms", times);
    table.totals.push(best_peer(&table.rows));
    let mut memory = Table::new("Peak memory of training", "MiB", memory);
    memory.notes.push(format!("Against the leanest peer: {:.2}.", best_peer(&memory.rows).ratio()));
    report.add(&table);
    report.add(&memory);
    Ok(())
}

/// Fresh processes: interpreter, libraries, weights, first image.
pub fn measure_start(setup: &Setup, report: &mut Report) -> Result<(), String> {
    let prepared = setup.prepared()?;
    let image = images(&prepared)?.swap_remove(0);
    let mut programs = detectors(setup, &prepared);
    let mut measured = vec![(Vec::new(), Vec::new()); programs.len()];
    for _ in 0..setup.repetitions {
        for (program, (times, memory)) in programs.iter_mut().zip(&mut measured) {
            let mut server = program.serve()?;
            server.ask(&image)?;
            times.push(server.age().as_secs_f64() * 1e3);
            memory.push(server.peak_mib()?);
        }
    }
    let medians: Vec<[f64; 2]> = measured.into_iter().map(|(times, memory)| [median(times), median(memory)]).collect();
    let table = |title, unit, quantity: usize| {
        let row = |(program, values): (&Program, &[f64; 2])| Row {
            what: program.label.clone(),
            ours: medians[0][quantity],
            peer: values[quantity],
            remark: String::new(),
        };
        Table::new(title, unit, programs.iter().zip(&medians).skip(1).map(row).collect())
    };
    let mut times = table("Process start to first detections", "ms", 0);
    times.totals.push(best_peer(&times.rows));
    report.add(&times);
    report.add(&table("Peak memory of one detection", "MiB", 1));
    Ok(())
}

/// Ours first.
fn detectors(setup: &Setup, prepared: &Path) -> Vec<Program> {
    let weights = prepared.join("weights.pth");
    let mut programs = vec![setup.example("bench_detect").arg(&weights)];
    programs.extend(setup.variants("detect.py").into_iter().map(|variant| variant.arg(&weights)));
    let onnx = prepared.join("model.onnx");
    if onnx.is_file() {
        programs.push(setup.script("ONNX Runtime", "detect_onnx.py").arg(onnx));
    }
    programs
}

fn images(prepared: &Path) -> Result<Vec<String>, String> {
    let path = prepared.join("images.txt");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn file_name(path: &str) -> String {
    Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The row with the lowest number on the peer's side.
fn best_peer(rows: &[Row]) -> Row {
    let best = rows.iter().min_by(|a, b| a.peer.total_cmp(&b.peer)).expect("there is a peer");
    Row { what: "best peer".into(), remark: best.what.clone(), ..best.clone() }
}
