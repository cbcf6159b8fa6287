//! The agent's own log: to standard error, as text or JSON, filtered by `RUST_LOG`.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::env;
use std::io::{self, IsTerminal};
use std::iter;
use std::panic;

use tracing::Dispatch;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("RUST_LOG is not a filter such as `info` or `redial=debug,info`: {0}")]
    Filter(#[from] tracing_subscriber::filter::FromEnvError),
    #[error("cannot start logging: {0}")]
    Init(#[from] TryInitError),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// An error with its causes, without those that it has told already.
#[must_use]
pub fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    for cause in iter::successors(error.source(), |cause| cause.source()).map(ToString::to_string) {
        if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    words
}

/// Starts logging, panics included. Once a process. Without RUST_LOG, from `level` up.
pub fn init(format: LogFormat, level: tracing::Level) -> Result<(), Error> {
    let level = LevelFilter::from_level(level);
    let builder = EnvFilter::builder().with_default_directive(level.into());
    let filter = match env::var_os(EnvFilter::DEFAULT_ENV) {
        Some(_) => builder.try_from_env()?,
        None => builder.parse_lossy(""),
    };
    let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    dispatch(format, filter, io::stderr().is_terminal() && !plain, io::stderr).try_init()?;
    log_panics();
    Ok(())
}

fn dispatch<W>(format: LogFormat, filter: EnvFilter, ansi: bool, writer: W) -> Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(writer);
    match format {
        LogFormat::Text => builder.into(),
        LogFormat::Json => builder.json().flatten_event(true).into(),
    }
}

/// Panics become an error in the log, so that they have its format and reach whoever collects it. Where errors are
/// filtered out the hook that was there before has the word.
fn log_panics() {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !tracing::enabled!(tracing::Level::ERROR) {
            return previous(panic);
        }
        let backtrace = Backtrace::capture();
        let thread = std::thread::current();
        tracing::error!(
            thread = thread.name().unwrap_or("?"),
            location = panic.location().map(tracing::field::display),
            backtrace = (backtrace.status() == BacktraceStatus::Captured)
                .then(|| tracing::field::display(&backtrace)),
            "panic: {}",
            panic.payload_as_str().unwrap_or("of an unknown type"),
        );
    }));
}

#[cfg(test)]
mod tests {
    use std::panic;
    use std::sync::{Arc, Mutex};

    use anyhow::anyhow;
    use tracing_subscriber::EnvFilter;
    use tracing_subscriber::fmt::MakeWriter;

    use super::{LogFormat, describe, dispatch, log_panics};

    #[test]
    fn no_cause_is_told_twice() {
        let error = anyhow!("no such file").context("cannot read x: no such file").context("cannot start");
        assert_eq!(describe(error.as_ref()), "cannot start: cannot read x: no such file");
    }

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl std::io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Captured {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    fn logged(format: LogFormat, filter: &str, what: impl FnOnce()) -> String {
        let captured = Captured::default();
        let dispatch = dispatch(format, EnvFilter::new(filter), false, captured.clone());
        tracing::dispatcher::with_default(&dispatch, what);
        captured.text()
    }

    #[test]
    fn text_is_a_plain_line() {
        let text = logged(LogFormat::Text, "info", || {
            tracing::info!(workload = "web", "enrolled");
            tracing::debug!("not this");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("INFO") && text.contains("enrolled workload=\"web\""), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }

    #[test]
    fn json_is_an_object_a_line() {
        let text = logged(LogFormat::Json, "info", || tracing::warn!(workload = "web", "enrolled"));
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["message"], "enrolled");
        assert_eq!(line["workload"], "web");
    }

    #[test]
    fn a_panic_is_an_error_in_the_log() {
        let before = panic::take_hook();
        log_panics();
        let text = logged(LogFormat::Json, "info", || {
            let caught = panic::catch_unwind(|| panic!("the {} broke", "engine"));
            assert!(caught.is_err());
        });
        panic::set_hook(before);
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["message"], "panic: the engine broke");
        assert!(line["location"].as_str().unwrap().contains("logging.rs"), "{line}");
    }
}
