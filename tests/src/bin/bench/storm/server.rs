//! The upstream.

use std::io::{Read as _, Write as _, stdin, stdout};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;

use super::{Arrived, Plan, TICKS_PER_SECOND, Upstream, count, sum};
use crate::client::READY;
use crate::http::{Exchange, PORT, faults, server};

/// Serves until its input ends, and says what there was. The time begins with the first request.
pub fn serve(host: Ipv4Addr, plan: Plan) -> Result<()> {
    let listener = server::listen((host, PORT).into())?;
    let arrived = Arc::new(Mutex::new(Arrived::default()));
    let counted = Arc::clone(&arrived);
    let good = Bytes::from(Exchange::Small.response());
    let mut began = None;
    thread::spawn(move || {
        server::serve(&listener, |_, _| {
            let time = began.get_or_insert_with(Instant::now).elapsed();
            let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
            count(&mut counted.arrived, time).ok()?;
            if plan.fails(time, &counted) {
                return Some(Bytes::from_static(faults::REFUSAL));
            }
            count(&mut counted.served, time).ok()?;
            Some(good.clone())
        })
    });
    writeln!(stdout(), "{READY}")?;
    stdin().read_exact(&mut [0])?;
    let arrived = arrived.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(writeln!(stdout(), "{}", serde_json::to_string(&*arrived)?)?)
}

impl Plan {
    fn fails(&self, time: Duration, so_far: &Arrived) -> bool {
        let time = time.as_secs_f64();
        if time < self.fails_to {
            return time >= self.fails_from;
        }
        let last_second =
            so_far.arrived.len().saturating_sub(TICKS_PER_SECOND.try_into().unwrap_or(usize::MAX));
        match self.upstream {
            Upstream::Well => false,
            Upstream::Weak => sum(&so_far.arrived[last_second..]) > self.rate + self.rate / 2,
        }
    }
}
