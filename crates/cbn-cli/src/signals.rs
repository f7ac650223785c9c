//! What Ctrl-C and a scheduler's SIGTERM do to a training.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cbn::process_group::Peers;
use cbn_detection::train::StopRequest;
use signal_hook::consts::TERM_SIGNALS;
use signal_hook::flag;

/// What a shell adds to a signal's number.
const SIGNALLED: i32 = 128;

/// The signals that a training was sent.
pub struct Signals {
    /// The last one's number; 0 for none.
    last: Arc<AtomicUsize>,
}

impl Signals {
    /// From here on the first SIGINT, SIGTERM or SIGQUIT makes the request, and the second ends the process at once.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub fn catch(stop: &StopRequest) -> io::Result<Self> {
        let last = Arc::new(AtomicUsize::new(0));
        for &signal in TERM_SIGNALS {
            // Handlers run in the order of their registration: the first signal finds the flag not set yet.
            flag::register_conditional_shutdown(signal, SIGNALLED + signal, stop.flag())?;
            flag::register(signal, stop.flag())?;
            flag::register_usize(signal, Arc::clone(&last), signal as usize)?;
        }
        Ok(Self { last })
    }

    /// What all processes end with if any of them was asked to end: 130 after SIGINT, 143 after SIGTERM. All of them ask this at the same point.
    pub fn exit_code(&self, peers: &Peers) -> Option<ExitCode> {
        let own = self.last.load(Ordering::SeqCst) as u8;
        let signal = peers.gather(&[own]).concat().into_iter().max().unwrap_or(0);
        (signal != 0).then(|| ExitCode::from(SIGNALLED as u8 + signal))
    }
}
