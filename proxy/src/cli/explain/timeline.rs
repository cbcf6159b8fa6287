//! How long a connection and a request may take at worst: the decision core, asked with a clock that only runs here.

use std::time::Duration;

use crate::dialect::duration::format;
use crate::policy::HttpPolicy;
use crate::reason::{AttemptOutcome, Reason};
use crate::retry::request::{
    self, Cause, Outcome, Progress, RateLimitedBackoff, Replay, RequestFacts, ResponseFacts,
};
use crate::retry::{Attempts, ConnectRetry, Jitter, Verdict, connect};

/// The attempts that are shown one by one.
const SHOWN: u32 = 5;
/// The attempts that are gone through.
const COUNTED: u32 = 1_000;
/// As near to the end of its range as a pause can be.
const LONGEST: Jitter = Jitter::from_bits(u64::MAX);
const SHORTEST: Jitter = Jitter::from_bits(0);

/// What happens when, and how long all of it takes.
#[derive(Debug)]
pub(super) struct Timeline {
    pub(super) events: Vec<(Duration, String)>,
    pub(super) total: String,
}

/// A clock that an overall timeout may stop.
struct Clock {
    now: Duration,
    timeout: Option<Duration>,
    made: u32,
    /// When the last byte was sent, either way.
    active: Duration,
    events: Vec<(Duration, String)>,
}

impl Timeline {
    /// Until a connection stands: each attempt fails when its time is up.
    pub(super) fn of_connects(retry: &ConnectRetry) -> Self {
        let mut clock = Clock::new(retry.timeout());
        let failures = [AttemptOutcome::Timeout, AttemptOutcome::HostUnreachable, AttemptOutcome::Reset];
        let retried = failures.into_iter().find(|failure| retry.retry_on().contains(*failure));
        let failure = retried.unwrap_or(AttemptOutcome::Refused);
        loop {
            let Some(limit) = retry.attempt_limit(clock.made, clock.now) else {
                clock.attempt("without a limit");
                return clock.end("as long as the client waits".to_owned());
            };
            clock.attempt(&format!("up to {}", format(limit)));
            if clock.pass(limit) {
                return clock.cut();
            }
            let attempts = Attempts { made: clock.made, elapsed: clock.now };
            let verdict = |jitter| connect::decide(retry, &attempts, failure, jitter);
            match (verdict(LONGEST), verdict(SHORTEST)) {
                (Verdict::Retry { after }, _) => {
                    clock.pause(after);
                }
                // Only a pause that would outlast the timeout is not begun, and a shorter one may be drawn.
                (Verdict::GiveUp { why: Reason::TimedOut }, Verdict::Retry { .. }) => {
                    clock.tell("a pause that leaves time for another attempt, or the end".to_owned());
                    return clock.cut();
                }
                (Verdict::GiveUp { .. }, _) => {
                    let total = format(clock.now);
                    return clock.end(total);
                }
            }
            if clock.made >= COUNTED {
                return clock.uncounted();
            }
        }
    }

    /// From the end of a request to the head of its response: each connect stands at the last moment, and each response,
    /// or failure, comes at the last moment and is one that is retried, if any is.
    pub(super) fn of_request(http: &HttpPolicy, facts: RequestFacts, connects: &ConnectRetry) -> Self {
        let (retry, mut clock) = (&http.retry, Clock::new(http.timeout));
        let dial = connects.request_limit();
        let (answered, unconnected) =
            (ends(http), vec![failed(Progress::NotSent, Cause::Connect(AttemptOutcome::Timeout))]);
        loop {
            if clock.is_over() {
                return clock.cut();
            }
            if clock.made >= COUNTED {
                return clock.uncounted();
            }
            let attempts = Attempts { made: clock.made.saturating_add(1), elapsed: clock.now };
            let pause = |outcomes: &[Outcome]| {
                let verdicts = outcomes.iter();
                let verdicts =
                    verdicts.map(|end| request::decide(retry, facts, &attempts, end, Replay::Ready, LONGEST));
                let pauses = verdicts.filter_map(|verdict| match verdict {
                    request::Verdict::Retry { after, .. } => Some(after),
                    request::Verdict::Deliver { .. } => None,
                });
                pauses.max()
            };
            let (after_answer, after_dial) = (pause(&answered), pause(&unconnected));
            let hedges = retry.hedge_on_per_try_timeout && facts.retriable && facts.repeatable;
            let fails = after_answer.is_none() && after_dial.is_some();
            let what = if fails { "fails to connect" } else { "connects, where there is no connection" };
            clock.attempt(&format!("{what}, up to {}", format(dial)));
            if let Some(idle) = http.idle_timeout
                && clock.is_silent_for(idle, dial)
            {
                return clock.silent(idle);
            }
            if clock.pass(dial) {
                return clock.cut();
            }
            if let (None, Some(after)) = (after_answer, after_dial) {
                clock.pause(after);
                continue;
            }
            let is_hedged =
                hedges && attempts.made <= retry.num_retries && Wait::of(http, clock.now).is_per_try();
            let wait = match Wait::of(http, clock.now) {
                // It goes on by itself.
                wait if wait.is_per_try() && retry.hedge_on_per_try_timeout && !is_hedged => {
                    Wait::without_per_try(http, clock.now)
                }
                wait => wait,
            };
            let Some(limit) = wait.limit else {
                clock.tell("it waits for a response, without a limit".to_owned());
                return clock.end("as long as the server and the client wait".to_owned());
            };
            let beside = if is_hedged { ", then goes on beside the next" } else { "" };
            clock.tell(format!("it waits for a response, up to {} ({}){beside}", format(limit), wait.until));
            if clock.pass(limit) {
                return clock.cut();
            }
            clock.active = clock.now;
            let hedge = is_hedged.then(|| retry.backoff.delay(attempts.made, LONGEST));
            let Some(after) = hedge.max(after_answer) else { return clock.head(http) };
            clock.pause(after);
        }
    }
}

/// How long an attempt waits for the head of a response, and what ends that.
#[derive(Clone, Copy)]
struct Wait {
    limit: Option<Duration>,
    until: &'static str,
}

const PER_TRY: &str = "per-try timeout";

impl Wait {
    fn of(http: &HttpPolicy, now: Duration) -> Self {
        let per_try = Self { limit: http.per_try_timeout(), until: PER_TRY };
        Self::first([per_try, Self::without_per_try(http, now)])
    }

    fn without_per_try(http: &HttpPolicy, now: Duration) -> Self {
        Self::first([
            Self { limit: http.timeout.map(|timeout| timeout.saturating_sub(now)), until: "timeout" },
            Self { limit: http.retry.per_try_idle_timeout, until: "per-try idle timeout" },
            Self { limit: http.idle_timeout, until: "idle timeout" },
        ])
    }

    /// The first of those that are equal counts, as it does for the engine.
    fn first<const N: usize>(waits: [Self; N]) -> Self {
        let limited = waits.into_iter().filter(|wait| wait.limit.is_some());
        limited.min_by_key(|wait| wait.limit).unwrap_or(Self { limit: None, until: "" })
    }

    fn is_per_try(self) -> bool {
        self.until == PER_TRY
    }
}

/// How an attempt may end that has a connection. What an upstream does not take it refuses at once: that is left out.
fn ends(http: &HttpPolicy) -> Vec<Outcome> {
    let retry = &http.retry;
    let reset_after = retry.rate_limited_backoff.as_ref().map(RateLimitedBackoff::max);
    let response = |status| ResponseFacts { status, reset_after, ..ResponseFacts::default() };
    let by_status = (100..=599).map(response);
    let by_grpc = (1..=16).map(|status| ResponseFacts { grpc_status: Some(status), ..response(200) });
    let limited = [ResponseFacts { rate_limited: true, ..response(429) }];
    let by_header = ResponseFacts { retriable_header: true, ..response(200) };
    let by_header = (!retry.response_headers.is_empty()).then_some(by_header);
    let responses = by_status.chain(by_grpc).chain(limited).chain(by_header).map(Outcome::Response);
    let failures = [
        Some(Cause::ConnectionLost),
        http.per_try_timeout().filter(|_| !retry.hedge_on_per_try_timeout).map(|_| Cause::PerTryTimeout),
        retry.per_try_idle_timeout.map(|_| Cause::PerTryIdleTimeout),
    ];
    responses.chain(failures.into_iter().flatten().map(|cause| failed(Progress::Sent, cause))).collect()
}

const fn failed(progress: Progress, cause: Cause) -> Outcome {
    Outcome::Failed { progress, cause }
}

impl Clock {
    fn new(timeout: Option<Duration>) -> Self {
        Self { now: Duration::ZERO, timeout, made: 0, active: Duration::ZERO, events: Vec::new() }
    }

    fn is_over(&self) -> bool {
        self.timeout.is_some_and(|timeout| self.now >= timeout)
    }

    /// Lets time pass, and says whether the timeout has ended all.
    fn pass(&mut self, time: Duration) -> bool {
        self.now = self.now.saturating_add(time);
        self.is_over()
    }

    /// Whether nothing is sent for so long, if nothing is in the time to come either.
    fn is_silent_for(&self, idle: Duration, to_come: Duration) -> bool {
        self.active.saturating_add(idle) <= self.now.saturating_add(to_come)
    }

    fn pause(&mut self, time: Duration) {
        let time = longest(time);
        self.tell(format!("a pause of up to {}", format(time)));
        self.pass(time);
    }

    fn attempt(&mut self, what: &str) {
        self.made = self.made.saturating_add(1);
        self.tell(format!("attempt {}: {what}", self.made));
    }

    fn tell(&mut self, what: String) {
        if self.made <= SHOWN {
            self.events.push((self.now, what));
        }
    }

    /// The timeout has ended all.
    fn cut(self) -> Timeline {
        let timeout = self.timeout.unwrap_or(self.now);
        self.end(format!("{}, when the timeout ends it", format(timeout)))
    }

    /// The idle timeout has ended all.
    fn silent(mut self, idle: Duration) -> Timeline {
        self.now = self.active.saturating_add(idle);
        if self.is_over() {
            return self.cut();
        }
        let total = format!("{}, when nothing was sent for {}", format(self.now), format(idle));
        self.end(total)
    }

    fn uncounted(self) -> Timeline {
        let total = format!("more than {}, for {COUNTED} attempts", format(self.now));
        self.end(total)
    }

    /// The last response's head has come.
    fn head(self, http: &HttpPolicy) -> Timeline {
        let body = match (http.timeout, http.idle_timeout) {
            (Some(timeout), _) => format!("all of it within {}", format(timeout)),
            (None, Some(idle)) => {
                format!("the rest may take any time, but not be silent for {}", format(idle))
            }
            (None, None) => "the rest may take any time".to_owned(),
        };
        let total = format!("{} to the head of a response; {body}", format(self.now));
        self.end(total)
    }

    fn end(mut self, total: String) -> Timeline {
        let hidden = self.made.saturating_sub(SHOWN);
        if let Some((last, _)) = self.events.last().filter(|_| hidden > 0) {
            let words =
                if hidden == 1 { "one more attempt".to_owned() } else { format!("{hidden} more attempts") };
            self.events.push((*last, words));
        }
        Timeline { events: self.events, total }
    }
}

/// The end of the range that a pause is drawn from, to the microsecond.
fn longest(pause: Duration) -> Duration {
    let micros = pause.as_nanos().div_ceil(1_000);
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}
