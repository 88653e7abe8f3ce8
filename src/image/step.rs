//! A step: made once per key, found in the store from then on.

use crate::base::error::{Error, Result};
use crate::plan::Key;
use crate::store::{Blob, Record, Store};
use std::time::Instant;

/// Hears which steps run and how long they took.
pub trait Watch: Sync {
    /// A step's result was in the store.
    fn cached(&self, step: &str);
    /// A step begins.
    fn begins(&self, step: &str);
    /// A step ended well after so many seconds.
    fn done(&self, step: &str, seconds: f64);
}

/// Makes steps, or finds them.
#[derive(Clone, Copy)]
pub struct Runner<'a> {
    /// Where results go.
    pub store: &'a Store,
    /// Who hears of it.
    pub watch: &'a dyn Watch,
}

impl Runner<'_> {
    /// What the store remembers of a step.
    pub fn found(&self, key: &Key) -> Option<Record> {
        let record = self.store.step(&key.digest())?;
        self.watch.cached(&key.step);
        Some(record)
    }

    /// Runs a step and remembers its record; or finds what was made of it before, or by another thread meanwhile.
    ///
    /// # Errors
    /// Those of `work`; or the store cannot be written.
    pub fn run(&self, key: &Key, work: impl FnOnce() -> Result<Record>) -> Result<Record> {
        let _turn = self.store.turn(&key.digest().hex());
        if let Some(record) = self.found(key) {
            return Ok(record);
        }
        timed(self.watch, &key.step, || {
            let mut record = work()?;
            record.step.clone_from(&key.step);
            record.inputs = key.shown();
            self.store.put_step(&key.digest(), &record)?;
            Ok(record)
        })
    }
}

/// Does a part of the work that the watch hears of by name.
///
/// # Errors
/// Those of `work`.
pub fn timed<T>(watch: &dyn Watch, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    watch.begins(what);
    let begin = Instant::now();
    let value = work()?;
    watch.done(what, begin.elapsed().as_secs_f64());
    Ok(value)
}

/// A file that a step made.
///
/// # Errors
/// The step's record has none of that name.
pub fn output(record: &Record, name: &str) -> Result<Blob> {
    record.outputs.get(name).copied().ok_or_else(|| Error::new(format!("the step `{}` has no {name}", record.step)))
}
