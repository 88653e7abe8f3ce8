//! The same work on many things, on several cores.

use super::error::{Error, Result};
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex};

/// How many threads this process may have at work.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Does `work` to each of `all`, so many at a time, begun in their order; the results are in it. `what` says what goes on, for the
/// error of a thread that panicked.
///
/// # Errors
/// That of the first of them that fails, the same one each time; none is begun after it is known that one failed.
pub fn each<'t, T: Sync, R: Send>(
    all: &'t [T],
    threads: usize,
    what: &str,
    work: impl Fn(&'t T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let panicked = || Error::new(format!("{what} panicked"));
    let queue = Mutex::new(all.iter().enumerate());
    let results = Mutex::new(BTreeMap::new());
    let one = || -> Result<()> {
        loop {
            let next = queue.lock().map_err(|_| panicked())?.next();
            let Some((position, item)) = next else { return Ok(()) };
            let result = work(item);
            if result.is_err() {
                // All before it have been begun, and end.
                queue.lock().map_err(|_| panicked())?.by_ref().for_each(drop);
            }
            results.lock().map_err(|_| panicked())?.insert(position, result);
        }
    };
    std::thread::scope(|scope| -> Result<()> {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(one)).collect();
        one()?;
        others.into_iter().try_for_each(|other| other.join().map_err(|_| panicked())?)
    })?;
    results.into_inner().map_err(|_| panicked())?.into_values().collect()
}

/// Does `work` to each of `all`, so many at a time, and gives each result to `sink`, in order, on this thread. No more than a few
/// results wait for their turn. `what` says what goes on, for the error of a thread that panicked.
///
/// # Errors
/// That of one of them, or of `sink`.
pub fn in_order<T: Sync, R: Send>(
    all: &[T],
    threads: usize,
    what: &str,
    work: impl Fn(&T) -> Result<R> + Sync,
    mut sink: impl FnMut(usize, R) -> Result<()>,
) -> Result<()> {
    struct State<R> {
        /// The next that nobody has begun.
        next: usize,
        /// How many `sink` has had.
        done: usize,
        results: BTreeMap<usize, Result<R>>,
        /// No more is to be begun.
        over: bool,
    }
    let panicked = || Error::new(format!("{what} panicked"));
    let waiting = 4 * threads.max(1);
    let state = Mutex::new(State { next: 0, done: 0, results: BTreeMap::new(), over: false });
    let changed = Condvar::new();
    let claim = |state: &mut State<R>| {
        let free = !state.over && state.next < all.len() && state.next < state.done + waiting;
        free.then(|| {
            state.next += 1;
            state.next - 1
        })
    };
    let finish = |position: usize| -> Result<()> {
        // A thread that panics leaves no result; the others must not wait for it.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&all[position])));
        let result = result.unwrap_or_else(|_| Err(panicked()));
        state.lock().map_err(|_| panicked())?.results.insert(position, result);
        changed.notify_all();
        Ok(())
    };
    let helper = || -> Result<()> {
        loop {
            let mut now = state.lock().map_err(|_| panicked())?;
            let position = loop {
                if now.over || now.next == all.len() {
                    return Ok(());
                }
                if let Some(position) = claim(&mut now) {
                    break position;
                }
                now = changed.wait(now).map_err(|_| panicked())?;
            };
            drop(now);
            finish(position)?;
        }
    };
    let mut here = || -> Result<()> {
        for turn in 0..all.len() {
            let result = loop {
                let mut now = state.lock().map_err(|_| panicked())?;
                if let Some(result) = now.results.remove(&turn) {
                    now.done = turn + 1;
                    break result;
                }
                match claim(&mut now) {
                    Some(position) => {
                        drop(now);
                        finish(position)?;
                    }
                    None => drop(changed.wait(now).map_err(|_| panicked())?),
                }
            };
            changed.notify_all();
            sink(turn, result?)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(helper)).collect();
        let ended = here();
        state.lock().map_err(|_| panicked())?.over = true;
        changed.notify_all();
        helpers.into_iter().try_for_each(|helper| helper.join().map_err(|_| panicked())?)?;
        ended
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_few_wait() {
        use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
        let all: Vec<usize> = (0..200).collect();
        for threads in [0, 1, 2, 5] {
            let (begun, mut seen) = (AtomicUsize::new(0), Vec::new());
            let work = |one: &usize| {
                begun.fetch_add(1, SeqCst);
                Ok(2 * one)
            };
            let sink = |position: usize, result: usize| {
                assert!(begun.load(SeqCst) <= position + 1 + 4 * threads.max(1));
                seen.push(result);
                Ok(())
            };
            in_order(&all, threads, "doubling", work, sink).unwrap();
            assert_eq!(seen, all.iter().map(|one| 2 * one).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_or_a_panic_in_order_ends_all() {
        let all: Vec<usize> = (0..200).collect();
        for threads in [1, 4] {
            let fails = |one: &usize| if *one == 7 { Err(Error::new("seven")) } else { Ok(()) };
            assert_eq!(in_order(&all, threads, "counting", fails, |_, ()| Ok(())).unwrap_err().to_string(), "seven");
            let panics = |one: &usize| if *one == 7 { panic!("seven") } else { Ok(()) };
            assert_eq!(in_order(&all, threads, "counting", panics, |_, ()| Ok(())).unwrap_err().to_string(), "counting panicked");
            let refuse = |position, ()| if position == 7 { Err(Error::new("full")) } else { Ok(()) };
            assert_eq!(in_order(&all, threads, "counting", |_| Ok(()), refuse).unwrap_err().to_string(), "full");
        }
    }

    #[test]
    fn results_are_in_the_order_of_what_they_are_of() {
        let all: Vec<u32> = (0..100).collect();
        for threads in [0, 1, 3] {
            let doubled = each(&all, threads, "doubling", |one| Ok(2 * one)).unwrap();
            assert_eq!(doubled, (0..100).map(|one| 2 * one).collect::<Vec<u32>>());
        }
    }

    #[test]
    fn the_first_that_fails_gives_the_error_of_all_also_where_a_later_one_fails_before() {
        let work = |one: &u64| {
            // The second is the last to fail, however many threads there are.
            std::thread::sleep(std::time::Duration::from_millis(if *one == 7 { 50 } else { 0 }));
            if *one < 7 { Ok(*one) } else { Err(Error::new(one.to_string())) }
        };
        for threads in [1, 2, 5] {
            assert_eq!(each(&[5, 7, 9, 8], threads, "counting", work).unwrap_err().to_string(), "7");
        }
    }
}
