//! Trainings that are killed and resumed until they are done: does each end where the undisturbed one does?

mod options;

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use options::Options;

use crate::process::built_cbn;
use crate::tiny_training::{TinyTraining, is_saving, wait, wait_for_saving};

/// What kills a training.
#[derive(Clone, Copy, PartialEq)]
enum Blow {
    /// At a random moment.
    AnyTime,
    /// While a checkpoint is being written.
    WhileSaving,
}

/// How a tortured training came through.
struct Survival {
    kills: usize,
    /// Kills that hit a checkpoint half written.
    unfinished: usize,
    is_equal: bool,
}

pub fn run(arguments: &[String]) -> ExitCode {
    let result = Options::parse(arguments).and_then(|options| torture(&options));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// True if every training ends with the undisturbed one's checkpoint, bit for bit.
fn torture(options: &Options) -> Result<bool, String> {
    let program = match &options.program {
        Some(program) => program.clone(),
        None => built_cbn()?,
    };
    let dir = &options.dir;
    fs::create_dir_all(dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
    let victim = TinyTraining::new(program, dir)?;

    let reference = victim.undisturbed(&dir.join("undisturbed"))?;
    // The second one finds the program in memory, as those that follow do.
    let began = Instant::now();
    if victim.undisturbed(&dir.join("undisturbed_again"))? != reference {
        return Err("two undisturbed trainings differ already".to_owned());
    }
    let length = began.elapsed();
    println!("undisturbed: {:.1} s", length.as_secs_f64());

    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut survivals = Vec::new();
    for (blow, count) in [(Blow::AnyTime, options.kills), (Blow::WhileSaving, options.saves)] {
        for number in 1..=count {
            let name = if blow == Blow::AnyTime { "any_time" } else { "while_saving" };
            let work_dir = dir.join(format!("{name}_{number}"));
            let survival = survive(&victim, &work_dir, (blow, length), &reference, &mut rng)?;
            let verdict = if survival.is_equal { "equal" } else { "DIFFERENT" };
            println!("{name} {number}: killed {} times, {verdict}", survival.kills);
            if survival.is_equal {
                fs::remove_dir_all(&work_dir).map_err(|error| format!("{}: {error}", work_dir.display()))?;
            }
            survivals.push((blow, survival));
        }
    }
    print_table(&survivals);
    Ok(survivals.iter().all(|(_, survival)| survival.is_equal))
}

/// Kills a training until it gets through.
fn survive(
    victim: &TinyTraining,
    work_dir: &Path,
    (blow, length): (Blow, Duration),
    reference: &[u8],
    rng: &mut impl Rng,
) -> Result<Survival, String> {
    let mut survival = Survival { kills: 0, unfinished: 0, is_equal: false };
    loop {
        let mut child = victim.start(work_dir)?;
        let ended = match blow {
            Blow::AnyTime => wait(&mut child, length.mul_f64(rng.random_range(0.0..1.0)))?,
            // After it has been hit at three different checkpoints, it may end.
            Blow::WhileSaving if survival.unfinished < 3 => {
                wait_for_saving(&mut child, work_dir, rng.random_range(0..3))?
            }
            Blow::WhileSaving => wait(&mut child, length * 100)?,
        };
        if ended && survival.kills == 0 {
            // It got away; this proves nothing.
            fs::remove_dir_all(work_dir).map_err(|error| format!("{}: {error}", work_dir.display()))?;
            continue;
        }
        if ended {
            survival.is_equal = victim.last_checkpoint(work_dir)? == reference;
            return Ok(survival);
        }
        child.kill().and_then(|()| child.wait()).map_err(|error| format!("cannot kill the training: {error}"))?;
        survival.kills += 1;
        survival.unfinished += usize::from(is_saving(work_dir));
    }
}

fn print_table(survivals: &[(Blow, Survival)]) {
    println!(
        "\n| SIGKILL | trainings | kills | of them with a checkpoint half written | ended with the undisturbed checkpoint |"
    );
    println!("|---|---:|---:|---:|---:|");
    for (blow, name) in [(Blow::AnyTime, "at random moments"), (Blow::WhileSaving, "while a checkpoint is saved")] {
        let rows: Vec<&Survival> =
            survivals.iter().filter(|(other, _)| *other == blow).map(|(_, survival)| survival).collect();
        let sum = |of: fn(&Survival) -> usize| rows.iter().map(|row| of(row)).sum::<usize>();
        println!(
            "| {name} | {} | {} | {} | {} |",
            rows.len(),
            sum(|row| row.kills),
            sum(|row| row.unfinished),
            sum(|row| usize::from(row.is_equal))
        );
    }
    if let Ok(output) = Command::new("uname").arg("-sr").output() {
        println!("\n{}", String::from_utf8_lossy(&output.stdout).trim());
    }
}
