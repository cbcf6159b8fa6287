//! The window of the retry budgets, which threads use without a lock, under loom: every order of their steps that the memory
//! model allows is gone through.

use std::time::Duration;

use loom::sync::Arc;
use loom::thread;
use window::Window;

/// In the place of the standard library's.
mod atomic {
    pub use loom::sync::atomic::AtomicU64;
}

#[path = "../src/retry/budget/window.rs"]
mod window;

const LENGTH: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_secs(1);

/// Another thread, which counts an event in each of these steps.
fn adds<const N: usize>(window: &Arc<Window>, steps: [u32; N]) -> thread::JoinHandle<()> {
    let window = Arc::clone(window);
    thread::spawn(move || steps.iter().for_each(|step| window.add(*step * STEP)))
}

/// Whatever one thread sees of the other's steps, no event is lost, and none is counted twice.
#[test]
fn events_of_two_threads_are_counted_once_each() {
    loom::model(|| {
        let window = Arc::new(Window::new(LENGTH));
        let other = adds(&window, [1, 2]);
        window.add(STEP);
        let seen = window.at_least(2 * STEP);
        assert!((1..=3).contains(&seen), "{seen}");
        other.join().unwrap();
        assert_eq!(window.at_most(2 * STEP), 3);
    });
}

/// Two threads begin the same slot, which holds a step that is over.
#[test]
fn a_slot_is_begun_anew_once() {
    loom::model(|| {
        let window = Arc::new(Window::new(LENGTH));
        // The slot of step 0 is that of step 11.
        window.add(Duration::ZERO);
        let other = adds(&window, [11]);
        window.add(11 * STEP);
        other.join().unwrap();
        assert_eq!(window.at_least(11 * STEP), 2);
    });
}

/// A thread that looked at the time before another moved it on counts its event late, and once.
#[test]
fn who_is_late_is_counted_once() {
    loom::model(|| {
        let window = Arc::new(Window::new(LENGTH));
        let late = adds(&window, [0]);
        window.add(11 * STEP);
        late.join().unwrap();
        let (all, within) = (window.at_least(11 * STEP), window.at_most(11 * STEP));
        assert!(all == within && (1..=2).contains(&all), "{all} and {within}");
    });
}
