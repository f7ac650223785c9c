//! A process that does one repetition per line.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::setup::finish;
use super::table::median;

/// How a side is started.
pub struct Program {
    /// What the tables call it.
    pub label: String,
    command: Command,
}

impl Program {
    pub fn new(label: &str, path: PathBuf) -> Self {
        Self { label: label.to_owned(), command: Command::new(path) }
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// glibc's allocator told to keep freed buffers, instead of giving them back and faulting them in again.
    pub fn with_tuned_malloc(self) -> Self {
        const GIB: &str = "1073741824";
        self.env("MALLOC_TOP_PAD_", "268435456").env("MALLOC_MMAP_THRESHOLD_", GIB).env("MALLOC_TRIM_THRESHOLD_", GIB)
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Result<(), String> {
        finish(&mut self.command)
    }

    pub fn serve(&mut self) -> Result<Server, String> {
        let started = Instant::now();
        let child = self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| format!("cannot start {:?}: {error}", self.command))?;
        let input = child.stdin.take().expect("the input is piped");
        let output = BufReader::new(child.stdout.take().expect("the output is piped"));
        Ok(Server { label: self.label.clone(), started, child, input, output })
    }
}

/// What a side answered to one request.
#[derive(Clone, Debug)]
pub struct Answer {
    pub milliseconds: f64,
    /// What it tells beside: how many detections, for instance.
    pub note: String,
}

/// A started side. Ends with the value.
pub struct Server {
    pub label: String,
    started: Instant,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Server {
    pub fn ask(&mut self, request: &str) -> Result<Answer, String> {
        let fault = |what: String| format!("{}, asked for {request}: {what}", self.label);
        writeln!(self.input, "{request}").map_err(|error| fault(error.to_string()))?;
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(|error| fault(error.to_string()))?;
        let (milliseconds, note) =
            line.trim_end_matches('\n').split_once('\t').ok_or_else(|| fault(format!("ended: {line:?}")))?;
        let milliseconds = milliseconds.parse().map_err(|_| fault(format!("not a time: {milliseconds}")))?;
        Ok(Answer { milliseconds, note: note.to_owned() })
    }

    /// Since the process was started.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// The most memory that the process ever held, in MiB, as Linux counts it.
    pub fn peak_mib(&self) -> Result<f64, String> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        kib.map(|kib: f64| kib / 1024.0).ok_or_else(|| format!("{path} has no VmHWM"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A process that ended by itself is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// For each request the median of each server's repetitions; what they tell is the last repetition's.
///
/// Servers and requests are taken in turn, so that all are timed over the same stretch of time.
pub fn alternate(servers: &mut [Server], requests: &[String], repetitions: usize) -> Result<Vec<Vec<Answer>>, String> {
    let mut answers = vec![vec![Vec::new(); servers.len()]; requests.len()];
    // The first round is not counted: memory, caches and clocks settle.
    for round in 0..=repetitions {
        for (request, answers) in requests.iter().zip(&mut answers) {
            for (server, answers) in servers.iter_mut().zip(answers) {
                // The other side's threads spin for a moment before they sleep.
                thread::sleep(Duration::from_millis(20));
                let answer = server.ask(request)?;
                if round > 0 {
                    answers.push(answer);
                }
            }
        }
    }
    Ok(answers.iter().map(|answers| answers.iter().map(|answers| summary(answers)).collect()).collect())
}

fn summary(answers: &[Answer]) -> Answer {
    let milliseconds = median(answers.iter().map(|answer| answer.milliseconds).collect());
    Answer { milliseconds, note: answers.last().expect("there is a repetition").note.clone() }
}
