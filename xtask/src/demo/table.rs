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
    pub(super) error: Option<String>,
}

/// All requests of one client.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) requests: Vec<Request>,
    pub(super) attempts: u64,
}

pub(super) const HEADER: &str = "\
server                   redial   requests  succeeded  failed  error                  attempts  connect() takes
                                                                                                 median  longest";

impl Measured {
    /// A line of the table.
    pub(super) fn row(&self, server: &str, redial: &str) -> String {
        let failed = self.requests.iter().filter(|request| request.error.is_some()).count();
        let count = self.requests.len();
        let row = format!(
            "{server:<25}{redial:<8}{count:>9}{:>11}{failed:>8}  {:<22}{:>9}{:>9}{:>9}",
            count - failed,
            self.errors(),
            self.attempts,
            shown(self.median()),
            shown(self.connects().pop()),
        );
        row.trim_end().to_owned()
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
        let Self { connect, error } = self;
        write!(f, "{} {}", connect.as_nanos(), error.as_deref().unwrap_or_default())
    }
}

impl FromStr for Request {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let (connect, error) = line.split_once(' ').with_context(|| format!("not a request: {line}"))?;
        let connect = connect.parse().with_context(|| format!("not a request: {line}"))?;
        let error = (!error.is_empty()).then(|| error.to_owned());
        Ok(Self { connect: Duration::from_nanos(connect), error })
    }
}

#[cfg(test)]
mod tests {
    use super::{HEADER, Measured, Request, shown};
    use std::time::Duration;

    fn request(microseconds: u64, error: Option<&str>) -> Request {
        Request { connect: Duration::from_micros(microseconds), error: error.map(str::to_owned) }
    }

    #[test]
    fn a_request_is_read_as_it_was_printed() {
        for request in [request(120, None), request(3, Some("ECONNREFUSED")), request(9, Some("timed out"))] {
            assert_eq!(request.to_string().parse::<Request>().unwrap(), request);
        }
        assert!("begins".parse::<Request>().is_err());
        assert!("soon ".parse::<Request>().is_err());
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
    }

    #[test]
    fn durations_have_no_digits_that_mean_nothing() {
        let shown = |microseconds| shown(Some(Duration::from_micros(microseconds)));
        assert_eq!([shown(94), shown(12_345), shown(3_070_000)], ["0.09 ms", "12 ms", "3.07 s"]);
    }
}
