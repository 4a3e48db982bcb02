//! Runs two threads in every order that their accesses to shared words can have, and lets weakly ordered memory show them each
//! other's writes late: every execution with up to so many departures from the plain one, a departure being a switch from
//! a thread that could go on, or a load that finds an older value than there is.
//!
//! The memory is that of the C11 model without consume and with release and acquire fences: a word keeps all values that were
//! stored, a thread has for each word the oldest that it may still read, and learns more by reading what another thread stored
//! behind a barrier. Every third of a weakly ordered machine's tricks is missing (a load does not see the future), and none of
//! those that arm64 and x86 have for programs whose loads depend on each other.

use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::super::Word;

/// How many threads there are, and the one that prepares and looks at the end.
const THREADS: usize = 2;

thread_local! {
    static SELF: Cell<Option<usize>> = const { Cell::new(None) };
}

/// What a thread knows: for each word, by its number, the first of its values that it may still read.
type View = Vec<usize>;

#[derive(Clone)]
struct Stored {
    value: u64,
    /// What is learnt by whoever reads it.
    teaches: View,
}

#[derive(Default)]
struct State {
    words: Vec<Vec<Stored>>,
    views: [View; THREADS],
    /// What each thread knew at its last barrier, which its stores teach.
    at_barrier: [View; THREADS],
    /// Whose turn it is.
    running: usize,
    finished: [bool; THREADS],
    /// Whether a thread has panicked: then all run to their end without order.
    is_lost: bool,
    /// What was chosen at each place with a choice, of how many.
    choices: Vec<Choice>,
    at: usize,
}

#[derive(Clone, Copy)]
struct Choice {
    taken: usize,
    of: usize,
    /// Whether all but the first are departures.
    costs: bool,
}

impl State {
    /// Makes a choice of so many: that of the script, and behind its end the first.
    fn choose(&mut self, of: usize, costs: bool) -> usize {
        if of < 2 {
            return 0;
        }
        if self.at == self.choices.len() {
            self.choices.push(Choice { taken: 0, of, costs });
        }
        let choice = self.choices[self.at];
        assert_eq!(choice.of, of, "the same choices led elsewhere");
        self.at += 1;
        choice.taken
    }

    fn learn(&mut self, thread: usize, view: &View) {
        let own = &mut self.views[thread];
        own.resize(own.len().max(view.len()), 0);
        for (own, other) in own.iter_mut().zip(view) {
            *own = (*own).max(*other);
        }
    }

    fn put(&mut self, thread: usize, word: usize, value: u64, teaches: View) {
        self.words[word].push(Stored { value, teaches });
        let last = self.words[word].len() - 1;
        let own = &mut self.views[thread];
        own.resize(own.len().max(word + 1), 0);
        own[word] = last;
    }
}

/// What the threads share.
#[derive(Default)]
pub struct Shared {
    state: Mutex<State>,
    turn: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new word.
    pub fn word(self: &Arc<Self>) -> Watched {
        let mut state = self.lock();
        state.words.push(vec![Stored { value: 0, teaches: View::new() }]);
        Watched { shared: Arc::clone(self), number: state.words.len() - 1, is_plain: false, is_torn: false }
    }

    /// Waits for this thread's turn, and may give it to the other one before its next access.
    fn step(&self, thread: usize) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if !state.is_lost && !state.finished[1 - thread] && state.choose(2, true) == 1 {
            state.running = 1 - thread;
            self.turn.notify_all();
            state = self.wait(state, thread);
        }
        state
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, State>, thread: usize) -> MutexGuard<'a, State> {
        let is_others = |state: &mut State| state.running != thread && !state.is_lost;
        self.turn.wait_while(state, is_others).unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, thread: usize, run: impl FnOnce()) {
        /// Gives the turn on, also where the thread panics.
        struct Ended<'a>(&'a Shared, usize);
        impl Drop for Ended<'_> {
            fn drop(&mut self) {
                SELF.set(None);
                let mut state = self.0.lock();
                state.finished[self.1] = true;
                state.is_lost |= std::thread::panicking();
                state.running = 1 - self.1;
                self.0.turn.notify_all();
            }
        }
        let _ended = Ended(self, thread);
        drop(self.wait(self.lock(), thread));
        SELF.set(Some(thread));
        run();
    }
}

/// A word whose every access is looked at.
pub struct Watched {
    shared: Arc<Shared>,
    number: usize,
    /// Whether its loads learn nothing: a fault that is put in.
    pub is_plain: bool,
    /// Whether its compare-and-swap is two steps: another.
    pub is_torn: bool,
}

impl Word for Watched {
    fn load(&self) -> u64 {
        let Some(thread) = SELF.get() else { return self.last() };
        let mut state = self.shared.step(thread);
        let first = state.views[thread].get(self.number).copied().unwrap_or(0);
        let last = state.words[self.number].len() - 1;
        let read = if state.is_lost { last } else { last - state.choose(last - first + 1, true) };
        let Stored { value, teaches } = state.words[self.number][read].clone();
        if self.is_plain {
            return value;
        }
        state.learn(thread, &teaches);
        let own = &mut state.views[thread];
        own.resize(own.len().max(self.number + 1), 0);
        own[self.number] = read;
        value
    }

    fn store(&self, value: u64) {
        let Some(thread) = SELF.get() else { return self.set_last(value) };
        let mut state = self.shared.step(thread);
        let teaches = state.at_barrier[thread].clone();
        state.put(thread, self.number, value, teaches);
    }

    fn replace(&self, old: u64, new: u64) -> bool {
        if self.is_torn {
            let is_old = self.load() == old;
            if is_old {
                self.store(new);
            }
            return is_old;
        }
        self.change(|value| (value == old).then_some(new))
    }

    fn add(&self, by: u64) {
        self.change(|value| Some(value.wrapping_add(by)));
    }
}

impl Watched {
    /// Changes the latest value at once; where it is changed, a full barrier.
    fn change(&self, next: impl FnOnce(u64) -> Option<u64>) -> bool {
        let Some(thread) = SELF.get() else {
            let next = next(self.last());
            next.into_iter().for_each(|next| self.set_last(next));
            return next.is_some();
        };
        let mut state = self.shared.step(thread);
        let latest = state.words[self.number].last().expect("a first value").clone();
        state.learn(thread, &latest.teaches);
        let Some(value) = next(latest.value) else { return false };
        let last = state.words[self.number].len();
        let own = &mut state.views[thread];
        own.resize(own.len().max(self.number + 1), 0);
        own[self.number] = last;
        let view = state.views[thread].clone();
        state.put(thread, self.number, value, view.clone());
        state.at_barrier[thread] = view;
        true
    }

    fn last(&self) -> u64 {
        self.shared.lock().words[self.number].last().expect("a first value").value
    }

    /// What is prepared before the threads run is known to both.
    fn set_last(&self, value: u64) {
        self.shared.lock().words[self.number] = vec![Stored { value, teaches: View::new() }];
    }
}

/// Runs `threads` of what `prepare` makes in every way with up to `departures`, and `check` after each, with what both threads
/// came to. Says how many ways there were.
///
/// # Panics
/// Where one of them does.
pub fn explore<M: Sync, R: Send>(
    departures: usize,
    prepare: impl Fn(&Arc<Shared>) -> M,
    threads: [&(dyn Fn(&M) -> R + Sync); THREADS],
    check: impl Fn(&M, [R; THREADS]),
) -> u64 {
    let mut choices = Vec::new();
    for executions in 1.. {
        let shared = Arc::new(Shared::default());
        let prepared = prepare(&shared);
        {
            let mut state = shared.lock();
            state.choices = std::mem::take(&mut choices);
            state.running = state.choose(THREADS, false);
        }
        let results = std::thread::scope(|scope| {
            let spawn = |thread: usize| {
                let (shared, prepared, run) = (&shared, &prepared, threads[thread]);
                scope.spawn(move || {
                    let mut result = None;
                    shared.run(thread, || result = Some(run(prepared)));
                    result.expect("it has run")
                })
            };
            [spawn(0), spawn(1)]
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        check(&prepared, results);
        choices = std::mem::take(&mut shared.lock().choices);
        if !advance(&mut choices, departures) {
            return executions;
        }
    }
    unreachable!("there are fewer ways than numbers")
}

/// Makes the script of the next execution of this one's; nothing, where this was the last.
fn advance(choices: &mut Vec<Choice>, departures: usize) -> bool {
    while let Some(last) = choices.pop() {
        let spent = choices.iter().filter(|choice| choice.costs && choice.taken > 0).count();
        let next = Choice { taken: last.taken + 1, ..last };
        if next.taken < next.of && spent + usize::from(next.costs) <= departures {
            choices.push(next);
            return true;
        }
    }
    false
}
