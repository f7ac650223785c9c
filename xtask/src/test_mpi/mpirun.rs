//! Jobs of several processes on this machine.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::process::is_installed;

/// How often a running job is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// After this a job that should have ended hangs.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A job that nothing happens to ends within this on the slowest machine.
pub const LONG: Duration = Duration::from_secs(600);

/// Where processes run.
#[derive(Clone, Copy)]
pub enum Binding {
    /// Wherever there is room: there may be more of them than cores.
    Free,
    /// Each on a core of its own.
    Cores,
    /// All on the core of this number.
    Core(usize),
}

/// OpenMPI's `mpirun`, with what it wants here.
pub struct Mpirun {
    flags: Vec<String>,
}

impl Mpirun {
    pub fn find(binding: Binding) -> Result<Self, String> {
        if !is_installed("mpirun") {
            return Err("mpirun is not installed: tools/install_mpi.sh".to_owned());
        }
        let mut flags: Vec<String> = match binding {
            Binding::Free => ["--oversubscribe", "--bind-to", "none"].map(str::to_owned).into(),
            Binding::Cores => ["--bind-to", "core"].map(str::to_owned).into(),
            Binding::Core(number) => ["--bind-to", "core", "--cpu-set", &number.to_string()].map(str::to_owned).into(),
        };
        if Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0") {
            flags.push("--allow-run-as-root".to_owned());
        }
        Ok(Self { flags })
    }

    /// Starts so many processes of a program, one thread each; what they print goes to files beside `output`.
    pub fn start(
        &self,
        ranks: usize,
        (program, arguments): (&Path, &[OsString]),
        output: &Path,
    ) -> Result<Job, String> {
        let failed = |error| format!("cannot start mpirun: {error}");
        let files = ["stdout", "stderr"].map(|ending| output.with_extension(ending));
        let [stdout, stderr] = files.each_ref().map(File::create);
        let child = Command::new("mpirun")
            .args(&self.flags)
            .args(["-n", &ranks.to_string()])
            .arg(program)
            .args(arguments)
            .env("RAYON_NUM_THREADS", "1")
            .stdin(Stdio::null())
            .stdout(stdout.map_err(failed)?)
            .stderr(stderr.map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        Ok(Job { child, files })
    }

    /// The same to its end, which must be a good one.
    pub fn run(&self, ranks: usize, program: (&Path, &[OsString]), output: &Path) -> Result<Ended, String> {
        let ended = self.start(ranks, program, output)?.wait(LONG)?;
        match ended.code {
            Some(0) => Ok(ended),
            code => Err(format!("a job of {ranks} ended with {code:?}: {}", ended.stderr)),
        }
    }
}

/// Processes that run.
pub struct Job {
    child: Child,
    files: [PathBuf; 2],
}

/// How a job ended.
pub struct Ended {
    /// None if mpirun itself was killed.
    pub code: Option<i32>,
    /// Since [`Job::wait`] was called.
    pub after: Duration,
    pub stdout: String,
    pub stderr: String,
}

impl Job {
    /// The ids of its processes on this machine, as far as they have started and not ended.
    pub fn processes(&self) -> Result<Vec<String>, String> {
        let parent = self.child.id().to_string();
        let output = Command::new("ps").args(["-o", "pid=", "--ppid", &parent]).output();
        let output = output.map_err(|error| format!("cannot start ps: {error}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect())
    }

    /// Waits so long, or to the end of the job: then true. Time in which this process is stopped does not count.
    pub fn has_ended_within(&mut self, time: Duration) -> Result<bool, String> {
        let (mut waited, mut looked) = (Duration::ZERO, Instant::now());
        loop {
            if self.child.try_wait().map_err(|error| format!("cannot look at mpirun: {error}"))?.is_some() {
                return Ok(true);
            }
            if waited >= time {
                return Ok(false);
            }
            sleep(LOOK);
            waited += looked.elapsed().min(10 * LOOK);
            looked = Instant::now();
        }
    }

    /// Waits for the end of the job; one that takes longer is ended, and an error.
    pub fn wait(mut self, limit: Duration) -> Result<Ended, String> {
        let began = Instant::now();
        let ended = self.has_ended_within(limit)?;
        if !ended {
            for process in self.processes()? {
                signal("KILL", &process)?;
            }
            self.child.kill().map_err(|error| format!("cannot kill mpirun: {error}"))?;
        }
        let status = self.child.wait().map_err(|error| format!("cannot wait for mpirun: {error}"))?;
        let [stdout, stderr] = self.files.map(|file| fs::read_to_string(file).unwrap_or_default());
        if ended {
            Ok(Ended { code: status.code(), after: began.elapsed(), stdout, stderr })
        } else {
            Err(format!("the job hangs: it did not end within {} s; it printed: {stderr}", limit.as_secs()))
        }
    }
}

/// Sends a signal to a process; one that has ended meanwhile does not mind.
pub fn signal(name: &str, process: &str) -> Result<(), String> {
    let sent = Command::new("kill").args(["-s", name, process]).stderr(Stdio::null()).status();
    sent.map(|_| ()).map_err(|error| format!("cannot start kill: {error}"))
}
