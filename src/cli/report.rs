//! Progress on stderr: a line per step, a bar per download.

use crate::base::name::Role;
use crate::cli::terminal::note;
use crate::image::step::Watch;
use crate::lock::fetch::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// The least time, in seconds, for which a step gets a line.
const WORTH_SAYING: f64 = 0.1;

/// Prints steps and remembers their times.
#[derive(Default)]
pub(super) struct Steps {
    pub verbose: bool,
    /// What lines begin with.
    prefix: String,
    seconds: Mutex<BTreeMap<String, f64>>,
}

impl Steps {
    /// `role` is said in each line, where several are built side by side.
    pub fn new(verbose: bool, role: Option<Role>) -> Self {
        Self { verbose, prefix: role.map_or("  ".to_string(), |role| format!("  {role}: ")), ..Self::default() }
    }

    /// How long each step took, in seconds.
    pub fn seconds(&self) -> BTreeMap<String, f64> {
        self.seconds.lock().map(|map| map.clone()).unwrap_or_default()
    }
}

impl Watch for Steps {
    fn cached(&self, step: &str) {
        if self.verbose {
            note!("{}{step}: in the store", self.prefix);
        }
    }

    fn begins(&self, step: &str) {
        // Somebody who looks on wants to see what takes so long; a log only what did.
        if self.verbose || std::io::IsTerminal::is_terminal(&std::io::stderr()) {
            note!("{}{step} …", self.prefix);
        }
    }

    fn done(&self, step: &str, seconds: f64) {
        if self.verbose || seconds >= WORTH_SAYING {
            note!("{}{step}: {seconds:.1} s", self.prefix);
        }
        if let Ok(mut map) = self.seconds.lock() {
            // What is done in several turns has one line.
            let sum = map.entry(step.to_string()).or_default();
            *sum = ((*sum + seconds) * 1000.0).round() / 1000.0;
        }
    }
}

/// A download's bar, where stderr is a terminal; two lines where it is not.
pub(super) struct Bar {
    bar: ProgressBar,
    terminal: bool,
}

impl Bar {
    pub fn new() -> Self {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let bar = ProgressBar::new(0);
        bar.set_draw_target(if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() });
        if let Ok(style) = ProgressStyle::with_template("  {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {wide_msg}") {
            bar.set_style(style);
        }
        Self { bar, terminal }
    }
}

impl Progress for Bar {
    fn total(&self, bytes: u64, files: usize) {
        note!("  fetching {files} packages, {:.1} MB …", bytes as f64 / 1e6);
        self.bar.set_length(bytes);
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn message(&self, text: &str) {
        if self.terminal {
            self.bar.set_message(text.to_string());
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
