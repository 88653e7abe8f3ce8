//! One at a time: threads that would make the same thing take turns, so that the second finds what the first has made.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Who is at what.
#[derive(Debug, Default)]
pub struct Turns(Arc<State>);

#[derive(Debug, Default)]
struct State {
    taken: Mutex<BTreeSet<String>>,
    changed: Condvar,
}

/// The right to make something; over when dropped, on whichever thread that is.
#[derive(Debug)]
pub struct Turn {
    state: Arc<State>,
    what: String,
}

impl Turns {
    /// Waits until nobody is at it.
    pub fn take(&self, what: &str) -> Turn {
        let taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.0.changed.wait_while(taken, |taken| taken.contains(what));
        free.unwrap_or_else(PoisonError::into_inner).insert(what.to_string());
        self.turn(what)
    }

    /// The turn, if nobody is at it now.
    pub fn try_take(&self, what: &str) -> Option<Turn> {
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.insert(what.to_string()).then(|| self.turn(what))
    }

    fn turn(&self, what: &str) -> Turn {
        Turn { state: self.0.clone(), what: what.to_string() }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.state.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.what);
        self.state.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    #[test]
    fn what_one_makes_the_others_find_and_other_things_do_not_wait() {
        let (turns, made) = (Turns::default(), AtomicUsize::new(0));
        let other = turns.take("other");
        assert!(turns.try_take("other").is_none());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let turn = turns.take("it");
                    if made.load(SeqCst) == 0 {
                        std::thread::sleep(std::time::Duration::from_millis(5));
                        made.fetch_add(1, SeqCst);
                    }
                    // A turn may end elsewhere than it began.
                    std::thread::spawn(move || drop(turn)).join().unwrap();
                });
            }
        });
        drop(other);
        assert!(turns.try_take("other").is_some());
        assert_eq!(made.load(SeqCst), 1);
    }
}
