//! What happens to the clock that tells the time of day. All processes of a machine share it, so only a machine that is
//! the tests' own has it stepped.

use anyhow::{Result, ensure};
use nix::sys::time::{TimeSpec, TimeValLike as _};
use nix::time::{ClockId, clock_gettime, clock_settime};
use redial_tests::soak::clients::Clients;

use super::{Fault, Span, nothing};
use crate::soak::rig::Rig;

pub const ALL: &[Fault] = &[Fault { name: "clock", can: is_our_own, run: steps, may: nothing }];

fn is_our_own() -> Result<()> {
    let is_ours = std::env::var_os("REDIAL_OWN_MACHINE").is_some();
    ensure!(is_ours, "the clock is everybody's; a machine of `cargo xtask vm` has its own");
    Ok(())
}

/// An hour on, two back, and to where it was.
fn steps(rig: &mut Rig, clients: &mut Clients) -> Result<Vec<Span>> {
    for hours in [1, -2, 1] {
        let now = clock_gettime(ClockId::CLOCK_REALTIME)?;
        clock_settime(ClockId::CLOCK_REALTIME, now + TimeSpec::hours(hours))?;
        std::thread::sleep(rig.between(100, 800));
        clients.wait_more(50)?;
    }
    Ok(Vec::new())
}
