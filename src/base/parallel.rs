//! The same work on many things, on several cores.

use super::error::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// How many threads this process may have at work.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Does `work` to each of `all`, so many at a time, begun in their order; the results are in it. `what` says what goes on, for the
/// error of a thread that panicked.
///
/// # Errors
/// That of one of them. The others are done all the same.
pub fn each<T: Sync, R: Send>(all: &[T], threads: usize, what: &str, work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let panicked = || Error::new(format!("{what} panicked"));
    let queue = Mutex::new(all.iter().enumerate());
    let results = Mutex::new(BTreeMap::new());
    let one = || -> Result<()> {
        loop {
            let next = queue.lock().map_err(|_| panicked())?.next();
            let Some((position, item)) = next else { return Ok(()) };
            let result = work(item)?;
            results.lock().map_err(|_| panicked())?.insert(position, result);
        }
    };
    std::thread::scope(|scope| -> Result<()> {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(one)).collect();
        one()?;
        others.into_iter().try_for_each(|other| other.join().map_err(|_| panicked())?)
    })?;
    Ok(results.into_inner().map_err(|_| panicked())?.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_what_they_are_of() {
        let all: Vec<u32> = (0..100).collect();
        for threads in [0, 1, 3] {
            let doubled = each(&all, threads, "doubling", |one| Ok(2 * one)).unwrap();
            assert_eq!(doubled, (0..100).map(|one| 2 * one).collect::<Vec<u32>>());
        }
    }

    #[test]
    fn an_error_of_one_is_the_error_of_all() {
        let work = |one: &u32| if *one == 7 { Err(Error::new("seven")) } else { Ok(*one) };
        for threads in [1, 3] {
            assert_eq!(each(&[5, 7, 9], threads, "counting", work).unwrap_err().to_string(), "seven");
        }
    }
}
