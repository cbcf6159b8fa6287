//! What the demo measures, and how it is shown.

use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// One request, as the client saw it. Its text is what the client prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// How long `connect()` took, whether it succeeded or not.
    pub(super) connect: Duration,
    /// How long the request took, from the start of that.
    pub(super) whole: Duration,
    pub(super) error: Option<String>,
}

/// All requests of one client.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) requests: Vec<Request>,
    pub(super) attempts: u64,
}

pub(super) const HEADER: &str = "\
server                   redial   requests  succeeded  failed  error                       attempts  connect() takes
                                                                                                      median  longest";

/// Of the table about requests.
pub(super) const REQUESTS_HEADER: &str = "\
server                   redial   requests  succeeded  failed  error                       attempts  retries  request takes
                                                                                                               median      p99";

impl Measured {
    /// A line of the table about requests.
    pub(super) fn requests_row(&self, server: &str, redial: &str) -> String {
        let mut wholes: Vec<_> = self.requests.iter().map(|request| request.whole).collect();
        wholes.sort();
        let at = |hundredths: usize| shown(wholes.get(wholes.len() * hundredths / 100).copied());
        let retries = self.attempts.saturating_sub(wholes.len().try_into().unwrap_or(u64::MAX));
        format!("{}{retries:>9}{:>9}{:>9}", self.counts(server, redial), at(50), at(99)).trim_end().to_owned()
    }

    /// A line of the table about connects.
    pub(super) fn row(&self, server: &str, redial: &str) -> String {
        let times = [self.median(), self.connects().pop()].map(shown);
        format!("{}{:>9}{:>9}", self.counts(server, redial), times[0], times[1]).trim_end().to_owned()
    }

    /// What both tables begin with.
    fn counts(&self, server: &str, redial: &str) -> String {
        let failed = self.requests.iter().filter(|request| request.error.is_some()).count();
        let count = self.requests.len();
        format!(
            "{server:<25}{redial:<8}{count:>9}{:>11}{failed:>8}  {:<27}{:>9}",
            count - failed,
            self.errors(),
            self.attempts,
        )
    }

    /// How long the connect in the middle took.
    pub(super) fn median(&self) -> Option<Duration> {
        let connects = self.connects();
        connects.get(connects.len() / 2).copied()
    }

    fn connects(&self) -> Vec<Duration> {
        let mut connects: Vec<_> = self.requests.iter().map(|request| request.connect).collect();
        connects.sort();
        connects
    }

    /// Each error; how often, where there are several.
    fn errors(&self) -> String {
        let mut errors = BTreeMap::new();
        for error in self.requests.iter().filter_map(|request| request.error.as_deref()) {
            *errors.entry(error).or_insert(0) += 1;
        }
        let several = errors.len() > 1;
        let error =
            |(name, count): (&str, u32)| if several { format!("{count} {name}") } else { name.to_owned() };
        errors.into_iter().map(error).collect::<Vec<_>>().join(", ")
    }
}

/// With as many digits as mean something.
pub(super) fn shown(duration: Option<Duration>) -> String {
    let Some(duration) = duration else { return String::new() };
    let milliseconds = duration.as_secs_f64() * 1e3;
    if milliseconds < 10.0 {
        format!("{milliseconds:.2} ms")
    } else if milliseconds < 1e3 {
        format!("{milliseconds:.0} ms")
    } else {
        format!("{:.2} s", milliseconds / 1e3)
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connect, whole, error } = self;
        write!(f, "{} {} {}", connect.as_nanos(), whole.as_nanos(), error.as_deref().unwrap_or_default())
    }
}

impl FromStr for Request {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let what = || format!("not a request: {line}");
        let mut words = line.splitn(3, ' ');
        let mut nanoseconds = || words.next().and_then(|word| word.parse().ok()).map(Duration::from_nanos);
        let (connect, whole) = (nanoseconds().with_context(what)?, nanoseconds().with_context(what)?);
        let error = words.next().with_context(what)?;
        Ok(Self { connect, whole, error: (!error.is_empty()).then(|| error.to_owned()) })
    }
}

#[cfg(test)]
mod tests {
    use super::{HEADER, Measured, REQUESTS_HEADER, Request, shown};
    use std::time::Duration;

    fn request(microseconds: u64, error: Option<&str>) -> Request {
        let connect = Duration::from_micros(microseconds);
        Request { connect, whole: 2 * connect, error: error.map(str::to_owned) }
    }

    #[test]
    fn a_request_is_read_as_it_was_printed() {
        for request in [request(120, None), request(3, Some("ECONNREFUSED")), request(9, Some("timed out"))] {
            assert_eq!(request.to_string().parse::<Request>().unwrap(), request);
        }
        assert!("begins".parse::<Request>().is_err());
        assert!("soon 5 ".parse::<Request>().is_err());
        assert!("5 6".parse::<Request>().is_err());
    }

    #[test]
    fn a_row_counts_and_measures_what_there_was() {
        let requests = vec![
            request(5_000_000, Some("ETIMEDOUT")),
            request(90, None),
            request(20_000, Some("ECONNREFUSED")),
            request(100, None),
            request(30_000, Some("ECONNREFUSED")),
        ];
        let row = Measured { requests, attempts: 7 }.row("flaky", "with");
        let words: Vec<_> = row.split_whitespace().collect();
        let expected = "flaky with 5 2 3 2 ECONNREFUSED, 1 ETIMEDOUT 7 20 ms 5.00 s";
        assert_eq!(words.join(" "), expected);
    }

    #[test]
    fn numbers_end_where_their_headings_do() {
        let row = Measured { requests: vec![request(100, None)], attempts: 1 }.row("healthy", "without");
        let (first, second) = HEADER.split_once('\n').unwrap();
        assert_eq!(row.len(), second.len());
        assert_eq!(row.find(" 1 ").map(|at| at + 2), first.find("requests").map(|at| at + "requests".len()));
        let row = Measured { requests: vec![request(100, None)], attempts: 1 }.requests_row("flaky", "with");
        let (first, second) = REQUESTS_HEADER.split_once('\n').unwrap();
        assert_eq!(row.len(), second.len());
        assert_eq!(row.rfind(" 0 ").map(|at| at + 2), first.find("retries").map(|at| at + "retries".len()));
    }

    #[test]
    fn a_row_of_requests_tells_retries_and_the_slowest_but_one_of_a_hundred() {
        let requests = (1..=100).map(|number| request(number * 5_000, None)).collect();
        let row = Measured { requests, attempts: 130 }.requests_row("flaky", "with");
        let words: Vec<_> = row.split_whitespace().collect();
        assert_eq!(words.join(" "), "flaky with 100 100 0 130 30 510 ms 1.00 s");
    }

    #[test]
    fn durations_have_no_digits_that_mean_nothing() {
        let shown = |microseconds| shown(Some(Duration::from_micros(microseconds)));
        assert_eq!([shown(94), shown(12_345), shown(3_070_000)], ["0.09 ms", "12 ms", "3.07 s"]);
    }
}
