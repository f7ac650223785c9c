//! The tasks of this workspace, in plain Rust: nothing to install.

mod bench_peers;
mod check;
mod evidence;
mod figures;
mod options;
mod overhead;
mod process;
mod test_mpi;
mod tiny_training;
mod torture;

use std::env;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask TASK

tasks:
  check        formatting, clippy with warnings as errors, spelling (when typos is installed)
  test         the README's test command: cargo test --release --workspace
  ci           both, as .ci/run does
  bench-peers  times beside PyTorch, torchvision, ONNX Runtime and pycocotools; bench-peers --help says more
  evidence     trainings that compare norms, into docs/results; evidence without arguments says more
  torture      trainings killed and resumed until done, as docs/reliability.md tells; torture --help says more
  overhead     what logs and checkpoints take of a training; overhead --help says more
  test-mpi     trainings over processes that mpirun starts, as docs/scaling.md tells; test-mpi --help says more
  figures      docs/figures/*.svg, from the runs in docs/results";

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let passed = match arguments.next().as_deref() {
        Some("check") => check::check(),
        Some("test") => check::test(),
        Some("ci") => check::check() && check::test(),
        Some("bench-peers") => return bench_peers::run(arguments.collect()),
        Some("evidence") => return evidence::run(&arguments.collect::<Vec<_>>()),
        Some("torture") => return torture::run(&arguments.collect::<Vec<_>>()),
        Some("overhead") => return overhead::run(&arguments.collect::<Vec<_>>()),
        Some("test-mpi") => return test_mpi::run(&arguments.collect::<Vec<_>>()),
        Some("figures") => return figures::run(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
