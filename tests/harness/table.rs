//! A table of checks, printed while they run: pass or fail, seconds, what was checked, what was seen.

use std::time::{Duration, Instant};

/// What a check gives: what it saw, or why it fails.
pub type Seen = Result<String, String>;

/// Checks, one after the other.
#[derive(Default)]
pub struct Table {
    rows: Vec<(bool, f64, String, String)>,
}

impl Table {
    /// Carries out a check and prints its row.
    pub fn check(&mut self, what: &str, check: impl FnOnce() -> Seen) -> bool {
        let begin = Instant::now();
        let seen = check();
        let seconds = begin.elapsed().as_secs_f64();
        let (passed, words) = match seen {
            Ok(words) => (true, words),
            Err(words) => (false, words),
        };
        println!("{}", row(passed, seconds, what, &words));
        self.rows.push((passed, seconds, what.to_string(), words));
        passed
    }

    /// Prints the whole table once more, and fails if a check did.
    #[track_caller]
    pub fn end(&self, title: &str) {
        println!("\n== {title}");
        for (passed, seconds, what, words) in &self.rows {
            println!("{}", row(*passed, *seconds, what, words));
        }
        let failed: Vec<&str> = self.rows.iter().filter(|row| !row.0).map(|row| row.2.as_str()).collect();
        let total: f64 = self.rows.iter().map(|row| row.1).sum();
        println!("{} of {} checks pass, {total:.0} s", self.rows.len() - failed.len(), self.rows.len());
        assert!(failed.is_empty(), "these fail: {}", failed.join("; "));
    }
}

fn row(passed: bool, seconds: f64, what: &str, words: &str) -> String {
    let words = words.trim_end().replace('\n', "\n                 ");
    format!("{}  {seconds:7.1} s  {what}: {words}", if passed { "pass" } else { "FAIL" })
}

/// Tries again until it succeeds, for so long; then it is what the last attempt said.
pub fn until<T>(patience: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let begin = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(words) if begin.elapsed() > patience => return Err(format!("not within {} s: {words}", patience.as_secs())),
            Err(_) => std::thread::sleep(Duration::from_secs(2)),
        }
    }
}
