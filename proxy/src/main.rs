//! The `redial` command: arguments in, exit code out.

mod reason;

fn main() {
    let _ = (reason::Reason::ALL, reason::AttemptOutcome::ALL);
}
