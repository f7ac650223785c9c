//! `cbn data`: check data sets, convert annotations, make a data set.

use anyhow::{Context, Result};
use cbn_detection::data::convert::Conversion;
use cbn_detection::data::synthetic::{SyntheticConfig, generate};
use cbn_detection::data::{CheckReport, DataPaths, Severity, Split, check};
use cbn_detection::structures::ImageSize;

use crate::cli::{DataCheckArgs, DataCommand, DataConvertArgs, DataSynthArgs};

/// Findings of a split that are printed one by one; JSON has them all.
const MAX_PRINTED: usize = 20;

pub fn run(command: &DataCommand) -> Result<()> {
    match command {
        DataCommand::Check(args) => check_dir(args),
        DataCommand::Convert(args) => convert(args),
        DataCommand::Synth(args) => synth(args),
    }
}

fn check_dir(args: &DataCheckArgs) -> Result<()> {
    let paths = DataPaths::from_dir(&args.dir);
    let mut reports = Vec::new();
    for split in [Split::Train, Split::Val] {
        reports.push((split.name(), check(&paths.split(split)?)?));
    }
    if args.json {
        let by_split: serde_json::Map<_, _> = reports
            .iter()
            .map(|(split, report)| Ok(((*split).to_owned(), serde_json::to_value(report)?)))
            .collect::<Result<_>>()?;
        println!("{}", serde_json::to_string_pretty(&by_split).context("the report has no JSON form")?);
    } else {
        for (split, report) in &reports {
            print(split, report);
        }
    }
    let num_errors: usize = reports.iter().map(|(_, report)| count(report, Severity::Error)).sum();
    anyhow::ensure!(num_errors == 0, "{num_errors} errors: a training would stop at them");
    Ok(())
}

fn print(split: &str, report: &CheckReport) {
    println!(
        "{split}: {} images ({} with objects), {} objects, {} crowds, {} classes",
        report.num_images,
        report.num_trainable_images,
        report.num_objects,
        report.num_crowds,
        report.objects_per_class.len()
    );
    for finding in report.findings.iter().take(MAX_PRINTED) {
        let severity = match finding.severity() {
            Severity::Error => "error",
            Severity::Skipped => "skipped",
            Severity::Note => "note",
        };
        println!("  {severity}: {finding}");
    }
    if report.findings.len() > MAX_PRINTED {
        println!("  ... and {} more; --json lists all", report.findings.len() - MAX_PRINTED);
    }
}

fn count(report: &CheckReport, severity: Severity) -> usize {
    report.findings.iter().filter(|finding| finding.severity() == severity).count()
}

fn synth(args: &DataSynthArgs) -> Result<()> {
    let config = SyntheticConfig {
        num_train: args.train,
        num_val: args.val,
        image_size: ImageSize::new(args.size, args.size),
        max_objects: args.objects,
        seed: args.seed,
        ..SyntheticConfig::default()
    };
    generate(&args.dir, &config)?;
    println!("{}: {} training and {} validation images", args.dir.display(), args.train, args.val);
    Ok(())
}

fn convert(args: &DataConvertArgs) -> Result<()> {
    let conversion = Conversion {
        from: args.from.into(),
        input: args.input.clone(),
        to: args.to.into(),
        output: args.output.clone(),
        images: args.images.clone(),
        only: args.only.clone(),
    };
    let report = conversion.run()?;
    println!("{}: {} images, {} annotations", args.output.display(), report.images, report.annotations);
    for (count, what) in report.left_out {
        println!("  left out: {count} {what}");
    }
    Ok(())
}
