//! The one program of the tests' container images. Whatever a test's pod does, it does.
//!
//! | | |
//! | --- | --- |
//! | `pod pause` | waits to be ended, and reaps what is left to it |
//! | `pod serve PORT...` | answers requests; see [`serve`] |
//! | `pod ask ADDRESS...` | makes requests or connections, one line of JSON each; see [`ask`] |
//! | `pod list PATH` | a folder and all folders below it, one a line |
//! | `pod read PATH...` | what is in files |
//! | `pod end` | ends what its container runs, as a kubelet does |

#![expect(clippy::print_stdout, reason = "a test reads what its pod says")]

mod ask;
mod serve;

use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = arguments.split_first().context("usage: pod pause|serve|ask|list|read|end ...")?;
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD].into_iter().collect();
    // The first process of a container gets no signal that it does not ask for.
    signals.thread_block()?;
    if command == "pause" {
        return wait_to_be_ended(signals);
    }
    let asks = command == "ask";
    thread::spawn(move || {
        drop(wait_to_be_ended(signals));
        if !asks {
            std::process::exit(0);
        }
        ask::ENDS.store(true, Ordering::Relaxed);
    });
    match command.as_str() {
        "serve" => serve::run(rest),
        "ask" => ask::run(rest),
        "list" => rest.iter().try_for_each(|path| list(Path::new(path))),
        "read" => rest.iter().try_for_each(|path| read(path)),
        "end" => Ok(kill(Pid::from_raw(1), Signal::SIGTERM)?),
        other => bail!("there is no `{other}`"),
    }
}

fn wait_to_be_ended(signals: SigSet) -> Result<()> {
    while signals.wait()? == Signal::SIGCHLD {
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
    }
    Ok(())
}

fn list(path: &Path) -> Result<()> {
    println!("{}", path.display());
    // A cgroup can go while it is read.
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        list(&entry.path())?;
    }
    Ok(())
}

fn read(path: &str) -> Result<()> {
    print!("{}", fs::read_to_string(path).with_context(|| format!("reading {path}"))?);
    Ok(())
}

/// The arguments that are written `name=value`, taken out as they are asked for.
struct Options(Vec<(String, String)>);

impl Options {
    fn read(arguments: &[String]) -> Result<Self> {
        let pair = |argument: &String| {
            let (name, value) =
                argument.split_once('=').with_context(|| format!("`{argument}` has no `=`"))?;
            Ok((name.to_owned(), value.to_owned()))
        };
        Ok(Self(arguments.iter().map(pair).collect::<Result<_>>()?))
    }

    fn take<T: FromStr>(&mut self, name: &str, otherwise: T) -> Result<T> {
        let Some(index) = self.0.iter().position(|(key, _)| key == name) else { return Ok(otherwise) };
        let (_, value) = self.0.remove(index);
        value.parse().ok().with_context(|| format!("{name}={value} makes no sense"))
    }

    fn end(self) -> Result<()> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => bail!("there is no option `{name}`"),
        }
    }
}
